import { beforeAll, describe, expect, it } from 'vitest';
import { killProcessesOf } from '#hack/stack/run-directory.ts';
import { until } from '#test/harness/until.ts';
import { conditionOf, createWorld, statusOf, type TestHost, type World } from './world.ts';

let world: World;
let host: TestHost;
const names = ['one', 'two', 'three'];

beforeAll(async () => {
  world = await createWorld();
  await world.startController();
  await world.createSite();
  host = await world.addHost('edge-1');
  for (const name of names) await world.applyMicroVM(name);
  for (const name of names) await world.waitForCondition('microvms', name, { type: 'Running', status: 'True' });
});

const pids = (): readonly number[] => host.vmms().map((vmm) => vmm.pid).sort((a, b) => a - b);

/** The agent that was started last has looked at every microVM and has nothing more to do. */
const untilConverged = (): Promise<void> =>
  until(() => host.agent().lines().filter((line) => line.includes('"msg":"converged"')).length >= names.length, 'the agent to have looked at every microVM');

describe('a host without its control plane', () => {
  it('[S4] starts its microVMs again offline after everything on it was killed, and reconnects without a restart', async () => {
    const before = pids();
    expect(before).toHaveLength(names.length);
    await world.crashController();
    await host.crashAgent();
    // VMMs and their reapers: all that runs for the state directory.
    await killProcessesOf(host.stateDirectory);
    expect(pids()).toEqual([]);

    await host.startAgent();
    await until(() => pids().length === names.length, 'the agent to start every microVM offline');
    const offline = pids();
    expect(offline.filter((pid) => before.includes(pid))).toEqual([]);
    const listed = await host.command(['vm', 'ls', '--output', 'json']);
    expect(listed.code).toBe(0);
    await until(async () => {
      const rows = JSON.parse((await host.command(['vm', 'ls', '--output', 'json'])).output) as { state: string }[];
      return rows.length === names.length && rows.every((row) => row.state === 'running');
    }, 'vm ls to show them all as running');

    await world.startController();
    for (const name of names) {
      const object = await world.waitUntil('microvms', name, 'reported with one restart', (seen) => (statusOf(seen)['restarts'] as { count: number } | undefined)?.count === 1 && conditionOf(seen, 'Running')?.status === 'True');
      expect(conditionOf(object, 'Reachable')?.status).toBe('True');
    }
    expect(pids()).toEqual(offline);
  });

  it('[S4] keeps every VMM while the agent is killed and started again, offline and online', async () => {
    const before = pids();
    await host.crashAgent();
    await host.startAgent();
    await untilConverged();
    expect(pids()).toEqual(before);
    await world.crashController();
    await host.crashAgent();
    await host.startAgent();
    await untilConverged();
    expect(pids()).toEqual(before);
    await world.startController();
    // The agent is back when an operation reaches it.
    await world.applyMicroVM('four');
    await world.waitForCondition('microvms', 'four', { type: 'Running', status: 'True' });
    expect(pids().filter((pid) => before.includes(pid))).toEqual(before);
    for (const name of names) {
      expect((statusOf(await world.get('microvms', name))['restarts'] as { count: number }).count).toBe(1);
    }
  });
});
