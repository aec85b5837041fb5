/**
 * Plans, operations and executions: their states and the only allowed transitions.
 * The same tables are enforced by triggers in SQL; a test compares the two.
 */
import type { Epoch } from './epoch.ts';
import type { ExecutionId, HostId, MicroVMId, OperationId, PlanId } from './ids.ts';
import type { DesiredMicroVM } from './microvm.ts';

export const planStatuses = [
  'Pending',
  'Dispatched',
  'Running',
  'Succeeded',
  'Failed',
  'Superseded',
  'Cancelled',
  'Expired',
] as const;
export type PlanStatus = (typeof planStatuses)[number];

export const operationStatuses = planStatuses;
/** An operation has the states of a plan; a plan's is derived from its operations. */
export type OperationStatus = PlanStatus;

export const executionStatuses = ['Running', 'Succeeded', 'Failed', 'Expired', 'Dropped', 'OutcomeUnknown'] as const;
export type ExecutionStatus = (typeof executionStatuses)[number];

export function isExecutionStatus(text: string): text is ExecutionStatus {
  return executionStatuses.some((status) => status === text);
}

/**
 * Allowed changes of a plan and of an operation. Once `Dispatched` an operation was handed to a
 * stream, and from then on only the host's report ends it.
 */
export const operationTransitions: Readonly<Record<OperationStatus, readonly OperationStatus[]>> = {
  Pending: ['Dispatched', 'Superseded', 'Cancelled', 'Expired', 'Failed'],
  Dispatched: ['Running', 'Succeeded', 'Failed', 'Superseded', 'Cancelled', 'Expired'],
  Running: ['Succeeded', 'Failed', 'Superseded', 'Cancelled', 'Expired'],
  Succeeded: [],
  Failed: [],
  Superseded: [],
  Cancelled: [],
  Expired: [],
};

/** As for operations, and a plan with nothing to do is `Succeeded` at once. */
export const planTransitions: Readonly<Record<PlanStatus, readonly PlanStatus[]>> = {
  ...operationTransitions,
  Pending: [...operationTransitions.Pending, 'Running', 'Succeeded'],
};

export const executionTransitions: Readonly<Record<ExecutionStatus, readonly ExecutionStatus[]>> = {
  Running: ['Succeeded', 'Failed', 'Expired', 'Dropped', 'OutcomeUnknown'],
  Succeeded: [],
  Failed: [],
  Expired: [],
  Dropped: [],
  OutcomeUnknown: [],
};

export const operationKinds = [
  'Create',
  'Update',
  'Start',
  'Stop',
  'Pause',
  'Resume',
  'Restart',
  'Delete',
] as const;
/**
 * What the operation is for, as the history shows it. A host treats every kind but `Delete` alike: it
 * takes over the desired state that comes with it and converges.
 */
export type OperationKind = (typeof operationKinds)[number];

/** What one host must do for one microVM. Immutable but for its status. */
export interface Operation {
  readonly id: OperationId;
  readonly planId: PlanId;
  readonly microvmId: MicroVMId;
  readonly hostId: HostId;
  readonly kind: OperationKind;
  readonly epoch: Epoch;
  /** Rises with every operation of the microVM; a host refuses one that is not above the last accepted. */
  readonly revision: number;
  /** Generation of the custom resource that this operation makes true. */
  readonly generation: number;
  /** Absent for `Delete` only. */
  readonly desired?: DesiredMicroVM;
  /**
   * How long after its acceptance the host may still start it, milliseconds by the host's boot clock;
   * absent: no limit.
   */
  readonly startWithinMs?: number;
}

/** The host's report on one attempt at an operation. */
export interface ExecutionReport {
  readonly executionId: ExecutionId;
  readonly operationId: OperationId;
  /** 1 for the first attempt. */
  readonly attempt: number;
  readonly status: ExecutionStatus;
  /** By the host's wall clock, epoch milliseconds. */
  readonly startedAtMs: number;
  readonly finishedAtMs?: number;
  readonly error?: { readonly code: string; readonly message: string };
  /**
   * True on the report that ends the operation. A failed attempt that the host will repeat has false,
   * and the operation stays `Running`.
   */
  readonly isFinal: boolean;
}

export const planActionKinds = ['Create', 'Start', 'Stop', 'Delete'] as const;
/** What a caller can ask of one microVM. It is made true by a change of the custom resource, never past it. */
export type PlanActionKind = (typeof planActionKinds)[number];

export const planActionStatuses = ['Pending', 'Writing', 'Written', 'Published', 'Succeeded', 'Failed', 'Superseded', 'Cancelled'] as const;
/**
 * How far an action of a caller's plan is. `Writing`: the intent is committed, the outcome of the write is unknown.
 * `Written`: the API server has it, no operation was published for it yet. `Published`: its operation says the rest.
 * `Succeeded`: nothing had to change.
 */
export type PlanActionStatus = (typeof planActionStatuses)[number];

export const planActionTransitions: Readonly<Record<PlanActionStatus, readonly PlanActionStatus[]>> = {
  Pending: ['Writing', 'Succeeded', 'Failed', 'Superseded', 'Cancelled'],
  Writing: ['Written', 'Published', 'Succeeded', 'Failed', 'Superseded', 'Cancelled'],
  Written: ['Published', 'Succeeded', 'Failed', 'Superseded', 'Cancelled'],
  Published: [],
  Succeeded: [],
  Failed: [],
  Superseded: [],
  Cancelled: [],
};

/** What an action without an operation counts as in its plan; null when its operation counts. */
export function countsAs(status: PlanActionStatus): PlanStatus | null {
  switch (status) {
    case 'Pending':
    case 'Writing':
    case 'Written':
      return 'Pending';
    case 'Published':
      return null;
    case 'Succeeded':
    case 'Failed':
    case 'Superseded':
    case 'Cancelled':
      return status;
  }
}

export function isTerminal(status: PlanStatus): boolean {
  return planTransitions[status].length === 0;
}

/** The status of a plan from those of its operations; a plan without any has succeeded. */
export function derivePlanStatus(operations: readonly OperationStatus[]): PlanStatus {
  const open = operations.filter((status) => !isTerminal(status));
  if (open.includes('Running')) return 'Running';
  if (open.length > 0 && operations.some((status) => isTerminal(status))) return 'Running';
  if (open.includes('Dispatched')) return 'Dispatched';
  if (open.length > 0) return 'Pending';
  for (const status of ['Failed', 'Expired', 'Cancelled', 'Superseded'] as const) {
    if (operations.includes(status)) return status;
  }
  return 'Succeeded';
}
