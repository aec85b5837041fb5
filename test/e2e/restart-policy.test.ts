import { beforeAll, describe, expect, it } from 'vitest';
import type { KubernetesObject } from '#hack/stack/kubernetes-client.ts';
import { conditionOf, createWorld, statusOf, type TestHost, type World } from './world.ts';

let world: World;
let host: TestHost;

beforeAll(async () => {
  world = await createWorld();
  await world.startController();
  await world.createSite();
  host = await world.addHost('edge-1');
});

interface Restarts {
  readonly count: number;
  readonly lastExitReason?: string;
}

function restartsOf(object: KubernetesObject): Restarts {
  const restarts = statusOf(object)['restarts'];
  return restarts === undefined ? { count: 0 } : (restarts as Restarts); // As in the CRD.
}

/** A guest that powers itself off about a second after it was booted. */
const poweringOff = () => ({ kernel: { path: world.guest, cmdline: 'poweroff' } });

/** VMMs whose microVM has that UID. */
const vmmsOf = (object: KubernetesObject) => host.vmms().filter((vmm) => vmm.directory.includes(String(object.metadata.uid)));

async function remove(name: string): Promise<void> {
  await world.deleteObject('microvms', name);
  await world.waitUntilGone('microvms', name);
}

describe('restart policies', () => {
  it('[S3] starts a killed VMM again and counts the restart with its reason', async () => {
    await world.applyMicroVM('killed');
    const before = await world.waitForCondition('microvms', 'killed', { type: 'Running', status: 'True' });
    const [victim] = vmmsOf(before);
    process.kill(Number(victim?.pid), 'SIGKILL');
    const after = await world.waitUntil('microvms', 'killed', 'one counted restart and running', (object) => restartsOf(object).count === 1 && conditionOf(object, 'Running')?.status === 'True');
    expect(restartsOf(after).lastExitReason).toBe('VMMCrash');
    const live = vmmsOf(after);
    expect(live).toHaveLength(1);
    expect(live[0]?.pid).not.toBe(victim?.pid);
    await remove('killed');
  });

  it('[S3] Always: starts the guest again after it shut itself down', async () => {
    await world.applyMicroVM('always', { runPolicy: 'Always', boot: poweringOff() });
    const object = await world.waitUntil('microvms', 'always', 'two counted restarts', (seen) => restartsOf(seen).count >= 2);
    expect(restartsOf(object).lastExitReason).toBe('GuestShutdown');
    await remove('always');
  });

  it.each([
    ['RerunOnFailure', 'rerun'],
    ['Once', 'once'],
  ])('[S3] %s: leaves the guest down after it shut itself down', async (runPolicy, name) => {
    await world.applyMicroVM(name, { runPolicy, boot: poweringOff() });
    const object = await world.waitUntil('microvms', name, 'ended by the guest', (seen) => restartsOf(seen).lastExitReason === 'GuestShutdown');
    expect(conditionOf(object, 'Running')?.status).toBe('False');
    expect(restartsOf(object).count).toBe(0);
    expect(vmmsOf(object)).toEqual([]);
    // A kick of the agent's loop must not wake it: the decision is in the journal, not in memory.
    await host.crashAgent();
    await host.startAgent();
    const uid = String(object.metadata.uid);
    await host.agent().waitForLine((line) => line.includes(uid) && line.includes('"msg":"converged"'));
    expect(vmmsOf(object)).toEqual([]);
    await remove(name);
  });

  it('[S3] RerunOnFailure: starts a killed VMM again; Once: leaves it down', async () => {
    await world.applyMicroVM('rerun-killed', { runPolicy: 'RerunOnFailure' });
    await world.applyMicroVM('once-killed', { runPolicy: 'Once' });
    const rerun = await world.waitForCondition('microvms', 'rerun-killed', { type: 'Running', status: 'True' });
    const once = await world.waitForCondition('microvms', 'once-killed', { type: 'Running', status: 'True' });
    for (const object of [rerun, once]) process.kill(Number(vmmsOf(object)[0]?.pid), 'SIGKILL');
    await world.waitUntil('microvms', 'rerun-killed', 'restarted', (seen) => restartsOf(seen).count === 1 && conditionOf(seen, 'Running')?.status === 'True');
    const ended = await world.waitForCondition('microvms', 'once-killed', { type: 'Running', status: 'False' });
    expect(restartsOf(ended)).toMatchObject({ count: 0, lastExitReason: 'VMMCrash' });
    await remove('rerun-killed');
    await remove('once-killed');
  });

  it('[S3] Halted: never starts, and stops a running guest by its power button', async () => {
    await world.applyMicroVM('halted', { runPolicy: 'Halted' });
    const halted = await world.waitForCondition('microvms', 'halted', { type: 'Running', status: 'False', reason: 'Halted' });
    expect(vmmsOf(halted)).toEqual([]);
    await world.patchMicroVM('halted', { runPolicy: 'Always' });
    const running = await world.waitForCondition('microvms', 'halted', { type: 'Running', status: 'True' });
    expect(vmmsOf(running)).toHaveLength(1);
    await world.patchMicroVM('halted', { runPolicy: 'Halted' });
    const stopped = await world.waitForCondition('microvms', 'halted', { type: 'Running', status: 'False', reason: 'Halted' });
    expect(vmmsOf(stopped)).toEqual([]);
    expect(restartsOf(stopped).count).toBe(0);
    await remove('halted');
  });

  it('[S3] kills a guest that ignores its power button when the grace period is over', async () => {
    await world.applyMicroVM('stubborn', { terminationGracePeriod: '1s', boot: { kernel: { path: world.guest, cmdline: 'nobutton' } } });
    await world.waitForCondition('microvms', 'stubborn', { type: 'Running', status: 'True' });
    await world.patchMicroVM('stubborn', { runPolicy: 'Halted' });
    const stopped = await world.waitForCondition('microvms', 'stubborn', { type: 'Running', status: 'False', reason: 'Halted' });
    expect(vmmsOf(stopped)).toEqual([]);
    await remove('stubborn');
  });

  it('pauses, resumes and restarts on request', async () => {
    await world.applyMicroVM('handled');
    const first = await world.waitForCondition('microvms', 'handled', { type: 'Running', status: 'True' });
    const pid = vmmsOf(first)[0]?.pid;
    await world.patchMicroVM('handled', { paused: true });
    await world.waitForCondition('microvms', 'handled', { type: 'Running', status: 'False', reason: 'Paused' });
    await world.patchMicroVM('handled', { paused: false });
    const resumed = await world.waitForCondition('microvms', 'handled', { type: 'Running', status: 'True' });
    expect(vmmsOf(resumed)[0]?.pid).toBe(pid);
    await world.patchMicroVM('handled', { restartNonce: 1 });
    await world.waitUntil('microvms', 'handled', 'the new generation runs', (seen) => statusOf(seen)['hostObservedGeneration'] === seen.metadata.generation && conditionOf(seen, 'Running')?.status === 'True');
    // Asked for, so it is a new VMM and no counted restart.
    const restarted = vmmsOf(resumed);
    expect(restarted).toHaveLength(1);
    expect(restarted[0]?.pid).not.toBe(pid);
    expect(restartsOf(await world.get('microvms', 'handled')).count).toBe(0);
    await remove('handled');
  });
});
