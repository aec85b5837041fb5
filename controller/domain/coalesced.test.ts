import { expect, it } from 'vitest';
import { coalesced } from './coalesced.ts';

it('runs once more for all who asked while it ran, and never two at a time', async () => {
  const gates: (() => void)[] = [];
  let runs = 0;
  let atOnce = 0;
  const ask = coalesced(async () => {
    runs += 1;
    atOnce += 1;
    expect(atOnce).toBe(1);
    await new Promise<void>((resolve) => gates.push(resolve));
    atOnce -= 1;
  });
  const first = ask();
  const later = [ask(), ask(), ask()];
  expect(runs).toBe(1);
  gates[0]?.();
  await first;
  await new Promise((resolve) => setImmediate(resolve));
  expect(runs).toBe(2);
  gates[1]?.();
  await Promise.all(later);
  const again = ask();
  expect(runs).toBe(3);
  gates[2]?.();
  await again;
});

it('begins no third run between the end of one and the begin of the next, and tells a failure only to those of its run', async () => {
  let runs = 0;
  let atOnce = 0;
  const ask = coalesced(async () => {
    runs += 1;
    atOnce += 1;
    expect(atOnce).toBe(1);
    const mine = runs;
    await Promise.resolve();
    atOnce -= 1;
    if (mine === 1) throw new Error('the first fails');
    return mine;
  });
  // Asks again as soon as the first run has ended, while the second is due.
  const first = ask().catch(() => ask());
  const second = ask();
  expect(await Promise.all([first, second])).toEqual([2, 2]);
});
