/**
 * Decides how an account gets to hold what one site wants: ordered calls, none when it does already. Pure.
 *
 * Invariants: only what carries the site's marker (or, for groups, the site's own names) is changed or deleted, and of
 * peers only the site's hosts'; the order never asks for a delete of what a later call still uses; the plan of any
 * state that a cut-short plan leaves leads to the same end.
 */
import { findHostPeers, findPeersOfGoneHost, isIn, type HostPeers } from './host-peers.ts';
import type { DesiredHost, DesiredMesh, ListedGroup, ListedNetwork, ListedPeer, ListedPolicy, MeshCall, MeshListing, PolicySpec, ResourceSpec, RouterSpec } from './model.ts';
import {
  hostGroupName,
  hostIdOfGroupName,
  hostMarker,
  hostNetworkName,
  intraSitePolicyName,
  isOwnGroupName,
  isOwnMarker,
  policyMarker,
  setupKeyName,
  siteGroupName,
  sitePolicyName,
  subnetResourceName,
} from './names.ts';

/** The lowest preference: routes that people make win. */
const routerMetric = 9999;

export interface MeshPlan {
  /** In this order; empty when the account is as it should be. */
  readonly calls: readonly MeshCall[];
  /** Named in the spec and not in the account. */
  readonly missingGroups: readonly string[];
}

/** What the parts of the plan look at together. */
interface Situation {
  readonly desired: DesiredMesh;
  readonly listed: MeshListing;
  readonly groupIds: ReadonlyMap<string, string>;
  readonly siteGroup: ListedGroup | null;
  readonly ownGroupIds: ReadonlySet<string>;
  readonly ownNetworks: readonly ListedNetwork[];
  readonly hostPeers: ReadonlyMap<DesiredHost, HostPeers>;
  readonly leavingPeers: readonly ListedPeer[];
}

export function planMesh(desired: DesiredMesh, listed: MeshListing): MeshPlan {
  const situation = situationOf(desired, listed);
  const networks = planNetworks(situation);
  const policies = planPolicies(situation);
  const calls = [
    ...createGroups(situation),
    ...policies,
    ...deleteSetupKeys(situation),
    ...deletePeers(situation),
    // Before the networks: the resources of a group are sent back as they were listed.
    ...updateGroups(situation),
    ...networks,
    ...renamePeers(situation),
    ...deleteGroups(situation, [...policies, ...networks]),
    ...createSetupKeys(situation),
  ];
  const named = [...desired.extraGroups, ...desired.policies.flatMap(({ peers }) => peers)];
  return { calls, missingGroups: [...new Set(named)].filter((name) => !situation.groupIds.has(name)).toSorted() };
}

function situationOf(desired: DesiredMesh, listed: MeshListing): Situation {
  const { scope } = desired;
  const groupIds = new Map(listed.groups.map(({ name, id }) => [name, id]));
  const siteGroup = listed.groups.findLast(({ name }) => name === siteGroupName(scope)) ?? null;
  const siteGroupId = siteGroup?.id ?? null;
  const groupsOf = (hostGroup: string): { hostGroupId: string | null; siteGroupId: string | null } => ({ hostGroupId: groupIds.get(hostGroup) ?? null, siteGroupId });
  const hostPeers = new Map(desired.hosts.map((host) => [host, findHostPeers(host, groupsOf(hostGroupName(scope, host.hostId)), listed.peers)]));
  const goneHostGroups = ownHostGroups(desired, listed).filter(({ name }) => !desired.hosts.some(({ hostId }) => hostGroupName(scope, hostId) === name));
  return {
    desired,
    listed,
    groupIds,
    siteGroup,
    ownGroupIds: new Set(listed.groups.filter(({ name }) => isOwnGroupName(scope, name)).map(({ id }) => id)),
    ownNetworks: listed.networks.filter(({ description }) => isOwnMarker(scope, description)),
    hostPeers,
    leavingPeers: [
      ...[...hostPeers.values()].flatMap(({ superseded }) => superseded),
      ...goneHostGroups.flatMap(({ name }) => findPeersOfGoneHost(groupsOf(name), listed.peers)),
    ],
  };
}

