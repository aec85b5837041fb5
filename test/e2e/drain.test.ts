/**
 * Drain and deletion of hosts as an operator sees them: kubectl, a controller, two agents with their VMMs, all separate
 * processes. What really runs where is counted from outside, by process.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { until } from '#test/harness/until.ts';
import { createWorld, siteName, statusOf, type TestHost, type World } from './world.ts';

let world: World;
let front: TestHost;
let back: TestHost;

beforeAll(async () => {
  world = await createWorld();
  await world.startController();
  await world.createSite();
  [front, back] = [await world.addHost('front'), await world.addHost('back')];
});

const patch = async (plural: 'hosts' | 'sites', name: string, body: object): Promise<void> => {
  const answer = await world.kubernetes.client.request('PATCH', world.path(plural, name), body, 'application/merge-patch+json');
  expect(answer.status).toBe(200);
};
const runsOn = (name: string, host: string) =>
  world.waitUntil('microvms', name, `to run on ${host}`, (object) => (statusOf(object)['binding'] as { hostName?: string } | undefined)?.hostName === host && statusOf(object)['printableStatus'] === 'Running');

describe('[C8] a host that is drained and deleted', () => {
  it('moves what may move and stops the rest, with one VMM for each at any time, and takes back what it stopped', async () => {
    await patch('hosts', 'back', { spec: { unschedulable: true } });
    await world.applyMicroVM('mover', { evictionStrategy: 'Move' });
    await world.applyMicroVM('stayer', { evictionStrategy: 'Stop' });
    await Promise.all([runsOn('mover', 'front'), runsOn('stayer', 'front')]);
    expect([front.vmms().length, back.vmms().length]).toEqual([2, 0]);
    await patch('hosts', 'back', { spec: { unschedulable: false } });

    let most = 0;
    const watching = setInterval(() => (most = Math.max(most, front.vmms().length + back.vmms().length)), 5);
    try {
      await patch('hosts', 'front', { spec: { drain: { mode: 'Evict' } } });
      await runsOn('mover', 'back');
      await world.waitForCondition('hosts', 'front', { type: 'Drained', status: 'True', reason: 'AllStopped' });
    } finally {
      clearInterval(watching);
    }
    expect(most).toBeLessThanOrEqual(2);
    // The next host was told only after the last one had confirmed that nothing is left there.
    const [order] = await world.database.query(
      `select d.status, d.finished_at <= c.created_at as confirmed_first from nkudo.operations d join nkudo.operations c on c.microvm_id = d.microvm_id and c.kind = 'Create' and c.revision > d.revision
        where d.kind = 'Delete' and d.microvm_id = $1`,
      [(await world.get('microvms', 'mover')).metadata.uid],
    );
    expect(order).toEqual({ status: 'Succeeded', confirmed_first: true });
    expect([front.vmms().length, back.vmms().length]).toEqual([0, 1]);

    await patch('hosts', 'front', { spec: { drain: null } });
    await runsOn('stayer', 'front');
    expect([front.vmms().length, back.vmms().length]).toEqual([1, 1]);
  });

  it('is not deleted while a microVM is bound to it, with a sentence that says what to do', async () => {
    await until(async () => (await world.kubernetes.client.request('DELETE', `${world.path('hosts', 'front')}?dryRun=All`)).status === 403, 'the policies and the figures to be in force');
    const refused = await world.kubernetes.kubectl(['delete', 'host', 'front'], { namespace: world.namespace, mayFail: true });
    expect(refused.code).not.toBe(0);
    expect(refused.stderr).toContain('1 microVMs are bound to host front: drain it (spec.drain) or delete them first');
    expect(front.vmms()).toHaveLength(1);
  });

  it('whose machine is lost goes by force, and its microVM is not started anywhere else', async () => {
    await front.crashAgent();
    const { metadata } = await world.get('hosts', 'front');
    await patch('hosts', 'front', { metadata: { annotations: { 'nkudo.dev/force-delete': metadata.uid } } });
    await world.kubernetes.kubectl(['delete', 'host', 'front', '--wait=false'], { namespace: world.namespace });
    await until(async () => (await world.kubernetes.client.find(world.path('hosts', 'front'))) === null, 'the Host to be gone');
    expect(await world.kubernetes.client.find(world.path('microvms', 'stayer'))).toBeNull();
    expect(await world.database.query(`select count(*)::int as count from nkudo.microvms where name = 'stayer' and tombstoned_at is not null`)).toEqual([{ count: 1 }]);
    expect(back.vmms()).toHaveLength(1);
  });

  it('goes with its Site when that is deleted by force: microVMs, hosts, Site', async () => {
    const { metadata } = await world.get('sites', siteName);
    await patch('sites', siteName, { metadata: { annotations: { 'nkudo.dev/force-delete': metadata.uid } } });
    await world.kubernetes.kubectl(['delete', 'site', siteName, '--wait=false'], { namespace: world.namespace });
    await until(async () => (await world.kubernetes.client.find(world.path('sites', siteName))) === null, 'the Site to be gone');
    expect(await world.kubernetes.client.list(world.path('microvms'))).toEqual([]);
    expect(await world.kubernetes.client.list(world.path('hosts'))).toEqual([]);
    expect(back.vmms()).toEqual([]);
  });
});
