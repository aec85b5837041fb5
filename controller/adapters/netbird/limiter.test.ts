/** The limits of one account, on manual time. */
import { describe, expect, it } from 'vitest';
import { createManualTime, settle } from '#test/fakes/manual-time.ts';
import { retryAfterMs } from './http.ts';
import { createLimiter } from './limiter.ts';

const limits = { concurrencyMax: 3, perSecond: 2, burst: 5, waitersMax: 100 };
const never = new AbortController().signal;

describe('the limits of a mesh account', () => {
  it('[N3] starts a burst and then as many as its rate, in the order of asking', async () => {
    const time = createManualTime();
    const limiter = createLimiter({ ...limits, concurrencyMax: 100 }, time);
    const started: number[] = [];
    for (let index = 0; index < 20; index += 1) void limiter.take(never).then((release) => (started.push(index), release()));
    await settle();
    expect(started).toEqual([0, 1, 2, 3, 4]);
    await time.advance(1000);
    expect(started).toHaveLength(7);
    await time.advance(10_000);
    expect(started).toEqual(Array.from({ length: 20 }, (_, index) => index));
    expect(time.pending()).toBe(0);
  });

  it('[N3] never runs more at once than its bound, and gives a place back only once', async () => {
    const time = createManualTime();
    const limiter = createLimiter({ ...limits, burst: 100 }, time);
    const releases: (() => void)[] = [];
    for (let index = 0; index < 10; index += 1) void limiter.take(never).then((release) => releases.push(release));
    await settle();
    expect(releases).toHaveLength(3);
    releases[0]?.();
    releases[0]?.();
    await settle();
    expect(releases).toHaveLength(4);
  });

  it('[N3] refuses at once beyond its waiters, and an aborted waiter starts nothing', async () => {
    const limiter = createLimiter({ ...limits, concurrencyMax: 1, waitersMax: 2 }, createManualTime());
    const release = await limiter.take(never);
    const controller = new AbortController();
    const abandoned = limiter.take(controller.signal);
    let isStarted = false;
    void limiter.take(never).then(() => (isStarted = true));
    await expect(limiter.take(never)).rejects.toThrow(RangeError);
    controller.abort(new Error('gone'));
    await expect(abandoned).rejects.toThrow('gone');
    expect(isStarted).toBe(false);
    release();
    await settle();
    expect(isStarted).toBe(true);
  });

  it('reads Retry-After as seconds or a date, within its bounds', () => {
    const nowMs = Date.parse('2026-01-01T00:00:00Z');
    expect([null, '', 'soon', '0', '12', '99999', 'Thu, 01 Jan 2026 00:00:30 GMT'].map((header) => retryAfterMs(header, nowMs))).toEqual([null, null, null, 1000, 12_000, 600_000, 30_000]);
  });
});
