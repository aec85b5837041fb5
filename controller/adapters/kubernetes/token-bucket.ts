/** A rate limit: `burst` requests at once, `perSecond` in the long run; whoever comes too early waits in line. */
import type { Time } from '#controller/runtime/time.ts';

export interface TokenBucket {
  take(): Promise<void>;
}

export function createTokenBucket(options: { readonly perSecond: number; readonly burst: number; readonly time: Time }): TokenBucket {
  const { perSecond, burst, time } = options;
  let tokens = burst;
  let filledAtMs = time.monotonicMs();
  return {
    take: () => {
      const nowMs = time.monotonicMs();
      tokens = Math.min(burst, tokens + ((nowMs - filledAtMs) / 1000) * perSecond);
      filledAtMs = nowMs;
      // Below zero the debt is the length of the line.
      tokens -= 1;
      if (tokens >= 0) return Promise.resolve();
      return new Promise((resolve) => {
        time.schedule((-tokens / perSecond) * 1000, resolve);
      });
    },
  };
}