function ownHostGroups({ scope }: DesiredMesh, listed: MeshListing): ListedGroup[] {
  return listed.groups.filter(({ name }) => hostIdOfGroupName(scope, name) !== null);
}

// Groups

function wantedGroups({ scope, isDeleting, hosts }: DesiredMesh): string[] {
  return isDeleting ? [] : [siteGroupName(scope), ...hosts.map(({ hostId }) => hostGroupName(scope, hostId))];
}

function createGroups({ desired, groupIds }: Situation): MeshCall[] {
  return wantedGroups(desired).filter((name) => !groupIds.has(name)).map((name) => ({ kind: 'createGroup', name }));
}

/** Puts the hosts' peers back into the groups that somebody took them out of, and others out of the site's. */
function updateGroups({ desired, listed, siteGroup, hostPeers, leavingPeers }: Situation): MeshCall[] {
  if (desired.isDeleting) return [];
  const { scope } = desired;
  const leaving = new Set(leavingPeers.map(({ id }) => id));
  const strayed = desired.hosts.flatMap((host): MeshCall[] => {
    const { own, isOutsideHostGroup } = hostPeers.get(host) ?? { own: null, isOutsideHostGroup: false };
    const group = listed.groups.findLast(({ name }) => name === hostGroupName(scope, host.hostId));
    if (own === null || !isOutsideHostGroup || group === undefined) return [];
    return [{ kind: 'updateGroup', id: group.id, name: group.name, peerIds: [...group.peerIds, own.id].toSorted(), resources: group.resources }];
  });
  if (siteGroup === null) return strayed;
  const hostGroupIds = new Set(ownHostGroups(desired, listed).map(({ id }) => id));
  const ownIds = new Set([...hostPeers.values()].flatMap(({ own }) => own?.id ?? []));
  const members = listed.peers
    .filter((peer) => ownIds.has(peer.id) || (isIn(peer, siteGroup.id) && peer.groupIds.some((id) => hostGroupIds.has(id))))
    .map(({ id }) => id)
    .filter((id) => !leaving.has(id));
  const present = siteGroup.peerIds.filter((id) => !leaving.has(id));
  if (hasSameElements(members, present)) return strayed;
  return [...strayed, { kind: 'updateGroup', id: siteGroup.id, name: siteGroup.name, peerIds: members.toSorted(), resources: siteGroup.resources }];
}

/** A group that something of somebody else's uses stays: the account would refuse, and it is theirs to untie. */
function deleteGroups(situation: Situation, before: readonly MeshCall[]): MeshCall[] {
  const { desired, listed } = situation;
  const wanted = new Set(wantedGroups(desired));
  return listed.groups
    .filter(({ name }) => isOwnGroupName(desired.scope, name) && !wanted.has(name))
    .filter((group) => !isUsedByOthers(group, situation, before))
    .map(({ id, name }) => ({ kind: 'deleteGroup', id, name }));
}

function isUsedByOthers(group: ListedGroup, { desired, listed, ownNetworks }: Situation, before: readonly MeshCall[]): boolean {
  const { scope } = desired;
  const deletedNetworks = new Set(before.flatMap((call) => (call.kind === 'deleteNetwork' ? [call.id] : [])));
  const left = ownNetworks.filter(({ id }) => !deletedNetworks.has(id));
  const ownResources = new Set(ownNetworks.flatMap(({ id, resources }) => resources.filter(({ description }) => deletedNetworks.has(id) || isOwnMarker(scope, description)).map((resource) => resource.id)));
  return (
    listed.policies.some(({ description, rules }) => !isOwnMarker(scope, description) && rules.some(({ sourceIds, destinationIds }) => sourceIds.includes(group.id) || destinationIds.includes(group.id))) ||
    listed.setupKeys.some(({ name, autoGroupIds }) => !isOwnMarker(scope, name) && autoGroupIds.includes(group.id)) ||
    group.resources.some(({ id }) => !ownResources.has(id)) ||
    left.some(({ routers }) => routers.some(({ peerGroupIds }) => peerGroupIds.includes(group.id) && !before.some((call) => call.kind === 'deleteRouter' && routers.some(({ id }) => id === call.id))))
  );
}

