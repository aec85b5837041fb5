/**
 * Kills the controller before and after every call to the management API, one kill after another through the life of a
 * Site's mesh: joining, repairing, losing a host, leaving. Each time the next controller must find what the last one left.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { meshFaultPoints } from '#controller/mesh-fault-points.ts';
import { createMeshWorld, type AccountView, type MeshWorld } from '#test/e2e/mesh-world.ts';
import { siteName, type TestHost } from '#test/e2e/world.ts';
import { useFaultServer, type FaultServer } from '#test/harness/fault-server.ts';
import { until } from '#test/harness/until.ts';

let faults: FaultServer;
let mesh: MeshWorld;
let host: TestHost;
const killed = new Set<string>();

beforeAll(async () => {
  faults = await useFaultServer();
  mesh = await createMeshWorld({ faults, controllerEnvironment: { NKUDO_MESH_RESYNC_INTERVAL_MS: '1000', NKUDO_MESH_RETRY_MAX_MS: '300' } });
  await mesh.world.startController();
  await mesh.world.createSite(siteName);
  host = await mesh.world.addHost('edge-1');
});

const patchSite = async (spec: object): Promise<void> => {
  const answer = await mesh.world.kubernetes.client.request('PATCH', mesh.world.path('sites', siteName), { spec }, 'application/merge-patch+json');
  expect(answer.status).toBe(200);
};

/** Points that this phase reaches, each as soon as it comes: before the call, then after it. */
async function killAtEach(points: readonly string[], after: () => Promise<unknown>): Promise<void> {
  for (const kind of points) {
    for (const point of [`mesh.${kind}:before`, `mesh.${kind}:after`]) {
      await Promise.race([faults.killAt({ process: 'controller', point }), stuck(point)]);
      await mesh.world.controller().exited;
      killed.add(point);
      await mesh.world.startController();
    }
  }
  await after();
}

/** Fails with the point's name instead of the file's time limit. */
async function stuck(point: string): Promise<never> {
  await until(() => killed.has(point), `the controller to reach ${point}`, { timeoutMs: 45_000 });
  return new Promise(() => {});
}

/** What may be there once only. */
function expectNoDuplicates(view: AccountView): void {
  const once = (what: string, names: readonly string[]): void => expect(names.length, `${what}: ${names.join(', ')}`).toBe(new Set(names).size);
  once('groups', view.groups.map(({ name }) => name));
  once('policies', view.policies.map(({ name, description }) => description ?? name));
  once('keys', view.setupKeys.map(({ name }) => name));
  once('networks', view.networks.map(({ name }) => name));
  once('peers', view.peers.map(({ name }) => name));
  for (const { resources, routers } of view.networks) {
    once('resources', resources.map(({ address }) => address));
    expect(routers.length).toBeLessThanOrEqual(1);
  }
}

const isJoined = (view: AccountView): boolean =>
  view.peers.length === 1 && view.setupKeys.length === 0 && view.networks.length === 1 && view.networks[0]?.routers.length === 1 && view.networks[0].resources.length === 1 && view.policies.length === 2;

async function settled(what: string, isIt: (view: AccountView) => boolean): Promise<AccountView> {
  const view = await mesh.untilAccount(what, isIt);
  expectNoDuplicates(view);
  expect(mesh.mock.violations()).toEqual([]);
  return view;
}

