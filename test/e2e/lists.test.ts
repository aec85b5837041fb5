/**
 * Lists that fail, are empty or old, and definitions that are deleted: what the controller sees of the objects is no order.
 * An outside observer of processes shows that no microVM is touched; afterwards everything goes on by itself.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { isFullRun } from '#test/chaos/seed.ts';
import { until } from '#test/harness/until.ts';
import { startApiServerProxy, type ApiServerProxy, type ListFault } from './api-server-proxy.ts';
import { observeVmms, type VmmObserver } from './vmm-observer.ts';
import { conditionOf, createWorld, statusOf, type TestHost, type World } from './world.ts';

let world: World;
let host: TestHost;
let proxy: ApiServerProxy;
let observer: VmmObserver;
let nonce = 0;
const names = ['one', 'two'];
const environment: Record<string, string> = {};

const pids = (): readonly number[] => host.vmms().map((vmm) => vmm.pid).toSorted((a, b) => a - b);

async function metrics(): Promise<string> {
  return (await fetch(`http://${world.endpoints().http}/metrics`)).text();
}

const valueOf = (text: string, name: string): number => Number(text.split('\n').find((line) => line.startsWith(`${name} `))?.split(' ')[1] ?? Number.NaN);

/** What the database would do next, and what it believes. */
async function rows(): Promise<unknown> {
  return world.database.query(`select (select count(*)::int from nkudo.operations) as operations, (select count(*)::int from nkudo.bindings where released_at is null) as bound, (select count(*)::int from nkudo.microvms where is_deleting) as deleting, (select count(*)::int from nkudo.hosts where revoked_at is null) as hosts`);
}

/** A change of the spec reaches the host: everything works again. */
async function expectItWorks(): Promise<void> {
  nonce += 1;
  await world.patchMicroVM('one', { restartNonce: nonce });
  await world.waitUntil('microvms', 'one', `started again for ${nonce}`, (object) => statusOf(object)['hostObservedGeneration'] === object.metadata.generation && conditionOf(object, 'Running')?.status === 'True');
}

beforeAll(async () => {
  world = await createWorld({ controllerEnvironment: environment });
  proxy = await startApiServerProxy(world.kubernetes);
  environment['KUBECONFIG'] = proxy.kubeconfig;
  await world.startController();
  await world.createSite();
  host = await world.addHost('edge-1');
  for (const name of names) await world.applyMicroVM(name);
  for (const name of names) await world.waitForCondition('microvms', name, { type: 'Running', status: 'True' });
  observer = observeVmms(host.stateDirectory, world.hypervisor);
});

describe('lists that are no order', () => {
  const faults: readonly { readonly fault: ListFault; readonly what: string; readonly sign: string; readonly restarts: boolean }[] = [
    { fault: 'forbidden', what: 'are refused with 403', sign: 'nkudo_watch_failing{resource="microvms"}', restarts: true },
    { fault: 'notFound', what: 'find no such kind', sign: 'nkudo_watch_failing{resource="microvms"}', restarts: isFullRun },
    { fault: 'broken', what: 'end with 500', sign: 'nkudo_watch_failing{resource="microvms"}', restarts: isFullRun },
    { fault: 'empty', what: 'are empty', sign: 'nkudo_lists_emptied_total{resource="microvms"}', restarts: true },
    { fault: 'stale', what: 'are from before', sign: '', restarts: isFullRun },
  ];

  it.each(faults)('[C10] lists that $what touch no microVM, show in log and metrics, and all goes on when they are right again', async ({ fault, sign, restarts }) => {
    const [before, stored] = [pids(), await rows()];
    expect(before).toHaveLength(names.length);
    const lines = world.controller().lines().length;
    observer.reset();
    proxy.answerLists(fault);
    if (fault === 'empty') await world.controller().waitForLine(/"resource":"microvms".*a list came back empty/, { after: lines, timeoutMs: 60_000 });
    else if (fault === 'stale') await until(() => proxy.faked() >= 3, 'lists from before to be taken');
    else await world.controller().waitForLine(/"resource":"microvms".*watch interrupted/, { after: lines, timeoutMs: 60_000 });
    if (sign !== '') await until(async () => valueOf(await metrics(), sign) >= 1, sign);
    if (restarts) {
      // A leader that begins with nothing but such lists has an even poorer view.
      await world.crashController();
      await world.startController();
      await until(() => proxy.faked() >= 6, 'the new process to list', { timeoutMs: 90_000 });
    }
    expect(pids()).toEqual(before);
    expect(await rows()).toEqual(stored);
    proxy.answerLists('none');
    await expectItWorks();
    const { samples, mostAtOnce, seen } = observer.history();
    expect(samples).toBeGreaterThan(20);
    expect(mostAtOnce).toBeLessThanOrEqual(1);
    // The restart that was asked for at the end, and nothing else.
    for (const name of names) {
      const uid = String((await world.get('microvms', name)).metadata.uid);
      const vmms = [...seen].filter(([directory]) => directory.includes(uid)).flatMap(([, list]) => list);
      expect(new Set(vmms.map((vmm) => vmm.pid)).size, name).toBe(name === 'one' ? 2 : 1);
    }
  });

  it('[C10] definitions that are deleted, and every object with them, stop nothing on any host', async () => {
    const [before, stored] = [pids(), await rows()];
    await world.kubernetes.kubectl(['delete', 'crd', 'microvms.nkudo.dev', 'hosts.nkudo.dev', '--wait=false']);
    for (const name of names) {
      const held = await world.waitForCondition('microvms', name, { type: 'DeletionBlocked', status: 'True', reason: 'DeletionHeld' });
      expect(held.metadata['deletionTimestamp']).toEqual(expect.any(String));
    }
    expect(pids()).toEqual(before);
    expect(await rows()).toEqual(stored);
    // The host's identity is as good as before.
    const session = async (): Promise<unknown> => (await world.database.query('select session_id from nkudo.host_liveness'))[0]?.['session_id'];
    const last = await session();
    await host.crashAgent();
    await host.startAgent();
    await until(async () => ![last, null].includes((await session()) as string | null), 'the host to be back'); // A uuid column.
    expect(pids()).toEqual(before);
  });
});
