import { describe, expect, it } from 'vitest';
import { createFairQueue } from './fair-queue.ts';

const waitMaxMs = 600_000;

/** Work that ends when it is told to. */
function held(queue: ReturnType<typeof createFairQueue>, order: string[], key: string, name: string): { readonly end: () => void; readonly done: Promise<void> } {
  const gate = Promise.withResolvers<void>();
  const done = queue.run(key, async () => {
    order.push(name);
    await gate.promise;
  });
  return { end: () => gate.resolve(), done };
}

const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('the connections of a pool', () => {
  it('are never all taken by one tenant: with 1,000 calls of one waiting, each of 100 calls of others begins at once', async () => {
    const queue = createFairQueue({ slots: 12, perKey: 8, waitMaxMs });
    const order: string[] = [];
    const noisy = Array.from({ length: 1_000 }, (_, index) => held(queue, order, 'noisy', `noisy ${index}`));
    await settle();
    expect(queue.figures()).toEqual({ active: 8, waiting: 992 });
    let atOnce = 0;
    for (let index = 0; index < 100; index += 1) {
      const call = held(queue, order, `quiet-${index % 7}`, `quiet ${index}`);
      // Begun in the same turn of the loop: no other work ended for it.
      if (order.at(-1) === `quiet ${index}`) atOnce += 1;
      call.end();
      await call.done;
    }
    expect(atOnce).toBe(100);
    noisy.forEach((call) => call.end());
    await Promise.all(noisy.map((call) => call.done));
    expect(queue.figures()).toEqual({ active: 0, waiting: 0 });
  });

  it('go round by tenant when all are taken', async () => {
    const queue = createFairQueue({ slots: 2, perKey: 2, waitMaxMs });
    const order: string[] = [];
    const first = [held(queue, order, 'a', 'a0'), held(queue, order, 'a', 'a1')];
    const later = [...['a2', 'a3', 'a4'].map((name) => held(queue, order, 'a', name)), held(queue, order, 'b', 'b0'), held(queue, order, 'c', 'c0')];
    first[0]?.end();
    await settle();
    first[1]?.end();
    await settle();
    const [, , , b0] = later;
    b0?.end();
    await settle();
    // Who has fewest goes first, then whose turn is longest ago; two of a wait longer than both others.
    expect(order).toEqual(['a0', 'a1', 'b0', 'a2', 'c0']);
    later.forEach((call) => call.end());
    await Promise.all([...first, ...later].map((call) => call.done));
    expect(order).toHaveLength(7);
  });

  it('are given back by work that fails, and waiting ends after a bounded time', async () => {
    const queue = createFairQueue({ slots: 1, perKey: 1, waitMaxMs: 1 });
    const order: string[] = [];
    const holder = held(queue, order, 'a', 'a0');
    await expect(queue.run('b', () => Promise.resolve())).rejects.toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
    holder.end();
    await holder.done;
    await expect(queue.run('a', () => Promise.reject(new Error('no')))).rejects.toThrow('no');
    expect(await queue.run('b', () => Promise.resolve('yes'))).toBe('yes');
    expect(queue.figures()).toEqual({ active: 0, waiting: 0 });
  });
});
