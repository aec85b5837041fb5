/** The mesh port on an account: what it promises the reconciler, together with the plan that uses it. */
import { randomUUID } from 'node:crypto';
import { expect, it } from 'vitest';
import { hostId } from '#api/model/ids.ts';
import type { DesiredHost, DesiredMesh, MeshCall } from '#controller/domain/mesh/model.ts';
import { hostGroupName, hostMarker, policyMarker, setupKeyName, siteGroupName, type MeshScope } from '#controller/domain/mesh/names.ts';
import { converge, foreignOf, look, namesOf, ownNames, performAll } from './convergence.ts';
import { raw, rawId } from './raw-api.ts';
import { anyScope, describeOnTargets, open } from './targets.ts';

const never = new AbortController().signal;

describeOnTargets('the mesh port', (target) => {
  const account = open(target);
  const host = (octet: number, change: Partial<DesiredHost> = {}): DesiredHost => ({
    hostId: hostId(randomUUID()),
    peerName: `edge-${octet}`,
    knownPeerId: null,
    reportedAddress: null,
    subnets: [`10.96.${octet}.0/24`],
    key: { isWanted: false, heldId: null },
    ...change,
  });
  const site = (scope: MeshScope, hosts: readonly DesiredHost[], change: Partial<DesiredMesh> = {}): DesiredMesh => ({
    scope,
    isDeleting: false,
    hosts,
    policies: [],
    extraGroups: [],
    setupKeyTtlSeconds: 600,
    ...change,
  });
  const remove = (scope: MeshScope): Promise<void> => converge(account, site(scope, [], { isDeleting: true }));

  it('makes what a site wants, finds it again, and leaves nothing when the site goes', async () => {
    const scope = anyScope();
    const laptops = `laptops-${randomUUID()}`;
    const laptopsId = await rawId(target, '/api/groups', { name: laptops });
    const hosts = [host(1), host(2)];
    const desired = site(scope, hosts, { policies: [{ name: 'ssh', peers: [laptops, 'absent'], direction: 'In', protocol: 'tcp', ports: [22, 443] }], extraGroups: [laptops] });
    await converge(account, desired);
    const listing = await account.list(scope, never);
    const ids = namesOf(listing).groupIds;
    const siteGroup = ids.get(siteGroupName(scope)) ?? '';
    expect(ownNames(scope, listing)).toEqual(
      [
        `group ${siteGroupName(scope)}`,
        `policy ${policyMarker(scope, null)}`,
        `policy ${policyMarker(scope, 'ssh')}`,
        ...hosts.flatMap(({ hostId: id, subnets }) => [
          `group ${hostGroupName(scope, id)}`,
          `network ${hostMarker(scope, id)}`,
          `resource ${hostGroupName(scope, id)}-${subnets[0] ?? ''}`,
          `router ${ids.get(hostGroupName(scope, id)) ?? ''}`,
        ]),
      ].sort(),
    );
    const ssh = listing.policies.find(({ description }) => description === policyMarker(scope, 'ssh'));
    expect(ssh?.rules).toMatchObject([{ isEnabled: true, action: 'accept', isBidirectional: false, protocol: 'tcp', ports: ['22', '443'], sourceIds: [laptopsId], destinationIds: [siteGroup] }]);
    expect(await look(account, desired)).toEqual([]);
    const foreign = foreignOf(scope, listing);
    await remove(scope);
    const after = await account.list(scope, never);
    expect(ownNames(scope, after)).toEqual([]);
    expect(foreignOf(scope, after)).toBe(foreign);
    await raw(target, 'DELETE', `/api/groups/${laptopsId}`);
  });

  it('[N1] keeps two sites apart by policies of their own, and takes a host of one away without a trace in the other', async () => {
    const installationId = randomUUID();
    const [first, second] = [anyScope(installationId), anyScope(installationId)];
    const [leaving, staying] = [host(11), host(12)];
    await converge(account, site(first, [leaving, staying]));
    await converge(account, site(second, [host(13), host(14)]));
    const before = await account.list(second, never);
    const ids = namesOf(before).groupIds;
    const groupOf = (scope: MeshScope): string => ids.get(siteGroupName(scope)) ?? '';
    for (const [scope, other] of [[first, second], [second, first]] as const) {
      const policies = before.policies.filter(({ rules }) => rules.some(({ sourceIds, destinationIds }) => [...sourceIds, ...destinationIds].includes(groupOf(scope))));
      expect(policies.map(({ description }) => description)).toEqual([policyMarker(scope, null)]);
      expect(policies.flatMap(({ rules }) => rules.flatMap(({ sourceIds, destinationIds }) => [...sourceIds, ...destinationIds]))).not.toContain(groupOf(other));
    }
    await converge(account, site(first, [staying]));
    const after = await account.list(second, never);
    expect(ownNames(second, after)).toEqual(ownNames(second, before));
    expect(ownNames(first, await account.list(first, never)).filter((name) => name.includes(leaving.hostId))).toEqual([]);
    await remove(first);
    await remove(second);
  });

  it('creates nothing twice and deletes what is gone without a word, for every kind of call', async () => {
    const scope = anyScope();
    const desired = site(scope, [host(21)]);
    const empty = await account.list(scope, never);
    const names = namesOf(empty);
    const calls: MeshCall[] = [];
    for (const call of await firstCalls(desired)) {
      const [once, twice] = [await performAll(account, [call], names), await performAll(account, [call], names)];
      expect({ kind: call.kind, id: twice[0]?.id }).toEqual({ kind: call.kind, id: once[0]?.id });
      calls.push(call);
    }
    expect(calls.map(({ kind }) => kind)).toEqual(['createGroup', 'createGroup', 'createPolicy', 'createNetwork', 'createResource', 'createRouter']);
    const listing = await account.list(scope, never);
    expect(new Set(ownNames(scope, listing)).size).toBe(ownNames(scope, listing).length);
    const network = listing.networks.find(({ description }) => description === hostMarker(scope, desired.hosts[0]?.hostId ?? hostId(randomUUID())));
    const policy = listing.policies.find(({ description }) => description === policyMarker(scope, null));
    const deletes: MeshCall[] = [
      { kind: 'deletePolicy', id: policy?.id ?? '', name: '' },
      { kind: 'deleteRouter', networkId: network?.id ?? '', id: network?.routers[0]?.id ?? '' },
      { kind: 'deleteResource', networkId: network?.id ?? '', id: network?.resources[0]?.id ?? '', name: '' },
      { kind: 'deleteNetwork', id: network?.id ?? '', name: '' },
      ...desired.hosts.map(({ hostId: id }): MeshCall => ({ kind: 'deleteGroup', id: names.groupIds.get(hostGroupName(scope, id)) ?? '', name: '' })),
      { kind: 'deleteGroup', id: names.groupIds.get(siteGroupName(scope)) ?? '', name: '' },
      { kind: 'deletePeer', id: 'c'.repeat(20), name: '' },
      { kind: 'deleteSetupKey', id: 'c'.repeat(20), name: '' },
    ];
    await performAll(account, [...deletes, ...deletes], names);
    expect(ownNames(scope, await account.list(scope, never))).toEqual([]);

    async function firstCalls(wanted: DesiredMesh): Promise<readonly MeshCall[]> {
      const { planMesh } = await import('#controller/domain/mesh/plan-mesh.ts');
      return planMesh(wanted, empty).calls;
    }
  });

  it('makes a setup key with a value that opens once, and makes it anew instead of a second one', async () => {
    const scope = anyScope();
    const wanting = host(31, { key: { isWanted: true, heldId: null } });
    await converge(account, site(scope, [{ ...wanting, key: { isWanted: false, heldId: null } }]));
    const listing = await account.list(scope, never);
    const call: MeshCall = { kind: 'createSetupKey', hostId: wanting.hostId, name: setupKeyName(scope, wanting.hostId), groups: [siteGroupName(scope), hostGroupName(scope, wanting.hostId)], ttlSeconds: 600 };
    const [first] = await performAll(account, [call], namesOf(listing));
    const [second] = await performAll(account, [call], namesOf(listing));
    expect(first?.revealKey?.()).toMatch(/^[0-9A-F-]{36}$/);
    expect(second?.revealKey?.()).not.toBe(first?.revealKey?.());
    expect(JSON.stringify(second)).not.toContain(second?.revealKey?.() ?? 'nothing');
    const keys = (await account.list(scope, never)).setupKeys.filter(({ name }) => name === call.name);
    expect(keys).toMatchObject([{ id: second?.id, isValid: true, isEphemeral: false }]);
    const answer = await raw(target, 'GET', `/api/setup-keys/${second?.id ?? ''}`);
    expect(answer.body).toMatchObject({ type: 'one-off', usage_limit: 1 });
    const lifeMs = Date.parse(String(answer.body['expires'])) - Date.now();
    expect(lifeMs).toBeGreaterThan(0);
    expect(lifeMs).toBeLessThanOrEqual(600_000 + 5_000);
    await remove(scope);
  });

  it('[N6] repairs drift of its own objects and touches nothing that somebody made by hand', async () => {
    const scope = anyScope();
    const desired = site(scope, [host(41)]);
    await converge(account, desired);
    const byHand = await rawId(target, '/api/groups', { name: `by-hand-${randomUUID()}` });
    const policyByHand = await rawId(target, '/api/policies', {
      name: siteGroupName(scope),
      description: 'by hand',
      enabled: true,
      rules: [{ name: 'r', enabled: true, action: 'accept', bidirectional: true, protocol: 'all', sources: [byHand], destinations: [byHand] }],
    });
    const networkByHand = await rawId(target, '/api/networks', { name: hostGroupName(scope, desired.hosts[0]?.hostId ?? hostId(randomUUID())), description: 'by hand' });
    const before = await account.list(scope, never);
    const policy = before.policies.find(({ description }) => description === policyMarker(scope, null));
    const network = before.networks.find(({ description }) => description.startsWith(hostMarker(scope, desired.hosts[0]?.hostId ?? hostId(randomUUID()))));
    const resource = network?.resources[0];
    const router = network?.routers[0];
    const changes = [
      await raw(target, 'PUT', `/api/policies/${policy?.id ?? ''}`, { name: 'renamed', description: policy?.description, enabled: false, rules: [{ name: 'r', enabled: true, action: 'accept', bidirectional: false, protocol: 'icmp', sources: [byHand], destinations: [byHand] }] }),
      await raw(target, 'PUT', `/api/networks/${network?.id ?? ''}`, { name: 'renamed', description: network?.description }),
      await raw(target, 'PUT', `/api/networks/${network?.id ?? ''}/resources/${resource?.id ?? ''}`, { name: resource?.name, description: resource?.description, address: '10.199.0.0/24', enabled: false, groups: [byHand] }),
      await raw(target, 'PUT', `/api/networks/${network?.id ?? ''}/routers/${router?.id ?? ''}`, { peer_groups: router?.peerGroupIds, metric: 1, masquerade: false, enabled: false }),
    ];
    expect(changes.map(({ status }) => status)).toEqual([200, 200, 200, 200]);
    expect((await look(account, desired)).map(({ kind }) => kind)).toEqual(['updatePolicy', 'updateNetwork', 'updateResource', 'updateRouter']);
    const after = await account.list(scope, never);
    const strip = (listing: typeof after): unknown => ({
      policies: listing.policies,
      networks: listing.networks,
      foreign: foreignOf(scope, listing),
      groups: listing.groups.filter(({ name }) => name !== 'All'),
    });
    expect(strip(after)).toEqual(strip(before));
    await remove(scope);
    const last = await account.list(scope, never);
    expect(last.policies.some(({ id }) => id === policyByHand) && last.networks.some(({ id }) => id === networkByHand) && last.groups.some(({ id }) => id === byHand)).toBe(true);
    for (const path of [`/api/policies/${policyByHand}`, `/api/networks/${networkByHand}`, `/api/groups/${byHand}`]) await raw(target, 'DELETE', path);
  });

  it('refuses with the code of the port: a wrong token, a group in use, a group that is not known', async () => {
    const scope = anyScope();
    await expect(open({ ...target, token: 'nbp_wrong_token' }).list(scope, never)).rejects.toMatchObject({ code: 'MESH_UNAUTHORIZED', details: { status: 401 } });
    await converge(account, site(scope, [host(51)]));
    const names = namesOf(await account.list(scope, never));
    const id = names.groupIds.get(siteGroupName(scope)) ?? '';
    await expect(account.perform({ kind: 'deleteGroup', id, name: '' }, names, never)).rejects.toMatchObject({ code: 'MESH_REFUSED', details: { status: 400 } });
    const unknown: MeshCall = { kind: 'createSetupKey', hostId: hostId(randomUUID()), name: 'x', groups: ['nobody'], ttlSeconds: 600 };
    await expect(account.perform(unknown, names, never)).rejects.toMatchObject({ code: 'MESH_REFUSED' });
    await remove(scope);
  });

  it('asks for nothing that the description of the API does not know', () => {
    expect(target.simulator?.violations() ?? []).toEqual([]);
  });
});
