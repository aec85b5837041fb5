/**
 * Collects beats of all hosts of this replica and stores them with one statement per flush: the number of commits does
 * not depend on the number of hosts. At rest this is the gateway's only write. A beat is stored with the time at which
 * it came, however long it waited here, so that nobody is called silent too late or heard when he was not.
 */
import type { Logger } from 'pino';
import type { Clock } from '#controller/ports/clock.ts';
import type { BeatRecord, HostStore } from '#controller/ports/host-store.ts';
import type { GatewayMetrics } from '#controller/telemetry/metrics.ts';

export interface Beats {
  add(beat: BeatRecord): void;
  /** Stores what was collected; keeps it for the next time when that fails. Never throws. */
  flush(): Promise<void>;
}

export interface BeatsDeps {
  readonly hosts: Pick<HostStore, 'flushBeats'>;
  readonly clock: Pick<Clock, 'monotonicMs'>;
  readonly metrics: GatewayMetrics;
  readonly log: Logger;
}

export function createBeats(deps: BeatsDeps): Beats {
  // By host: the newest session is the one that counts.
  let waiting = new Map<string, { readonly beat: BeatRecord; readonly heardAtMs: number }>();
  return {
    add: (beat) => waiting.set(beat.hostId, { beat, heardAtMs: deps.clock.monotonicMs() }),
    flush: async () => {
      if (waiting.size === 0) return;
      const batch = waiting;
      waiting = new Map();
      const nowMs = deps.clock.monotonicMs();
      try {
        await deps.hosts.flushBeats([...batch.values()].map(({ beat, heardAtMs }) => ({ ...beat, ageMs: nowMs - heardAtMs })));
        deps.metrics.countBeats(batch.size);
      } catch (error) {
        deps.log.warn({ err: error, beats: batch.size }, 'beats could not be stored; they are kept for the next flush');
        for (const [hostId, heard] of batch) if (!waiting.has(hostId)) waiting.set(hostId, heard);
      }
    },
  };
}
