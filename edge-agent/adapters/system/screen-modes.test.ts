import { expect, test } from 'vitest';
import { createScreenModes } from './screen-modes.ts';

const resetAfter = (...pieces: string[]): string => {
  const modes = createScreenModes();
  for (const piece of pieces) modes.see(Buffer.from(piece, 'latin1'));
  return modes.reset();
};

test('what a guest switched on is switched off, however its output is cut; what it left alone is left alone', () => {
  expect(resetAfter('login: root\r\n')).toBe('');
  expect(resetAfter('\u001b[?104', '9h\u001b[?25l', 'top')).toBe('\u001b[?1049l\u001b[?25h');
  expect(resetAfter('\u001b', '[?1000;2004h', '\u001b[31mred')).toBe('\u001b[0m\u001b(B\u000f\u001b[?1000l\u001b[?2004l');
});

test('a program that tidied up leaves nothing to do', () => {
  expect(resetAfter('\u001b[?1049h\u001b[?25l', 'vi', '\u001b[?25h\u001b[?1049l')).toBe('');
});
