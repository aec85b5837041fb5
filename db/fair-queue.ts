/**
 * Shares the connections of a pool between tenants: one tenant never holds all of them, and those that wait take turns by
 * tenant, not by arrival. So a tenant that asks for much waits for itself, and another one's call finds a connection.
 */
import { AppError } from '#api/model/error-codes.ts';

export interface FairQueue {
  /** Runs when the key has its turn. @throws DATABASE_UNAVAILABLE when that takes too long */
  run<Result>(key: string, work: () => Promise<Result>): Promise<Result>;
  figures(): { readonly active: number; readonly waiting: number };
}

interface Waiter {
  readonly start: () => void;
}

export function createFairQueue(options: { readonly slots: number; readonly perKey: number; readonly waitMaxMs: number }): FairQueue {
  const { slots, perKey, waitMaxMs } = options;
  const activeByKey = new Map<string, number>();
  /** In the order of their turns: a key that was served goes to the end. */
  const waiting = new Map<string, Waiter[]>();
  let active = 0;
  const activeOf = (key: string): number => activeByKey.get(key) ?? 0;
  const hasTurn = (key: string): boolean => active < slots && activeOf(key) < perKey;

  const occupy = (key: string): void => {
    active += 1;
    activeByKey.set(key, activeOf(key) + 1);
  };
  const free = (key: string): void => {
    active -= 1;
    if (activeOf(key) === 1) activeByKey.delete(key);
    else activeByKey.set(key, activeOf(key) - 1);
    serveNext();
  };
  const serveNext = (): void => {
    let next: string | null = null;
    for (const key of waiting.keys()) {
      if (hasTurn(key) && (next === null || activeOf(key) < activeOf(next))) next = key;
    }
    const waiters = next === null ? undefined : waiting.get(next);
    const waiter = waiters?.shift();
    if (next === null || waiters === undefined || waiter === undefined) return;
    waiting.delete(next);
    if (waiters.length > 0) waiting.set(next, waiters);
    occupy(next);
    waiter.start();
  };
  const turn = (key: string): Promise<void> =>
    new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        const rest = (waiting.get(key) ?? []).filter((other) => other !== waiter);
        if (rest.length > 0) waiting.set(key, rest);
        else waiting.delete(key);
        reject(new AppError('DATABASE_UNAVAILABLE', 'the connections of this tenant are all in use'));
      }, waitMaxMs);
      const waiter: Waiter = {
        start: () => {
          clearTimeout(timer);
          resolve();
        },
      };
      const waiters = waiting.get(key);
      if (waiters === undefined) waiting.set(key, [waiter]);
      else waiters.push(waiter);
    });

  return {
    run: async (key, work) => {
      if (hasTurn(key) && !waiting.has(key)) occupy(key);
      else await turn(key);
      try {
        return await work();
      } finally {
        free(key);
      }
    },
    figures: () => ({ active, waiting: [...waiting.values()].reduce((sum, waiters) => sum + waiters.length, 0) }),
  };
}
