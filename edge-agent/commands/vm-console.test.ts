import { expect, test } from 'vitest';
import { parseEscapeKey } from './console-keys.ts';
import { newestLines } from './vm-console.ts';

test('the history is the newest lines, with the one that is not complete, as plain text', () => {
  const old = Buffer.from('one\r\ntwo\r\n\u001b[6n\u001b[31mthree\u001b[0m\u0007\r\nlogin: ');
  expect(newestLines(old, 2)).toBe('three\r\nlogin: ');
  expect(newestLines(old, 100)).toBe('one\r\ntwo\r\nthree\r\nlogin: ');
  expect(newestLines(Buffer.from(''), 5)).toBe('');
});

test('a key that leaves is a control character that nobody needs for typing', () => {
  expect(parseEscapeKey('^]')).toEqual({ byte: 0x1d, label: 'Ctrl-]' });
  expect(parseEscapeKey('^a')).toEqual({ byte: 1, label: 'Ctrl-A' });
  for (const wrong of ['^C', '^M', 'q', '', '^', '^]x']) expect(parseEscapeKey(wrong)).toBeUndefined();
});