// Policies

function wantedPolicies({ desired, groupIds }: Situation): PolicySpec[] {
  if (desired.isDeleting) return [];
  const { scope } = desired;
  const site = siteGroupName(scope);
  const intraSite: PolicySpec = {
    name: intraSitePolicyName(scope),
    marker: policyMarker(scope, null),
    sources: [site],
    destinations: [site],
    isBidirectional: true,
    protocol: 'all',
    ports: [],
  };
  const ofSpec = desired.policies.map((policy): PolicySpec => ({
    name: sitePolicyName(scope, policy.name),
    marker: policyMarker(scope, policy.name),
    sources: [...new Set(policy.peers)].filter((name) => groupIds.has(name)),
    destinations: [site],
    isBidirectional: policy.direction === 'Both',
    protocol: policy.protocol,
    ports: policy.protocol === 'tcp' || policy.protocol === 'udp' ? [...new Set(policy.ports)].map(String) : [],
  }));
  // A policy without a source would be refused, and would let nobody in anyway.
  return [intraSite, ...ofSpec.filter(({ sources }) => sources.length > 0)];
}

function planPolicies(situation: Situation): MeshCall[] {
  const { desired, listed, groupIds } = situation;
  const own = listed.policies.filter(({ description }) => isOwnMarker(desired.scope, description));
  const wanted = wantedPolicies(situation);
  const kept = new Map(wanted.map((spec) => [spec, preferNamed(own.filter(({ description }) => description === spec.marker), spec.name)]));
  const keptIds = new Set([...kept.values()].flatMap((policy) => policy?.id ?? []));
  return [
    ...own.filter(({ id }) => !keptIds.has(id)).map(({ id, name }): MeshCall => ({ kind: 'deletePolicy', id, name })),
    ...wanted.flatMap((spec): MeshCall[] => {
      const policy = kept.get(spec);
      if (policy === undefined) return [{ kind: 'createPolicy', policy: spec }];
      return isAsWanted(policy, spec, groupIds) ? [] : [{ kind: 'updatePolicy', id: policy.id, policy: spec }];
    }),
  ];
}

function isAsWanted(policy: ListedPolicy, spec: PolicySpec, groupIds: ReadonlyMap<string, string>): boolean {
  const [rule, ...others] = policy.rules;
  if (rule === undefined || others.length > 0 || rule.hasOther || policy.postureCheckIds.length > 0) return false;
  const idsOf = (names: readonly string[]): string[] => names.map((name) => groupIds.get(name) ?? '');
  return (
    policy.name === spec.name &&
    policy.isEnabled &&
    rule.isEnabled &&
    rule.action === 'accept' &&
    rule.isBidirectional === spec.isBidirectional &&
    rule.protocol === spec.protocol &&
    hasSameElements(rule.ports, spec.ports) &&
    hasSameElements(rule.sourceIds, idsOf(spec.sources)) &&
    hasSameElements(rule.destinationIds, idsOf(spec.destinations))
  );
}

// Setup keys

/** Groups of the key of one host; those of others that do not exist are left out. */
function keyGroups({ desired, groupIds }: Situation, host: DesiredHost): string[] {
  const { scope, extraGroups } = desired;
  return [siteGroupName(scope), hostGroupName(scope, host.hostId), ...new Set(extraGroups.filter((name) => groupIds.has(name)))];
}

