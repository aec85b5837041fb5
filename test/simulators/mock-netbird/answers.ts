/**
 * What the account's objects look like in the answers of the API, with the null arrays and masked keys of the real
 * server. Pure.
 */
import { maskedKey, type Account, type Group, type Network, type NetworkResource, type NetworkRouter, type Peer, type Policy, type PolicyRule, type SetupKey } from './account.ts';

const version = '0.77.1';
const isoOf = (ms: number): string => new Date(ms).toISOString();
/** What Go prints for a time that was never set. */
const never = '0001-01-01T00:00:00Z';
/** The end of a key that never ends. */
const farFuture = '9999-12-31T23:59:59Z';

/** Go encodes a slice that nothing was appended to as null. */
const nullWhenEmpty = <T>(list: readonly T[]): readonly T[] | null => (list.length === 0 ? null : list);

export function groupMinimum(group: Group): object {
  return { id: group.id, name: group.name, peers_count: group.peers.length, resources_count: group.resources.length, issued: 'api' };
}

export function groupAnswer(account: Account, group: Group): object {
  const peers = group.peers.flatMap((id) => {
    const peer = account.peers.get(id);
    return peer === undefined ? [] : [{ id: peer.id, name: peer.name }];
  });
  return { ...groupMinimum(group), peers_count: peers.length, peers: nullWhenEmpty(peers), resources: nullWhenEmpty(group.resources) };
}

/** `key` is the whole value only in the answer that made it. */
export function setupKeyAnswer(account: Account, key: SetupKey, isNew = false): object {
  const state = account.stateOf(key);
  return {
    id: key.id,
    key: isNew ? key.secret : maskedKey(key.secret),
    name: key.name,
    expires: Number.isFinite(key.expiresAtMs) ? isoOf(key.expiresAtMs) : farFuture,
    type: key.type,
    valid: state === 'valid',
    revoked: key.isRevoked,
    used_times: key.usedTimes,
    last_used: key.lastUsedMs === 0 ? never : isoOf(key.lastUsedMs),
    state,
    auto_groups: key.autoGroups,
    updated_at: isoOf(key.updatedAtMs),
    usage_limit: key.usageLimit,
    ephemeral: key.isEphemeral,
    allow_extra_dns_labels: false,
  };
}

/** A source group that an earlier rule of the same policy named already is left out, as the real server does. */
export function policyAnswer(account: Account, policy: Policy): object {
  const seen = new Set<string>();
  return {
    id: policy.id,
    name: policy.name,
    description: policy.description,
    enabled: policy.enabled,
    source_posture_checks: policy.postureChecks,
    rules: policy.rules.map((rule) => ruleAnswer(account, rule, seen)),
  };
}

function ruleAnswer(account: Account, rule: PolicyRule, seen: Set<string>): object {
  const known = (ids: readonly string[]): Group[] => ids.flatMap((id) => account.groups.get(id) ?? []);
  const sources = known(rule.sources).filter(({ id }) => !seen.has(id));
  for (const id of [...rule.sources, ...rule.destinations]) seen.add(id);
  return {
    id: rule.id,
    name: rule.name,
    description: rule.description,
    enabled: rule.enabled,
    bidirectional: rule.bidirectional,
    protocol: rule.protocol,
    action: rule.action,
    ...(rule.ports.length === 0 ? {} : { ports: rule.ports }),
    ...(rule.port_ranges.length === 0 ? {} : { port_ranges: rule.port_ranges }),
    ...(rule.sourceResource === null ? {} : { sourceResource: rule.sourceResource }),
    ...(rule.destinationResource === null ? {} : { destinationResource: rule.destinationResource }),
    sources: nullWhenEmpty(sources.map(groupMinimum)),
    destinations: nullWhenEmpty(known(rule.destinations).map(groupMinimum)),
  };
}

/** The API has no public key, and `hostname` is the operating system's, not what `--hostname` gave. */
export function peerAnswer(account: Account, peer: Peer): object {
  return {
    id: peer.id,
    name: peer.name,
    created_at: isoOf(peer.createdAtMs),
    ip: peer.ip,
    connection_ip: '127.0.0.1',
    connected: peer.isConnected,
    last_seen: isoOf(peer.lastSeenMs),
    os: 'Debian GNU/Linux 12',
    kernel_version: '6.1.0',
    geoname_id: 0,
    version,
    groups: nullWhenEmpty(account.groupsOf(peer.id).map(groupMinimum)),
    ssh_enabled: peer.sshEnabled,
    user_id: '',
    hostname: peer.hostname,
    ui_version: '',
    dns_label: account.fqdn(peer),
    login_expiration_enabled: peer.loginExpirationEnabled,
    login_expired: false,
    last_login: isoOf(peer.createdAtMs),
    inactivity_expiration_enabled: peer.inactivityExpirationEnabled,
    approval_required: false,
    country_code: '',
    city_name: '',
    serial_number: '',
    extra_dns_labels: [],
    ephemeral: peer.isEphemeral,
    local_flags: { disable_dns: true, block_inbound: false, lazy_connection_enabled: true },
  };
}

export function accessiblePeerAnswer(account: Account, peer: Peer): object {
  return {
    id: peer.id,
    name: peer.name,
    ip: peer.ip,
    dns_label: account.fqdn(peer),
    user_id: '',
    os: 'Debian GNU/Linux 12',
    country_code: '',
    city_name: '',
    geoname_id: 0,
    connected: peer.isConnected,
    last_seen: isoOf(peer.lastSeenMs),
  };
}

/** Peers that a policy lets this one reach, in either direction. */
export function accessiblePeers(account: Account, peer: Peer): Peer[] {
  const mine = new Set(account.groupsOf(peer.id).map(({ id }) => id));
  const reachable = new Set<string>();
  for (const policy of account.policies.values()) {
    if (!policy.enabled) continue;
    for (const rule of policy.rules) {
      if (!rule.enabled || rule.action !== 'accept') continue;
      if (rule.sources.some((id) => mine.has(id))) for (const id of rule.destinations) reachable.add(id);
      if (rule.destinations.some((id) => mine.has(id))) for (const id of rule.sources) reachable.add(id);
    }
  }
  return [...account.peers.values()].filter((other) => other.id !== peer.id && account.groupsOf(other.id).some(({ id }) => reachable.has(id)));
}

export function networkAnswer(account: Account, network: Network): object {
  const routing = new Set<string>();
  for (const router of network.routers.values()) {
    if (router.peer !== '') routing.add(router.peer);
    for (const id of router.peer_groups) for (const peerId of account.groups.get(id)?.peers ?? []) routing.add(peerId);
  }
  return {
    id: network.id,
    name: network.name,
    description: network.description,
    routers: [...network.routers.keys()],
    resources: [...network.resources.keys()],
    routing_peers_count: routing.size,
    policies: account.policiesOf(network),
  };
}

export function resourceAnswer(account: Account, resource: NetworkResource): object {
  const { id, name, description, address, type, enabled } = resource;
  return { id, name, description, address, type, enabled, groups: nullWhenEmpty(resource.groups.flatMap((groupId) => account.groups.get(groupId) ?? []).map(groupMinimum)) };
}

export function routerAnswer(router: NetworkRouter): object {
  return { ...router, peer_groups: nullWhenEmpty(router.peer_groups) };
}
