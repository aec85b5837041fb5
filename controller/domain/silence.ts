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

export interface SilenceObserver {
  /** Takes over a reading of all hosts; returns those whose reachability is another than at the last reading. */
  observe(readings: readonly LivenessReading[]): readonly HostId[];
  reachabilityOf(lastBeatAtMs: number | null): Reachability;
  /** Beats before this were missed long enough, by the clock of the database. */
  silentBeforeMs(): number;
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
  const seen = new Map<HostId, Reachability>();
  const databaseNowMs = (): number => options.monotonicMs() + offsetMs;
  const reachabilityOf = (lastBeatAtMs: number | null): Reachability =>
    decideReachability({ lastBeatAtMs, nowMs: databaseNowMs(), observedForMs: options.monotonicMs() - startedAtMs, limitMs });
  return {
    reachabilityOf,
    silentBeforeMs: () => databaseNowMs() - limitMs,
    observe: (readings) => {
      const first = readings[0];
      if (first !== undefined) offsetMs = first.nowMs - options.monotonicMs();
      const changed: HostId[] = [];
      const present = new Set<HostId>();
      for (const { hostId, lastBeatAtMs } of readings) {
        present.add(hostId);
        const reachability = reachabilityOf(lastBeatAtMs);
        if (seen.get(hostId) !== reachability) changed.push(hostId);
        seen.set(hostId, reachability);
      }
      for (const hostId of [...seen.keys()]) if (!present.has(hostId)) seen.delete(hostId);
      return changed;
    },
  };
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
