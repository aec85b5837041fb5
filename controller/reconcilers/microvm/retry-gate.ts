/** Keeps new tries of one generation apart, whatever triggers a reconcile. Forgotten with the process: a try more does no harm. */
import type { Time } from '#controller/runtime/time.ts';

/** Above the microVMs of a large installation that can fail at the same time. */
const entriesMax = 20_000;

export interface RetryGate {
  /** Milliseconds until that try may be made, counted from when it was first asked for. */
  delayMs(key: string, afterMs: number): number;
  forget(key: string): void;
}

export function createRetryGate(time: Pick<Time, 'monotonicMs'>): RetryGate {
  const openAtMs = new Map<string, number>();
  return {
    delayMs: (key, afterMs) => {
      const nowMs = time.monotonicMs();
      const known = openAtMs.get(key);
      if (known !== undefined) return Math.max(0, known - nowMs);
      const oldest = openAtMs.size >= entriesMax ? openAtMs.keys().next().value : undefined;
      if (oldest !== undefined) openAtMs.delete(oldest);
      openAtMs.set(key, nowMs + afterMs);
      return afterMs;
    },
    forget: (key) => {
      openAtMs.delete(key);
    },
  };
}
