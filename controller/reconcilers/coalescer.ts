/**
 * Holds back status writes that only move figures: a field with an interval is written at most once in that
 * time, unless another field changes too. The held figures are written by the reconcile that it asks for.
 */
import { isDeepStrictEqual } from 'node:util';
import type { Time } from '#controller/runtime/time.ts';

export interface Coalescer {
  /** Milliseconds until the difference may be written; 0 writes now. */
  delayMs(uid: string, before: object | undefined, after: object, intervals: Readonly<Record<string, number>>): number;
  wrote(uid: string): void;
  forget(uid: string): void;
}

export function createCoalescer(time: Pick<Time, 'monotonicMs'>): Coalescer {
  const writtenAtMs = new Map<string, number>();
  return {
    delayMs: (uid, before, after, intervals) => {
      const last = writtenAtMs.get(uid);
      if (before === undefined || last === undefined) return 0;
      const [left, right] = [fieldsOf(before), fieldsOf(after)];
      const differing = [...new Set([...left.keys(), ...right.keys()])].filter((name) => !isDeepStrictEqual(left.get(name), right.get(name)));
      if (differing.length === 0) return 0;
      const shortest = Math.min(...differing.map((name) => intervals[name] ?? 0));
      return Math.max(0, Math.ceil(shortest - (time.monotonicMs() - last)));
    },
    wrote: (uid) => {
      writtenAtMs.set(uid, time.monotonicMs());
    },
    forget: (uid) => {
      writtenAtMs.delete(uid);
    },
  };
}

function fieldsOf(status: object): Map<string, unknown> {
  return new Map(Object.entries(status).filter(([, value]) => value !== undefined));
}
