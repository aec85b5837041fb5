/**
 * A bounded cache whose entries expire: at most `entriesMax`, the oldest goes first. Many that ask for one key at once
 * cause one question. An answer's time counts from when it was asked for, so that the stated staleness holds.
 */
import type { Clock } from '#controller/ports/clock.ts';

export const cacheEntriesMax = 1024;

export interface Cache<Value> {
  /** A failure of `load` is everybody's who waited for it, and is not kept. */
  get(key: string, load: () => Promise<Value>): Promise<Value>;
}

export function createCache<Value>(clock: Clock, keepMs: (value: Value) => number): Cache<Value> {
  const entries = new Map<string, { readonly value: Value; readonly untilMs: number }>();
  const loading = new Map<string, Promise<Value>>();
  const fill = async (key: string, load: () => Promise<Value>): Promise<Value> => {
    const askedAtMs = clock.monotonicMs();
    const value = await load();
    entries.delete(key);
    entries.set(key, { value, untilMs: askedAtMs + keepMs(value) });
    const oldest = entries.size > cacheEntriesMax ? entries.keys().next().value : undefined;
    if (oldest !== undefined) entries.delete(oldest);
    return value;
  };
  return {
    get: (key, load) => {
      const found = entries.get(key);
      if (found !== undefined && clock.monotonicMs() < found.untilMs) return Promise.resolve(found.value);
      const asked = loading.get(key);
      if (asked !== undefined) return asked;
      const asking = fill(key, load).finally(() => loading.delete(key));
      loading.set(key, asking);
      return asking;
    },
  };
}
