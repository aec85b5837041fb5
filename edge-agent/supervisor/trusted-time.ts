/**
 * What time it is, on a host whose wall clock may be wrong (no battery, no time server yet). The control plane says its
 * time with every welcome; from then on that clock runs by the boot clock. Before the first welcome the wall clock
 * counts, but never less than the newest time that was ever heard, which is journaled and only moves forward.
 */
import type { Clock } from '../ports/clock.ts';
import type { Logger } from '../ports/logger.ts';

export interface TrustedTime {
  /** Best estimate, epoch milliseconds. */
  now(): number;
  /** Newest time that was heard; 0 when none ever was. */
  newestMs(): number;
  /** Wall clock minus that of the control plane at this moment; undefined before it was heard. */
  skewMs(): number | undefined;
  /** Takes over what the control plane says, and says aloud when the wall clock is far from it. */
  learn(serverTimeMs: number): void;
}

/** A wall clock that differs by more than this is called wrong. */
const skewMaxMs = 120_000;
/** The journal is written when the newest time moved by this much: what is lost with a power cut is at most that. */
const saveEveryMs = 600_000;

export function createTrustedTime(deps: {
  /** Newest time of the journal and of the host's own certificate; 0 when there is none. */
  readonly newestMs: number;
  /** Makes it durable. */
  readonly save: (newestMs: number) => void;
  readonly clock: Clock;
  readonly logger: Logger;
}): TrustedTime {
  const { clock, logger } = deps;
  let newestMs = deps.newestMs;
  let savedMs = deps.newestMs;
  /** Of the control plane, minus that of the boot clock. */
  let offsetMs: number | undefined;
  let isWrong = false;

  return {
    now() {
      const { wallMs, bootMs } = clock.now();
      return offsetMs === undefined ? Math.max(wallMs, newestMs) : bootMs + offsetMs;
    },
    newestMs: () => newestMs,
    skewMs() {
      const { wallMs, bootMs } = clock.now();
      return offsetMs === undefined ? undefined : wallMs - (bootMs + offsetMs);
    },
    learn(serverTimeMs) {
      const { wallMs, bootMs } = clock.now();
      offsetMs = serverTimeMs - bootMs;
      newestMs = Math.max(newestMs, serverTimeMs);
      if (newestMs - savedMs >= saveEveryMs) {
        savedMs = newestMs;
        deps.save(newestMs);
      }
      const skewMs = wallMs - serverTimeMs;
      const isWrongNow = Math.abs(skewMs) > skewMaxMs;
      if (isWrongNow && !isWrong) logger.warn({ skewMs }, 'the clock of this host is wrong; it goes by the time of its control plane; set the clock');
      if (!isWrongNow && isWrong) logger.info({ skewMs }, 'the clock of this host is right again');
      isWrong = isWrongNow;
    },
  };
}
