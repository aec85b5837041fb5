/**
 * Placement, preemption, cordon and drain through a real API server and a real Postgres. Resync and polling are an hour
 * apart, so that whatever moves here was moved by an event. Machines do at once what they are told.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { deriveHostPhase } from '#api/model/host.ts';
import { gib, hostNameOf, messageOf, startPlacementSite, statusOf, type PlacementSite } from './site.ts';
import type { Machine } from '../reconcilers/machine.ts';

let site: PlacementSite;
let front: Machine;

/** How often the leader read what. */
const reads: Record<string, number> = {};
function counted<Result>(what: string, result: Result): Result {
  reads[what] = (reads[what] ?? 0) + 1;
  return result;
}

beforeAll(async () => {
  site = await startPlacementSite({ massDeletionGuard: 'Disabled' }, {
    stores: (stores) => ({
      ...stores,
      hosts: { ...stores.hosts, listBySite: (...args) => counted('hosts', stores.hosts.listBySite(...args)) },
      evictions: { ...stores.evictions, listBindings: (tenant, of) => counted('siteId' in of ? 'bindings' : 'bindings of one host', stores.evictions.listBindings(tenant, of)) },
    }),
  });
  front = await site.addMachine('front', { labels: { rack: 'a' } });
  await site.addMachine('back', { facts: { memoryBytes: 4 * gib }, labels: { rack: 'b' } });
});

const clear = async (...names: readonly string[]): Promise<void> => {
  for (const name of names) {
    await site.remove('microvms', name);
    await site.waitUntilGone('microvms', name);
  }
};
/** What the tenants' API says. */
const phaseForTenants = async (): Promise<string | undefined> => {
  const host = await site.database.fleet.findHost(front.tenantId, { name: 'front' }, 0);
  return host === null ? undefined : deriveHostPhase(host);
};
const app = (name: string) => ({ labelSelector: { matchLabels: { app: name } } });

