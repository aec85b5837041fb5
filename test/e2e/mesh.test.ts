/** Two sites in one NetBird account: joined, isolated, taken apart; and a key that nobody but its host ever saw. */
import { readdirSync, readFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { fileScope } from '#test/harness/file-scope.ts';
import { createMeshWorld, reachableFrom, type AccountView, type MeshWorld } from './mesh-world.ts';
import { conditionOf, statusOf, type TestHost } from './world.ts';

const hostNames = { 'shop-1': ['a1', 'a2'], 'shop-2': ['b1', 'b2'] } as const;
const all = Object.entries(hostNames).flatMap(([site, hosts]) => hosts.map((host) => ({ site, host, peer: `${host}-${site}` })));
const canaries = Array.from({ length: 12 }, (_, index) => `CANARY-${index}-9D1E4C77-5A0B-4E6F-8C21-C0FFEE00`);

let mesh: MeshWorld;
const hosts = new Map<string, TestHost>();
const cmdlines = new Set<string>();

/** Command lines of all processes of this machine, now. */
function sampleCommandLines(): void {
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      cmdlines.add(readFileSync(`/proc/${pid}/cmdline`, 'utf8'));
    } catch {
      // It ended meanwhile.
    }
  }
}

beforeAll(async () => {
  mesh = await createMeshWorld();
  const { world, mock } = mesh;
  await fetch(`${mock.adminUrl}/next-setup-keys`, { method: 'POST', body: JSON.stringify(canaries) });
  const [open] = (await mesh.account()).policies;
  await mesh.api('DELETE', `/api/policies/${String(open?.id)}`);
  const sampling = setInterval(sampleCommandLines, 20);
  fileScope().defer(() => clearInterval(sampling));
  await world.startController();
  for (const site of Object.keys(hostNames)) await world.createSite(site, mesh.meshSpec());
  for (const { host, site } of all) hosts.set(host, await world.addHost(host, site));
  for (const { host } of all) await world.waitForCondition('hosts', host, { type: 'MeshConnected', status: 'True' });
  for (const site of Object.keys(hostNames)) await world.waitForCondition('sites', site, { type: 'MeshReady', status: 'True' });
  await mesh.untilAccount('every host to be routed and every key to be gone', (view) => view.networks.length === 4 && view.networks.every(({ routers, resources }) => routers.length === 1 && resources.length === 1) && view.setupKeys.length === 0);
});

const peerNames = (view: AccountView): string[] => view.peers.map(({ name }) => name).toSorted();

