/**
 * What the gateway of one replica needs to hand operations to hosts and to take their reports. Runs on
 * every replica, so it is not fenced by leadership but by the identity of the host.
 */
import type { HostId, MicroVMId, OperationId, PlanId, SessionId, TenantId } from '#api/model/ids.ts';
import type { MicroVMObservation, ObservedState } from '#api/model/microvm.ts';
import type { ExecutionReport, Operation } from '#api/model/plan.ts';
import type { Actor } from './audit.ts';

/** What changed, as a hint for reconcilers and gateways; the rows are the truth. */
export type ChangeHint =
  | { readonly kind: 'operations'; readonly hostId: HostId }
  /** A cancel waits for the host. */
  | { readonly kind: 'cancels'; readonly hostId: HostId }
  | { readonly kind: 'microvm'; readonly tenantId: TenantId; readonly microvmId: MicroVMId }
  | { readonly kind: 'host'; readonly tenantId: TenantId; readonly hostId: HostId }
  /** The database turned out to be an older copy: hosts have to report again. */
  | { readonly kind: 'recovery' }
  /** A plan of a caller was accepted, or moved. */
  | { readonly kind: 'plan'; readonly tenantId: TenantId; readonly planId: PlanId };

export interface ReportOutcome {
  /** Items refused for good. */
  readonly refused: readonly { readonly id: string; readonly code: string }[];
  /** MicroVMs whose rows changed. */
  readonly changed: readonly MicroVMId[];
  /** What was displaced from the host is gone now. */
  readonly isHostChanged?: boolean;
}

export interface DispatchStore {
  /**
   * Operations of the host that have not ended, oldest revision first, at most 256; those that were `Pending`
   * become `Dispatched` in the same transaction, before they are handed to a stream. Reads only when nothing is
   * pending. With `includeDispatched` (after a connect) also those handed out before: the host drops duplicates.
   */
  claim(input: { readonly tenantId: TenantId; readonly hostId: HostId; readonly sessionId: SessionId; readonly includeDispatched: boolean }): Promise<readonly Operation[]>;
  /** Hosts connected to `replica` that have pending operations or unanswered cancels: the 2 s safety read. Reads only. */
  listHostsWithPending(replica: string): Promise<readonly { readonly tenantId: TenantId; readonly hostId: HostId; readonly hasCancels: boolean }[]>;
  /** Operations of the host for which a cancel waits for its answer; at most 256. Reads only. */
  listCancels(tenantId: TenantId, hostId: HostId): Promise<readonly OperationId[]>;
  /** Records the host's answer: ACCEPTED makes it Running, REFUSED Failed, DROPPED Superseded or Cancelled, TOO_LATE ends the cancel. Idempotent; unknown ids are ignored. */
  recordReceipt(input: {
    readonly tenantId: TenantId;
    readonly hostId: HostId;
    readonly operationId: OperationId;
    readonly disposition: 'Accepted' | 'Refused' | 'Dropped' | 'TooLate';
    readonly error: { readonly code: string; readonly message: string } | null;
  }, actor: Actor): Promise<readonly MicroVMId[]>;
  /**
   * One transaction for a batch of reports of one host: executions, the status of their operations and plans,
   * observations (an older `sequence` never replaces a newer one), audit. Idempotent.
   */
  recordReports(input: {
    readonly tenantId: TenantId;
    readonly hostId: HostId;
    readonly executions: readonly ExecutionReport[];
    readonly observations: readonly MicroVMObservation[];
  }, actor: Actor): Promise<ReportOutcome>;
}

/** For counts by state. */
export type StateCount = Readonly<Partial<Record<ObservedState, number>>>;
