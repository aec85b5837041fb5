/**
 * Time, timers and randomness as the runtime sees them. Everything in this room takes them from here, so
 * that tests decide when a second has passed.
 */

export interface Time {
  /** Wall clock, epoch milliseconds: for what people read. */
  nowMs(): number;
  /** Monotonic milliseconds from an arbitrary start: for deadlines. */
  monotonicMs(): number;
  /** Runs once after the delay; the result cancels it. */
  schedule(delayMs: number, run: () => void): () => void;
  /** Uniform in [0, 1). */
  random(): number;
}

/** Real timers on the given clock and source of randomness. */
export function createTime(source: {
  readonly nowMs: () => number;
  readonly monotonicMs: () => number;
  readonly random: () => number;
}): Time {
  return {
    nowMs: () => source.nowMs(),
    monotonicMs: () => source.monotonicMs(),
    random: () => source.random(),
    schedule: (delayMs, run) => {
      const timer = setTimeout(run, delayMs);
      return () => clearTimeout(timer);
    },
  };
}

/** Resolves after the delay, or at once when the signal is aborted. */
export function pause(time: Time, delayMs: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const finish = (): void => {
      cancel();
      signal.removeEventListener('abort', finish);
      resolve();
    };
    const cancel = time.schedule(delayMs, finish);
    signal.addEventListener('abort', finish, { once: true });
  });
}

/**
 * Exponential backoff with full jitter: uniform in [0, min(max, initial × 2^(failures − 1))].
 * Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
 */
export function backoffMs(
  limits: { readonly initialMs: number; readonly maxMs: number },
  failures: number,
  random: () => number,
): number {
  return Math.floor(random() * Math.min(limits.maxMs, limits.initialMs * 2 ** Math.min(failures - 1, 30)));
}
