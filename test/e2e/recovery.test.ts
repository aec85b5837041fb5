/**
 * The database is put back to an older copy of its files while everything runs: hosts are ahead of it, and some of
 * what they run it has never heard of. An outside observer of processes counts VMMs all the time.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import type { PostgresCluster } from '#hack/stack/postgres.ts';
import { useDedicatedPostgres } from '#test/harness/postgres.ts';
import { until } from '#test/harness/until.ts';
import { copyDatabase } from './database-copy.ts';
import { observeVmms, type VmmObserver } from './vmm-observer.ts';
import { conditionOf, createWorld, siteName, statusOf, type TestHost, type World } from './world.ts';

let postgres: PostgresCluster;
let world: World;
let hosts: readonly TestHost[];
const observers: VmmObserver[] = [];

const running = { type: 'Running', status: 'True' } as const;

async function uidOf(name: string): Promise<string> {
  return String((await world.get('microvms', name)).metadata.uid);
}

const bindingOf = async (name: string): Promise<{ readonly hostName: string; readonly epoch: number }> => statusOf(await world.get('microvms', name))['binding'] as { hostName: string; epoch: number }; // As the CRD has it.

/** Pids of the VMMs of the microVM, on whatever host. */
const pidsOf = (uid: string): readonly number[] => hosts.flatMap((host) => host.vmms()).filter((vmm) => vmm.directory.includes(uid)).map((vmm) => vmm.pid);

async function metric(name: string): Promise<number> {
  const text = await (await fetch(`http://${world.endpoints().http}/metrics`)).text();
  return Number(new RegExp(`^${name} ([0-9.]+)$`, 'm').exec(text)?.[1] ?? Number.NaN);
}

/** The Site waits for that host alone, and says what an operator can do. */
async function awaits(host: string, incarnation: number): Promise<void> {
  await world.waitUntil('sites', siteName, `waiting for ${host} alone`, (object) => {
    const condition = conditionOf(object, 'RecoveryUnderWay');
    return condition?.status === 'True' && condition.message.includes(`waiting for host ${host} to report`) && condition.message.endsWith(`nkudo.dev/confirm-recovered=${incarnation}`);
  });
}

beforeAll(async () => {
  postgres = await useDedicatedPostgres();
  world = await createWorld({ postgres });
  await world.startController();
  await world.createSite();
  hosts = [await world.addHost('edge-1'), await world.addHost('edge-2')];
  for (const host of hosts) observers.push(observeVmms(host.stateDirectory, world.hypervisor));
});

