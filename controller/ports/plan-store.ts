/**
 * Plans that callers make. Accepting one is a single commit of plan, idempotency key and intent, on any replica;
 * that commit is the acknowledgement. What follows is driven by the leader from the rows alone, so its calls are
 * fenced by the leadership epoch. Every call is safe to repeat.
 */
import type { HostId, MicroVMId, PlanId, TenantId } from '#api/model/ids.ts';
import type { PlanActionKind, PlanActionStatus, PlanStatus } from '#api/model/plan.ts';
import type { Actor } from './audit.ts';

/** One action as the caller asked for it. */
export interface RequestedAction {
  readonly kind: PlanActionKind;
  readonly name: string;
  /** Null with Create only. */
  readonly uid: MicroVMId | null;
  /** With Create: the object as it was sent; else null. */
  readonly object: Readonly<Record<string, unknown>> | null;
}

/** What the content hash is over. */
export interface PlanContent {
  readonly site: string;
  readonly isForced: boolean;
  readonly actions: readonly RequestedAction[];
}

export interface DrivenAction extends RequestedAction {
  readonly id: string;
  readonly status: PlanActionStatus;
  /** Hash of the spec that the write makes; null before the intent. */
  readonly specHash: string | null;
  readonly generation: number | null;
}

/** A plan as the one who drives it sees it. */
export interface DrivenPlan {
  readonly tenantId: TenantId;
  readonly planId: PlanId;
  readonly namespace: string;
  readonly siteName: string;
  readonly status: PlanStatus;
  readonly isForced: boolean;
  /** What was not written yet shall not be. */
  readonly isCancelRequested: boolean;
  readonly actions: readonly DrivenAction[];
}

export interface ActionKey {
  readonly tenantId: TenantId;
  readonly planId: PlanId;
  readonly actionId: string;
}

export interface PlanError {
  readonly code: string;
  readonly message: string;
}

export interface PlanStore {
  /**
   * Commits plan, key and actions. The same key with the same content gives the plan that is there already, whoever
   * asks and however many at once.
   * @throws IDEMPOTENCY_KEY_REUSED with both hashes; SITE_NOT_FOUND
   */
  accept(input: { readonly tenantId: TenantId; readonly key: string; readonly content: PlanContent }, actor: Actor): Promise<{ readonly planId: PlanId; readonly isNew: boolean }>;
  /** The hash that `accept` stores for such a content. */
  hashOf(content: PlanContent): string;
  load(tenantId: TenantId, planId: PlanId): Promise<DrivenPlan | null>;
  /** Plans of all tenants with an action that is not published and has not ended. Reads only. */
  listToDrive(): Promise<readonly { readonly tenantId: TenantId; readonly planId: PlanId }[]>;
  /** What the microVM's runPolicy was before the last stop by a plan; null when no plan stopped it. */
  lastRunPolicy(tenantId: TenantId, microvmId: MicroVMId): Promise<string | null>;
  /** Commits that the write is about to be made; false when the action has left `Pending` and `Writing` meanwhile, or a cancel was asked for. */
  recordIntent(key: ActionKey, intent: { readonly specHash: string | null; readonly previousRunPolicy: string | null }, epoch: number, actor: Actor): Promise<boolean>;
  /** The API server has it. Does nothing to an action that was published or has ended. */
  recordWritten(key: ActionKey, written: { readonly microvmId: MicroVMId; readonly generation: number; readonly specHash: string }, epoch: number, actor: Actor): Promise<void>;
  /** Ends an action that has no operation. Does nothing to one that was published or has ended. */
  endAction(key: ActionKey, end: { readonly status: 'Succeeded' | 'Failed' | 'Superseded' | 'Cancelled'; readonly error: PlanError | null }, epoch: number, actor: Actor): Promise<void>;
  /**
   * Ends what was not handed to a stream: actions that were not written, and operations that are Pending. For operations
   * that were, a cancel is noted for their host. Deletions that were written go on: Kubernetes takes none back. A plan
   * that has ended stays as it is. Null when there is no such plan of a caller.
   */
  cancel(tenantId: TenantId, planId: PlanId, actor: Actor): Promise<{ readonly hosts: readonly HostId[]; readonly microvms: readonly MicroVMId[] } | null>;
}
