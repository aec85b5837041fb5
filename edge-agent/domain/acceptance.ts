/**
 * Decides what to do with an operation that arrived: the fence of invariant I4. An operation is
 * accepted only when its (epoch, revision) is above everything that the journal and the directory
 * know of the microVM. The caller makes the result durable before it answers.
 */
import type { ErrorCode } from '#api/model/error-codes.ts';
import type { Operation } from '#api/model/plan.ts';
import { compareFence, initialRun, type DirectoryIdentity, type MicroVMRecord, type Now, type OperationRecord, type RunRecord, type SiteRecord } from './microvm-record.ts';
import { omit } from './omit.ts';
import { liftOverruled } from './site-orders.ts';

export type Acceptance =
  /** New: to be saved; `superseded` is an unfinished operation that this one ends. */
  | { readonly kind: 'accept'; readonly record: MicroVMRecord; readonly superseded?: OperationRecord }
  /** Delivered before: answered with ACCEPTED again, without any effect. */
  | { readonly kind: 'repeat'; readonly record: MicroVMRecord }
  | { readonly kind: 'refuse'; readonly code: ErrorCode; readonly message: string };

export function decideAcceptance(
  operation: Operation,
  record: MicroVMRecord | undefined,
  directory: DirectoryIdentity | null,
  now: Now,
): Acceptance {
  if (record?.operation?.id === operation.id && compareFence(record, operation) === 0) return { kind: 'repeat', record };
  const known = highestKnown(record, directory);
  if (known !== undefined && compareFence(operation, known) <= 0) {
    return {
      kind: 'refuse',
      code: 'STALE_OPERATION',
      message: `epoch ${operation.epoch} revision ${operation.revision} is not above epoch ${known.epoch} revision ${known.revision}`,
    };
  }
  const superseded = record?.operation !== undefined && record.operation.state !== 'done' ? record.operation : undefined;
  return { kind: 'accept', record: takeOver(operation, record, directory, now), ...(superseded === undefined ? {} : { superseded }) };
}

function highestKnown(record: MicroVMRecord | undefined, directory: DirectoryIdentity | null) {
  if (record === undefined) return directory ?? undefined;
  return directory !== null && compareFence(directory, record) > 0 ? directory : record;
}

function takeOver(operation: Operation, record: MicroVMRecord | undefined, directory: DirectoryIdentity | null, now: Now): MicroVMRecord {
  const isDelete = operation.kind === 'Delete';
  // A tombstone that is ordered anew starts over; so does a microVM that only its directory remembers,
  // whose serial log must not be taken for that of an earlier boot.
  const isAnew = record === undefined || record.isTombstone;
  const incarnation = Math.max(record?.run.incarnation ?? 0, directory?.incarnation ?? 0);
  const desired = operation.desired ?? record?.desired ?? null;
  const site = isAnew ? omitOverride(record?.site) : liftOverruled(record.site, desired);
  const lifted = record?.site?.override !== undefined && site?.override === undefined ? { siteOverride: record.site.override } : {};
  // A later version's fields, which this one does not know, are there when that version comes back.
  const unknown = isAnew ? {} : omit(record, 'operation', 'previous', 'problem', 'site');
  return {
    ...unknown,
    microvmId: operation.microvmId,
    epoch: operation.epoch,
    revision: operation.revision,
    generation: operation.generation,
    desired,
    isDeleting: isDelete,
    isTombstone: false,
    operation: {
      id: operation.id,
      planId: operation.planId,
      kind: operation.kind,
      state: 'accepted',
      attempt: 0,
      ...(operation.startWithinMs === undefined ? {} : { startBefore: { bootId: now.bootId, ms: now.bootMs + operation.startWithinMs } }),
    },
    ...(record === undefined || record.isTombstone
      ? {}
      : { previous: { desired: record.desired, generation: record.generation, isDeleting: record.isDeleting, ...lifted } }),
    ...(site === undefined ? {} : { site }),
    run: isAnew ? { ...initialRun, incarnation } : { ...withoutBackoff(record.run), incarnation },
  };
}

/** Somebody changed something, so the next start needs no patience; the failures stay counted. */
function withoutBackoff(run: RunRecord): RunRecord {
  return omit(run, 'restartDue');
}

export type Cancellation =
  | { readonly kind: 'dropped'; readonly record: MicroVMRecord; readonly operation: OperationRecord }
  | { readonly kind: 'tooLate' };

/** Takes back an operation that has not started; its (epoch, revision) stays used. */
export function decideCancellation(record: MicroVMRecord | undefined, operationId: string): Cancellation {
  if (record?.operation === undefined || record.operation.id !== operationId || record.operation.state !== 'accepted') return { kind: 'tooLate' };
  return { kind: 'dropped', record: withdraw(record), operation: record.operation };
}

/** True when the operation may not start any more. A deadline of an earlier boot counts as passed. */
export function isExpired(operation: OperationRecord, now: Now): boolean {
  return operation.state === 'accepted' && operation.startBefore !== undefined && (operation.startBefore.bootId !== now.bootId || operation.startBefore.ms < now.bootMs);
}

/** The record as if its operation had never been accepted, but for the fence. Without an earlier intent nothing is left to do but to remove it. */
export function withdraw(record: MicroVMRecord): MicroVMRecord {
  const rest = omit(record, 'operation', 'previous');
  if (record.previous === undefined) return { ...rest, isDeleting: true };
  const { siteOverride, ...previous } = record.previous;
  const isBack = siteOverride !== undefined && rest.site !== undefined && rest.site.newest === siteOverride.number;
  return { ...rest, ...previous, ...(isBack && rest.site !== undefined ? { site: { ...rest.site, override: siteOverride } } : {}) };
}

/** What was ordered for a microVM that is gone says nothing of one that is made anew; its orders are still to be told. */
function omitOverride(site: SiteRecord | undefined): SiteRecord | undefined {
  return site === undefined ? undefined : { ...omit(site, 'override'), starts: 0 };
}
