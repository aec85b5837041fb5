/** An account that others use too: what they made stays as it is, what n-kudo made is repaired, and a Site can go without it. */
import { beforeAll, describe, expect, it } from 'vitest';
import { until } from '#test/harness/until.ts';
import { createMeshWorld, reachableFrom, type AccountView, type MeshWorld } from './mesh-world.ts';
import { conditionOf, siteName } from './world.ts';

let mesh: MeshWorld;
let theirs: string;
const own = (view: AccountView): AccountView => ({
  groups: view.groups.filter(isOurs),
  policies: view.policies.filter(isOurs),
  setupKeys: view.setupKeys.filter(isOurs),
  networks: view.networks.filter(isOurs),
  peers: view.peers.filter(({ name }) => name.endsWith(`-${siteName}`)),
});

/** A name that begins like ours is not enough to be ours. */
function isOurs({ name }: { readonly name: string }): boolean {
  return /^nkudo[-:]/.test(name) && !name.includes('by-hand');
}

/** Everything of others, whole, but for counts that follow from ours. */
function theirsOf(view: AccountView): string {
  const others = {
    // Hosts join the groups that the Site names; that is all that happens to them.
    groups: view.groups
      .filter((group) => !isOurs(group) && group.name !== 'All')
      .map((group) => ({ ...group, peers: (group.peers ?? []).filter(({ name }) => !name.endsWith(`-${siteName}`)) })),
    policies: view.policies.filter((policy) => !isOurs(policy) && policy.name !== 'Default'),
    setupKeys: view.setupKeys.filter((key) => !isOurs(key)),
    networks: view.networks.filter((network) => !isOurs(network)),
    peers: view.peers.filter(({ name }) => name === 'laptop').map(({ id, name, ip, groups }) => ({ id, name, ip, groups: groups.map((group) => group.id) })),
  };
  return JSON.stringify(others).replaceAll(/"(peers_count|resources_count|last_seen|routing_peers_count)":("[^"]*"|\d+)/g, '"$1":0');
}

/** Our objects as they should be: without ids of what may be made anew, and without counts. */
function shapeOf(view: AccountView): unknown {
  const groupNames = new Map(view.groups.map(({ id, name }) => [id, name]));
  const { groups, policies, networks, peers } = own(view);
  return {
    groups: groups.map((group) => [group.name, (group.peers ?? []).map(({ name }) => name).toSorted()]).toSorted(),
    policies: policies.map(({ name, enabled, rules }) => [name, enabled, rules.map((rule) => [rule.enabled, rule.bidirectional, rule.sources?.map(({ name: group }) => group), rule.destinations?.map(({ name: group }) => group)])]).toSorted(),
    networks: networks.map(({ name, resources, routers }) => [
      name,
      resources.map((resource) => [resource.address, resource.enabled]),
      routers.map((router) => [router.peer_groups?.map((id) => groupNames.get(id)), router.metric, router.masquerade, router.enabled]),
    ]),
    peers: peers.map(({ name, groups: memberships }) => [name, memberships.map((group) => group.name).toSorted()]),
  };
}

/** Requests so far that change something, whoever made them. */
const changeCount = (): number => mesh.mock.requests().filter(({ method }) => method !== 'GET').length;

const idOf = (answer: unknown): string => (answer as { id: string }).id; // Every object of the API has one.

beforeAll(async () => {
  mesh = await createMeshWorld({ controllerEnvironment: { NKUDO_MESH_RESYNC_INTERVAL_MS: '1000' } });
  const admins = idOf(await mesh.api('POST', '/api/groups', { name: 'admins' }));
  const lookalike = idOf(await mesh.api('POST', '/api/groups', { name: 'nkudo-by-hand' }));
  await fetch(`${mesh.mock.adminUrl}/peers`, { method: 'POST', body: JSON.stringify({ name: 'laptop', groups: [admins] }) });
  const rule = { name: 'by-hand', enabled: true, action: 'accept', bidirectional: false, protocol: 'tcp', ports: ['22'], sources: [admins], destinations: [lookalike] };
  await mesh.api('POST', '/api/policies', { name: 'nkudo-by-hand', description: 'nkudo:somebody-else', enabled: true, rules: [rule] });
  await mesh.api('POST', '/api/setup-keys', { name: 'by-hand', type: 'reusable', expires_in: 86_400, auto_groups: [lookalike], usage_limit: 0, ephemeral: false });
  const network = idOf(await mesh.api('POST', '/api/networks', { name: 'nkudo-by-hand', description: 'office' }));
  await mesh.api('POST', `/api/networks/${network}/resources`, { name: 'printer', description: '', address: '192.168.7.9/32', enabled: true, groups: [lookalike] });
  await mesh.api('POST', `/api/networks/${network}/routers`, { peer_groups: [lookalike], metric: 100, masquerade: true, enabled: true });
  theirs = theirsOf(await mesh.account());
  await mesh.world.startController();
  await mesh.world.createSite(siteName, mesh.meshSpec({ groups: ['nkudo-by-hand'], policies: [{ name: 'admins', peers: ['admins'], protocol: 'tcp', ports: [443] }] }));
  await mesh.world.addHost('edge-1');
  await mesh.world.waitForCondition('hosts', 'edge-1', { type: 'MeshConnected', status: 'True' });
  await mesh.untilAccount('the host to be routed', (view) => own(view).networks.some(({ routers }) => routers.length === 1) && own(view).setupKeys.length === 0);
});

describe('an account that others use too', () => {
  it('[N6] keeps what was made by hand as it was, and is said to be open as long as its own Default policy is', async () => {
    const { world } = mesh;
    const shown = await world.waitForCondition('sites', siteName, { type: 'MeshIsolated', status: 'False', reason: 'DefaultPolicyOpen' });
    expect(conditionOf(shown, 'MeshIsolated')?.message).toContain('Default');
    await world.waitForCondition('sites', siteName, { type: 'MeshReady', status: 'True' });
    const view = await mesh.account();
    expect(theirsOf(view)).toBe(theirs);
    await mesh.api('DELETE', `/api/policies/${String(view.policies.find(({ name }) => name === 'Default')?.id)}`);
    await world.waitForCondition('sites', siteName, { type: 'MeshIsolated', status: 'True' });
    const closed = await mesh.account();
    expect(reachableFrom(closed, 'laptop')).toEqual([`edge-1-${siteName}`]);
    expect(mesh.mock.violations()).toEqual([]);
  });

  it('[N6] gets every drift of what n-kudo made repaired, one after another and all at once', async () => {
    const wanted = shapeOf(await mesh.account());
    const drifts: Readonly<Record<string, (view: AccountView) => Promise<unknown>>> = {
      'a policy deleted': ({ policies }) => mesh.api('DELETE', `/api/policies/${String(policies.find(({ name }) => name.endsWith('-admins'))?.id)}`),
      'a policy opened and disabled': ({ policies, groups }) => {
        const policy = policies.find(({ name }) => !name.endsWith('-admins'));
        const all = groups.find(({ name }) => name === 'All')?.id;
        const rule = { name: 'x', enabled: true, action: 'accept', bidirectional: true, protocol: 'all', sources: [all], destinations: [all] };
        return mesh.api('PUT', `/api/policies/${String(policy?.id)}`, { name: policy?.name, description: policy?.description, enabled: false, rules: [rule] });
      },
      'a peer renamed': ({ peers }) => mesh.api('PUT', `/api/peers/${String(peers[0]?.id)}`, { name: 'renamed', ssh_enabled: false, login_expiration_enabled: false, inactivity_expiration_enabled: false }),
      'a host taken out of its site': ({ groups }) => {
        const group = groups.find(({ name }) => name.includes('-site-'));
        return mesh.api('PUT', `/api/groups/${String(group?.id)}`, { name: group?.name, peers: [], resources: (group?.resources ?? []).map(({ id, type }) => ({ id, type })) });
      },
      'a subnet deleted': ({ networks }) => mesh.api('DELETE', `/api/networks/${String(networks[0]?.id)}/resources/${String(networks[0]?.resources[0]?.id)}`),
      'a router switched off': ({ networks }) =>
        mesh.api('PUT', `/api/networks/${String(networks[0]?.id)}/routers/${String(networks[0]?.routers[0]?.id)}`, { peer_groups: networks[0]?.routers[0]?.peer_groups, metric: 1, masquerade: false, enabled: false }),
      'a network deleted': ({ networks }) => mesh.api('DELETE', `/api/networks/${String(networks[0]?.id)}`),
    };
    const repaired = (what: string) => mesh.untilAccount(`${what} to be repaired`, (view) => JSON.stringify(shapeOf(view)) === JSON.stringify(wanted), 30_000);
    for (const [what, drift] of Object.entries(drifts)) {
      const before = await mesh.account();
      const changes = changeCount();
      await drift({ ...own(before), groups: before.groups });
      // One request is the drift itself; a repair is at least one more.
      await until(() => changeCount() > changes + 1, `${what} to be noticed`);
      await repaired(what);
    }
    const before = await mesh.account();
    for (const [what, drift] of Object.entries(drifts)) if (!what.startsWith('a subnet') && !what.startsWith('a router')) await drift({ ...own(before), groups: before.groups });
    await repaired('all of it');
    expect(mesh.mock.violations()).toEqual([]);
  });

  it('[N6] that lacks a group which the Site names is said so, and the rest goes on', async () => {
    const { world } = mesh;
    const patch = { spec: { mesh: { groups: ['nkudo-by-hand', 'nowhere'] } } };
    await world.kubernetes.client.request('PATCH', world.path('sites', siteName), patch, 'application/merge-patch+json');
    const shown = await world.waitForCondition('sites', siteName, { type: 'MeshReady', status: 'False', reason: 'GroupMissing' });
    expect(conditionOf(shown, 'MeshReady')?.message).toContain('nowhere');
    expect(conditionOf(await world.get('hosts', 'edge-1'), 'MeshConnected')?.status).toBe('True');
    await mesh.api('POST', '/api/groups', { name: 'nowhere' });
    await world.waitForCondition('sites', siteName, { type: 'MeshReady', status: 'True' });
  });

  it('[N6] keeps what was made by hand also when the Site goes, which takes all of its own with it', async () => {
    const { world } = mesh;
    await world.deleteObject('hosts', 'edge-1');
    await world.waitUntilGone('hosts', 'edge-1');
    await world.deleteObject('sites', siteName);
    await world.waitUntilGone('sites', siteName);
    const view = await mesh.account();
    expect(own(view)).toEqual({ groups: [], policies: [], setupKeys: [], networks: [], peers: [] });
    const left = { ...view, groups: view.groups.filter(({ name }) => name !== 'nowhere') };
    expect(theirsOf(left)).toBe(theirs);
  });
});

describe('a Site whose account does not answer', () => {
  it('waits with its deletion, says so, and goes when a person gives its mesh up; an event says what was left', async () => {
    const { world, mock } = mesh;
    await world.createSite('shop-9', mesh.meshSpec());
    await world.waitForCondition('sites', 'shop-9', { type: 'MeshReady', status: 'True' });
    mock.faults.replace([{ do: 'drop' }]);
    await world.deleteObject('sites', 'shop-9');
    await world.waitForCondition('sites', 'shop-9', { type: 'MeshReady', status: 'False', reason: 'MeshUnavailable' });
    const patch = { metadata: { annotations: { 'nkudo.dev/mesh-abandon': 'true' } } };
    await world.kubernetes.client.request('PATCH', world.path('sites', 'shop-9'), patch, 'application/merge-patch+json');
    await world.waitUntilGone('sites', 'shop-9');
    const events = await world.kubernetes.client.request('GET', `/apis/events.k8s.io/v1/namespaces/${world.namespace}/events`);
    const notes = (events.body as { items: { reason: string; note: string }[] }).items.filter(({ reason }) => reason === 'MeshAbandoned').map(({ note }) => note);
    expect(notes.join('\n')).toContain(mock.managementUrl);
    mock.faults.replace([]);
    expect(mesh.ownNames(await mesh.account()).some((name) => name.includes('shop-9'))).toBe(true);
  });
});
