/**
 * Whether hosts are heard. A host is silent after four missed beats, counted from the later of its last beat
 * and the start of this observer: a controller that was away must not call hosts silent that it never
 * listened to. Until then such a host is `undecided`, and what was shown of it stays.
 *
 * Beats are stamped by the database's clock, so its time is followed here on our monotonic clock; wall
 * clocks of controllers are never compared with it.
 */
import type { HostId } from '#api/model/ids.ts';

export const missedBeatsMax = 4;

export type Reachability = 'online' | 'silent' | 'undecided';

/** One reading of a host's last beat, both times by the clock of the database. */
export interface LivenessReading {
  readonly hostId: HostId;
  readonly lastBeatAtMs: number | null;
  readonly nowMs: number;
}

export interface HostSilence {
  readonly reachability: Reachability;
  /** By the clock of the database; null: never or not read yet. */
  readonly lastBeatAtMs: number | null;
}

export interface SilenceObserver {
  /** Takes over a reading of all hosts; returns those whose reachability is another than before. */
  observe(readings: readonly LivenessReading[]): readonly HostId[];
  /** Takes over the beat of one host that was read meanwhile; true when its reachability is another than before. */
  note(hostId: HostId, lastBeatAtMs: number | null): boolean;
  of(hostId: HostId): HostSilence;
  /** Milliseconds until the first host becomes silent when no further beat is read; Infinity when none can. */
  nextSilenceMs(): number;
}

export function createSilenceObserver(options: {
  readonly heartbeatIntervalMs: number;
  readonly monotonicMs: () => number;
  /** Stands in for the database's clock until the first reading. */
  readonly wallMs: () => number;
}): SilenceObserver {
  const limitMs = missedBeatsMax * options.heartbeatIntervalMs;
  const startedAtMs = options.monotonicMs();
  let offsetMs = options.wallMs() - startedAtMs;
  const hosts = new Map<HostId, { lastBeatAtMs: number | null; shown: Reachability }>();
  const decide = (lastBeatAtMs: number | null): Reachability =>
    decideReachability({
      lastBeatAtMs,
      nowMs: options.monotonicMs() + offsetMs,
      observedForMs: options.monotonicMs() - startedAtMs,
      limitMs,
    });
  const note = (hostId: HostId, lastBeatAtMs: number | null): boolean => {
    const host = hosts.get(hostId) ?? { lastBeatAtMs: null, shown: 'undecided' };
    // An older reading can arrive later; beats only go forward.
    host.lastBeatAtMs = maxOf(host.lastBeatAtMs, lastBeatAtMs);
    const before = host.shown;
    host.shown = decide(host.lastBeatAtMs);
    hosts.set(hostId, host);
    return host.shown !== before;
  };
  return {
    note,
    observe: (readings) => {
      const first = readings[0];
      if (first !== undefined) offsetMs = first.nowMs - options.monotonicMs();
      const changed = readings.filter(({ hostId, lastBeatAtMs }) => note(hostId, lastBeatAtMs)).map(({ hostId }) => hostId);
      const present = new Set(readings.map(({ hostId }) => hostId));
      for (const hostId of [...hosts.keys()]) if (!present.has(hostId)) hosts.delete(hostId);
      return changed;
    },
    of: (hostId) => {
      const host = hosts.get(hostId);
      return host === undefined
        ? { reachability: 'undecided', lastBeatAtMs: null }
        : { reachability: decide(host.lastBeatAtMs), lastBeatAtMs: host.lastBeatAtMs };
    },
    nextSilenceMs: () => {
      const nowMs = options.monotonicMs();
      const untilDecided = startedAtMs + limitMs - nowMs;
      const waits = [...hosts.values()]
        .filter(({ shown }) => shown !== 'silent')
        .map(({ lastBeatAtMs }) => Math.max(untilDecided, (lastBeatAtMs ?? 0) + limitMs - (nowMs + offsetMs)));
      return waits.reduce((first, wait) => Math.min(first, wait), Infinity);
    },
  };
}

function maxOf(left: number | null, right: number | null): number | null {
  if (left === null) return right;
  return right === null ? left : Math.max(left, right);
}

export function decideReachability(input: {
  readonly lastBeatAtMs: number | null;
  readonly nowMs: number;
  /** How long this observer has listened. */
  readonly observedForMs: number;
  readonly limitMs: number;
}): Reachability {
  if (input.lastBeatAtMs === null) return 'silent';
  if (input.nowMs - input.lastBeatAtMs < input.limitMs) return 'online';
  return input.observedForMs < input.limitMs ? 'undecided' : 'silent';
}