describe('[C8] placement', () => {
  it('honours taints, affinity and spread, and says what is in the way', async () => {
    await site.patch('hosts', 'front', { spec: { taints: [{ key: 'camera', value: 'yes', effect: 'NoSchedule' }] } });
    await site.makeMicroVM('plain', {}, { app: 'web' });
    expect(await site.hostOf('plain')).toBe('back');
    await site.makeMicroVM('tolerant', { placement: { tolerations: [{ key: 'camera', operator: 'Exists' }], affinity: { apart: [{ ...app('web'), topologyKey: 'nkudo.dev/hostname' }] } } });
    expect(await site.hostOf('tolerant')).toBe('front');
    await site.makeMicroVM('torn', { placement: { affinity: { apart: [{ ...app('web'), topologyKey: 'rack' }] } } });
    const torn = await site.waitForCondition('microvms', 'torn', 'Scheduled=False/NoHostFits');
    expect(messageOf(torn, 'Scheduled')).toBe('0 of 2 hosts fit: 1 has a taint that is not tolerated, 1 has microVMs that must be apart');
    // A change of the host alone lets it go on.
    await site.patch('hosts', 'front', { spec: { taints: null } });
    expect(await site.hostOf('torn')).toBe('front');
    await clear('plain', 'tolerant', 'torn');
  });

  it('promises what overcommit says and not more, checked again where it is bound', async () => {
    await site.patch('hosts', 'front', { spec: { unschedulable: true } });
    await site.makeMicroVM('large', { memory: { size: '6Gi' } });
    expect(messageOf(await site.waitForCondition('microvms', 'large', 'Scheduled=False/NoHostFits'), 'Scheduled')).toBe('0 of 2 hosts fit: 1 is unschedulable, 1 lacks memory');
    await site.patch('hosts', 'back', { spec: { overcommit: { memoryPercent: 200 } } });
    expect(await site.hostOf('large')).toBe('back');
    await clear('large');
    await site.patch('hosts', 'back', { spec: { overcommit: null } });
    await site.patch('hosts', 'front', { spec: { unschedulable: false } });
  });

  it('holds a growth for which the host of a microVM has no room, lets it be stopped all the same, and makes it grow by itself later', async () => {
    const onBack = { placement: { hostName: 'back' } };
    await site.makeMicroVM('tall', { ...onBack, memory: { size: '2Gi' } });
    await site.makeMicroVM('wide', { ...onBack, memory: { size: '1Gi' } });
    for (const name of ['tall', 'wide']) expect(await site.hostOf(name)).toBe('back');
    await site.patch('microvms', 'tall', { spec: { memory: { size: '3Gi' } } });
    const held = await site.waitForCondition('microvms', 'tall', 'UpdateHeld=True/HostFull');
    expect(messageOf(held, 'UpdateHeld')).toBe('host back has 960Mi of memory left, and the new spec asks for 1024Mi more: it goes on with its old spec until there is room, it asks for less, or it moves to another host');
    const published = () => site.rows.query(`select m.desired ->> 'memoryBytes' as memory, m.desired ->> 'runPolicy' as policy, (b.memory_bytes / 1048576)::int as bound from nkudo.microvms m join nkudo.bindings b on b.microvm_id = m.id and b.released_at is null where m.id = $1`, [held.metadata.uid]);
    expect(await published()).toMatchObject([{ memory: String(2 * gib), policy: 'Always', bound: 2 * 1024 + 32 }]);
    await site.patch('microvms', 'tall', { spec: { runPolicy: 'Halted' } });
    await site.waitForCondition('microvms', 'tall', 'Running=False');
    expect(await published()).toMatchObject([{ memory: String(2 * gib), policy: 'Halted', bound: 2 * 1024 + 32 }]);
    await clear('wide');
    await site.waitForCondition('microvms', 'tall', 'UpdateHeld=False/NotHeld');
    await site.patch('microvms', 'tall', { spec: { runPolicy: 'Always' } });
    expect(await site.hostOf('tall')).toBe('back');
    expect(await published()).toMatchObject([{ memory: String(3 * gib), policy: 'Always', bound: 3 * 1024 + 32 }]);
    await clear('tall');
  });

  it('reads a site once, whatever is placed afterwards', async () => {
    await Promise.all(Array.from({ length: 8 }, (_, index) => site.makeMicroVM(`many-${index}`)));
    const hosts = await Promise.all(Array.from({ length: 8 }, (_, index) => site.hostOf(`many-${index}`)));
    expect(hosts.every((host) => host === 'front' || host === 'back')).toBe(true);
    expect({ hosts: reads['hosts'], bindings: reads['bindings'] }).toEqual({ hosts: 1, bindings: 1 });
    await clear(...Array.from({ length: 8 }, (_, index) => `many-${index}`));
  });

  it('makes room for a higher priority only once the host confirmed that the victim has left', async () => {
    await site.patch('hosts', 'back', { spec: { unschedulable: true } });
    await site.makeMicroVM('keeper', { memory: { size: '3Gi' }, disks: [{ name: 'data', path: '/srv/data.raw' }] });
    await site.makeMicroVM('guest', { memory: { size: '4Gi' }, evictionStrategy: 'Move' });
    await Promise.all([site.hostOf('keeper'), site.hostOf('guest')]);
    await site.makeMicroVM('urgent', { memory: { size: '4Gi' }, placement: { priority: 100 } });
    const running = await site.waitForCondition('microvms', 'urgent', 'Running=True');
    expect(hostNameOf(running)).toBe('front');
    const evicted = await site.waitForCondition('microvms', 'guest', 'Scheduled=False/NoHostFits');
    expect(hostNameOf(evicted)).toBe('');
    const [order] = await site.rows.query(
      `select d.finished_at <= u.bound_at as confirmed_first, b.released_at <= u.bound_at as released_first, b.leaving_reason
        from nkudo.bindings b join nkudo.operations d on d.microvm_id = b.microvm_id and d.kind = 'Delete', nkudo.bindings u where b.microvm_id = $1 and u.microvm_id = $2`,
      [evicted.metadata.uid, running.metadata.uid],
    );
    expect(order).toEqual({ confirmed_first: true, released_first: true, leaving_reason: 'Preemption' });
    expect(await site.hostOf('keeper')).toBe('front');
    // With room again it goes on by itself, under its own UID.
    await site.patch('hosts', 'back', { spec: { unschedulable: false, overcommit: { memoryPercent: 200 } } });
    await site.waitForHost('guest', 'back');
    await clear('keeper', 'guest', 'urgent');
    await site.patch('hosts', 'back', { spec: { overcommit: null } });
  });
});

