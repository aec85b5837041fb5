/**
 * The beats of one session: one in each interval, and between them those that ask for the lease, which are as frequent
 * as the shortest terms of a microVM here need. Notes when each was sent, since a lease counts from there.
 */
import type { BootMoment } from '../domain/microvm-record.ts';
import type { Clock } from '../ports/clock.ts';
import type { ControlSession } from '../ports/control-plane.ts';
import type { LeaseKeeper } from './lease-keeper.ts';

/** Beats in a row without any answer after which the session counts as dead. */
const missedAcksMax = 3;
/** Beats whose moment is kept; an answer to an older one extends nothing. */
const sentMax = 64;

export interface Beats {
  start(intervalMs: number, target: ControlSession): void;
  acknowledged(sequence: number, leaseMs: number | undefined): void;
  stop(): void;
}

export function createBeats({ clock, leases }: { readonly clock: Clock; readonly leases: Pick<LeaseKeeper, 'ask' | 'granted' | 'askEveryMs' | 'onWanted'> }): Beats {
  const sent = new Map<number, BootMoment>();
  let sequence = 0;
  let unanswered = 0;
  let cancelBeat = (): void => {};
  let cancelAsk = (): void => {};
  let forget = (): void => {};

  function send(target: ControlSession, asking: { readonly holdsLease: boolean } | null): void {
    sequence += 1;
    // Noted before it is sent: a moment too early only shortens the lease.
    const { bootId, bootMs } = clock.now();
    sent.set(sequence, { bootId, ms: bootMs });
    sent.delete(sequence - sentMax);
    target.send({ kind: 'beat', sequence, ...(asking === null ? {} : { asking }) }).catch(() => {
      // The reader of the stream sees the same end and says why.
    });
  }

  function beat(intervalMs: number, target: ControlSession): void {
    cancelBeat = clock.after(intervalMs, () => {
      if (unanswered >= missedAcksMax) return target.close();
      unanswered += 1;
      send(target, null);
      beat(intervalMs, target);
    });
  }

  function ask(target: ControlSession): void {
    cancelAsk();
    const everyMs = leases.askEveryMs();
    const asking = leases.ask();
    if (everyMs === undefined || asking === null) return;
    send(target, asking);
    cancelAsk = clock.after(everyMs, () => ask(target));
  }

  return {
    start(intervalMs, target) {
      beat(intervalMs, target);
      forget = leases.onWanted(() => ask(target));
      ask(target);
    },
    acknowledged(answered, leaseMs) {
      unanswered = 0;
      const moment = sent.get(answered);
      if (leaseMs !== undefined && moment !== undefined) leases.granted(moment, leaseMs);
    },
    stop() {
      cancelBeat();
      cancelAsk();
      forget();
    },
  };
}