describe('a controller that is killed before and after every call to the management API', () => {
  it('[N2] joins a host with one group, policy, key, network and peer', async () => {
    await patchSite(mesh.meshSpec());
    await killAtEach(['list', 'createGroup', 'createPolicy', 'createSetupKey', 'deleteSetupKey', 'createNetwork', 'createResource', 'createRouter'], () => settled('the host to have joined', isJoined));
    await mesh.world.waitForCondition('hosts', 'edge-1', { type: 'MeshConnected', status: 'True' });
    const [peer] = (await mesh.account()).peers;
    expect(peer?.groups).toHaveLength(3);
  });

  it('[N2] repairs drift once', async () => {
    const view = await mesh.account();
    const [network] = view.networks;
    const site = view.groups.find(({ name }) => name.includes('-site-'));
    const own = view.policies.find(({ name }) => name.startsWith('nkudo-'));
    const all = view.groups.find(({ name }) => name === 'All')?.id;
    const networkPath = `/api/networks/${String(network?.id)}`;
    const description = (network as unknown as { description: string }).description; // Every network of the API has one.
    const drifts: Readonly<Record<string, () => Promise<unknown>>> = {
      updateGroup: () => mesh.api('PUT', `/api/groups/${String(site?.id)}`, { name: site?.name, peers: [], resources: (site?.resources ?? []).map(({ id, type }) => ({ id, type })) }),
      updatePolicy: () => mesh.api('PUT', `/api/policies/${String(own?.id)}`, { name: own?.name, description: own?.description, enabled: false, rules: [{ name: 'x', enabled: true, action: 'accept', bidirectional: true, protocol: 'all', sources: [all], destinations: [all] }] }),
      renamePeer: () => mesh.api('PUT', `/api/peers/${String(view.peers[0]?.id)}`, { name: 'renamed', ssh_enabled: false, login_expiration_enabled: false, inactivity_expiration_enabled: false }),
      updateNetwork: () => mesh.api('PUT', networkPath, { name: 'renamed', description }),
      updateResource: () => mesh.api('PUT', `${networkPath}/resources/${String(network?.resources[0]?.id)}`, { name: network?.resources[0]?.name, description, address: network?.resources[0]?.address, enabled: false, groups: [site?.id] }),
      updateRouter: () => mesh.api('PUT', `${networkPath}/routers/${String(network?.routers[0]?.id)}`, { peer_groups: network?.routers[0]?.peer_groups, metric: 7, masquerade: false, enabled: false }),
      deleteResource: () => mesh.api('POST', `${networkPath}/resources`, { name: 'one-more', description, address: '10.9.9.0/24', enabled: true, groups: [site?.id] }),
      deleteRouter: () => mesh.api('POST', `${networkPath}/routers`, { peer_groups: [...(network?.routers[0]?.peer_groups ?? []), site?.id], metric: 9, masquerade: true, enabled: true }),
    };
    for (const [kind, drift] of Object.entries(drifts)) {
      await drift();
      await killAtEach([kind], () => Promise.resolve());
    }
    await settled('all of it to be repaired', (now) => isJoined(now) && now.peers[0]?.name === `edge-1-${siteName}` && now.policies.every(({ enabled }) => enabled) && now.networks[0]?.name !== 'renamed');
  });

  it('[N2] removes a host that was deleted, and everything when the Site goes', async () => {
    // Its own agent would leave by itself.
    await host.stopAgent();
    await mesh.world.deleteObject('hosts', 'edge-1');
    await killAtEach(['deletePeer', 'deleteNetwork', 'deleteGroup'], () => settled('nothing of the host to be left', (view) => view.peers.length === 0 && view.networks.length === 0 && view.groups.length === 2));
    await mesh.world.deleteObject('sites', siteName);
    await killAtEach(['deletePolicy'], () => mesh.world.waitUntilGone('sites', siteName));
    const view = await settled('nothing to be left', (now) => mesh.ownNames(now).length === 0);
    expect(view.groups.map(({ name }) => name)).toEqual(['All']);
  });

  it('[N2] was killed at every point that the code lists, and made no call without one', () => {
    expect([...killed].toSorted()).toEqual([...meshFaultPoints].toSorted());
    const reached = (...kinds: readonly string[]): number => faults.hits().filter(({ point }) => kinds.some((kind) => point === `mesh.${kind}:before`)).length;
    const made = (method: string, template: string): number => mesh.mock.requests().filter((request) => request.method === method && request.template === template).length;
    // What only the controller asks for here. A key that is made anew deletes the one before it.
    const calls: readonly (readonly [requests: number, points: number])[] = [
      [made('POST', '/api/groups'), reached('createGroup')],
      [made('DELETE', '/api/groups/{groupId}'), reached('deleteGroup')],
      [made('POST', '/api/policies'), reached('createPolicy')],
      [made('DELETE', '/api/policies/{policyId}'), reached('deletePolicy')],
      [made('POST', '/api/setup-keys'), reached('createSetupKey')],
      [made('DELETE', '/api/setup-keys/{keyId}'), reached('createSetupKey', 'deleteSetupKey')],
      [made('POST', '/api/networks'), reached('createNetwork')],
      [made('DELETE', '/api/networks/{networkId}'), reached('deleteNetwork')],
      [made('DELETE', '/api/peers/{peerId}'), reached('deletePeer')],
      [made('GET', '/api/peers'), reached('list')],
    ];
    for (const [requests, points] of calls) {
      expect(requests).toBeGreaterThan(0);
      expect(requests).toBeLessThanOrEqual(points);
    }
    console.log(`[N2] ${killed.size} kills; ${mesh.mock.requests().length} requests in all`);
  });
});
