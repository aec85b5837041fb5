/**
 * How many requests one account gets: a token bucket for the rate, a bound on how many run at once, and a pause that
 * the account itself asked for (429). Owns waiting; it knows nothing of HTTP.
 *
 * Invariants: at most `concurrencyMax` run; in any period of t seconds at most `burst + t × perSecond` start; an
 * aborted waiter starts nothing and leaves the queue.
 */
import type { Time } from '#controller/runtime/time.ts';

export interface LimiterLimits {
  readonly concurrencyMax: number;
  readonly perSecond: number;
  readonly burst: number;
  /** Waiters beyond this are refused at once. */
  readonly waitersMax: number;
}

export interface Limiter {
  /**
   * Resolves with how to give the place back, or rejects with the signal's reason.
   * @throws RangeError when too many wait already
   */
  take(signal: AbortSignal): Promise<() => void>;
  /** No request starts before this monotonic time in milliseconds. */
  pauseUntil(monotonicMs: number): void;
  /** Milliseconds until the pause ends; 0: there is none. */
  pausedForMs(): number;
}

interface Waiter {
  readonly start: () => void;
}

export function createLimiter(limits: LimiterLimits, time: Time): Limiter {
  let running = 0;
  let tokens = limits.burst;
  let filledAtMs = time.monotonicMs();
  let pausedUntilMs = 0;
  let cancelWake: (() => void) | null = null;
  const waiters: Waiter[] = [];

  function refill(): void {
    const nowMs = time.monotonicMs();
    tokens = Math.min(limits.burst, tokens + ((nowMs - filledAtMs) / 1000) * limits.perSecond);
    filledAtMs = nowMs;
  }

  function drain(): void {
    refill();
    while (waiters.length > 0 && running < limits.concurrencyMax && tokens >= 1) {
      tokens -= 1;
      running += 1;
      waiters.shift()?.start();
    }
    if (waiters.length === 0 || running >= limits.concurrencyMax || cancelWake !== null) return;
    cancelWake = time.schedule(Math.ceil(((1 - tokens) / limits.perSecond) * 1000), () => {
      cancelWake = null;
      drain();
    });
  }

  function release(): void {
    running -= 1;
    drain();
  }

  return {
    take: (signal) =>
      new Promise((resolve, reject) => {
        if (signal.aborted) return reject(signal.reason as Error);
        if (waiters.length >= limits.waitersMax) return reject(new RangeError('too many requests wait for the mesh account'));
        const abandon = (): void => {
          const index = waiters.indexOf(waiter);
          if (index >= 0) waiters.splice(index, 1);
          reject(signal.reason as Error);
        };
        const waiter: Waiter = {
          start: () => {
            signal.removeEventListener('abort', abandon);
            let isReleased = false;
            resolve(() => {
              if (isReleased) return;
              isReleased = true;
              release();
            });
          },
        };
        signal.addEventListener('abort', abandon, { once: true });
        waiters.push(waiter);
        drain();
      }),
    pauseUntil: (monotonicMs) => {
      pausedUntilMs = Math.max(pausedUntilMs, monotonicMs);
    },
    pausedForMs: () => Math.max(0, pausedUntilMs - time.monotonicMs()),
  };
}
