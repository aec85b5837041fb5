import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatQuantity, parseDurationMs, parseWholeQuantity } from './scalar-values.ts';

describe('parseDurationMs', () => {
  it.each([
    ['0s', 0],
    ['100ms', 100],
    ['10s', 10_000],
    ['5m', 300_000],
    ['1h30m', 5_400_000],
    ['1h1m1s1ms', 3_661_001],
    ['168h', 604_800_000],
  ])('reads %s', (text, milliseconds) => {
    expect(parseDurationMs(text)).toBe(milliseconds);
  });

  it.each(['', '10', 'soon', '-5s', '1.5h', '5m1h', ' 10s', '10s\n', '9999999h', '1d'])('has no value for %j', (text) => {
    expect(parseDurationMs(text)).toBeNull();
  });
});

describe('parseWholeQuantity', () => {
  it.each([
    [0, 0],
    [1_073_741_824, 1_073_741_824],
    ['1073741824', 1_073_741_824],
    ['512Mi', 536_870_912],
    ['1.5Gi', 1_610_612_736],
    ['0.0625Ti', 68_719_476_736],
    ['4096e6', 4_096_000_000],
    ['1.5e3', 1500],
    ['1k', 1000],
    ['1E', 1e18],
    ['4Ti', 4 * 2 ** 40],
    ['1000m', 1],
    ['.5Ki', 512],
    ['-0', 0],
  ])('reads %s', (value, bytes) => {
    expect(parseWholeQuantity(value)).toBe(bytes);
  });

  it.each(['', '.', 'lots', '1 Gi', '1GB', '0x10', '-1', '1500m', '0.1', '0.1Gi', '8Ei', '1000000000000Gi', '1Gi,shared=on', 1.5])(
    'has no value for %j',
    (value) => {
      expect(parseWholeQuantity(value)).toBeNull();
    },
  );

  it('reads back every number of bytes that formatQuantity writes', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }), (bytes) => {
        expect(parseWholeQuantity(formatQuantity(bytes))).toBe(bytes);
      }),
    );
  });
});

describe('formatQuantity', () => {
  it.each([
    [0, '0'],
    [1000, '1000'],
    [536_870_912, '512Mi'],
    [17_179_869_184, '16Gi'],
  ])('writes %d', (bytes, text) => {
    expect(formatQuantity(bytes)).toBe(text);
  });
});