describe('a database that is restored from before', () => {
  it('[C10] touches no microVM, waits for the hosts with what it does not know, tells an operator, and goes on by itself', async () => {
    const [first, second] = hosts;
    if (first === undefined || second === undefined) throw new Error('two hosts were made');
    await world.applyMicroVM('known', { placement: { hostName: 'edge-1' } });
    await world.waitForCondition('microvms', 'known', running);
    const copy = await copyDatabase(postgres);

    // What the copy knows nothing of: two microVMs, and another start of the first one.
    await world.applyMicroVM('lost', { placement: { hostName: 'edge-2' } });
    await world.applyMicroVM('unwanted', { placement: { hostName: 'edge-2' } });
    await world.patchMicroVM('known', { restartNonce: 1 });
    for (const name of ['lost', 'unwanted']) await world.waitForCondition('microvms', name, running);
    await world.waitUntil('microvms', 'known', 'started again', (object) => statusOf(object)['hostObservedGeneration'] === object.metadata.generation && conditionOf(object, 'Running')?.status === 'True');
    const uids = Object.fromEntries(await Promise.all(['known', 'lost', 'unwanted'].map(async (name) => [name, await uidOf(name)] as const)));
    const uid = (name: string): string => uids[name] ?? '';
    const before = Object.fromEntries(Object.entries(uids).map(([name, id]) => [name, pidsOf(id)]));
    const epochs = { known: (await bindingOf('known')).epoch, lost: (await bindingOf('lost')).epoch };
    for (const observer of observers) observer.reset();

    // The host that knows them is not there to tell.
    await second.crashAgent();
    await copy.restore();
    await awaits('edge-2', 2);
    await world.waitForCondition('hosts', 'edge-2', { type: 'ReportAwaited', status: 'True' });
    const shown = await world.waitForCondition('microvms', 'lost', { type: 'Scheduled', status: 'False', reason: 'RecoveryUnderWay' });
    expect(statusOf(shown)['binding']).toMatchObject({ hostName: 'edge-2' });
    expect(await metric('nkudo_database_incarnation')).toBe(2);
    expect(await metric('nkudo_database_recoveries_total')).toBe(1);
    await until(async () => (await world.kubernetes.kubectl(['get', 'events', '--output', 'json'], { namespace: world.namespace })).stdout.includes('"HostsAwaited"'), 'an event that says so');

    // A deletion meanwhile waits as well: the object is the only trace of what runs there.
    await world.deleteObject('microvms', 'unwanted');
    await world.waitForCondition('microvms', 'unwanted', { type: 'DeletionBlocked', status: 'True', reason: 'RecoveryUnderWay' });
    // A new microVM was never anywhere, so it is placed.
    await world.applyMicroVM('new', { placement: { hostName: 'edge-1' } });
    await world.waitForCondition('microvms', 'new', running);
    // What both know goes on, above what the host has.
    await world.patchMicroVM('known', { restartNonce: 2 });
    await world.waitUntil('microvms', 'known', 'started once more', (object) => statusOf(object)['hostObservedGeneration'] === object.metadata.generation && conditionOf(object, 'Running')?.status === 'True');
    for (const name of ['lost', 'unwanted']) expect(pidsOf(uid(name))).toEqual(before[name]);

    await second.startAgent();
    await world.waitForCondition('sites', siteName, { type: 'RecoveryUnderWay', status: 'False', reason: 'HostsReported' });
    await world.waitForCondition('microvms', 'lost', running);
    expect(pidsOf(uid('lost'))).toEqual(before['lost']);
    expect(await bindingOf('lost')).toMatchObject({ hostName: 'edge-2' });
    expect((await bindingOf('lost')).epoch).toBeGreaterThan(epochs.lost);
    expect((await bindingOf('known')).epoch).toBeGreaterThanOrEqual(epochs.known);
    // The host tore it down before the object went.
    await world.waitUntilGone('microvms', 'unwanted');
    expect(pidsOf(uid('unwanted'))).toEqual([]);
    expect(await metric('nkudo_recovery_awaited_hosts')).toBe(0);
    for (const observer of observers) {
      const { samples, mostAtOnce, seen } = observer.history();
      expect(samples).toBeGreaterThan(50);
      expect(mostAtOnce).toBeLessThanOrEqual(1);
      // Nothing but the restart that was asked for.
      for (const [directory, vmms] of seen) expect(vmms.length, directory).toBeLessThanOrEqual(directory.includes(uid('known')) ? 2 : 1);
    }
    // And each is on one host only.
    const all = observers.flatMap((observer) => [...observer.history().seen.keys()].map((directory) => directory.split('/').pop()));
    expect(new Set(all).size).toBe(all.length);
  });

  it('[C10] is waited for no longer once an operator has given up a host by name', async () => {
    const [first] = hosts;
    await first?.crashAgent();
    await world.crashController();
    await world.database.query(`update nkudo.installation set system_identifier = 'another'`);
    await world.startController();
    await awaits('edge-1', 3);
    const annotate = (value: string) => world.kubernetes.client.request('PATCH', world.path('hosts', 'edge-1'), { metadata: { annotations: { 'nkudo.dev/confirm-recovered': value } } }, 'application/merge-patch+json');
    // An older word counts for nothing.
    await annotate('2');
    expect((await annotate('3')).status).toBe(200);
    await world.waitForCondition('sites', siteName, { type: 'RecoveryUnderWay', status: 'False' });
    await world.waitForCondition('hosts', 'edge-1', { type: 'ReportAwaited', status: 'False' });
    const [row] = await world.database.query(`select count(*)::int as n from nkudo.audit_events where action = 'confirmed' and subject_kind = 'host'`);
    expect(row).toEqual({ n: 1 });
  });
});
