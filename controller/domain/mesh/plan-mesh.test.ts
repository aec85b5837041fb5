/** Properties of the plan over any site, any state that a crash, a race or a person leaves, and accounts with others' objects. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { hostId, siteId } from '#api/model/ids.ts';
import { createSimulatedMesh, type SimulatedMesh } from '#test/fakes/simulated-mesh.ts';
import type { DesiredHost, DesiredMesh, MeshCall, MeshListing } from './model.ts';
import { hostGroupName, hostMarker, isOwnGroupName, isOwnMarker, setupKeyName, siteGroupName, type MeshScope } from './names.ts';
import { planMesh } from './plan-mesh.ts';

const uuid = (digit: number): string => `${String(digit).repeat(8)}-0000-4000-8000-000000000000`;
const scope: MeshScope = { installationId: uuid(9), siteUid: siteId(uuid(1)), namespace: 'default', siteName: 'berlin' };
const otherScope: MeshScope = { ...scope, siteUid: siteId(uuid(2)), siteName: 'paris' };
/** No state needs more looks than this; one to act and one to see that nothing is left is usual. */
const looksMax = 3;

const host = (digit: number, change: Partial<DesiredHost> = {}): DesiredHost => ({
  hostId: hostId(uuid(digit)),
  peerName: `edge-${digit}`,
  knownPeerId: null,
  reportedAddress: null,
  subnets: [`10.96.${digit}.0/24`],
  key: { isWanted: false, heldId: null },
  ...change,
});

const site = (change: Partial<DesiredMesh> = {}): DesiredMesh => ({
  scope,
  isDeleting: false,
  hosts: [],
  policies: [],
  extraGroups: [],
  setupKeyTtlSeconds: 600,
  ...change,
});

const anyHosts = fc.uniqueArray(fc.integer({ min: 3, max: 6 })).map((digits) => digits.map((digit) => host(digit)));
const anyPolicies = fc.uniqueArray(
  fc.record({
    name: fc.constantFrom('ssh', 'web', 'ops'),
    peers: fc.subarray(['laptops', 'servers', 'absent'], { minLength: 1 }),
    direction: fc.constantFrom('In' as const, 'Both' as const),
    protocol: fc.constantFrom('all' as const, 'tcp' as const, 'udp' as const, 'icmp' as const),
    ports: fc.subarray([22, 80, 443]),
  }),
  { selector: ({ name }) => name },
);
const anySite = fc.record({ hosts: anyHosts, policies: anyPolicies, extraGroups: fc.subarray(['laptops', 'absent']) }).map((change) => site(change));

/** Objects of others: a person's, another site's, and some that look almost like ours. */
function addForeign(mesh: SimulatedMesh): void {
  const { account } = mesh;
  const laptops = account.createGroup({ name: 'laptops' });
  account.createGroup({ name: 'servers' });
  account.createGroup({ name: `${siteGroupName(scope)}-mine` });
  const key = account.createSetupKey({ name: `${hostMarker(otherScope, hostId(uuid(3)))}`, type: 'reusable', expires_in: 0, auto_groups: [laptops.id], usage_limit: 0 });
  account.register({ key: key.secret, name: 'laptop', hostname: 'laptop', publicKey: 'laptop' });
  account.savePolicy(null, { name: siteGroupName(scope), description: 'by hand', enabled: true, rules: [{ name: 'r', enabled: true, action: 'accept', bidirectional: true, protocol: 'all', sources: [laptops.id], destinations: [laptops.id] }] });
  const network = account.createNetwork({ name: hostGroupName(scope, hostId(uuid(3))), description: 'by hand' });
  account.saveResource(network.id, null, { name: 'printer', address: '10.1.0.0/24', enabled: true, groups: [laptops.id] });
  account.saveRouter(network.id, null, { peer_groups: [laptops.id], metric: 1, masquerade: true, enabled: true });
  converge(mesh, { ...site({ hosts: [host(3)] }), scope: otherScope });
}

function converge(mesh: SimulatedMesh, desired: DesiredMesh): void {
  for (let look = 0; look < looksMax; look += 1) {
    const { calls } = planMesh(desired, mesh.list());
    if (calls.length === 0) return;
    for (const call of calls) mesh.perform(call);
  }
  expect(planMesh(desired, mesh.list()).calls).toEqual([]);
}

