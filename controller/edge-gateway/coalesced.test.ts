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
