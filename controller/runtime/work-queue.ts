/**
 * Keys that need a reconcile. A key waits once however often it is added, is worked on by one worker at a
 * time, and is worked on again when it was added meanwhile. Failures back off per key; a change does not
 * wait for the back-off of another key.
 *
 * Invariant: a fault of one key is that key's fault; the queue and the other keys go on.
 */
import { errorFields, type Log } from './log.ts';
import type { Outcome } from './outcome.ts';
import { backoffMs, type Time } from './time.ts';

const defaultBackoff = { initialMs: 50, maxMs: 30_000 };

export interface WorkQueueOptions {
  readonly name: string;
  readonly concurrency: number;
  readonly reconcile: (key: string) => Promise<Outcome>;
  readonly time: Time;
  readonly log: Log;
  readonly backoff?: { readonly initialMs: number; readonly maxMs: number };
  /** Called after each reconcile, for metrics. */
  readonly onReconciled?: ((queue: string, outcome: Outcome['kind'], durationMs: number) => void) | undefined;
}

export interface WorkQueueFigures {
  readonly waiting: number;
  readonly delayed: number;
  readonly running: number;
  readonly reconciled: number;
  readonly failed: number;
}

export interface WorkQueue {
  add(key: string): void;
  /** Added after the delay; the earliest of several delays counts. */
  addAfter(key: string, delayMs: number): void;
  /** Until then keys are only noted. */
  start(): void;
  /** Resolves when the running reconciles have ended; nothing starts any more. */
  stop(): Promise<void>;
  figures(): WorkQueueFigures;
}

export function createWorkQueue(options: WorkQueueOptions): WorkQueue {
  const { time, log } = options;
  const backoff = options.backoff ?? defaultBackoff;
  const ready = new Set<string>();
  const running = new Map<string, Promise<void>>();
  const addedWhileRunning = new Set<string>();
  const delayed = new Map<string, { readonly dueAtMs: number; readonly cancel: () => void }>();
  const failures = new Map<string, number>();
  const figures = { reconciled: 0, failed: 0 };
  let state: 'idle' | 'started' | 'stopped' = 'idle';

  const add = (key: string): void => {
    if (state === 'stopped') return;
    if (running.has(key)) addedWhileRunning.add(key);
    else ready.add(key);
    fill();
  };

  const addAfter = (key: string, delayMs: number): void => {
    if (state === 'stopped') return;
    const dueAtMs = time.monotonicMs() + delayMs;
    const earlier = delayed.get(key);
    if (earlier !== undefined && earlier.dueAtMs <= dueAtMs) return;
    earlier?.cancel();
    const cancel = time.schedule(delayMs, () => {
      delayed.delete(key);
      add(key);
    });
    delayed.set(key, { dueAtMs, cancel });
  };

  const settle = (key: string, outcome: Outcome): void => {
    figures.reconciled += 1;
    if (outcome.kind === 'failed') {
      const count = (failures.get(key) ?? 0) + 1;
      failures.set(key, count);
      figures.failed += 1;
      const delayMs = backoffMs(backoff, count, time.random);
      log.warn({ queue: options.name, key, failures: count, delayMs, ...errorFields(outcome.error) }, 'reconcile failed');
      addAfter(key, delayMs);
      return;
    }
    failures.delete(key);
    const again = outcome.kind === 'done' ? outcome.requeueAfterMs : outcome.kind === 'waiting' ? outcome.retryAfterMs : undefined;
    if (outcome.kind !== 'done') log.debug({ queue: options.name, key, outcome: outcome.kind, reason: outcome.reason, detail: outcome.message, delayMs: again }, 'reconcile waits');
    if (again !== undefined) addAfter(key, again);
  };

  const work = async (key: string): Promise<void> => {
    // The delayed look is superseded by this one.
    delayed.get(key)?.cancel();
    delayed.delete(key);
    const startedAtMs = time.monotonicMs();
    let outcome: Outcome;
    try {
      outcome = await options.reconcile(key);
    } catch (error) {
      outcome = { kind: 'failed', error };
    }
    options.onReconciled?.(options.name, outcome.kind, time.monotonicMs() - startedAtMs);
    settle(key, outcome);
    running.delete(key);
    if (addedWhileRunning.delete(key)) ready.add(key);
    fill();
  };

  const fill = (): void => {
    if (state !== 'started') return;
    for (const key of ready) {
      if (running.size >= options.concurrency) return;
      ready.delete(key);
      running.set(key, work(key));
    }
  };

  return {
    add,
    addAfter,
    start: () => {
      if (state === 'idle') state = 'started';
      fill();
    },
    stop: async () => {
      state = 'stopped';
      for (const { cancel } of delayed.values()) cancel();
      delayed.clear();
      ready.clear();
      await Promise.all(running.values());
    },
    figures: () => ({ waiting: ready.size, delayed: delayed.size, running: running.size, ...figures }),
  };
}
