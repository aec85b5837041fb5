import { expect, it } from 'vitest';
import { createBatchRead } from './batch-read.ts';

it('makes one call of what is asked for together, and another of what is asked for later', async () => {
  const calls: (readonly string[])[] = [];
  const read = createBatchRead<string>(3, (keys) => {
    calls.push(keys);
    return Promise.resolve(new Map(keys.filter((key) => key !== 'none').map((key) => [key, key.toUpperCase()])));
  });
  expect(await Promise.all([read('a'), read('b'), read('a'), read('none')])).toEqual(['A', 'B', 'A', null]);
  expect(await read('c')).toBe('C');
  expect(calls).toEqual([['a', 'b'], ['none'], ['c']]);
});

it('fails those that were asked for in the call that failed, and no other', async () => {
  let isAway = true;
  const read = createBatchRead<string>(10, (keys) => (isAway ? Promise.reject(new Error('away')) : Promise.resolve(new Map(keys.map((key) => [key, key])))));
  expect(await Promise.allSettled([read('a'), read('b')])).toMatchObject([{ status: 'rejected' }, { status: 'rejected' }]);
  isAway = false;
  expect(await read('a')).toBe('a');
});
