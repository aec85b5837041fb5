import { expect, test } from 'vitest';
import { withDeadline } from './deadline.ts';

const untilAborted = (signal: AbortSignal): Promise<never> =>
  new Promise((_resolve, reject) => {
    if (signal.aborted) reject(signal.reason as Error);
    signal.addEventListener('abort', () => reject(signal.reason as Error));
  });

test('ends work that takes too long with a TimeoutError', async () => {
  await expect(withDeadline(new AbortController().signal, 5, untilAborted)).rejects.toMatchObject({ name: 'TimeoutError' });
});

test('ends with the reason of the caller, also of one that gave up before', async () => {
  const caller = new AbortController();
  const work = withDeadline(caller.signal, 60_000, untilAborted);
  caller.abort(new Error('enough'));
  await expect(work).rejects.toThrow('enough');
  await expect(withDeadline(caller.signal, 60_000, untilAborted)).rejects.toThrow('enough');
});

test('gives the result and leaves nothing on the signal of the caller', async () => {
  const caller = new AbortController();
  let kept: AbortSignal | undefined;
  expect(await withDeadline(caller.signal, 60_000, async (signal) => ((kept = signal), 'done'))).toBe('done');
  caller.abort();
  expect(kept?.aborted).toBe(false);
});
