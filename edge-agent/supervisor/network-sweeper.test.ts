import { pino } from 'pino';
import { expect, test } from 'vitest';
import { microVMId, type MicroVMId } from '#api/model/ids.ts';
import { settle } from '#test/fakes/manual-time.ts';
import { createMemoryJournal } from '#test/fakes/memory-journal.ts';
import { createNetworkSweeper } from './network-sweeper.ts';

const orphan = microVMId('0190c9a3-0000-7000-8000-000000000001');

/** A sweeper whose timers the test fires. */
function sweeperOn(host: { listed: readonly MicroVMId[]; sweep: (kept: ReadonlySet<MicroVMId>) => Promise<readonly string[]> }) {
  const timers: { readonly ms: number; readonly run: () => void }[] = [];
  const sweeper = createNetworkSweeper({
    networks: { sweep: (kept) => host.sweep(kept) },
    isolation: { sweep: () => Promise.resolve([]) },
    journal: createMemoryJournal(),
    directories: { list: async () => host.listed },
    clock: {
      after: (ms, run) => {
        const timer = { ms, run };
        timers.push(timer);
        return () => void timers.splice(timers.indexOf(timer), 1);
      },
    },
    entropy: { random: () => 0 },
    logger: pino({ enabled: false }),
  });
  const fire = async (): Promise<number> => {
    const timer = timers.shift();
    if (timer === undefined) throw new Error('nothing waits');
    timer.run();
    await settle();
    return timer.ms;
  };
  return { sweeper, timers, fire };
}

test('a look at the networks that failed is repeated with growing delays until one succeeds, and then no more', async () => {
  let failures = 3;
  const { sweeper, timers, fire } = sweeperOn({
    listed: [],
    sweep: async () => {
      failures -= 1;
      if (failures >= 0) throw new Error('nft answered with an error');
      return ['nkt-lost'];
    },
  });
  await sweeper.start();
  const delays = [await fire(), await fire(), await fire()];
  expect(delays).toEqual([2_000, 4_000, 8_000]);
  expect(timers).toEqual([]);
});

test('a directory without a record keeps its network only as long as it is there', async () => {
  const host = { listed: [orphan] as readonly MicroVMId[], kept: [] as string[], sweep: async (kept: ReadonlySet<MicroVMId>) => ((host.kept = [...kept]), []) };
  const { sweeper, timers, fire } = sweeperOn(host);
  await sweeper.start();
  expect(host.kept).toEqual([orphan]);
  host.listed = [];
  await fire();
  expect(host.kept).toEqual([]);
  expect(timers).toEqual([]);
});

test('an agent that stops looks no more', async () => {
  const { sweeper, timers } = sweeperOn({ listed: [orphan], sweep: async () => [] });
  await sweeper.start();
  await sweeper.stop();
  expect(timers).toEqual([]);
});
