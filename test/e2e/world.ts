/**
 * The whole product on one machine, as separate processes: a kube-apiserver of its own, Postgres, the
 * controller and agents with the simulator (or the real VMM, by NKUDO_TEST_HYPERVISOR). It owns
 * starting, crashing and starting again; what should be true afterwards is the test's.
 */
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { realpath } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { KubernetesObject, Watch } from '#hack/stack/kubernetes-client.ts';
import type { RunningProcess } from '#hack/stack/process.ts';
import type { FaultServer } from '#test/harness/fault-server.ts';
import { createControllerIdentity } from '#test/harness/controller-identity.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { useKubernetes, type TestKubernetes } from '#test/harness/kubernetes.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';
import { until } from '#test/harness/until.ts';
import type { PostgresAccess } from '#hack/stack/postgres.ts';
import { liveVmms, type LiveVmm } from './vmm-observer.ts';

const group = '/apis/nkudo.dev/v1alpha1';
export const siteName = 'shop-1';

/** A kind's plural, as in paths. */
export type Plural = 'sites' | 'hosts' | 'microvms' | 'enrollmenttokens' | 'agentrollouts';

export interface WorldOptions {
  /** A cluster of the file's own, for tests that kill it. */
  readonly postgres?: PostgresAccess;
  readonly faults?: FaultServer;
  /** How the controller reaches the database: through something that can be cut, say. */
  readonly databaseUrl?: (url: string) => string;
  /** Made already, instead of a new and migrated one. */
  readonly database?: TestDatabase;
  /** The controller's script at its next start; undefined: that of this source tree. */
  readonly controllerProgram?: () => string | undefined;
  /** Added to the controller's environment. */
  readonly controllerEnvironment?: Readonly<Record<string, string>>;
  /** Added to what the agent of that machine is started with. */
  readonly agent?: (machine: string) => AgentExtras;
}

export interface AgentExtras {
  readonly args?: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  /** The agent's script, also for its commands; undefined: that of this source tree. */
  readonly program?: string | undefined;
  /** A program and its first arguments that run the agent, such as `ip netns exec NAME`. */
  readonly through?: readonly string[];
}

/** One agent's machine: its state directory and its process. */
export interface TestHost {
  readonly name: string;
  readonly stateDirectory: string;
  /** The present or last agent process. */
  agent(): RunningProcess;
  startAgent(): Promise<void>;
  /** SIGKILL to the agent alone. */
  crashAgent(): Promise<void>;
  /** SIGTERM. */
  stopAgent(): Promise<void>;
  vmms(): readonly LiveVmm[];
  /** Runs `nkudo-edge` with the state directory; never through a shell. */
  command(args: readonly string[]): Promise<{ readonly code: number; readonly output: string }>;
}

export interface World {
  readonly kubernetes: TestKubernetes;
  readonly database: TestDatabase;
  readonly namespace: string;
  /** Absolute path of the VMM program. */
  readonly hypervisor: string;
  /** Path of the test guest's kernel file. */
  readonly guest: string;
  controller(): RunningProcess;
  /** Addresses that the controller bound. */
  endpoints(): { readonly edge: string; readonly fleet: string; readonly api: string; readonly http: string };
  startController(): Promise<void>;
  crashController(): Promise<void>;
  stopController(): Promise<void>;
  /** Makes a Site and waits until it is Accepted. */
  createSite(name?: string, spec?: Readonly<Record<string, unknown>>): Promise<void>;
  /** Makes an EnrollmentToken and gives its text. */
  createToken(name: string, options?: { readonly site?: string; readonly hostName?: string; readonly ttl?: string }): Promise<string>;
  /** A machine that was not enrolled yet. */
  createMachine(name: string): TestHost;
  /** Enrolls the machine with a new token and starts its agent; waits until the Host is Ready. */
  addHost(name?: string, site?: string): Promise<TestHost>;
  path(plural: Plural, name?: string): string;
  get(plural: Plural, name: string): Promise<KubernetesObject>;
  watch(plural: Plural, name: string): Watch;
  applyMicroVM(name: string, spec?: Readonly<Record<string, unknown>>): Promise<KubernetesObject>;
  patchMicroVM(name: string, spec: Readonly<Record<string, unknown>>): Promise<KubernetesObject>;
  deleteObject(plural: Plural, name: string): Promise<void>;
  /** Resolves with the object once the condition has the status. */
  waitForCondition(plural: Plural, name: string, condition: { readonly type: string; readonly status: string; readonly reason?: string }): Promise<KubernetesObject>;
  waitUntil(plural: Plural, name: string, what: string, matches: (object: KubernetesObject) => boolean): Promise<KubernetesObject>;
  waitUntilGone(plural: Plural, name: string): Promise<void>;
}

/** A condition of an object, null when it has none of that type. */
export function conditionOf(object: KubernetesObject, type: string): { readonly status: string; readonly reason: string; readonly message: string } | null {
  const conditions = statusOf(object)['conditions'];
  if (!Array.isArray(conditions)) return null;
  return conditions.find((condition: { type: string }) => condition.type === type) ?? null;
}