/** What does not belong to the site, as text. Whether one of our peers is counted in `All` is not theirs to keep. */
function foreignOf(listing: MeshListing): string {
  return JSON.stringify({
    groups: listing.groups.filter(({ name }) => name !== 'All' && !isOwnGroupName(scope, name)),
    policies: listing.policies.filter(({ description }) => !isOwnMarker(scope, description)),
    setupKeys: listing.setupKeys.filter(({ name }) => !isOwnMarker(scope, name)),
    networks: listing.networks.filter(({ description }) => !isOwnMarker(scope, description)),
    peers: listing.peers.filter(({ name }) => name === 'laptop'),
  });
}

const ownNames = (listing: MeshListing): string[] => [
  ...listing.groups.map(({ name }) => name).filter((name) => isOwnGroupName(scope, name)),
  ...listing.policies.filter(({ description }) => isOwnMarker(scope, description)).map(({ description }) => `policy ${description}`),
  ...listing.setupKeys.filter(({ name }) => isOwnMarker(scope, name)).map(({ name }) => name),
  ...listing.networks.filter(({ description }) => isOwnMarker(scope, description)).map(({ description }) => `network ${description}`),
];

describe('the plan of a mesh', () => {
  it('leads any two sites one after the other to an empty second plan, with no name twice and nothing of others touched', () => {
    fc.assert(
      fc.property(anySite, anySite, (first, second) => {
        const mesh = createSimulatedMesh();
        addForeign(mesh);
        const before = foreignOf(mesh.list());
        for (const desired of [first, second, site({ isDeleting: true })]) {
          converge(mesh, desired);
          const names = ownNames(mesh.list());
          expect(new Set(names).size).toBe(names.length);
          expect(foreignOf(mesh.list())).toBe(before);
        }
        expect(ownNames(mesh.list())).toEqual([]);
      }),
      { numRuns: 100 },
    );
  });

  it('[N2] converges from every prefix of its calls, also when the last one was done twice', () => {
    fc.assert(
      fc.property(anySite, anySite, fc.nat(), fc.boolean(), (first, second, cut, isTwice) => {
        const mesh = createSimulatedMesh();
        addForeign(mesh);
        const before = foreignOf(mesh.list());
        converge(mesh, first);
        const { calls } = planMesh(second, mesh.list());
        const done = calls.slice(0, calls.length === 0 ? 0 : cut % (calls.length + 1));
        for (const call of done) mesh.perform(call);
        const last = done.at(-1);
        // Two replicas at a change of leadership: names of these are not unique in an account.
        if (isTwice && (last?.kind === 'createPolicy' || last?.kind === 'createNetwork' || last?.kind === 'createSetupKey')) mesh.perform(last);
        converge(mesh, second);
        const names = ownNames(mesh.list());
        expect(new Set(names).size).toBe(names.length);
        expect(foreignOf(mesh.list())).toBe(before);
      }),
      { numRuns: 200 },
    );
  });

  it('[N6] repairs whatever a person changed in objects of the site', () => {
    const desired = site({ hosts: [host(3), host(4)], policies: [{ name: 'ssh', peers: ['laptops'], direction: 'In', protocol: 'tcp', ports: [22] }] });
    const drifts: readonly [string, (mesh: SimulatedMesh) => void][] = [
      ['a policy is disabled', ({ account }) => void account.savePolicy(policyId(account), { ...policyOf(account), enabled: false })],
      ['a policy lets everybody in', ({ account }) => void account.savePolicy(policyId(account), { ...policyOf(account), rules: [{ name: 'r', enabled: true, action: 'accept', bidirectional: true, protocol: 'all', sources: [account.groupByName('laptops').id], destinations: [account.groupByName('laptops').id] }] })],
      ['a policy has another name', ({ account }) => void account.savePolicy(policyId(account), { ...policyOf(account), name: 'renamed' })],
      ['a policy is deleted', ({ account }) => account.deletePolicy(policyId(account))],
      ['a network has another name', ({ account }) => void account.updateNetwork(networkOf(account).id, { name: 'renamed', description: networkOf(account).description })],
      ['a network is deleted', ({ account }) => account.deleteNetwork(networkOf(account).id)],
      ['a resource has another address', ({ account }) => {
        const [resource] = [...networkOf(account).resources.values()];
        if (resource !== undefined) account.saveResource(networkOf(account).id, resource.id, { ...resource, address: '10.200.0.0/24' });
      }],
      ['a router does not masquerade', ({ account }) => {
        const [router] = [...networkOf(account).routers.values()];
        if (router !== undefined) account.saveRouter(networkOf(account).id, router.id, { peer_groups: router.peer_groups, metric: 1, masquerade: false, enabled: false });
      }],
      ['the group of the site has a stranger in it', ({ account }) => {
        const group = account.groupByName(siteGroupName(scope));
        const laptop = account.peerByPublicKey('laptop');
        account.updateGroup(group.id, { name: group.name, peers: [...group.peers, laptop?.id ?? ''], resources: group.resources });
      }],
    ];
    for (const [what, drift] of drifts) {
      const mesh = createSimulatedMesh();
      addForeign(mesh);
      converge(mesh, desired);
      const before = withoutIds(mesh.list());
      drift(mesh);
      expect(withoutIds(mesh.list()), what).not.toEqual(before);
      converge(mesh, desired);
      expect(withoutIds(mesh.list()), what).toEqual(before);
    }
  });

  it('knows a host by the groups of its key, renames its peer, and removes the peer that a machine left when it was set up again', () => {
    const mesh = createSimulatedMesh();
    const wanting = host(3, { key: { isWanted: true, heldId: null } });
    converge(mesh, site({ hosts: [host(3)] }));
    perform(mesh, planMesh(site({ hosts: [wanting] }), mesh.list()).calls);
    const first = join(mesh, 'edge-3', 'first');
    converge(mesh, site({ hosts: [host(3)] }));
    expect(mesh.account.setupKeys.size).toBe(0);
    first.isConnected = false;
    perform(mesh, planMesh(site({ hosts: [wanting] }), mesh.list()).calls);
    const second = join(mesh, 'renamed-by-hand', 'second');
    converge(mesh, site({ hosts: [host(3, { knownPeerId: first.id, reportedAddress: second.ip })] }));
    expect([...mesh.account.peers.values()].map(({ id, name }) => ({ id, name }))).toEqual([{ id: second.id, name: 'edge-3' }]);
  });

  it('[N1] takes away the peer, the key and the groups of a host that goes, and leaves the others as they are', () => {
    const mesh = createSimulatedMesh();
    addForeign(mesh);
    converge(mesh, site({ hosts: [host(3), host(4)] }));
    for (const digit of [3, 4]) {
      const wanting = [host(3), host(4)].map((each) => (each.hostId === hostId(uuid(digit)) ? { ...each, key: { isWanted: true, heldId: null } } : each));
      perform(mesh, planMesh(site({ hosts: wanting }), mesh.list()).calls);
      join(mesh, `edge-${digit}`, `machine-${digit}`);
    }
    converge(mesh, site({ hosts: [host(3), host(4)] }));
    const laptop = mesh.account.peerByPublicKey('laptop');
    const kept = mesh.list().peers.find(({ name }) => name === 'edge-4');
    converge(mesh, site({ hosts: [host(4)] }));
    const left = mesh.list();
    expect(left.peers.map(({ name }) => name).sort()).toEqual(['edge-4', 'laptop']);
    expect(left.peers.find(({ name }) => name === 'edge-4')).toEqual(kept);
    expect(left.peers.find(({ id }) => id === laptop?.id)).toBeDefined();
    expect(left.groups.some(({ name }) => name === hostGroupName(scope, hostId(uuid(3))))).toBe(false);
    expect(left.setupKeys.some(({ name }) => name === setupKeyName(scope, hostId(uuid(3))))).toBe(false);
  });

  it('never deletes a machine that somebody put into the group of a host by hand, whatever address it has', () => {
    const mesh = createSimulatedMesh();
    addForeign(mesh);
    converge(mesh, site({ hosts: [host(3)] }));
    const laptop = mesh.account.peerByPublicKey('laptop');
    const group = mesh.account.groupByName(hostGroupName(scope, hostId(uuid(3))));
    group.peers.push(laptop?.id ?? '');
    converge(mesh, site({ hosts: [host(3, { knownPeerId: 'gone', reportedAddress: '100.92.0.77' })] }));
    converge(mesh, site({ isDeleting: true }));
    expect(mesh.account.peerByPublicKey('laptop')?.name).toBe('laptop');
  });

  it('[N6] adds to its own network when somebody made another with the same name, and leaves what others put into its own', () => {
    const mesh = createSimulatedMesh();
    addForeign(mesh);
    converge(mesh, site({ hosts: [host(3)] }));
    const own = networkOf(mesh.account);
    const foreign = mesh.account.createNetwork({ name: own.name, description: 'by hand' });
    const laptops = mesh.account.groupByName('laptops').id;
    const printer = mesh.account.saveResource(own.id, null, { name: 'scanner', address: '10.2.0.0/24', enabled: true, groups: [laptops] });
    converge(mesh, site({ hosts: [host(3, { subnets: ['10.96.3.0/24', '10.97.3.0/24'] })] }));
    expect(foreign.resources.size).toBe(0);
    expect(own.resources.size).toBe(3);
    converge(mesh, site({ isDeleting: true }));
    expect([...(mesh.account.networks.get(own.id)?.resources.values() ?? [])]).toEqual([printer]);
  });

  it('keeps the one key whose value is known, deletes every other, and names the groups that are missing', () => {
    const mesh = createSimulatedMesh();
    const wanting = site({ hosts: [host(3, { key: { isWanted: true, heldId: null } })], extraGroups: ['absent'] });
    for (let look = 0; look < 2; look += 1) perform(mesh, planMesh(wanting, mesh.list()).calls);
    const keys = [...mesh.account.setupKeys.keys()];
    expect(keys).toHaveLength(1);
    const holding = site({ hosts: [host(3, { key: { isWanted: true, heldId: keys[0] ?? '' } })], extraGroups: ['absent'] });
    expect(planMesh(holding, mesh.list())).toEqual({ calls: [], missingGroups: ['absent'] });
    converge(mesh, site({ hosts: [host(3)], extraGroups: ['absent'] }));
    expect(mesh.account.setupKeys.size).toBe(0);
  });
});

