import { describe, expect, it } from 'vitest';
import { decideQuota, nothingUsed, type QuotaUse, type SiteQuota } from '#api/model/quota.ts';
import { createCallLimits, defaultCallLimits } from './call-limits.ts';
import { createSlots, createTokenBuckets } from './token-buckets.ts';

describe('token buckets', () => {
  it('give a burst at once, then as many as the rate refills, and say when', () => {
    const buckets = createTokenBuckets({ perSecond: 2, burst: 3, keysMax: 10 });
    expect([1, 2, 3, 4].map(() => buckets.take('a', 1_000))).toEqual([0, 0, 0, 500]);
    expect(buckets.take('b', 1_000)).toBe(0);
    expect(buckets.take('a', 1_400)).toBe(100);
    expect(buckets.take('a', 1_500)).toBe(0);
    expect(buckets.take('a', 1_500)).toBe(500);
    // Never more than the burst, however long nobody asked.
    expect([1, 2, 3, 4].map(() => buckets.take('a', 1e9))).toEqual([0, 0, 0, 500]);
  });

  it('are bounded in number, and a clock that goes back gives nothing', () => {
    const buckets = createTokenBuckets({ perSecond: 1, burst: 1, keysMax: 100 });
    for (let index = 0; index < 1_000; index += 1) buckets.take(`k${index}`, 5_000);
    expect(buckets.size).toBe(100);
    expect(buckets.take('k999', 1_000)).toBe(1_000);
  });
});

describe('slots', () => {
  it('are so many for each key, and giving one back twice gives it once', () => {
    const slots = createSlots(2);
    const [first, second] = [slots.take('a'), slots.take('a')];
    expect(slots.take('a')).toBeNull();
    expect(slots.take('b')).not.toBeNull();
    first?.();
    first?.();
    expect(slots.taken('a')).toBe(1);
    expect(slots.take('a')).not.toBeNull();
    expect(slots.take('a')).toBeNull();
    second?.();
  });
});

describe('streams', () => {
  it('are bounded for each caller and for all callers of a tenant; what one bound refuses takes no place of the other', () => {
    const limits = createCallLimits({ ...defaultCallLimits, streamsPerCaller: 2, streamsPerTenant: 3 });
    const [first] = [limits.holdStream('ann', 'shop'), limits.holdStream('ann', 'shop')];
    for (let index = 0; index < 5; index += 1) expect(() => limits.holdStream('ann', 'shop')).toThrow('this caller has 2 streams already');
    limits.holdStream('bob', 'shop');
    expect(() => limits.holdStream('cid', 'shop')).toThrow('namespace shop has 3 streams already');
    limits.holdStream('cid', 'other');
    first?.();
    limits.holdStream('cid', 'shop');
    expect(() => limits.holdStream('ann', 'shop')).toThrow('namespace shop has 3 streams already');
  });
});

describe('the quota of a site', () => {
  const use = (vcpus: number, memoryBytes = 0, diskBytes = 0): QuotaUse => ({ microvms: 1, vcpus, memoryBytes, diskBytes });
  const decide = (quota: SiteQuota, sizes: { readonly others: QuotaUse; readonly before?: QuotaUse; readonly asked: QuotaUse }) =>
    decideQuota({ siteName: 'shop-1', quota, before: nothingUsed, ...sizes });

  it('has room up to its limit, and says in one sentence what is asked for above it', () => {
    expect(decide({ vcpus: 4 }, { others: use(2), asked: use(2) })).toBeNull();
    expect(decide({ vcpus: 4 }, { others: use(3), asked: use(2) })).toBe('the quota of Site shop-1 is 4 vCPUs: the other microVMs have 3 vCPUs, and this one asks for 2 vCPUs');
    expect(decide({ memoryBytes: 2 ** 30 }, { others: use(1, 2 ** 29), asked: use(1, 2 ** 30) })).toBe(
      'the quota of Site shop-1 is 1Gi of memory: the other microVMs have 512Mi of memory, and this one asks for 1Gi of memory',
    );
    expect(decide({ microvms: 0 }, { others: nothingUsed, asked: use(1) })).toContain('is 0 microVMs');
    expect(decide({ diskBytes: 10 }, { others: nothingUsed, asked: use(1, 1, 11) })).toContain('11 bytes of disks');
    expect(decide({}, { others: use(1e6), asked: use(1e6) })).toBeNull();
  });

  it('is asked about what grows only, so that a microVM above a lowered quota can be stopped and shrunk', () => {
    expect(decide({ microvms: 0, vcpus: 0 }, { others: use(9), before: use(4), asked: use(4) })).toBeNull();
    expect(decide({ microvms: 0, vcpus: 0 }, { others: use(9), before: use(4), asked: use(2) })).toBeNull();
    expect(decide({ vcpus: 12 }, { others: use(9), before: use(2), asked: use(4) })).toContain('12 vCPUs');
  });
});
