import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { killProcessesOf } from '#hack/stack/run-directory.ts';
import { until } from '#test/harness/until.ts';
import { conditionOf, createWorld, statusOf, type TestHost, type World } from './world.ts';

let world: World;
let host: TestHost;

beforeAll(async () => {
  world = await createWorld();
  await world.startController();
  await world.createSite();
  host = await world.addHost('edge-1');
});

async function loseJournal(): Promise<void> {
  await host.crashAgent();
  for (const file of ['journal.db', 'journal.db-wal', 'journal.db-shm']) rmSync(join(host.stateDirectory, file), { force: true });
}

const openOperations = async (): Promise<number> => {
  const [row] = await world.database.query("SELECT count(*)::int AS open FROM nkudo.operations WHERE status IN ('Pending', 'Dispatched', 'Running')");
  return Number(row?.['open']);
};

describe('a host that lost its journal', () => {
  it('keeps the VM that lives, takes it over again, and can delete it', async () => {
    await world.applyMicroVM('alive');
    const before = await world.waitForCondition('microvms', 'alive', { type: 'Running', status: 'True' });
    const [vmm] = host.vmms();
    await loseJournal();
    await host.startAgent();
    await until(async () => (await world.database.query("SELECT 1 FROM nkudo.operations WHERE microvm_id = $1 AND status = 'Succeeded'", [String(before.metadata.uid)])).length === 2, 'the intent to be published and carried out again');
    expect(await openOperations()).toBe(0);
    const after = await world.waitForCondition('microvms', 'alive', { type: 'Running', status: 'True' });
    expect((statusOf(after)['restarts'] as { count: number }).count).toBe(0);
    expect(host.vmms().map(({ pid, startTime }) => ({ pid, startTime }))).toEqual([{ pid: vmm?.pid, startTime: vmm?.startTime }]);
    await world.deleteObject('microvms', 'alive');
    await world.waitUntilGone('microvms', 'alive');
    expect(host.vmms()).toEqual([]);
  });

  it('does not show a dead VM as running, and starts it again', async () => {
    await world.applyMicroVM('dead');
    const before = await world.waitForCondition('microvms', 'dead', { type: 'Running', status: 'True' });
    const [old] = host.vmms();
    const history = world.watch('microvms', 'dead');
    await loseJournal();
    await killProcessesOf(host.stateDirectory);
    await host.startAgent();
    await until(() => host.vmms().length === 1, 'the VM to run again');
    expect(host.vmms()[0]?.pid).not.toBe(old?.pid);
    await world.waitUntil('microvms', 'dead', 'running under its second try', (object) => conditionOf(object, 'Running')?.status === 'True' && (statusOf(object)['plan'] as { id: string }).id !== (statusOf(before)['plan'] as { id: string }).id);
    history.stop();
    expect(history.events().some(({ object }) => conditionOf(object, 'Running')?.status !== 'True')).toBe(true);
  });
});
