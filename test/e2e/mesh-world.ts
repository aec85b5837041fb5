/**
 * The whole product with a mesh: the world of these tests, a NetBird account of mock-netbird, and for each machine a
 * `netbird` command of its own. Owns how the account is looked at; what should be in it is the test's.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { buildMockNetbird } from '#hack/build-mock-netbird.ts';
import type { FaultServer } from '#test/harness/fault-server.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { until } from '#test/harness/until.ts';
import { startMockNetbird, type MockNetbird } from '#test/simulators/mock-netbird/server.ts';
import { createWorld, type AgentExtras, type World } from './world.ts';

const meshToken = 'nbp_e2e_token_canary_0123456789';
const meshSecret = 'netbird';

interface Named {
  readonly id: string;
  readonly name: string;
}

/** The account in the words of the API; only what these tests look at is typed. */
export interface AccountView {
  readonly groups: readonly (Named & { readonly peers: readonly Named[] | null; readonly resources: readonly { readonly id: string; readonly type: string }[] | null })[];
  readonly policies: readonly (Named & { readonly description?: string; readonly enabled: boolean; readonly rules: readonly PolicyRuleView[] })[];
  readonly setupKeys: readonly (Named & { readonly state: string })[];
  readonly peers: readonly (Named & { readonly ip: string; readonly groups: readonly Named[]; readonly connected: boolean })[];
  readonly networks: readonly (Named & { readonly resources: readonly (Named & { readonly address: string; readonly enabled: boolean })[]; readonly routers: readonly RouterView[] })[];
}

interface RouterView {
  readonly id: string;
  readonly peer_groups?: readonly string[];
  readonly metric: number;
  readonly masquerade: boolean;
  readonly enabled: boolean;
}

export interface PolicyRuleView {
  readonly enabled: boolean;
  readonly bidirectional: boolean;
  readonly sources: readonly Named[] | null;
  readonly destinations: readonly Named[] | null;
}

/** What the account's policies let one peer reach: names of peers. */
export function reachableFrom(view: AccountView, peer: string): readonly string[] {
  const groupsOf = (name: string): readonly string[] => view.peers.find((candidate) => candidate.name === name)?.groups.map(({ id }) => id) ?? [];
  const has = (side: readonly Named[] | null, name: string): boolean => (side ?? []).some(({ id }) => groupsOf(name).includes(id));
  const rules = view.policies.filter(({ enabled }) => enabled).flatMap((policy) => policy.rules.filter(({ enabled }) => enabled));
  const isAllowed = (other: string): boolean =>
    rules.some((rule) => (has(rule.sources, peer) && has(rule.destinations, other)) || (rule.bidirectional && has(rule.sources, other) && has(rule.destinations, peer)));
  return view.peers.map(({ name }) => name).filter((name) => name !== peer && isAllowed(name)).toSorted();
}

/**
 * Names of the peers that an address leads to for one peer, as a client of NetBird works it out: resources that hold the
 * address, that an enabled policy lets it reach, through the routers of their network that are connected.
 */
export function routesTo(view: AccountView, peer: string, address: string): readonly string[] {
  const groupsOf = (name: string): readonly string[] => view.peers.find((candidate) => candidate.name === name)?.groups.map(({ id }) => id) ?? [];
  const rules = view.policies.filter(({ enabled }) => enabled).flatMap((policy) => policy.rules.filter(({ enabled }) => enabled));
  const reached = new Set(rules.filter(({ sources }) => (sources ?? []).some(({ id }) => groupsOf(peer).includes(id))).flatMap(({ destinations }) => (destinations ?? []).map(({ id }) => id)));
  const isReached = (resource: string): boolean => view.groups.some((group) => reached.has(group.id) && (group.resources ?? []).some(({ id }) => id === resource));
  return view.networks
    .filter(({ resources }) => resources.some((resource) => resource.enabled && isReached(resource.id) && isInside(address, resource.address)))
    .flatMap(({ routers }) => routers.filter(({ enabled }) => enabled).flatMap((router) => router.peer_groups ?? []))
    .flatMap((group) => view.peers.filter(({ name, connected }) => connected && groupsOf(name).includes(group)).map(({ name }) => name))
    .toSorted();
}

function isInside(address: string, cidr: string): boolean {
  const [network = '', length = '32'] = cidr.split('/');
  const number = (text: string): number => text.split('.').reduce((sum, octet) => sum * 256 + Number(octet), 0);
  const size = 2 ** (32 - Number(length));
  return Math.floor(number(address) / size) === Math.floor(number(network) / size);
}

