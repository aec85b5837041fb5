/**
 * Whether the desired state of a MicroVM needs to be published, and as what.
 *
 * One generation is published once. A new try of the same generation is made only when the last one ended
 * without the host having taken the desired state over: it was dropped or expired, or refused for a reason that a
 * repetition can cure. What was cancelled waits for a change of the spec; a deletion does not. What the host took over it goes on trying by itself.
 *
 * Invariant: pure; after what it decides was published, it decides `none`.
 */
import { canonicalJson } from '#api/model/canonical-json.ts';
import { errorCatalogue, isErrorCode } from '#api/model/error-codes.ts';
import { forgottenCode, type DesiredMicroVM, type ObservedState } from '#api/model/microvm.ts';
import type { OperationKind, OperationStatus } from '#api/model/plan.ts';

/** The part of the published state that decides. */
export interface PublishedState {
  readonly generation: number;
  readonly desired: DesiredMicroVM | null;
  readonly newestOperation: {
    readonly kind: OperationKind;
    readonly status: OperationStatus;
    readonly generation: number;
    readonly revision: number;
    readonly tryNumber: number;
    readonly error: { readonly code: string } | null;
  } | null;
  readonly observation: { readonly state: ObservedState; readonly revision: number; readonly problem?: { readonly code: string } } | null;
  /** Null: it left its host and has no other yet. */
  readonly binding?: object | null;
}

export type OperationDecision =
  | { readonly action: 'none' }
  | {
      readonly action: 'publish';
      readonly kind: OperationKind;
      /** From 1; above 1 the caller waits between tries, unless it is fresh. */
      readonly tryNumber: number;
      /** Not a repetition of what failed: something else than the generation has changed. */
      readonly isFresh?: true;
    };

const none: OperationDecision = { action: 'none' };

export function decideOperation(
  desired: DesiredMicroVM,
  generation: number,
  published: PublishedState | null,
): OperationDecision {
  const newest = published?.newestOperation ?? null;
  if (published === null || newest === null) return { action: 'publish', kind: 'Create', tryNumber: 1 };
  // A cache behind the database: the object of that generation arrives soon.
  if (generation < published.generation) return none;
  if (published.binding === null) return { action: 'publish', kind: 'Create', tryNumber: generation > published.generation ? 1 : newest.tryNumber + 1, isFresh: true };
  if (generation > published.generation) {
    return { action: 'publish', kind: published.desired === null ? 'Create' : diffKind(published.desired, desired), tryNumber: 1 };
  }
  if (isChangedOutside(published.desired, desired)) {
    return { action: 'publish', kind: diffKind(published.desired ?? desired, desired), tryNumber: newest.tryNumber + 1, isFresh: true };
  }
  if (isForgotten(published, newest.revision)) return { action: 'publish', kind: 'Create', tryNumber: newest.tryNumber + 1 };
  return needsNewTry(newest) ? { action: 'publish', kind: newest.kind, tryNumber: newest.tryNumber + 1 } : none;
}

/**
 * What does not come from the spec alone, and so has no generation: terms of the lease (the Site), sizes (the class),
 * versions of Secrets, whether it runs (a drain of its host) and restarts for updates. The rest belongs to the generation, or, as addresses
 * do, to the transaction that publishes.
 */
function isChangedOutside(published: DesiredMicroVM | null, desired: DesiredMicroVM): boolean {
  return (
    published !== null &&
    (published.lease?.stopOnHostAfterMs !== desired.lease?.stopOnHostAfterMs ||
      published.runPolicy !== desired.runPolicy ||
      published.restartNonce !== desired.restartNonce ||
      published.overruledSiteOrder !== desired.overruledSiteOrder ||
      canonicalJson(published.secrets ?? []) !== canonicalJson(desired.secrets ?? []) ||
      published.cpuCount !== desired.cpuCount ||
      published.memoryBytes !== desired.memoryBytes)
  );
}

/** What is asked for with the sizes that it has: the host has no room for more, and the rest needs none. */
export function withSizesOf(published: DesiredMicroVM, desired: DesiredMicroVM): DesiredMicroVM {
  const { cpuMax: _cpuMax, memoryMaxBytes: _memoryMaxBytes, ...rest } = desired;
  const { cpuCount, cpuMax, memoryBytes, memoryMaxBytes } = published;
  return { ...rest, cpuCount, memoryBytes, ...(cpuMax === undefined ? {} : { cpuMax }), ...(memoryMaxBytes === undefined ? {} : { memoryMaxBytes }) };
}

/** The same for a deletion, which is published once the object has a deletionTimestamp. */
export function decideDeletion(published: PublishedState): OperationDecision {
  const newest = published.newestOperation;
  if (newest === null || newest.kind !== 'Delete') return { action: 'publish', kind: 'Delete', tryNumber: 1 };
  const isAgain = needsNewTry(newest) || isForgotten(published, newest.revision);
  return isAgain ? { action: 'publish', kind: 'Delete', tryNumber: newest.tryNumber + 1 } : none;
}

/** The host lost its journal after it had taken over the newest operation, and nothing newer was published since. */
function isForgotten({ observation }: PublishedState, newestRevision: number): boolean {
  return observation?.state === 'unknown' && observation.problem?.code === forgottenCode && observation.revision >= newestRevision;
}

function needsNewTry(operation: NonNullable<PublishedState['newestOperation']>): boolean {
  switch (operation.status) {
    case 'Superseded':
    case 'Expired':
      return true;
    case 'Cancelled':
      // Somebody asked that this generation is not carried out; the next change of the spec is.
      return operation.kind === 'Delete';
    case 'Failed':
      // A deletion must not end before it is done, whatever stopped it.
      return operation.kind === 'Delete' || isCurable(operation.error?.code ?? '');
    case 'Pending':
    case 'Dispatched':
    case 'Running':
    case 'Succeeded':
      return false;
  }
}

/** A stale operation is repeated with a revision above what the host reported meanwhile. */
function isCurable(code: string): boolean {
  return code === 'STALE_OPERATION' || (isErrorCode(code) && errorCatalogue[code].retry === 'backoff');
}

/**
 * What the history calls the change. The strongest word wins when several fields changed: a stop or a restart
 * takes every other change over.
 */
export function diffKind(before: DesiredMicroVM, after: DesiredMicroVM): OperationKind {
  if (before.runPolicy !== 'Halted' && after.runPolicy === 'Halted') return 'Stop';
  if (before.restartNonce !== after.restartNonce) return 'Restart';
  if (before.runPolicy === 'Halted' && after.runPolicy !== 'Halted') return 'Start';
  // An order of the site that ends lets it start.
  if (before.overruledSiteOrder !== after.overruledSiteOrder && after.runPolicy !== 'Halted') return 'Start';
  if (!before.paused && after.paused) return 'Pause';
  if (before.paused && !after.paused) return 'Resume';
  return 'Update';
}

const retryDelay = { initialMs: 1_000, maxMs: 300_000 };

/** How long to wait before that try, from when the last one ended. */
export function retryDelayMs(tryNumber: number): number {
  return tryNumber <= 1 ? 0 : Math.min(retryDelay.maxMs, retryDelay.initialMs * 2 ** Math.min(tryNumber - 2, 20));
}