describe('two sites with two hosts each', () => {
  it('[N1] are joined, reach each other inside a site and nobody of the other, and show where they are', async () => {
    const view = await mesh.account();
    expect(peerNames(view)).toEqual(all.map(({ peer }) => peer).toSorted());
    for (const { peer, site } of all) expect(reachableFrom(view, peer)).toEqual(all.filter((other) => other.site === site && other.peer !== peer).map((other) => other.peer));
    const subnets = new Set<string>();
    for (const { host, peer } of all) {
      const status = statusOf(await mesh.world.get('hosts', host));
      expect(status['meshAddress']).toBe(view.peers.find(({ name }) => name === peer)?.ip);
      subnets.add(String(status['meshSubnet']));
    }
    expect([...subnets].toSorted()).toEqual(view.networks.flatMap(({ resources }) => resources.map(({ address }) => address)).toSorted());
    expect(subnets.size).toBe(4);
    expect(conditionOf(await mesh.world.get('sites', 'shop-1'), 'MeshIsolated')).toMatchObject({ status: 'True', reason: 'NoOpenPolicy' });
    expect(mesh.mock.violations()).toEqual([]);
  });

  it('[N4] a setup key is in no log, row, event, status or command line', async () => {
    const { world } = mesh;
    const used = [...mesh.mock.account.setupKeys.values()];
    expect(used).toEqual([]);
    const seen: Record<string, string> = { commandLines: [...cmdlines].join('\n') };
    // Runs of the command are in it: the sampling saw what it was to see.
    expect(seen['commandLines']).toContain('--setup-key-file');
    seen['logs'] = [world.controller(), ...[...hosts.values()].map((host) => host.agent())].flatMap((process) => process.lines()).join('\n');
    const tables = await world.database.query(`select table_name from information_schema.tables where table_schema = 'nkudo' and table_type = 'BASE TABLE'`);
    const dumps = await Promise.all(tables.map(({ table_name: table }) => world.database.query(`select string_agg(t::text, E'\\n') as rows from nkudo.${String(table)} t`)));
    seen['rows'] = JSON.stringify(dumps);
    const namespaced = `/namespaces/${world.namespace}`;
    const paths = [`/apis/events.k8s.io/v1${namespaced}/events`, ...(['sites', 'hosts', 'microvms', 'enrollmenttokens'] as const).map((plural) => world.path(plural))];
    seen['objects'] = JSON.stringify(await Promise.all(paths.map(async (path) => (await world.kubernetes.client.request('GET', path)).body)));
    for (const host of hosts.values()) {
      for (const entry of readdirSync(host.stateDirectory, { recursive: true, withFileTypes: true })) {
        if (entry.isFile()) seen[`${entry.parentPath}/${entry.name}`] = readFileSync(`${entry.parentPath}/${entry.name}`, 'latin1');
      }
    }
    expect(seen['rows']).toContain('keyMade');
    expect(seen['logs']?.length).toBeGreaterThan(1_000);
    for (const [where, text] of Object.entries(seen)) {
      for (const secret of [...canaries, 'nbp_e2e_token_canary']) expect(text.includes(secret), `${secret} in ${where}`).toBe(false);
    }
  });

  it('[N1] one host deleted: its peer, key, group and route are gone, and nothing else changed', async () => {
    const before = await mesh.account();
    const gone = String(statusOf(await mesh.world.get('hosts', 'a2'))['hostID']);
    await mesh.world.deleteObject('hosts', 'a2');
    await mesh.world.waitUntilGone('hosts', 'a2');
    const after = await mesh.untilAccount('nothing of the host to be left', (view) => !JSON.stringify(view).includes(gone) && !peerNames(view).includes('a2-shop-1'));
    // Without the counts that every answer repeats of a group.
    const kept = (view: AccountView): unknown => ({
      peers: view.peers.map(({ id, name, ip, groups }) => [id, name, ip, groups.map((group) => group.id)]).filter(([, name]) => name !== 'a2-shop-1'),
      policies: view.policies.map(({ id, name, enabled, rules }) => [id, name, enabled, rules.map(({ sources, destinations }) => [sources, destinations].map((side) => side?.map((group) => group.id)))]),
      setupKeys: view.setupKeys,
      groups: view.groups.map(({ id, name }) => [id, name]).filter(([, name]) => name?.includes(gone) !== true),
      networks: view.networks.map(({ id, name, resources, routers }) => [id, name, resources.map(({ address }) => address), routers]).filter(([, name]) => !String(name).includes(gone)),
    });
    expect(kept(after)).toEqual(kept(before));
    expect(mesh.mock.violations()).toEqual([]);
  });

  it('a mesh that is taken away leaves nothing in the account but what others made, and the hosts leave', async () => {
    for (const site of Object.keys(hostNames)) {
      await mesh.world.kubernetes.client.request('PATCH', mesh.world.path('sites', site), { spec: { mesh: { provider: 'None' } } }, 'application/merge-patch+json');
    }
    const left = await mesh.untilAccount('nothing of ours to be left', (view) => mesh.ownNames(view).length === 0 && view.peers.length === 0);
    expect(left.groups.map(({ name }) => name)).toEqual(['All']);
    for (const site of Object.keys(hostNames)) await mesh.world.waitUntil('sites', site, 'no condition on a mesh', (object) => conditionOf(object, 'MeshReady') === null);
    const rows = await mesh.world.database.query('select count(*)::int as n from nkudo.mesh_hosts where subnet is not null or is_joined');
    expect(rows).toEqual([{ n: 0 }]);
  });
});