function perform(mesh: SimulatedMesh, calls: readonly MeshCall[]): void {
  for (const call of calls) mesh.perform(call);
}

function join(mesh: SimulatedMesh, name: string, publicKey: string): ReturnType<SimulatedMesh['account']['register']> {
  const key = [...mesh.account.setupKeys.values()].find((candidate) => isOwnMarker(scope, candidate.name));
  return mesh.account.register({ key: key?.secret ?? '', name, hostname: 'vm', publicKey });
}

type Account = SimulatedMesh['account'];

function policyOf(account: Account): { name: string; description: string; enabled: boolean; rules: { name: string; enabled: boolean; action: string; bidirectional: boolean; protocol: string; sources: readonly string[]; destinations: readonly string[] }[] } {
  const policy = account.policy(policyId(account));
  return { ...policy, rules: policy.rules.map(({ name, enabled, action, bidirectional, protocol, sources, destinations }) => ({ name, enabled, action, bidirectional, protocol, sources, destinations })) };
}

function policyId(account: Account): string {
  return [...account.policies.values()].find(({ description }) => isOwnMarker(scope, description))?.id ?? '';
}

function networkOf(account: Account): ReturnType<Account['network']> {
  const network = [...account.networks.values()].find(({ description }) => isOwnMarker(scope, description));
  if (network === undefined) throw new Error('the site has no network');
  return network;
}

/** A listing with names in place of ids, because what was deleted by hand comes back with another id. */
function withoutIds(listing: MeshListing): unknown {
  const groupName = new Map(listing.groups.map(({ id, name }) => [id, name]));
  const names = (ids: readonly string[]): string[] => ids.map((id) => groupName.get(id) ?? id).sort();
  const byText = (values: readonly unknown[]): string[] => values.map((value) => JSON.stringify(value)).sort();
  return {
    groups: byText(listing.groups.map(({ name, peerIds, resources }) => ({ name, peerIds, resources: resources.length }))),
    policies: byText(listing.policies.map(({ name, description, isEnabled, rules }) => ({ name, description, isEnabled, rules: rules.map((rule) => ({ ...rule, id: '', sourceIds: names(rule.sourceIds), destinationIds: names(rule.destinationIds) })) }))),
    networks: byText(
      listing.networks.map(({ name, description, resources, routers }) => ({
        name,
        description,
        resources: resources.map((resource) => ({ ...resource, id: '', groupIds: names(resource.groupIds) })),
        routers: routers.map((router) => ({ ...router, id: '', peerGroupIds: names(router.peerGroupIds) })),
      })),
    ),
  };
}
