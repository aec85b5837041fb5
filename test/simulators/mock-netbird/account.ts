/**
 * The state of one simulated NetBird account and what each change does to it, in the real server's words: which names
 * are unique, what blocks a delete, what a peer gets when it registers. Knows nothing of HTTP.
 *
 * Invariants: an id is given once; a peer is in `All` and in the groups of its key; an object that is in use is
 * deleted only where the real server allows it.
 */

/** An answer that is an error: status and message as the real server gives them. */
export class Refusal extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

export interface ResourceReference {
  readonly id: string;
  readonly type: string;
}

export interface Group {
  readonly id: string;
  name: string;
  peers: string[];
  resources: ResourceReference[];
}

export interface SetupKey {
  readonly id: string;
  readonly secret: string;
  readonly name: string;
  readonly type: 'one-off' | 'reusable';
  readonly expiresAtMs: number;
  readonly usageLimit: number;
  readonly isEphemeral: boolean;
  autoGroups: string[];
  isRevoked: boolean;
  usedTimes: number;
  lastUsedMs: number;
  updatedAtMs: number;
}

export interface PolicyRule {
  readonly id: string;
  readonly name: string;
  readonly description: string;
  readonly enabled: boolean;
  readonly action: string;
  readonly bidirectional: boolean;
  readonly protocol: string;
  readonly ports: readonly string[];
  readonly port_ranges: readonly { start: number; end: number }[];
  readonly sources: readonly string[];
  readonly destinations: readonly string[];
  readonly sourceResource: ResourceReference | null;
  readonly destinationResource: ResourceReference | null;
}

export interface Policy {
  readonly id: string;
  readonly name: string;
  readonly description: string;
  readonly enabled: boolean;
  readonly postureChecks: readonly string[] | null;
  readonly rules: readonly PolicyRule[];
}

export interface Peer {
  readonly id: string;
  name: string;
  readonly hostname: string;
  readonly publicKey: string;
  readonly ip: string;
  readonly label: string;
  readonly createdAtMs: number;
  readonly isEphemeral: boolean;
  isConnected: boolean;
  lastSeenMs: number;
  sshEnabled: boolean;
  loginExpirationEnabled: boolean;
  inactivityExpirationEnabled: boolean;
}

export interface NetworkResource {
  readonly id: string;
  readonly name: string;
  readonly description: string;
  readonly address: string;
  readonly type: string;
  readonly enabled: boolean;
  readonly groups: readonly string[];
}

export interface NetworkRouter {
  readonly id: string;
  readonly peer: string;
  readonly peer_groups: readonly string[];
  readonly metric: number;
  readonly masquerade: boolean;
  readonly enabled: boolean;
}

export interface Network {
  readonly id: string;
  name: string;
  description: string;
  readonly resources: Map<string, NetworkResource>;
  readonly routers: Map<string, NetworkRouter>;
}

/** What the account takes from outside. */
export interface AccountSources {
  readonly nowMs: () => number;
  /** 20 lower-case characters, never the same twice. */
  readonly nextId: () => string;
  /** The value of a setup key: an upper-case UUID in the real server. */
  readonly nextKey: () => string;
}

const domain = 'netbird.selfhosted';
const maskedCharacters = 4;

export class Account {
  readonly groups = new Map<string, Group>();
  readonly setupKeys = new Map<string, SetupKey>();
  readonly policies = new Map<string, Policy>();
  readonly peers = new Map<string, Peer>();
  readonly networks = new Map<string, Network>();
  readonly #sources: AccountSources;
  readonly #all: Group;
  #registrations = 0;

