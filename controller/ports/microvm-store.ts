/**
 * MicroVMs, bindings, plans and operations, as reconcilers see them. Each mutating call is one
 * transaction that checks the leadership epoch, is safe to repeat, and commits plan, operation and
 * audit together: the commit is the acknowledgement.
 */
import type { Epoch } from '#api/model/epoch.ts';
import type { HostId, MicroVMId, OperationId, PlanId, SiteId, TenantId } from '#api/model/ids.ts';
import type { DesiredMicroVM, LeavingReason, MicroVMObservation, NetworkRequest } from '#api/model/microvm.ts';
import type { OperationKind, OperationStatus, PlanStatus } from '#api/model/plan.ts';
import type { SiteOverride } from '#api/model/site-orders.ts';
import type { NotedOrder } from '#controller/domain/site-overrides.ts';
import type { Actor } from './audit.ts';

export interface MicroVMRecord {
  readonly tenantId: TenantId;
  readonly siteId: SiteId;
  readonly microvmId: MicroVMId;
  readonly name: string;
  /** Generation of the newest published intent. */
  readonly generation: number;
  /** Desired state of the newest published intent; null when that was a deletion. */
  readonly desired: DesiredMicroVM | null;
  readonly isDeleting: boolean;
  /** The host confirmed the teardown, or a force made it a tombstone. */
  readonly isTornDown: boolean;
  readonly binding: {
    readonly hostId: HostId;
    readonly hostName: string;
    readonly epoch: Epoch;
    /** Its teardown there was ordered, so that it can go on elsewhere; absent or null: it stays. */
    readonly leaving?: LeavingReason | null;
  } | null;
  /** What was seen of the object when the newest order of somebody at the site was first heard of; absent: no order was. */
  readonly siteOrderNoted?: NotedOrder;
  /** Restarts that n-kudo asked for, to bring updates into effect; absent: none. */
  readonly updateRestarts?: number;
  readonly newestOperation: {
    readonly id: OperationId;
    readonly planId: PlanId;
    readonly planStatus: PlanStatus;
    readonly kind: OperationKind;
    readonly status: OperationStatus;
    readonly revision: number;
    readonly generation: number;
    /** The `try` part of the plan's key, from 1. */
    readonly tryNumber: number;
    readonly error: { readonly code: string; readonly message: string } | null;
  } | null;
  readonly observation: (MicroVMObservation & { readonly receivedAtMs: number }) | null;
}

export interface PublishInput {
  readonly tenantId: TenantId;
  readonly siteId: SiteId;
  readonly microvmId: MicroVMId;
  readonly name: string;
  readonly generation: number;
  /** Without networks: those are given here. */
  readonly desired: DesiredMicroVM;
  /** What the spec asks for; absent: no networks. */
  readonly networks?: {
    readonly requests: readonly NetworkRequest[];
    /** Range of the addresses of nat guests on the host, in CIDR form. */
    readonly natSubnet: string;
  };
  readonly kind: OperationKind;
  /** The order of somebody at the site that this desired state ends, for the audit; absent: none. */
  readonly overruled?: { readonly override: SiteOverride; readonly by: 'Spec' | 'Force' };
  /** Binds it there under a new epoch when it has no binding; ignored when it has one. */
  readonly placeOn: HostId | null;
  readonly tryNumber: number;
  /** What shows whether a caller's plan made this generation; absent: none did. */
  readonly source?: {
    /** Hash of the object's spec, as the plan's action has it. */
    readonly specHash: string;
    /** The plan that created the object, as its annotation says. */
    readonly createdBy: PlanId | null;
    /** For the plans that this generation takes the place of: who wrote it, as a sentence. */
    readonly supersedes?: string;
  };
}

export type PublishResult =
  | { readonly outcome: 'published' | 'alreadyPublished'; readonly record: MicroVMRecord }
  /** The host has no room any more, is unschedulable or revoked: place again. */
  | { readonly outcome: 'hostUnavailable' }
  /** The host that has it lacks the room for what it asks for beyond that; the microVM is as it was. */
  | { readonly outcome: 'growthRefused' }
  /** The host has no such address or port to give; the microVM is as it was. The message says what to do. */
  | { readonly outcome: 'networkRefused'; readonly problem: NetworkProblem }
  /** The quota of the Site has no room for it, as one sentence. What was published before stays. */
  | { readonly outcome: 'quotaDenied'; readonly message: string };

export interface NetworkProblem {
  readonly code: 'ADDRESSES_EXHAUSTED' | 'PORTS_EXHAUSTED' | 'ADDRESS_OUTSIDE_SUBNET' | 'MESH_SUBNET_MISSING' | 'PORT_IN_USE' | 'ADDRESS_IN_USE';
  readonly message: string;
}

export interface MicroVMStore {
  load(tenantId: TenantId, microvmId: MicroVMId): Promise<MicroVMRecord | null>;
  /**
   * Publishes the intent of one generation: row, binding with capacity check, also of what grows (locks the host's row), addresses and ports
   * of the host, plan with
   * key `cr/<uid>/<generation>/<epoch>/<try>`, one operation with the next revision, audit. The first try of a generation
   * that a caller's plan made belongs to that plan instead; when that plan was cancelled, the operation is too. What has
   * not been handed to a stream is superseded. The same key again changes nothing and returns `alreadyPublished`.
   * @throws STALE_GENERATION when a newer generation was published; LEADERSHIP_LOST
   */
  publish(input: PublishInput, epoch: number, actor: Actor): Promise<PublishResult>;
  /** Makes durable what was seen of the object when the order was first heard of; an earlier note is replaced. Idempotent. @throws LEADERSHIP_LOST */
  noteSiteOrder(input: { readonly tenantId: TenantId; readonly microvmId: MicroVMId; readonly note: NotedOrder }, epoch: number): Promise<void>;
  /**
   * Publishes the deletion: plan with one `Delete` operation under the binding's epoch. A microVM that was never
   * bound is torn down at once. The first try belongs to the caller's plan that asked for the deletion, if one did. Idempotent; `tryNumber` as in publish.
   */
  publishDeletion(input: { readonly tenantId: TenantId; readonly microvmId: MicroVMId; readonly generation: number; readonly tryNumber: number }, epoch: number, actor: Actor): Promise<MicroVMRecord | null>;
  /** After the confirmed teardown: releases binding and resources. Idempotent. @throws CONFLICT unless the Delete operation succeeded */
  completeDeletion(tenantId: TenantId, microvmId: MicroVMId, epoch: number, actor: Actor): Promise<void>;
  /**
   * Audited force: the UID becomes a tombstone, the binding is released, and the Delete operation stays for the
   * host to receive when it comes back. Idempotent.
   */
  forceDelete(tenantId: TenantId, microvmId: MicroVMId, epoch: number, actor: Actor): Promise<void>;
}
