/**
 * Token buckets by key: `burst` calls at once, `perSecond` in the long run; whoever comes too early is told when to come
 * again. Time is an argument.
 *
 * A full bucket is the same as none, so the number of kept buckets is bounded by dropping the one that was used
 * longest ago.
 */

export interface BucketLimit {
  /** Calls per second in the long run, > 0. */
  readonly perSecond: number;
  /** Calls at once, >= 1. */
  readonly burst: number;
}

export interface TokenBuckets {
  /** Takes one token. 0 when there was one; else milliseconds until there will be, and nothing was taken. */
  take(key: string, nowMs: number): number;
  /** Number of kept buckets. */
  readonly size: number;
}

interface Bucket {
  readonly tokens: number;
  readonly atMs: number;
}

export function createTokenBuckets(limit: BucketLimit & { readonly keysMax: number }): TokenBuckets {
  const { perSecond, burst, keysMax } = limit;
  const buckets = new Map<string, Bucket>();
  const fillOf = (bucket: Bucket | undefined, nowMs: number): number =>
    bucket === undefined ? burst : Math.min(burst, bucket.tokens + (Math.max(0, nowMs - bucket.atMs) / 1000) * perSecond);
  /** Kept in order of use, so the first ones are full again, or are those whose loss matters least. */
  const makeRoom = (): void => {
    const [oldest] = buckets.keys();
    if (buckets.size > keysMax && oldest !== undefined) buckets.delete(oldest);
  };
  return {
    take: (key, nowMs) => {
      const tokens = fillOf(buckets.get(key), nowMs);
      if (tokens < 1) return Math.ceil(((1 - tokens) / perSecond) * 1000);
      buckets.delete(key);
      buckets.set(key, { tokens: tokens - 1, atMs: nowMs });
      makeRoom();
      return 0;
    },
    get size() {
      return buckets.size;
    },
  };
}

/** So many at a time for each key. */
export interface Slots {
  /** Null when all are taken; else the function that gives the slot back, once. */
  take(key: string): (() => void) | null;
  /** Slots that are taken under that key. */
  taken(key: string): number;
}

export function createSlots(max: number): Slots {
  const counts = new Map<string, number>();
  return {
    take: (key) => {
      const count = counts.get(key) ?? 0;
      if (count >= max) return null;
      counts.set(key, count + 1);
      let isTaken = true;
      return () => {
        if (!isTaken) return;
        isTaken = false;
        const left = (counts.get(key) ?? 1) - 1;
        if (left === 0) counts.delete(key);
        else counts.set(key, left);
      };
    },
    taken: (key) => counts.get(key) ?? 0,
  };
}