  /** As a fresh account: the group All, and the policy Default that lets everybody reach everybody. */
  constructor(sources: AccountSources) {
    this.#sources = sources;
    this.#all = { id: sources.nextId(), name: 'All', peers: [], resources: [] };
    this.groups.set(this.#all.id, this.#all);
    const rule = { name: 'Default', description: 'This is a default rule that allows connections between all the resources', enabled: true };
    this.savePolicy(null, {
      ...rule,
      source_posture_checks: null,
      rules: [{ ...rule, action: 'accept', bidirectional: true, protocol: 'all', sources: [this.#all.id], destinations: [this.#all.id] }],
    });
  }

  // Groups

  groupByName(name: string): Group {
    const group = [...this.groups.values()].filter((candidate) => candidate.name === name).sort((a, b) => b.peers.length - a.peers.length)[0];
    if (group === undefined) throw new Refusal(404, `group: ${name} not found`);
    return group;
  }

  group(id: string): Group {
    return found(this.groups.get(id), `group: ${id} not found`);
  }

  createGroup(input: { name: string; peers?: string[]; resources?: ResourceReference[] }): Group {
    if (input.name === '') throw new Refusal(422, "group name shouldn't be empty");
    if ([...this.groups.values()].some(({ name }) => name === input.name)) throw new Refusal(409, `group with name ${input.name} already exists`);
    const group: Group = { id: this.#sources.nextId(), name: input.name, peers: this.#knownPeers(input.peers), resources: input.resources ?? [] };
    this.groups.set(group.id, group);
    return group;
  }

  /** Members that the request does not name are taken out. */
  updateGroup(id: string, input: { name: string; peers?: string[]; resources?: ResourceReference[] }): Group {
    const group = this.group(id);
    if (group === this.#all) throw new Refusal(422, 'updating group ALL is not allowed');
    if (input.name === '') throw new Refusal(422, "group name shouldn't be empty");
    group.name = input.name;
    group.peers = this.#knownPeers(input.peers);
    group.resources = input.resources ?? [];
    return group;
  }

  /** A missing group is 400 here and 404 for every other kind. */
  deleteGroup(id: string): void {
    const group = this.groups.get(id);
    if (group === undefined) throw new Refusal(400, `group: ${id} not found`);
    if (group === this.#all) throw new Refusal(400, 'deleting group ALL is not allowed');
    const link = this.#linkOf(group);
    if (link !== null) throw new Refusal(400, `group has been linked to ${link}`);
    this.groups.delete(id);
  }

  #linkOf(group: Group): string | null {
    const resource = group.resources[0];
    if (resource !== undefined) return `network resource: ${resource.id}`;
    for (const policy of this.policies.values()) {
      if (policy.rules.some(({ sources, destinations }) => sources.includes(group.id) || destinations.includes(group.id))) return `policy: ${policy.name}`;
    }
    for (const key of this.setupKeys.values()) if (key.autoGroups.includes(group.id)) return `setup key: ${key.name}`;
    for (const network of this.networks.values()) {
      for (const router of network.routers.values()) if (router.peer_groups.includes(group.id)) return `network router: ${router.id}`;
    }
    return null;
  }

  #knownPeers(ids: readonly string[] | undefined): string[] {
    return [...new Set(ids ?? [])].filter((id) => this.peers.has(id));
  }

  // Setup keys

  createSetupKey(input: { name: string; type: string; expires_in: number; auto_groups: string[]; usage_limit: number; ephemeral?: boolean }): SetupKey {
    const { type } = input;
    if (type !== 'one-off' && type !== 'reusable') throw new Refusal(422, `unknown setup key type ${type}`);
    if (type === 'one-off' && input.usage_limit > 1) throw new Refusal(422, `usage_limit ${input.usage_limit} is not valid for a one-off setup key, which can be used once; use type reusable for a key that can be used more than once`);
    this.#checkAutoGroups(input.auto_groups);
    const nowMs = this.#sources.nowMs();
    const key: SetupKey = {
      id: this.#sources.nextId(),
      secret: this.#sources.nextKey(),
      name: input.name,
      type,
      expiresAtMs: input.expires_in === 0 ? Number.POSITIVE_INFINITY : nowMs + input.expires_in * 1000,
      usageLimit: type === 'one-off' ? 1 : input.usage_limit,
      isEphemeral: input.ephemeral ?? false,
      autoGroups: [...input.auto_groups],
      isRevoked: false,
      usedTimes: 0,
      lastUsedMs: 0,
      updatedAtMs: nowMs,
    };
    this.setupKeys.set(key.id, key);
    return key;
  }

  setupKey(id: string): SetupKey {
    return found(this.setupKeys.get(id), `setup key: ${id} not found`);
  }

  updateSetupKey(id: string, input: { revoked: boolean; auto_groups: string[] }): SetupKey {
    this.#checkAutoGroups(input.auto_groups);
    const key = this.setupKey(id);
    if (key.isRevoked && !input.revoked) throw new Refusal(422, "can't un-revoke a revoked setup key");
    key.isRevoked = input.revoked;
    key.autoGroups = [...input.auto_groups];
    key.updatedAtMs = this.#sources.nowMs();
    return key;
  }

  deleteSetupKey(id: string): void {
    this.setupKey(id);
    this.setupKeys.delete(id);
  }

  /** `valid`, `expired`, `revoked` or `overused`. */
  stateOf(key: SetupKey): string {
    if (this.#sources.nowMs() > key.expiresAtMs) return 'expired';
    if (key.isRevoked) return 'revoked';
    return key.usageLimit > 0 && key.usedTimes >= key.usageLimit ? 'overused' : 'valid';
  }

  #checkAutoGroups(ids: readonly string[]): void {
    for (const id of ids) {
      const group = this.groups.get(id);
      if (group === undefined) throw new Refusal(422, `invalid auto groups: group not found: ${id}`);
      if (group === this.#all) throw new Refusal(422, "invalid auto groups: can't add 'All' group to the setup key");
    }
  }

  // Policies

  policy(id: string): Policy {
    return found(this.policies.get(id), `policy: ${id} not found`);
  }

  /** Creates with id null. Names need not be unique; unknown groups are dropped without a word. */
  savePolicy(id: string | null, input: PolicyInput): Policy {
    if (input.name === '') throw new Refusal(422, "policy name shouldn't be empty");
    if (input.rules.length === 0) throw new Refusal(422, 'policy rules can not be empty');
    const existing = id === null ? null : this.policy(id);
    const policyId = existing?.id ?? this.#sources.nextId();
    const rules = input.rules.map((rule) => this.#rule(rule, policyId, existing));
    const policy: Policy = { id: policyId, name: input.name, description: input.description ?? '', enabled: input.enabled, postureChecks: input.source_posture_checks ?? null, rules };
    this.policies.set(policyId, policy);
    return policy;
  }

  #rule(rule: PolicyRuleInput, policyId: string, existing: Policy | null): PolicyRule {
    if (rule.id !== undefined && existing !== null && !existing.rules.some(({ id }) => id === rule.id)) throw new Refusal(422, `invalid rule id: ${rule.id}`);
    if ((rule.sources === undefined) === (rule.sourceResource === undefined) || (rule.destinations === undefined) === (rule.destinationResource === undefined)) {
      throw new Refusal(422, 'specify either sources or source resources and destinations or destination resources');
    }
    const ports = rule.ports ?? [];
    const ranges = rule.port_ranges ?? [];
    if (ports.length > 0 && ranges.length > 0) throw new Refusal(422, 'specify either individual ports or port ranges, not both');
    if (ports.some((port) => !/^\d+$/.test(port) || Number(port) < 1 || Number(port) > 65_535)) throw new Refusal(422, 'valid port value is in 1..65535 range');
    if ((rule.protocol === 'all' || rule.protocol === 'icmp') && ports.length + ranges.length > 0) throw new Refusal(422, 'for all or icmp protocol ports is not allowed');
    const known = (ids: readonly string[] | undefined): string[] => (ids ?? []).filter((id) => this.groups.has(id));
    return {
      id: existing !== null && rule.id !== undefined ? rule.id : policyId,
      name: rule.name,
      description: rule.description ?? '',
      enabled: rule.enabled,
      action: rule.action,
      bidirectional: rule.bidirectional,
      protocol: rule.protocol,
      ports,
      port_ranges: ranges,
      sources: known(rule.sources),
      destinations: known(rule.destinations),
      sourceResource: rule.sourceResource ?? null,
      destinationResource: rule.destinationResource ?? null,
    };
  }

  deletePolicy(id: string): void {
    this.policy(id);
    this.policies.delete(id);
  }

  // Peers

  peer(id: string): Peer {
    return found(this.peers.get(id), `peer not found: ${id}`);
  }

  groupsOf(peerId: string): Group[] {
    return [...this.groups.values()].filter(({ peers }) => peers.includes(peerId));
  }

  fqdn(peer: Peer): string {
    return `${peer.label}.${domain}`;
  }

  /** What `netbird up` does on the server. A peer with this public key logs in again; its groups stay. */
  register(input: { key: string | null; name: string; hostname: string; publicKey: string }): Peer {
    const again = this.peerByPublicKey(input.publicKey);
    if (again !== null) {
      again.isConnected = true;
      again.lastSeenMs = this.#sources.nowMs();
      return again;
    }
    const key = input.key === null ? null : ([...this.setupKeys.values()].find(({ secret }) => secret === input.key) ?? null);
    if (input.key !== null && key === null) throw new Refusal(404, 'setup key not found');
    if (key !== null && this.stateOf(key) !== 'valid') throw new Refusal(422, 'setup key is invalid');
    const nowMs = this.#sources.nowMs();
    if (key !== null) {
      key.usedTimes += 1;
      key.lastUsedMs = nowMs;
    }
    const peer: Peer = {
      id: this.#sources.nextId(),
      name: input.name,
      hostname: input.hostname,
      publicKey: input.publicKey,
      ip: this.#nextAddress(),
      label: this.#freeLabel(input.name),
      createdAtMs: nowMs,
      isEphemeral: key?.isEphemeral ?? false,
      isConnected: true,
      lastSeenMs: nowMs,
      sshEnabled: false,
      loginExpirationEnabled: false,
      inactivityExpirationEnabled: false,
    };
    this.peers.set(peer.id, peer);
    this.#all.peers.push(peer.id);
    for (const id of key?.autoGroups ?? []) this.groups.get(id)?.peers.push(peer.id);
    return peer;
  }

  peerByPublicKey(publicKey: string): Peer | null {
    return [...this.peers.values()].find((peer) => peer.publicKey === publicKey) ?? null;
  }

  updatePeer(id: string, input: { name: string; ssh_enabled: boolean; login_expiration_enabled: boolean; inactivity_expiration_enabled: boolean }): Peer {
    const peer = this.peer(id);
    if (input.name !== '') peer.name = input.name;
    peer.sshEnabled = input.ssh_enabled;
    peer.loginExpirationEnabled = input.login_expiration_enabled;
    peer.inactivityExpirationEnabled = input.inactivity_expiration_enabled;
    return peer;
  }

  deletePeer(id: string): void {
    this.peer(id);
    this.peers.delete(id);
    for (const group of this.groups.values()) group.peers = group.peers.filter((member) => member !== id);
  }

  #nextAddress(): string {
    this.#registrations += 1;
    return `100.92.${Math.floor(this.#registrations / 250)}.${(this.#registrations % 250) + 1}`;
  }

  #freeLabel(name: string): string {
    const label = name.toLowerCase().replaceAll(/[^a-z0-9-]/g, '-');
    const taken = new Set([...this.peers.values()].map((peer) => peer.label));
    for (let suffix = 0; ; suffix += 1) {
      const candidate = suffix === 0 ? label : `${label}-${suffix}`;
      if (!taken.has(candidate)) return candidate;
    }
  }

  // Networks

  network(id: string): Network {
    return found(this.networks.get(id), `network: ${id} not found`);
  }

  createNetwork(input: { name: string; description?: string }): Network {
    const network: Network = { id: this.#sources.nextId(), name: input.name, description: input.description ?? '', resources: new Map(), routers: new Map() };
    this.networks.set(network.id, network);
    return network;
  }

  updateNetwork(id: string, input: { name: string; description?: string }): Network {
    const network = this.network(id);
    network.name = input.name;
    network.description = input.description ?? '';
    return network;
  }

  /** Resources and routers go with it. */
  deleteNetwork(id: string): void {
    const network = this.network(id);
    for (const resourceId of network.resources.keys()) this.#forgetResource(resourceId);
    this.networks.delete(id);
  }

  resource(networkId: string, id: string): NetworkResource {
    return found(this.network(networkId).resources.get(id), `network resource: ${id} not found`);
  }

  /** Resource names are unique in the account. */
  saveResource(networkId: string, id: string | null, input: ResourceInput): NetworkResource {
    const network = this.network(networkId);
    if (id !== null) this.resource(networkId, id);
    const others = [...this.networks.values()].flatMap(({ resources }) => [...resources.values()]).filter((other) => other.id !== id);
    if (others.some(({ name }) => name === input.name)) {
      throw new Refusal(422, id === null ? `resource with name ${input.name} already exists` : 'new resource name already exists');
    }
    for (const groupId of input.groups) this.group(groupId);
    const [address, type] = classify(input.address);
    const resource: NetworkResource = { id: id ?? this.#sources.nextId(), name: input.name, description: input.description ?? '', address, type, enabled: input.enabled, groups: [...input.groups] };
    this.#forgetResource(resource.id);
    network.resources.set(resource.id, resource);
    for (const groupId of input.groups) this.group(groupId).resources.push({ id: resource.id, type });
    return resource;
  }

  deleteResource(networkId: string, id: string): void {
    this.resource(networkId, id);
    this.#forgetResource(id);
    this.network(networkId).resources.delete(id);
  }

  #forgetResource(id: string): void {
    for (const group of this.groups.values()) group.resources = group.resources.filter((resource) => resource.id !== id);
  }

  router(networkId: string, id: string): NetworkRouter {
    return found(this.network(networkId).routers.get(id), `network router: ${id} not found`);
  }

  /** A new router is enabled whatever the request says. */
  saveRouter(networkId: string, id: string | null, input: RouterInput): NetworkRouter {
    const network = this.network(networkId);
    if (id !== null) this.router(networkId, id);
    const peer = input.peer ?? '';
    const groups = input.peer_groups ?? [];
    if (peer !== '' && groups.length > 0) throw new Refusal(400, 'peer and peer_groups cannot be set at the same time');
    if (peer === '' && groups.length === 0) throw new Refusal(400, 'either peer or peer_groups must be provided');
    const router: NetworkRouter = { id: id ?? this.#sources.nextId(), peer, peer_groups: groups, metric: input.metric, masquerade: input.masquerade, enabled: id === null ? true : input.enabled };
    network.routers.set(router.id, router);
    return router;
  }

  deleteRouter(networkId: string, id: string): void {
    this.router(networkId, id);
    this.network(networkId).routers.delete(id);
  }

  /** Ids of the policies that lead to a resource of the network. */
  policiesOf(network: Network): string[] {
    const groups = new Set([...network.resources.values()].flatMap((resource) => resource.groups));
    return [...this.policies.values()].filter(({ rules }) => rules.some(({ destinations }) => destinations.some((id) => groups.has(id)))).map(({ id }) => id);
  }
}

export interface PolicyRuleInput {
  readonly id?: string;
  readonly name: string;
  readonly description?: string;
  readonly enabled: boolean;
  readonly action: string;
  readonly bidirectional: boolean;
  readonly protocol: string;
  readonly ports?: readonly string[];
  readonly port_ranges?: readonly { start: number; end: number }[];
  readonly sources?: readonly string[];
  readonly destinations?: readonly string[];
  readonly sourceResource?: ResourceReference;
  readonly destinationResource?: ResourceReference;
}

export interface PolicyInput {
  readonly name: string;
  readonly description?: string;
  readonly enabled: boolean;
  readonly source_posture_checks?: readonly string[] | null;
  readonly rules: readonly PolicyRuleInput[];
}

export interface ResourceInput {
  readonly name: string;
  readonly description?: string;
  readonly address: string;
  readonly enabled: boolean;
  readonly groups: readonly string[];
}

export interface RouterInput {
  readonly peer?: string;
  readonly peer_groups?: readonly string[];
  readonly metric: number;
  readonly masquerade: boolean;
  readonly enabled: boolean;
}

function found<T>(value: T | undefined, message: string): T {
  if (value === undefined) throw new Refusal(404, message);
  return value;
}

function classify(address: string): [string, string] {
  if (/^\d+\.\d+\.\d+\.\d+\/\d+$/.test(address)) return [address, address.endsWith('/32') ? 'host' : 'subnet'];
  if (/^\d+\.\d+\.\d+\.\d+$/.test(address)) return [`${address}/32`, 'host'];
  return [address, 'domain'];
}

/** A key as the list shows it. */
export function maskedKey(secret: string): string {
  return secret.slice(0, 5) + '*'.repeat(maskedCharacters);
}
