/**
 * Collects beats of all hosts of this replica and stores them with one statement per interval: the
 * number of commits does not depend on the number of hosts. At rest this is the gateway's only write.
 */
import type { Logger } from 'pino';
import type { BeatRecord, HostStore } from '#controller/ports/host-store.ts';
import type { GatewayMetrics } from '#controller/telemetry/metrics.ts';

export interface Beats {
  add(beat: BeatRecord): void;
  /** Stores what was collected; keeps it for the next time when that fails. Never throws. */
  flush(): Promise<void>;
}

export function createBeats(deps: { readonly hosts: Pick<HostStore, 'flushBeats'>; readonly metrics: GatewayMetrics; readonly log: Logger }): Beats {
  // By host: the newest session is the one that counts.
  let waiting = new Map<string, BeatRecord>();
  return {
    add: (beat) => waiting.set(beat.hostId, beat),
    flush: async () => {
      if (waiting.size === 0) return;
      const batch = waiting;
      waiting = new Map();
      try {
        await deps.hosts.flushBeats([...batch.values()]);
        deps.metrics.countBeats(batch.size);
      } catch (error) {
        deps.log.warn({ err: error, beats: batch.size }, 'beats could not be stored; they are kept for the next flush');
        for (const [hostId, beat] of batch) if (!waiting.has(hostId)) waiting.set(hostId, beat);
      }
    },
  };
}