describe('[C8] cordon and drain', () => {
  it('keeps new microVMs away from a cordoned host, and leaves those that run', async () => {
    await site.makeMicroVM('resident', { placement: { hostSelector: { matchLabels: { rack: 'a' } } } });
    await site.hostOf('resident');
    await site.patch('hosts', 'front', { spec: { unschedulable: true } });
    await site.makeMicroVM('newcomer', { placement: { hostSelector: { matchLabels: { rack: 'a' } } } });
    expect(messageOf(await site.waitForCondition('microvms', 'newcomer', 'Scheduled=False/NoHostFits'), 'Scheduled')).toContain('1 is unschedulable');
    expect(statusOf(await site.kubernetes.client.get(site.path('microvms', 'resident')))['printableStatus']).toBe('Running');
    await site.patch('hosts', 'front', { spec: { unschedulable: false } });
    await site.hostOf('newcomer');
    await clear('resident', 'newcomer');
  });

  it('moves, stops or leaves each microVM as its evictionStrategy says, and starts again after the drain', async () => {
    const onFront = { placement: { hostSelector: { matchLabels: {} } } };
    await site.patch('hosts', 'back', { spec: { unschedulable: true } });
    await site.makeMicroVM('mover', { ...onFront, evictionStrategy: 'Move' });
    await site.makeMicroVM('stopper', { ...onFront, evictionStrategy: 'Stop' });
    await site.makeMicroVM('holder', { ...onFront, evictionStrategy: 'None' });
    await site.makeMicroVM('writer', { ...onFront, evictionStrategy: 'Move', disks: [{ name: 'data', path: '/srv/data.raw' }] });
    for (const name of ['mover', 'stopper', 'holder', 'writer']) expect(await site.hostOf(name)).toBe('front');

    await site.patch('hosts', 'front', { spec: { drain: { mode: 'Evict' } } });
    // No other host is open: it goes on running and says so.
    expect(messageOf(await site.waitForCondition('microvms', 'mover', 'EvictionBlocked=True/NoHostFits'), 'EvictionBlocked')).toContain('no other host can take it: 0 of 2 hosts fit: 1 is ruled out, 1 is unschedulable');
    await site.patch('hosts', 'back', { spec: { unschedulable: false } });
    await site.waitForHost('mover', 'back');
    await site.waitForCondition('microvms', 'stopper', 'Running=False/HostDrained');
    expect(hostNameOf(await site.waitForCondition('microvms', 'writer', 'Running=False/HostDrained'))).toBe('front');
    const held = await site.waitForCondition('hosts', 'front', 'Drained=False/MicroVMsHeld');
    expect([statusOf(held)['phase'], await phaseForTenants()]).toEqual(['Draining', 'Draining']);
    const counted = await site.waitFor('hosts', 'front', 'one left', (host) => messageOf(host, 'Drained').startsWith('1 of 3'));
    expect(messageOf(counted, 'Drained')).toBe('1 of 3 microVMs that are bound to the host still run; holder waits: evictionStrategy is None: stop it, delete it, or set a deadline of the drain');

    // The deadline ends what is left, whatever its strategy says.
    await site.patch('hosts', 'front', { spec: { drain: { deadline: new Date(Date.now() + 1_500).toISOString() } } });
    await site.waitForCondition('microvms', 'holder', 'Running=False/HostDrained');
    const drained = await site.waitForCondition('hosts', 'front', 'Drained=True/AllStopped');
    expect([statusOf(drained)['phase'], await phaseForTenants()]).toEqual(['Drained', 'Drained']);

    await site.patch('hosts', 'front', { spec: { drain: null } });
    for (const name of ['stopper', 'holder', 'writer']) expect(await site.hostOf(name)).toBe('front');
    expect(statusOf(await site.waitFor('hosts', 'front', 'to be Ready', (host) => statusOf(host)['phase'] === 'Ready'))['phase']).toBe('Ready');
    const moved = await site.kubernetes.client.get(site.path('microvms', 'mover'));
    const epochs = await site.rows.query('select epoch, host_id = $2 as on_front, released_at is not null as released from nkudo.bindings where microvm_id = $1 order by epoch', [moved.metadata.uid, front.hostId]);
    expect(epochs).toMatchObject([{ on_front: true, released: true }, { on_front: false, released: false }]);
    await clear('mover', 'stopper', 'holder', 'writer');
  });

  it('stops every microVM with StopAll, and shows a drained host that is empty', async () => {
    await site.makeMicroVM('stays', { placement: { hostName: 'front' }, evictionStrategy: 'Move' });
    await site.hostOf('stays');
    await site.patch('hosts', 'front', { spec: { drain: { mode: 'StopAll' } } });
    expect(hostNameOf(await site.waitForCondition('microvms', 'stays', 'Running=False/HostDrained'))).toBe('front');
    await site.waitForCondition('hosts', 'front', 'Drained=True/AllStopped');
    await clear('stays');
    await site.waitForCondition('hosts', 'front', 'Drained=True/Empty');
    await site.patch('hosts', 'front', { spec: { drain: null } });
  });

  it('expels what does not tolerate a NoExecute taint', async () => {
    await site.makeMicroVM('sensitive', { evictionStrategy: 'Move', placement: { affinity: { together: [{ ...app('none'), topologyKey: 'rack', mode: 'Preferred' }] } } });
    expect(await site.hostOf('sensitive')).toBe('front');
    await site.patch('hosts', 'front', { spec: { taints: [{ key: 'heat', effect: 'NoExecute' }] } });
    await site.waitForHost('sensitive', 'back');
    await site.patch('hosts', 'front', { spec: { taints: null } });
    await clear('sensitive');
  });
});
