import { expect, test } from 'vitest';
import { endOfMiddle, serialLogBounds } from '../domain/log-bounds.ts';
import { createConsoleSearch } from './console-search.ts';

const never = new AbortController().signal;

/** A log of that size whose middle is not kept: zeros, but for what is written at its places. */
function searchIn(size: number, texts: readonly (readonly [offset: number, text: string])[]) {
  let bytesRead = 0;
  const files = {
    size: () => Promise.resolve(size),
    read: (_path: string, offset: number, max: number) => {
      const length = Math.max(0, Math.min(max, size - offset));
      const isFreed = offset >= serialLogBounds.headBytes && offset + length <= endOfMiddle(size, serialLogBounds);
      const piece = Buffer.alloc(length, isFreed ? 0 : '.');
      for (const [at, text] of texts) if (at >= offset && at + text.length <= offset + length) piece.write(text, at - offset, 'latin1');
      bytesRead += length;
      return Promise.resolve(piece);
    },
  };
  return { search: createConsoleSearch(files, 'serial.log'), bytesRead: () => bytesRead };
}

async function find(search: ReturnType<typeof searchIn>['search'], text: string): Promise<boolean> {
  for (let looks = 0; looks < 10; looks += 1) if (await search.contains(text, never)) return true;
  return false;
}

const gibibyte = 2 ** 30;

test('finds a text at the beginning and in the newest part of a long log, and reads nothing of what is not kept', async () => {
  const texts = [[1_000, 'ready at boot'], [100 * gibibyte - 50_000, 'ready again']] as const;
  const { search, bytesRead } = searchIn(100 * gibibyte, texts);
  expect(await find(search, 'ready at boot')).toBe(true);
  expect(await find(search, 'ready again')).toBe(true);
  expect(await find(search, 'never said')).toBe(false);
  expect(bytesRead()).toBeLessThan(64 * 2 ** 20);
});
