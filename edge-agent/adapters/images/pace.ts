/** The bandwidth that the downloads of one host share: each waits after what it received until the link may be used again. */
import type { Clock } from '../../ports/clock.ts';

export interface Pace {
  /** Undefined: no bound. */
  limit(bytesPerSecond: number | undefined): void;
  /** Resolves when the next bytes may be asked for, or when aborted. */
  received(bytes: number, signal: AbortSignal): Promise<void>;
}

export function createPace(clock: Clock): Pace {
  let rate: number | undefined;
  let freeAtMs = 0;
  return {
    limit(bytesPerSecond) {
      rate = bytesPerSecond;
    },
    async received(bytes, signal) {
      if (rate === undefined) return;
      const nowMs = clock.now().bootMs;
      freeAtMs = Math.max(freeAtMs, nowMs) + (1_000 * bytes) / rate;
      await pause(clock, freeAtMs - nowMs, signal);
    },
  };
}

/** Resolves after so many milliseconds, or at once when aborted. */
export function pause(clock: Clock, ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted || ms <= 0) return resolve();
    const end = (): void => {
      cancel();
      signal.removeEventListener('abort', end);
      resolve();
    };
    const cancel = clock.after(ms, end);
    signal.addEventListener('abort', end, { once: true });
  });
}
