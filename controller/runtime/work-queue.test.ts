import { describe, expect, it } from 'vitest';
import { createManualTime, settle } from '#test/fakes/manual-time.ts';
import { done, waiting, type Outcome } from './outcome.ts';
import { createWorkQueue } from './work-queue.ts';

const silent = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

function setup(options: { readonly concurrency?: number; readonly outcomes?: (key: string, turn: number) => Outcome } = {}) {
  const time = createManualTime({ random: 0.999 });
  const running: string[] = [];
  const started: string[] = [];
  const releases: (() => void)[] = [];
  let isHeld = false;
  const queue = createWorkQueue({
    name: 'test',
    concurrency: options.concurrency ?? 2,
    time,
    log: silent,
    backoff: { initialMs: 100, maxMs: 1000 },
    reconcile: async (key) => {
      started.push(key);
      running.push(key);
      if (isHeld) await new Promise<void>((resolve) => releases.push(resolve));
      running.splice(running.indexOf(key), 1);
      return options.outcomes?.(key, started.filter((name) => name === key).length) ?? done();
    },
  });
  return { time, queue, running, started, releases, hold: (held: boolean) => void (isHeld = held) };
}

describe('the work queue', () => {
  it('works on a key once however often it is added, and again when it was added meanwhile', async () => {
    const { queue, started, releases, hold } = setup();
    hold(true);
    for (let index = 0; index < 5; index += 1) queue.add('a');
    queue.start();
    await settle();
    expect(started).toEqual(['a']);
    queue.add('a');
    queue.add('a');
    hold(false);
    releases.splice(0).forEach((release) => release());
    await settle();
    expect(started).toEqual(['a', 'a']);
  });

  it('never works on one key twice at a time, nor on more keys than it may', async () => {
    const { queue, running, releases, hold } = setup({ concurrency: 2 });
    hold(true);
    queue.start();
    for (const key of ['a', 'b', 'c', 'a', 'b']) queue.add(key);
    await settle();
    expect([...running].sort()).toEqual(['a', 'b']);
    releases.shift()?.();
    await settle();
    expect(running).toHaveLength(2);
    expect(new Set(running).size).toBe(2);
  });

  it('backs off a failing key twice as long each time up to its limit, and starts anew after a success', async () => {
    const { queue, started, time } = setup({ outcomes: (_key, turn) => (turn <= 5 || turn === 7 ? { kind: 'failed', error: new Error('no') } : done()) });
    queue.start();
    queue.add('a');
    await settle();
    const waits: number[] = [];
    for (let turn = 1; turn <= 5; turn += 1) {
      const before = started.length;
      let waited = 0;
      while (started.length === before && waited < 5000) {
        await time.advance(1);
        waited += 1;
      }
      waits.push(waited);
    }
    expect(waits).toEqual([99, 199, 399, 799, 999]);
    queue.add('a');
    await settle();
    const before = started.length;
    await time.advance(99);
    expect(started.length).toBe(before + 1);
  });

  it('goes on with other keys when one throws', async () => {
    const { queue, started } = setup({
      concurrency: 1,
      outcomes: (key) => {
        if (key === 'bad') throw new Error('a fault');
        return done();
      },
    });
    queue.add('bad');
    queue.add('good');
    queue.start();
    await settle();
    expect(started).toEqual(['bad', 'good']);
    expect(queue.figures()).toMatchObject({ failed: 1, reconciled: 2, delayed: 1 });
  });

  it('looks again after the time that an outcome names, once, and at once when a change comes first', async () => {
    const { queue, started, time } = setup({ outcomes: (_key, turn) => (turn === 1 ? waiting('Reason', 'for something', 5000) : done()) });
    queue.start();
    queue.add('a');
    await time.advance(4999);
    expect(started).toHaveLength(1);
    queue.add('a');
    await settle();
    expect(started).toHaveLength(2);
    await time.advance(60_000);
    expect(started).toHaveLength(2);
    expect(time.pending()).toBe(0);
  });

  it('stops after the running reconcile and takes nothing more', async () => {
    const { queue, started, releases, hold } = setup({ concurrency: 1 });
    hold(true);
    queue.start();
    queue.add('a');
    queue.add('b');
    await settle();
    const stopped = queue.stop();
    queue.add('c');
    releases.forEach((release) => release());
    await stopped;
    expect(started).toEqual(['a']);
  });
});