/** The status as it is; empty when there is none. */
export function statusOf(object: KubernetesObject): Readonly<Record<string, unknown>> {
  return (object['status'] as Record<string, unknown> | undefined) ?? {}; // JSON of the API server.
}

/** The spec of a small microVM that boots the test guest and idles. */
export function microVMSpec(guest: string, changes: Readonly<Record<string, unknown>> = {}): Record<string, unknown> {
  return {
    siteRef: { name: siteName },
    cpu: { count: 1 },
    memory: { size: '64Mi' },
    boot: { kernel: { path: guest, cmdline: 'idle' } },
    terminationGracePeriod: '5s',
    restart: { initialBackoff: '100ms', maxBackoff: '2s', maxRetries: 20, window: '10m' },
    ...changes,
  };
}

export async function createWorld(options: WorldOptions = {}): Promise<World> {
  const scope = fileScope();
  const [kubernetes, database, programs, guests, simulator] = await Promise.all([
    useKubernetes({ exclusive: true }),
    options.database ?? useDatabase(options.postgres === undefined ? {} : { postgres: options.postgres }),
    scope.shared('programs'),
    scope.shared('guests'),
    scope.shared('simulator'),
  ]);
  const hypervisor = await realpath(process.env['NKUDO_TEST_HYPERVISOR'] ?? simulator);
  const namespace = await kubernetes.createNamespace('e2e');
  const controllerKubeconfig = await createControllerIdentity(kubernetes);
  const readyFile = join(scope.directory, 'controller-ready.json');
  const faultEnvironment = options.faults === undefined ? {} : { NKUDO_FAULT_SOCKET: options.faults.socketPath };
  const listen = { edge: '127.0.0.1:0', fleet: '127.0.0.1:0', http: '127.0.0.1:0' };
  const through = options.databaseUrl ?? ((url: string): string => url);
  let bound: { edge: string; fleet: string; api: string; http: string } | null = null;
  let controller: RunningProcess | null = null;

  const startController = async (): Promise<void> => {
    rmSync(readyFile, { force: true });
    const started = await scope.start({
      name: 'controller',
      command: programs.node,
      args: [options.controllerProgram?.() ?? programs.controller, 'serve'],
      environment: {
        KUBECONFIG: controllerKubeconfig,
        NKUDO_DATABASE_URL: through(database.appUrl),
        NKUDO_DATABASE_SYSTEM_URL: through(database.systemUrl),
        // A controller that comes back has to be where the agents look for it.
        NKUDO_EDGE_LISTEN: bound?.edge ?? listen.edge,
        NKUDO_FLEET_LISTEN: bound?.fleet ?? listen.fleet,
        NKUDO_HTTP_LISTEN: bound?.http ?? listen.http,
        NKUDO_API_LISTEN: '127.0.0.1:0',
        NKUDO_READY_FILE: readyFile,
        // One replica that restarts under its own name gets its Lease back at once.
        POD_NAME: 'controller-0',
        NKUDO_LOG_LEVEL: 'debug',
        ...faultEnvironment,
        ...options.controllerEnvironment,
      },
    });
    controller = started;
    let ended = false;
    void started.exited.then(() => (ended = true));
    await until(() => {
      if (ended) throw new Error('the controller ended');
      return existsSync(readyFile) || started.exitStatus() !== null;
    }, 'the controller to be ready');
    if (started.exitStatus() !== null) throw new Error(`the controller ended before it was ready:\n${started.lines().slice(-15).join('\n')}`);
    bound = JSON.parse(readFileSync(readyFile, 'utf8')) as typeof bound; // Written by the controller.
  };
  const runningController = (): RunningProcess => {
    if (controller === null) throw new Error('the controller was not started');
    return controller;
  };

  const path: World['path'] = (plural, name) => `${group}/namespaces/${namespace}/${plural}${name === undefined ? '' : `/${name}`}`;
  const kinds: Record<Plural, string> = { sites: 'Site', hosts: 'Host', microvms: 'MicroVM', enrollmenttokens: 'EnrollmentToken', agentrollouts: 'AgentRollout' };
  const apply = (plural: Plural, name: string, spec: unknown): Promise<KubernetesObject> =>
    kubernetes.client.apply(path(plural, name), { apiVersion: 'nkudo.dev/v1alpha1', kind: kinds[plural], metadata: { name, namespace }, spec });
  const watch: World['watch'] = (plural, name) => kubernetes.client.watch(path(plural, name));
  const waitUntil: World['waitUntil'] = async (plural, name, what, matches) => {
    const watching = watch(plural, name);
    try {
      return (await watching.waitFor((event) => event.type !== 'DELETED' && matches(event.object), { what: `${plural}/${name}: ${what}` })).object;
    } finally {
      watching.stop();
    }
  };
  const waitForCondition: World['waitForCondition'] = (plural, name, { type, status, reason }) =>
    waitUntil(plural, name, `${type}=${status} ${reason ?? ''}`, (object) => {
      const condition = conditionOf(object, type);
      return condition?.status === status && (reason === undefined || condition.reason === reason);
    });
  // Asked again and again: a watch that begins after the deletion never tells of it.
  const waitUntilGone: World['waitUntilGone'] = (plural, name) => until(async () => (await kubernetes.client.find(path(plural, name))) === null, `${plural}/${name} to be gone`);
  const createToken: World['createToken'] = async (name, token = {}) => {
    await apply('enrollmenttokens', name, {
      siteRef: { name: token.site ?? siteName },
      ...(token.hostName === undefined ? {} : { hostName: token.hostName }),
      ...(token.ttl === undefined ? {} : { ttl: token.ttl }),
    });
    const ready = await waitForCondition('enrollmenttokens', name, { type: 'Ready', status: 'True' });
    const secretName = String(statusOf(ready)['secretName']);
    const secret = await kubernetes.client.get(`/api/v1/namespaces/${namespace}/secrets/${secretName}`);
    return Buffer.from((secret['data'] as { token: string }).token, 'base64').toString('utf8'); // Shape of every Secret.
  };

  const createMachine: World['createMachine'] = (name) => {
    const stateDirectory = join(scope.makeDirectory('h'), 'state');
    mkdirSync(stateDirectory, { mode: 0o700 });
    let agent: RunningProcess | null = null;
    return {
      name,
      stateDirectory,
      agent: () => {
        if (agent === null) throw new Error(`the agent of ${name} was not started`);
        return agent;
      },
      startAgent: async () => {
        const extra = options.agent?.(name) ?? {};
        const [command, ...before] = [...(extra.through ?? []), programs.node];
        agent = await scope.start({
          name: `edge-${name}`,
          command,
          args: [...before, extra.program ?? programs.edge, 'run', '--state-dir', stateDirectory, '--hypervisor', hypervisor, '--log-level', 'debug', '--allow-path', dirname(guests.guest64), '--allow-path', scope.directory, ...(extra.args ?? [])],
          environment: { ...faultEnvironment, ...extra.environment },
        });
      },
      crashAgent: async () => void (await agent?.crash()),
      stopAgent: async () => void (await agent?.stop()),
      vmms: () => liveVmms(stateDirectory, hypervisor),
      command: async (args) => {
        const run = await scope.start({ name: `edge-${name}-command`, command: programs.node, args: [options.agent?.(name).program ?? programs.edge, ...args, '--state-dir', stateDirectory] });
        const end = await run.exited;
        return { code: end.code ?? -1, output: run.lines().join('\n') };
      },
    };
  };

  return {
    kubernetes,
    database,
    namespace,
    hypervisor,
    guest: guests.guest64,
    controller: runningController,
    endpoints: () => {
      if (bound === null) throw new Error('the controller was not started');
      return bound;
    },
    startController,
    crashController: async () => void (await runningController().crash()),
    stopController: async () => void (await runningController().stop()),
    createSite: async (name = siteName, spec = {}) => {
      await apply('sites', name, spec);
      await waitForCondition('sites', name, { type: 'Accepted', status: 'True' });
    },
    createToken,
    createMachine,
    addHost: async (name = 'edge-1', site = siteName) => {
      const machine = createMachine(name);
      const tokenFile = join(machine.stateDirectory, '..', 'token');
      writeFileSync(tokenFile, await createToken(`token-${name}`, { site }), { mode: 0o600 });
      chmodSync(tokenFile, 0o600);
      const enrolled = await machine.command(['enroll', '--token-file', tokenFile, '--name', name]);
      if (enrolled.code !== 0) throw new Error(`enroll ended with ${enrolled.code}:\n${enrolled.output}`);
      await machine.startAgent();
      await waitForCondition('hosts', name, { type: 'Ready', status: 'True' });
      return machine;
    },
    path,
    get: (plural, name) => kubernetes.client.get(path(plural, name)),
    watch,
    applyMicroVM: (name, changes = {}) => apply('microvms', name, microVMSpec(guests.guest64, changes)),
    patchMicroVM: async (name, spec) => {
      const answer = await kubernetes.client.request('PATCH', path('microvms', name), { spec }, 'application/merge-patch+json');
      if (answer.status !== 200) throw new Error(`patch of ${name}: ${answer.status} ${JSON.stringify(answer.body)}`);
      return answer.body as KubernetesObject; // The API server answered with the object.
    },
    deleteObject: async (plural, name) => {
      let answer = await kubernetes.client.request('DELETE', path(plural, name));
      // The policies on deletion read figures that lag behind the last microVM.
      if (answer.status === 403) await until(async () => (answer = await kubernetes.client.request('DELETE', path(plural, name))).status !== 403, `${plural}/${name} to be free to go`);
      if (answer.status >= 300 && answer.status !== 404) throw new Error(`delete of ${plural}/${name}: ${answer.status}`);
    },
    waitForCondition,
    waitUntil,
    waitUntilGone,
  };
}