export interface MeshWorld {
  readonly world: World;
  readonly mock: MockNetbird;
  /** `mesh` of a Site spec. */
  meshSpec(changes?: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>>;
  writeToken(token: string): Promise<void>;
  /** Writes the right token. */
  restoreToken(): Promise<void>;
  readonly secretPath: string;
  /** A request to the management API, as its administrator. */
  api(method: string, path: string, body?: unknown): Promise<unknown>;
  /** All objects of the account, by the API; never counted by {@link requestCount}. */
  account(): Promise<AccountView>;
  /** Requests of everybody but the test, since the last call of `resetRequests`. */
  requestCount(): number;
  resetRequests(): void;
  /** Daemon directory of the machine's netbird. */
  daemon(machine: string): string;
  /** Waits until the account and what is shown agree with `isIt`. */
  untilAccount(what: string, isIt: (view: AccountView) => boolean, timeoutMs?: number): Promise<AccountView>;
  /** Names of what n-kudo made: groups, policies, keys, networks. */
  ownNames(view: AccountView): readonly string[];
}

export async function createMeshWorld(options: { readonly faults?: FaultServer; readonly controllerEnvironment?: Readonly<Record<string, string>>; readonly agent?: (machine: string) => AgentExtras } = {}): Promise<MeshWorld> {
  const scope = fileScope();
  const mock = await startMockNetbird({ tokens: [meshToken] });
  scope.defer(() => mock.close());
  const { netbird } = await buildMockNetbird();
  const daemons = scope.makeDirectory('n');
  const daemon = (machine: string): string => {
    const directory = join(daemons, machine);
    mkdirSync(directory, { recursive: true });
    return directory;
  };
  const world = await createWorld({
    ...(options.faults === undefined ? {} : { faults: options.faults }),
    controllerEnvironment: {
      // Mechanism, not intervals: nothing is looked at again by itself within a test.
      NKUDO_MESH_RESYNC_INTERVAL_MS: '3600000',
      NKUDO_MESH_RETRY_MAX_MS: '2000',
      ...options.controllerEnvironment,
    },
    agent: (machine) => {
      const extras = options.agent?.(machine) ?? {};
      return { ...extras, args: ['--netbird', netbird, ...(extras.args ?? [])], environment: { MOCK_NETBIRD_STATE: daemon(machine), NKUDO_MESH_POLL_MS: '250', ...extras.environment } };
    },
  });
  let testRequests = 0;
  let mark = 0;
  const api: MeshWorld['api'] = async (method, path, body) => {
    testRequests += 1;
    const response = await fetch(`${mock.managementUrl}${path}`, {
      method,
      headers: { authorization: `Token ${meshToken}`, 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    if (!response.ok) throw new Error(`${method} ${path} was answered with ${response.status}: ${await response.text()}`);
    return response.json();
  };
  const secretPath = `/api/v1/namespaces/${world.namespace}/secrets/${meshSecret}`;
  const writeToken: MeshWorld['writeToken'] = async (token) => {
    await world.kubernetes.client.apply(secretPath, {
      apiVersion: 'v1', kind: 'Secret', metadata: { name: meshSecret, namespace: world.namespace }, data: { token: Buffer.from(token).toString('base64') },
    });
  };
  const account: MeshWorld['account'] = async () => {
    const response = await fetch(`${mock.adminUrl}/account`);
    return (await response.json()) as AccountView; // The simulator's own answer.
  };
  const untilAccount: MeshWorld['untilAccount'] = async (what, isIt, timeoutMs = 60_000) => {
    let view = await account();
    await until(async () => {
      view = await account();
      return isIt(view);
    }, what, { timeoutMs });
    return view;
  };
  await writeToken(meshToken);
  return {
    world,
    mock,
    meshSpec: (changes = {}) => ({ mesh: { provider: 'NetBird', managementURL: mock.managementUrl, secretRef: { name: meshSecret }, ...changes } }),
    writeToken,
    restoreToken: () => writeToken(meshToken),
    secretPath,
    api,
    account,
    requestCount: () => mock.requests().length - testRequests - mark,
    resetRequests: () => {
      mark = mock.requests().length - testRequests;
    },
    daemon,
    untilAccount,
    ownNames: (view) => [...view.groups, ...view.policies, ...view.setupKeys, ...view.networks].map(({ name }) => name).filter((name) => /^nkudo[-:]/.test(name)).toSorted(),
  };
}
