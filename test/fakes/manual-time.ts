/** Time that passes only when the test says so; randomness is a constant. */
import type { Time } from '#controller/runtime/time.ts';

export interface ManualTime extends Time {
  /** Lets the time pass and runs what comes due, in order, with pending promises in between. */
  advance(ms: number): Promise<void>;
  /** Lets the time pass while nothing runs, as when the process stands still. */
  jump(ms: number): void;
  /** Timers that wait. */
  pending(): number;
}

/** Turns of the promise queue that settle any chain of the code under test. */
const settleTurns = 50;

export async function settle(): Promise<void> {
  for (let turn = 0; turn < settleTurns; turn += 1) await Promise.resolve();
}

export function createManualTime(options: { readonly startMs?: number; readonly random?: number } = {}): ManualTime {
  let nowMs = options.startMs ?? 1_000_000;
  let serial = 0;
  const timers = new Map<number, { readonly dueMs: number; readonly run: () => void }>();
  const nextDue = (limitMs: number): [number, { readonly dueMs: number; readonly run: () => void }] | undefined =>
    [...timers].filter(([, { dueMs }]) => dueMs <= limitMs).sort(([a, x], [b, y]) => x.dueMs - y.dueMs || a - b)[0];
  return {
    nowMs: () => nowMs,
    monotonicMs: () => nowMs,
    random: () => options.random ?? 0.5,
    schedule: (delayMs, run) => {
      const id = (serial += 1);
      timers.set(id, { dueMs: nowMs + Math.max(0, delayMs), run });
      return () => void timers.delete(id);
    },
    jump: (ms) => {
      nowMs += ms;
    },
    pending: () => timers.size,
    advance: async (ms) => {
      const limitMs = nowMs + ms;
      await settle();
      for (let due = nextDue(limitMs); due !== undefined; due = nextDue(limitMs)) {
        const [id, timer] = due;
        timers.delete(id);
        nowMs = Math.max(nowMs, timer.dueMs);
        timer.run();
        await settle();
      }
      nowMs = limitMs;
      await settle();
    },
  };
}
