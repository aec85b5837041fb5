import { expect, test } from 'vitest';
import { backlogMax, behind, endOfMiddle, serialLogBounds, type LogBounds } from './log-bounds.ts';

const kibibyte = 2 ** 10;
const bounds: LogBounds = { headBytes: 64 * kibibyte, tailBytes: 128 * kibibyte, stepBytes: 32 * kibibyte };

test.each([
  ['empty', 0, 64],
  ['as long as what is kept', 192, 64],
  ['a block longer', 196, 68],
  ['a part of a block longer', 195, 64],
  ['much longer', 1_024, 896],
])('the middle of a log that is %s is whole blocks between head and tail', (_title, size, end) => {
  expect(endOfMiddle(size * kibibyte, bounds)).toBe(end * kibibyte);
});

test('more is kept than is sent after an absence', () => {
  expect(serialLogBounds.tailBytes).toBeGreaterThan(backlogMax);
});

test('a reader that comes to what was freed goes on with the newest part, and at nothing else that reads as zeros', () => {
  const [zeros, text] = [Buffer.alloc(4_096), Buffer.alloc(4_096, 'a')];
  const size = 1_024 * kibibyte;
  expect(behind(text, 100 * kibibyte, size, bounds)).toBe(104 * kibibyte);
  expect(behind(zeros, 100 * kibibyte, size, bounds)).toBe(896 * kibibyte);
  expect(behind(zeros, 0, size, bounds)).toBe(4 * kibibyte);
  expect(behind(zeros, 900 * kibibyte, size, bounds)).toBe(904 * kibibyte);
  expect(behind(zeros, 100 * kibibyte, 190 * kibibyte, bounds)).toBe(104 * kibibyte);
});
