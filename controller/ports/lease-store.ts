/**
 * Leases of hosts and replacements of what they ran. A lease is a host's right to run microVMs that may be replaced
 * elsewhere; it is given only after its row is committed. The clock of the database is never compared with another one:
 * the leader counts from when it first saw a grant, which is after the host sent the beat that it answers.
 */
import type { Epoch } from '#api/model/epoch.ts';
import type { HostId, MicroVMId, SessionId, SiteId, TenantId } from '#api/model/ids.ts';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import type { Actor } from './audit.ts';
import type { MicroVMRecord, NetworkProblem, PublishInput } from './microvm-store.ts';
import type { RecoveryStore } from './recovery.ts';

export interface LeaseRequest {
  readonly tenantId: TenantId;
  readonly hostId: HostId;
  readonly sessionId: SessionId;
  /** The host has held a lease without a gap: nothing of it can have been replaced meanwhile. */
  readonly holdsLease: boolean;
  /** Milliseconds since the beat came, from 0. */
  readonly ageMs: number;
}

export interface LeaseGrant {
  readonly hostId: HostId;
  readonly sessionId: SessionId;
  /** Number of the grant; rises for each host. */
  readonly leaseEpoch: number;
  /** The longest time that one of the host's microVMs may go on without another grant. */
  readonly leaseMs: number;
}

export interface LeaseReading {
  readonly tenantId: TenantId;
  readonly siteId: SiteId;
  readonly hostId: HostId;
  /** By the clock of the database; null: never. A mark that changes with every beat that was stored. */
  readonly lastBeatAtMs: number | null;
  /** Null: none was ever granted. */
  readonly leaseEpoch: number | null;
  /** Of the last grant. */
  readonly leaseMs: number | null;
}

export interface LeaseReadings {
  readonly hosts: readonly LeaseReading[];
  /** Changes when another database answers: a failover or a restore may have forgotten grants. */
  readonly lineage: string;
}

export interface LeaseStore {
  /**
   * Extends leases in one transaction over all tenants, and gives those that are committed. Left out are hosts without a
   * microVM that needs one, whose session is another by now, and those that have not confirmed yet that what was
   * replaced elsewhere is gone; after a restore or a failover also those whose lease has run out, until the recovery is over. @throws DATABASE_UNAVAILABLE; the outcome is then unknown and nothing may be promised
   */
  grant(requests: readonly LeaseRequest[]): Promise<readonly LeaseGrant[]>;
  /** All hosts that are not revoked. Reads only. */
  list(): Promise<LeaseReadings>;
}

export interface ReplaceInput {
  readonly tenantId: TenantId;
  readonly siteId: SiteId;
  readonly microvmId: MicroVMId;
  readonly generation: number;
  /** Without networks: those are given anew, from the host that it goes to. */
  readonly desired: DesiredMicroVM;
  readonly networks?: NonNullable<PublishInput['networks']>;
  /** What the decision was made from; anything else in the rows undoes it. */
  readonly from: { readonly hostId: HostId; readonly epoch: Epoch; readonly lastBeatAtMs: number | null; readonly leaseEpoch: number | null; readonly lineage: string };
  readonly placeOn: HostId;
  /** Set when a mass disconnect would have held it and an operator released it: what he wrote. */
  readonly releasedBy: string | null;
}

export type ReplaceResult =
  | { readonly outcome: 'replaced'; readonly record: MicroVMRecord }
  /** The chosen host can not take it any more: place again. */
  | { readonly outcome: 'hostUnavailable' }
  /** The chosen host has no such address or port to give; the microVM is as it was. */
  | { readonly outcome: 'networkRefused'; readonly problem: NetworkProblem }
  /** The rows say something else than the decision was made from. */
  | { readonly outcome: 'changed' }
  /** The old host may run it without a lease: it has not confirmed that it follows the terms. */
  | { readonly outcome: 'unconfirmed' };

export interface Displacement {
  readonly microvmId: MicroVMId;
  readonly name: string;
  readonly displacedAtMs: number;
  readonly isStopped: boolean;
  readonly orphanedDisks: readonly string[];
}

export interface ReplacementStore {
  /**
   * Gives the binding to another host under a new epoch and orders what is left on the old one to be removed, in one
   * transaction behind the leadership fence. The row of the old host's lease is locked meanwhile, so that it gets no
   * grant any more until it has confirmed the removal. @throws LEADERSHIP_LOST
   */
  replace(input: ReplaceInput, epoch: number, actor: Actor): Promise<ReplaceResult>;
  /** Newest first, bounded. */
  listByHost(tenantId: TenantId, hostId: HostId): Promise<readonly Displacement[]>;
}

/** Whether the database may have forgotten what hosts hold. */
export type RecoveryGate = Pick<RecoveryStore, 'isReplacementHeld'>;
