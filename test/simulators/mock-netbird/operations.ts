/**
 * The operations of the management API that the simulator serves, by method and path template of the description.
 * Bodies were checked against the description before a handler sees them. Users and tokens are kept as far as the
 * set-up of a service user needs them.
 */
import { randomUUID } from 'node:crypto';
import { Refusal, type Account, type PolicyInput, type ResourceInput, type RouterInput } from './account.ts';
import {
  accessiblePeerAnswer,
  accessiblePeers,
  groupAnswer,
  networkAnswer,
  peerAnswer,
  policyAnswer,
  resourceAnswer,
  routerAnswer,
  setupKeyAnswer,
} from './answers.ts';

export interface Call {
  readonly parameters: Readonly<Record<string, string>>;
  readonly query: URLSearchParams;
  /** Checked against the description; each handler knows the type that it prescribes. */
  readonly body: never;
}

type Handler = (account: Account, call: Call, users: Users) => unknown;

export interface Event {
  readonly id: string;
  readonly timestamp: string;
  readonly activity: string;
  readonly activity_code: string;
  readonly target_id: string;
}

interface Token {
  readonly id: string;
  readonly name: string;
  readonly secret: string;
  readonly createdAt: string;
  readonly expiresAt: string;
}

interface User {
  readonly id: string;
  readonly name: string;
  readonly role: string;
  readonly isServiceUser: boolean;
  readonly autoGroups: readonly string[];
  readonly tokens: Map<string, Token>;
}

/** Users, their tokens, and the audit events. */
export class Users {
  readonly byId = new Map<string, User>();
  readonly events: Event[] = [];
  isSetUp: boolean;
  readonly #nowMs: () => number;

  constructor(tokens: readonly string[], nowMs: () => number) {
    this.#nowMs = nowMs;
    this.isSetUp = tokens.length > 0;
    if (tokens.length > 0) {
      const owner = this.add({ name: 'owner', role: 'owner', isServiceUser: false, autoGroups: [] });
      for (const secret of tokens) this.addToken(owner.id, 'given', 365, secret);
    }
  }

  add(input: Omit<User, 'id' | 'tokens'>): User {
    const user: User = { ...input, id: randomUUID(), tokens: new Map() };
    this.byId.set(user.id, user);
    return user;
  }

  user(id: string): User {
    const user = this.byId.get(id);
    if (user === undefined) throw new Refusal(404, `user: ${id} not found`);
    return user;
  }

  addToken(userId: string, name: string, days: number, secret = `nbp_${randomUUID().replaceAll('-', '')}`): Token {
    const nowMs = this.#nowMs();
    const token: Token = { id: randomUUID(), name, secret, createdAt: new Date(nowMs).toISOString(), expiresAt: new Date(nowMs + days * 86_400_000).toISOString() };
    this.user(userId).tokens.set(token.id, token);
    return token;
  }

  /** The user that the token belongs to, or null. */
  ofToken(secret: string): User | null {
    return [...this.byId.values()].find(({ tokens }) => [...tokens.values()].some((token) => token.secret === secret)) ?? null;
  }

