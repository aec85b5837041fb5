/**
 * Numbers observations, keeps the latest of each microVM, and tells the sender when there is
 * something to say. A look that shows nothing new costs nothing: no number, no write, no message.
 */
import type { MicroVMId } from '#api/model/ids.ts';
import type { MicroVMObservation } from '#api/model/microvm.ts';
import { isSameContent, type ObservationContent } from '../domain/observation.ts';
import { omit } from '../domain/omit.ts';
import type { Clock } from '../ports/clock.ts';
import type { Journal } from '../ports/journal.ts';
import type { Reporter } from './microvm-worker.ts';

export interface ObservationReporter extends Reporter {
  /** Observations that no control plane has acknowledged, oldest first, at most `limit`. */
  pending(limit: number): readonly MicroVMObservation[];
  /** They are stored, or were refused for good. */
  acknowledged(sent: readonly MicroVMObservation[]): void;
  /** A new session: everything that is still true is said again, so that a control plane that forgot learns it. */
  repeatAll(): void;
  /** The sender. */
  onNews(callback: () => void): void;
  /** Calls back with the number of the newest order of the site that was acknowledged. */
  onOrdersTold(callback: (microvmId: MicroVMId, upTo: number) => void): void;
}

/** Sequences are reserved in blocks, so that an observation is no durable write of its own. */
const sequenceBlock = 1_000;
/** How long a passing state waits for the settled one before it is sent, milliseconds. */
const passingDelayMs = 500;

export function createObservationReporter(deps: { readonly journal: Journal; readonly clock: Clock }): ObservationReporter {
  const { journal, clock } = deps;
  const latest = new Map<MicroVMId, { content: ObservationContent; readonly observation: MicroVMObservation; isPending: boolean }>();
  let next = 0;
  let reservedBelow = 0;
  let tell = (): void => {};
  let tellOrders = (_microvmId: MicroVMId, _upTo: number): void => {};
  let cancelDelay: (() => void) | undefined;

  function number(): number {
    if (next >= reservedBelow) {
      next = journal.reserveSequences(sequenceBlock, Math.max(1, Math.floor(clock.now().wallMs)));
      reservedBelow = next + sequenceBlock;
    }
    next += 1;
    return next - 1;
  }

  function put(content: ObservationContent): void {
    const observation = { ...content, sequence: number(), observedAtMs: clock.now().wallMs };
    latest.set(content.microvmId, { content, observation, isPending: true });
  }

  return {
    observed(content, isSettled) {
      const before = latest.get(content.microvmId);
      if (before !== undefined && isSameContent(before.content, content)) return;
      // After a start of the agent, what was removed long ago is not said again.
      if (before === undefined && content.state === 'absent') return;
      put(content);
      if (isSettled) return tell();
      cancelDelay ??= clock.after(passingDelayMs, () => {
        cancelDelay = undefined;
        tell();
      });
    },
    reportsQueued: () => tell(),
    pending: (limit) =>
      [...latest.values()]
        .filter((entry) => entry.isPending)
        .map((entry) => entry.observation)
        .sort((a, b) => a.sequence - b.sequence)
        .slice(0, limit),
    acknowledged(sent) {
      for (const observation of sent) {
        const newest = observation.siteOrders?.at(-1);
        if (newest !== undefined) tellOrders(observation.microvmId, newest.number);
        const entry = latest.get(observation.microvmId);
        if (entry === undefined || entry.observation.sequence !== observation.sequence) continue;
        entry.isPending = false;
        // That they were told is no news.
        if (newest !== undefined) entry.content = omit(entry.content, 'siteOrders', 'siteOrdersLost');
        if (observation.state === 'absent') latest.delete(observation.microvmId);
      }
    },
    repeatAll() {
      for (const { content } of [...latest.values()]) put(content);
      tell();
    },
    onNews: (callback) => void (tell = callback),
    onOrdersTold: (callback) => void (tellOrders = callback),
  };
}
