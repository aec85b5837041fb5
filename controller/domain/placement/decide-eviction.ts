/**
 * What becomes of a bound microVM when its host is to be emptied: it stays, waits, is stopped where it is, or moves.
 * The table is the one in docs/scheduling.md. Pure.
 *
 * Invariant: nothing that keeps data on its host is ever moved.
 */
import type { LeavingReason } from '#api/model/microvm.ts';

export interface EvictionFacts {
  readonly drain: { readonly mode: 'Evict' | 'StopAll'; readonly deadlineMs: number | null } | null;
  readonly isHostDeleting: boolean;
  /** A taint NoExecute of the host that the microVM does not tolerate. */
  readonly hasExpellingTaint: boolean;
  readonly strategy: 'None' | 'Stop' | 'Move';
  readonly hasLocalData: boolean;
  /** placement.hostName names this host. */
  readonly isPinned: boolean;
  /** The Site holds what n-kudo does unasked. */
  readonly isHeld: boolean;
  readonly nowMs: number;
}

export type EvictionOrder =
  | { readonly action: 'stay' }
  | { readonly action: 'wait'; readonly reason: 'OperatorNeeded' | 'KeepsLocalData' | 'PinnedToHost' | 'SiteHold'; readonly message: string }
  | { readonly action: 'stop'; readonly message: string }
  | { readonly action: 'move'; readonly reason: LeavingReason };

export function decideEviction(facts: EvictionFacts): EvictionOrder {
  const cause = causeOf(facts);
  if (cause === null) return { action: 'stay' };
  const { drain, strategy } = facts;
  if (cause === 'Taint' && facts.isHeld) return { action: 'wait', reason: 'SiteHold', message: 'hold of the Site is true' };
  if (drain?.mode === 'StopAll') return { action: 'stop', message: 'its host is drained with mode StopAll' };
  if (drain !== null && drain.deadlineMs !== null && facts.nowMs >= drain.deadlineMs) return { action: 'stop', message: 'the deadline of the drain of its host has passed' };
  if (strategy === 'None') return { action: 'wait', reason: 'OperatorNeeded', message: 'evictionStrategy is None: stop it, delete it, or set a deadline of the drain' };
  // On a host that goes away there is no afterwards: stopping there would be the end.
  if (strategy === 'Move' || cause === 'HostDeletion') {
    if (!facts.hasLocalData && !facts.isPinned) return { action: 'move', reason: cause };
    if (cause === 'HostDeletion') {
      return facts.hasLocalData
        ? { action: 'wait', reason: 'KeepsLocalData', message: 'a disk of it exists on this host only: delete it, or force the deletion of the Host' }
        : { action: 'wait', reason: 'PinnedToHost', message: 'placement.hostName names this host: delete it, or force the deletion of the Host' };
    }
  }
  return { action: 'stop', message: stopMessages[cause] };
}

const stopMessages = {
  Drain: 'its host is drained; it starts again when the drain is over',
  Taint: 'its host has a taint NoExecute; it starts again when the taint is gone',
} as const;

function causeOf({ drain, isHostDeleting, hasExpellingTaint }: EvictionFacts): Exclude<LeavingReason, 'Preemption'> | null {
  if (isHostDeleting) return 'HostDeletion';
  if (drain !== null) return 'Drain';
  return hasExpellingTaint ? 'Taint' : null;
}