function keptKeyIds(situation: Situation): Map<DesiredHost, string> {
  const { desired, listed, groupIds } = situation;
  const kept = new Map<DesiredHost, string>();
  for (const host of desired.hosts) {
    const groups = keyGroups(situation, host).map((name) => groupIds.get(name) ?? '');
    const key = listed.setupKeys.find(({ id, name }) => id === host.key.heldId && name === setupKeyName(desired.scope, host.hostId));
    if (key?.isValid === true && hasSameElements(key.autoGroupIds, groups)) kept.set(host, key.id);
  }
  return kept;
}

function deleteSetupKeys(situation: Situation): MeshCall[] {
  const { desired, listed } = situation;
  const kept = new Set(keptKeyIds(situation).values());
  return listed.setupKeys
    .filter(({ id, name }) => isOwnMarker(desired.scope, name) && !kept.has(id))
    .map(({ id, name }) => ({ kind: 'deleteSetupKey', id, name }));
}

function createSetupKeys(situation: Situation): MeshCall[] {
  const { desired } = situation;
  const kept = keptKeyIds(situation);
  return desired.hosts
    .filter((host) => !desired.isDeleting && host.key.isWanted && !kept.has(host))
    .map((host) => ({ kind: 'createSetupKey', hostId: host.hostId, name: setupKeyName(desired.scope, host.hostId), groups: keyGroups(situation, host), ttlSeconds: desired.setupKeyTtlSeconds }));
}

// Peers

function deletePeers({ leavingPeers }: Situation): MeshCall[] {
  return leavingPeers.map(({ id, name }) => ({ kind: 'deletePeer', id, name }));
}

function renamePeers({ desired, hostPeers }: Situation): MeshCall[] {
  return desired.hosts.flatMap((host): MeshCall[] => {
    const own = hostPeers.get(host)?.own ?? null;
    return own === null || own.name === host.peerName ? [] : [{ kind: 'renamePeer', id: own.id, name: host.peerName, settings: own.settings }];
  });
}

// Networks: one for each host, because every router of a network carries all of its resources.

function planNetworks(situation: Situation): MeshCall[] {
  const { desired, ownNetworks } = situation;
  const hosts = desired.isDeleting ? [] : desired.hosts.filter(({ subnets }) => subnets.length > 0);
  const kept = new Map(hosts.map((host) => [host, networkOf(situation, host)]));
  const keptIds = new Set([...kept.values()].flatMap((network) => network?.id ?? []));
  return [
    ...ownNetworks.filter(({ id }) => !keptIds.has(id)).flatMap((network) => removeNetwork(situation, network)),
    ...hosts.flatMap((host) => planHostNetwork(situation, host, kept.get(host))),
  ];
}

function networkOf({ desired, ownNetworks }: Situation, host: DesiredHost): ListedNetwork | undefined {
  const marker = hostMarker(desired.scope, host.hostId);
  return preferNamed(ownNetworks.filter(({ description }) => description === marker), hostNetworkName(desired.scope, host.hostId));
}

/** A network goes with all that is in it, so one that holds somebody else's parts loses ours only. */
function removeNetwork({ desired, ownGroupIds }: Situation, network: ListedNetwork): MeshCall[] {
  const resources = network.resources.filter(({ description }) => isOwnMarker(desired.scope, description));
  const routers = network.routers.filter(({ peerGroupIds }) => isOwnRouter(peerGroupIds, ownGroupIds));
  const hasOthers = resources.length < network.resources.length || routers.length < network.routers.length;
  if (!hasOthers) return [{ kind: 'deleteNetwork', id: network.id, name: network.name }];
  return [
    ...routers.map(({ id }): MeshCall => ({ kind: 'deleteRouter', networkId: network.id, id })),
    ...resources.map(({ id, name }): MeshCall => ({ kind: 'deleteResource', networkId: network.id, id, name })),
  ];
}