  record(activityCode: string, targetId: string): void {
    this.events.unshift({ id: String(this.events.length + 1), timestamp: new Date(this.#nowMs()).toISOString(), activity: activityCode, activity_code: activityCode, target_id: targetId });
  }
}

const empty = {};

/** Answered with 200 and the returned body, or with the thrown {@link Refusal}. */
export const operations: Readonly<Record<string, Handler>> = {
  'GET /api/instance': (_account, _call, users) => ({ setup_required: !users.isSetUp }),
  'POST /api/setup': (_account, { body }, users) => setUp(body, users),
  'GET /api/users/current': (_account, { query }, users) => userAnswer(users.user(query.get('caller') ?? ''), true),
  'GET /api/users': (_account, { query }, users) => [...users.byId.values()].filter(({ isServiceUser }) => query.get('service_user') !== 'true' || isServiceUser).map((user) => userAnswer(user)),
  'POST /api/users': (_account, { body }, users) => {
    const input = body as { name?: string; role: string; is_service_user: boolean; auto_groups: string[] };
    const user = users.add({ name: input.name ?? '', role: input.role, isServiceUser: input.is_service_user, autoGroups: input.auto_groups });
    users.record('service.user.create', user.id);
    return userAnswer(user);
  },
  'GET /api/users/{userId}/tokens': (_account, { parameters }, users) => [...users.user(id(parameters, 'userId')).tokens.values()].map((token) => tokenAnswer(token, id(parameters, 'userId'))),
  'POST /api/users/{userId}/tokens': (_account, { parameters, body }, users) => {
    const input = body as { name: string; expires_in: number };
    const token = users.addToken(id(parameters, 'userId'), input.name, input.expires_in);
    return { plain_token: token.secret, personal_access_token: tokenAnswer(token, id(parameters, 'userId')) };
  },
  'DELETE /api/users/{userId}/tokens/{tokenId}': (_account, { parameters }, users) => {
    if (!users.user(id(parameters, 'userId')).tokens.delete(id(parameters, 'tokenId'))) throw new Refusal(404, 'personal access token not found');
    return empty;
  },

  'GET /api/groups': (account, { query }) => {
    const name = query.get('name');
    const groups = name === null || name === '' ? [...account.groups.values()] : [account.groupByName(name)];
    return groups.map((group) => groupAnswer(account, group));
  },
  'POST /api/groups': (account, { body }, users) => {
    const group = account.createGroup(body);
    users.record('group.add', group.id);
    return groupAnswer(account, group);
  },
  'GET /api/groups/{groupId}': (account, { parameters }) => groupAnswer(account, account.group(id(parameters, 'groupId'))),
  'PUT /api/groups/{groupId}': (account, { parameters, body }) => groupAnswer(account, account.updateGroup(id(parameters, 'groupId'), body)),
  'DELETE /api/groups/{groupId}': (account, { parameters }, users) => {
    account.deleteGroup(id(parameters, 'groupId'));
    users.record('group.delete', id(parameters, 'groupId'));
    return empty;
  },

  'GET /api/setup-keys': (account) => [...account.setupKeys.values()].map((key) => setupKeyAnswer(account, key)),
  'POST /api/setup-keys': (account, { body }, users) => {
    const key = account.createSetupKey(body);
    users.record('setupkey.add', key.id);
    return setupKeyAnswer(account, key, true);
  },
  'GET /api/setup-keys/{keyId}': (account, { parameters }) => setupKeyAnswer(account, account.setupKey(id(parameters, 'keyId'))),
  'PUT /api/setup-keys/{keyId}': (account, { parameters, body }) => setupKeyAnswer(account, account.updateSetupKey(id(parameters, 'keyId'), body)),
  'DELETE /api/setup-keys/{keyId}': (account, { parameters }, users) => {
    account.deleteSetupKey(id(parameters, 'keyId'));
    users.record('setupkey.delete', id(parameters, 'keyId'));
    return empty;
  },

  'GET /api/policies': (account) => [...account.policies.values()].map((policy) => policyAnswer(account, policy)),
  'POST /api/policies': (account, { body }, users) => {
    const policy = account.savePolicy(null, body as PolicyInput);
    users.record('policy.add', policy.id);
    return policyAnswer(account, policy);
  },
  'GET /api/policies/{policyId}': (account, { parameters }) => policyAnswer(account, account.policy(id(parameters, 'policyId'))),
  'PUT /api/policies/{policyId}': (account, { parameters, body }) => policyAnswer(account, account.savePolicy(id(parameters, 'policyId'), body as PolicyInput)),
  'DELETE /api/policies/{policyId}': (account, { parameters }, users) => {
    account.deletePolicy(id(parameters, 'policyId'));
    users.record('policy.delete', id(parameters, 'policyId'));
    return empty;
  },

  'GET /api/peers': (account, { query }) =>
    [...account.peers.values()]
      .filter(({ name, ip }) => name.includes(query.get('name') ?? '') && ip.includes(query.get('ip') ?? ''))
      .map((peer) => ({ ...peerAnswer(account, peer), accessible_peers_count: accessiblePeers(account, peer).length })),
  'GET /api/peers/{peerId}': (account, { parameters }) => peerAnswer(account, account.peer(id(parameters, 'peerId'))),
  'PUT /api/peers/{peerId}': (account, { parameters, body }) => peerAnswer(account, account.updatePeer(id(parameters, 'peerId'), body)),
  'DELETE /api/peers/{peerId}': (account, { parameters }, users) => {
    account.deletePeer(id(parameters, 'peerId'));
    users.record('user.peer.delete', id(parameters, 'peerId'));
    return empty;
  },
  'GET /api/peers/{peerId}/accessible-peers': (account, { parameters }) =>
    accessiblePeers(account, account.peer(id(parameters, 'peerId'))).map((peer) => accessiblePeerAnswer(account, peer)),

  'GET /api/networks': (account) => [...account.networks.values()].map((network) => networkAnswer(account, network)),
  'POST /api/networks': (account, { body }, users) => {
    const network = account.createNetwork(body);
    users.record('network.create', network.id);
    return networkAnswer(account, network);
  },
  'GET /api/networks/{networkId}': (account, { parameters }) => networkAnswer(account, account.network(id(parameters, 'networkId'))),
  'PUT /api/networks/{networkId}': (account, { parameters, body }) => networkAnswer(account, account.updateNetwork(id(parameters, 'networkId'), body)),
  'DELETE /api/networks/{networkId}': (account, { parameters }, users) => {
    account.deleteNetwork(id(parameters, 'networkId'));
    users.record('network.delete', id(parameters, 'networkId'));
    return empty;
  },
  'GET /api/networks/{networkId}/resources': (account, { parameters }) => [...account.network(id(parameters, 'networkId')).resources.values()].map((resource) => resourceAnswer(account, resource)),
  'POST /api/networks/{networkId}/resources': (account, { parameters, body }) => resourceAnswer(account, account.saveResource(id(parameters, 'networkId'), null, body as ResourceInput)),
  'GET /api/networks/{networkId}/resources/{resourceId}': (account, { parameters }) => resourceAnswer(account, account.resource(id(parameters, 'networkId'), id(parameters, 'resourceId'))),
  'PUT /api/networks/{networkId}/resources/{resourceId}': (account, { parameters, body }) =>
    resourceAnswer(account, account.saveResource(id(parameters, 'networkId'), id(parameters, 'resourceId'), body as ResourceInput)),
  'DELETE /api/networks/{networkId}/resources/{resourceId}': (account, { parameters }) => {
    account.deleteResource(id(parameters, 'networkId'), id(parameters, 'resourceId'));
    return empty;
  },
  'GET /api/networks/{networkId}/routers': (account, { parameters }) => [...account.network(id(parameters, 'networkId')).routers.values()].map(routerAnswer),
  'POST /api/networks/{networkId}/routers': (account, { parameters, body }) => routerAnswer(account.saveRouter(id(parameters, 'networkId'), null, body as RouterInput)),
  'GET /api/networks/{networkId}/routers/{routerId}': (account, { parameters }) => routerAnswer(account.router(id(parameters, 'networkId'), id(parameters, 'routerId'))),
  'PUT /api/networks/{networkId}/routers/{routerId}': (account, { parameters, body }) => routerAnswer(account.saveRouter(id(parameters, 'networkId'), id(parameters, 'routerId'), body as RouterInput)),
  'DELETE /api/networks/{networkId}/routers/{routerId}': (account, { parameters }) => {
    account.deleteRouter(id(parameters, 'networkId'), id(parameters, 'routerId'));
    return empty;
  },
  'GET /api/networks/routers': (account) => [...account.networks.values()].flatMap(({ routers }) => [...routers.values()].map(routerAnswer)),

  'GET /api/events/audit': (_account, _call, users) => users.events.map((event) => ({ ...event, initiator_id: '', initiator_name: '', initiator_email: '', meta: {} })),
};

/** Operations that need no token. */
export const openOperations: ReadonlySet<string> = new Set(['GET /api/instance', 'POST /api/setup']);

function id(parameters: Call['parameters'], name: string): string {
  return parameters[name] ?? '';
}

function setUp(body: never, users: Users): object {
  if (users.isSetUp) throw new Refusal(412, 'setup already completed');
  const input = body as { email: string; name: string; create_pat?: boolean; pat_expire_in?: number };
  const owner = users.add({ name: input.name, role: 'owner', isServiceUser: false, autoGroups: [] });
  users.isSetUp = true;
  const token = input.create_pat === true ? users.addToken(owner.id, 'setup', input.pat_expire_in ?? 1) : null;
  return { user_id: owner.id, email: input.email, ...(token === null ? {} : { personal_access_token: token.secret }) };
}

function userAnswer(user: User, isCaller = false): object {
  return {
    id: user.id,
    email: '',
    name: user.name,
    role: user.role,
    status: 'active',
    auto_groups: user.autoGroups,
    is_current: isCaller,
    is_service_user: user.isServiceUser,
    is_blocked: false,
    pending_approval: false,
    issued: 'api',
  };
}

function tokenAnswer(token: Token, userId: string): object {
  return { id: token.id, name: token.name, expiration_date: token.expiresAt, created_by: userId, created_at: token.createdAt, last_used: token.createdAt };
}