function planHostNetwork(situation: Situation, host: DesiredHost, network: ListedNetwork | undefined): MeshCall[] {
  const { scope } = situation.desired;
  const name = hostNetworkName(scope, host.hostId);
  const marker = hostMarker(scope, host.hostId);
  const head: MeshCall[] = [];
  if (network === undefined) head.push({ kind: 'createNetwork', name, marker });
  else if (network.name !== name) head.push({ kind: 'updateNetwork', id: network.id, name, marker });
  return [...head, ...planResources(situation, host, network), ...planRouters(situation, host, network)];
}

function planResources({ desired, groupIds }: Situation, host: DesiredHost, network: ListedNetwork | undefined): MeshCall[] {
  const { scope } = desired;
  const site = siteGroupName(scope);
  const marker = hostMarker(scope, host.hostId);
  const own = (network?.resources ?? []).filter(({ description }) => isOwnMarker(scope, description));
  const wanted = [...new Set(host.subnets)].map((subnet): ResourceSpec => ({ name: subnetResourceName(scope, host.hostId, subnet), marker, address: subnet, groups: [site] }));
  const kept = new Map(wanted.map((spec) => [spec, own.find(({ name, description }) => name === spec.name && description === spec.marker)]));
  const keptIds = new Set([...kept.values()].flatMap((resource) => resource?.id ?? []));
  const networkName = hostNetworkName(scope, host.hostId);
  return [
    ...own.filter(({ id }) => !keptIds.has(id)).map(({ id, name }): MeshCall => ({ kind: 'deleteResource', networkId: network?.id ?? '', id, name })),
    ...wanted.flatMap((resource): MeshCall[] => {
      const found = kept.get(resource);
      if (found === undefined) return [{ kind: 'createResource', network: networkName, networkId: network?.id ?? null, resource }];
      const isSame = found.address === resource.address && found.isEnabled && hasSameElements(found.groupIds, [groupIds.get(site) ?? '']);
      return isSame ? [] : [{ kind: 'updateResource', networkId: network?.id ?? '', id: found.id, resource }];
    }),
  ];
}

function planRouters({ desired, groupIds, ownGroupIds }: Situation, host: DesiredHost, network: ListedNetwork | undefined): MeshCall[] {
  const { scope } = desired;
  const peerGroup = hostGroupName(scope, host.hostId);
  const router: RouterSpec = { peerGroup, metric: routerMetric };
  const own = (network?.routers ?? []).filter(({ peerGroupIds }) => isOwnRouter(peerGroupIds, ownGroupIds));
  const kept = own.find(({ peerGroupIds }) => hasSameElements(peerGroupIds, [groupIds.get(peerGroup) ?? '']));
  const others = own.filter((other) => other !== kept).map(({ id }): MeshCall => ({ kind: 'deleteRouter', networkId: network?.id ?? '', id }));
  if (kept === undefined) return [...others, { kind: 'createRouter', network: hostNetworkName(scope, host.hostId), networkId: network?.id ?? null, router }];
  const isSame = kept.metric === routerMetric && kept.isMasquerading && kept.isEnabled;
  return isSame ? others : [...others, { kind: 'updateRouter', networkId: network?.id ?? '', id: kept.id, router }];
}

/** Routers have no name and no description: ours lead through our groups and nothing else. */
function isOwnRouter(peerGroupIds: readonly string[], ownGroupIds: ReadonlySet<string>): boolean {
  return peerGroupIds.length > 0 && peerGroupIds.every((id) => ownGroupIds.has(id));
}

/** Of several with the same marker, the one whose name is right; the others are duplicates. */
function preferNamed<T extends { readonly name: string }>(candidates: readonly T[], name: string): T | undefined {
  return candidates.find((candidate) => candidate.name === name) ?? candidates[0];
}

function hasSameElements(left: readonly string[], right: readonly string[]): boolean {
  const set = new Set(left);
  return set.size === new Set(right).size && right.every((element) => set.has(element));
}
