/**
 * The whole product for a test file: controller, agents and a hypervisor on the file's own API server and database.
 *
 * Owns how the programs are started (their command lines and environment are the contract with users) and how a test
 * finds what they left. What they should do is the tests' business.
 */
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { KubernetesObject } from '#hack/stack/kubernetes-client.ts';
import type { PostgresCluster } from '#hack/stack/postgres.ts';
import { tail, type ExitStatus, type RunningProcess } from '#hack/stack/process.ts';
import { useFaultServer, type FaultServer } from './fault-server.ts';
import { fileScope } from './file-scope.ts';
import { useKubernetes, type TestKubernetes } from './kubernetes.ts';
import { useDatabase, useDedicatedPostgres, type TestDatabase } from './postgres.ts';
import type { SharedServices } from './run-context.ts';
import { until } from './until.ts';

const group = '/apis/nkudo.dev/v1alpha1';
const enrollTimeoutMs = 60_000;
const readyTimeoutMs = 60_000;

/** What `useProduct` starts and with what. */
export interface ProductOptions {
  /** Environment of every controller and agent of the file, for example shorter intervals. */
  readonly environment?: Readonly<Record<string, string>>;
  /** Path of a hypervisor; the simulator when absent. */
  readonly hypervisor?: string;
  /** Further settings of the file's own Postgres. */
  readonly postgresSettings?: readonly string[];
}

/** Addresses that the controller bound. */
export interface ControllerAddresses {
  readonly edge: string;
  readonly fleet: string;
  readonly http: string;
}

/** A running controller that said it is ready. */
export interface Controller {
  readonly process: RunningProcess;
  readonly addresses: ControllerAddresses;
}

/** An enrolled machine: its state directory and name. */
export interface Machine {
  readonly hostName: string;
  readonly stateDirectory: string;
}

/** See the module's header. */
export interface Product {
  readonly kubernetes: TestKubernetes;
  readonly postgres: PostgresCluster;
  readonly database: TestDatabase;
  readonly faults: FaultServer;
  /** The tenant's namespace. */
  readonly namespace: string;
  readonly guests: SharedServices['guests'];
  readonly hypervisor: string;
  /** Path of a kind's collection in the tenant's namespace, or of one object in it. */
  path(plural: 'sites' | 'hosts' | 'microvms' | 'enrollmenttokens', name?: string): string;
  /** Starts a controller and waits for its ready file. Call again after a crash. */
  startController(environment?: Readonly<Record<string, string>>): Promise<Controller>;
  /** Applies a Site with this name. */
  createSite(name?: string): Promise<KubernetesObject>;
  /** Applies an EnrollmentToken and returns the token's text from its Secret. Needs a controller. */
  createToken(options?: { readonly site?: string; readonly hostName?: string; readonly ttl?: string }): Promise<string>;
  /** Runs `nkudo-edge enroll`. @throws when it fails, with what it printed. */
  enroll(hostName: string, token: string): Promise<Machine>;
  /** Starts `nkudo-edge run`; does not wait for the Host to be Ready. */
  startAgent(machine: Machine, environment?: Readonly<Record<string, string>>): Promise<RunningProcess>;
  /** Runs any `nkudo-edge` command to its end. */
  runEdge(args: readonly string[]): Promise<{ status: ExitStatus; lines: readonly string[] }>;
  /** Site, token, enrolled and running agent with a Ready Host, in one call. */
  startHost(hostName: string): Promise<{ machine: Machine; agent: RunningProcess }>;
  /** Waits on the watch until the condition has the status. */
  waitForCondition(path: string, condition: string, status?: 'True' | 'False' | 'Unknown', timeoutMs?: number): Promise<KubernetesObject>;
  /** Pids of the live VMM processes of a machine, found by looking at processes. */
  vmmPids(machine: Machine): number[];
}

/** API server, Postgres and fault server of the file's own, and builders for the rest. Starts no product program. */
export async function useProduct(options: ProductOptions = {}): Promise<Product> {
  const scope = fileScope();
  const [kubernetes, postgres, programs, guests, hypervisor, faults] = await Promise.all([
    useKubernetes({ exclusive: true }),
    useDedicatedPostgres({ settings: options.postgresSettings ?? [] }),
    scope.shared('programs'),
    scope.shared('guests'),
    options.hypervisor ?? scope.shared('simulator'),
    useFaultServer(),
  ]);
  const database = await useDatabase({ postgres });
  const namespace = await kubernetes.createNamespace('tenant');
  await kubernetes.client.apply('/api/v1/namespaces/nkudo-system', { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'nkudo-system' } });
  const common = { NKUDO_FAULT_SOCKET: faults.socketPath, ...options.environment };
  const path: Product['path'] = (plural, name) => `${group}/namespaces/${namespace}/${plural}${name === undefined ? '' : `/${name}`}`;

  const startController: Product['startController'] = async (environment = {}) => {
    const readyFile = join(scope.makeDirectory('c'), 'ready.json');
    const process = await scope.start({
      name: 'controller',
      command: programs.node,
      args: ['--enable-source-maps', programs.controller, 'serve'],
      environment: {
        ...common,
        KUBECONFIG: kubernetes.access.kubeconfig,
        NKUDO_DATABASE_URL: database.appUrl,
        NKUDO_DATABASE_SYSTEM_URL: database.systemUrl,
        NKUDO_EDGE_LISTEN: '127.0.0.1:0',
        NKUDO_FLEET_LISTEN: '127.0.0.1:0',
        NKUDO_HTTP_LISTEN: '127.0.0.1:0',
        NKUDO_NAMESPACE: 'nkudo-system',
        NKUDO_READY_FILE: readyFile,
        ...environment,
      },
    });
    return { process, addresses: await readAddresses(process, readyFile) };
  };

  const runEdge: Product['runEdge'] = async (args) => {
    const process = await scope.start({ name: `edge-${args[0] ?? ''}`, command: programs.node, args: [programs.edge, ...args], environment: common });
    const status = await process.exited;
    return { status, lines: process.lines() };
  };

  const enroll: Product['enroll'] = async (hostName, token) => {
    const stateDirectory = join(scope.makeDirectory('a'), 's');
    const tokenFile = `${stateDirectory}.token`;
    writeFileSync(tokenFile, token, { mode: 0o600 });
    const { status, lines } = await runEdge(['enroll', '--state-dir', stateDirectory, '--token-file', tokenFile, '--name', hostName]);
    rmSync(tokenFile);
    if (status.code !== 0) {
      throw new Error(`nkudo-edge enroll ended with ${status.signal ?? status.code}:\n${tail(lines)}`);
    }
    return { hostName, stateDirectory };
  };

  const startAgent: Product['startAgent'] = (machine, environment = {}) =>
    scope.start({
      name: `agent-${machine.hostName}`,
      command: programs.node,
      args: ['--enable-source-maps', programs.edge, 'run', '--state-dir', machine.stateDirectory, '--hypervisor', hypervisor],
      environment: { ...common, ...environment },
    });

  const waitForCondition: Product['waitForCondition'] = async (objectPath, condition, status = 'True', timeoutMs = readyTimeoutMs) => {
    const watch = kubernetes.client.watch(objectPath);
    try {
      const event = await watch.waitFor((seen) => seen.type !== 'DELETED' && conditionStatus(seen.object, condition) === status, {
        what: `condition ${condition}=${status}`,
        timeoutMs,
      });
      return event.object;
    } finally {
      watch.stop();
    }
  };

  const createSite: Product['createSite'] = (name = 'shop-1') =>
    kubernetes.client.apply(path('sites', name), { apiVersion: 'nkudo.dev/v1alpha1', kind: 'Site', metadata: { name }, spec: {} });

  const createToken: Product['createToken'] = async (token = {}) => {
    const name = `token-${Math.random().toString(36).slice(2, 10)}`;
    const tokenPath = path('enrollmenttokens', name);
    const spec = {
      siteRef: { name: token.site ?? 'shop-1' },
      ...(token.hostName === undefined ? {} : { hostName: token.hostName }),
      ...(token.ttl === undefined ? {} : { ttl: token.ttl }),
    };
    await kubernetes.client.apply(tokenPath, { apiVersion: 'nkudo.dev/v1alpha1', kind: 'EnrollmentToken', metadata: { name }, spec });
    const ready = await waitForCondition(tokenPath, 'Ready', 'True', enrollTimeoutMs);
    return readToken(await kubernetes.client.get(`/api/v1/namespaces/${namespace}/secrets/${secretName(ready)}`));
  };

  return {
    kubernetes,
    postgres,
    database,
    faults,
    namespace,
    guests,
    hypervisor,
    path,
    startController,
    createSite,
    createToken,
    enroll,
    startAgent,
    runEdge,
    waitForCondition,
    startHost: async (hostName) => {
      await createSite();
      const machine = await enroll(hostName, await createToken({ hostName }));
      const agent = await startAgent(machine);
      await waitForCondition(path('hosts', hostName), 'Ready');
      return { machine, agent };
    },
    vmmPids: (machine) => findVmms(machine.stateDirectory),
  };
}

/** Status of a condition of any object, or null when it has none of that type. */
export function conditionStatus(object: KubernetesObject, type: string): string | null {
  return readConditions(object).find((condition) => condition.type === type)?.status ?? null;
}

/** All conditions of an object. */
export function readConditions(object: KubernetesObject): readonly { type: string; status: string; reason: string; message: string }[] {
  const status = object['status'];
  const conditions: unknown = typeof status === 'object' && status !== null && 'conditions' in status ? status.conditions : [];
  // Parsing boundary: the CRDs' schema makes these fields required strings.
  return Array.isArray(conditions) ? (conditions as { type: string; status: string; reason: string; message: string }[]) : [];
}

function secretName(token: KubernetesObject): string {
  const status = token['status'];
  if (typeof status === 'object' && status !== null && 'secretName' in status && typeof status.secretName === 'string') {
    return status.secretName;
  }
  throw new Error(`EnrollmentToken ${token.metadata.name} is Ready and names no Secret`);
}

function readToken(secret: KubernetesObject): string {
  const data = secret['data'];
  if (typeof data === 'object' && data !== null && 'token' in data && typeof data.token === 'string') {
    return Buffer.from(data.token, 'base64').toString('utf8');
  }
  throw new Error(`Secret ${secret.metadata.name} has no key 'token'`);
}

/** The controller writes the file by rename; it has no other event, and its end is a failure to report. */
async function readAddresses(process: RunningProcess, readyFile: string): Promise<ControllerAddresses> {
  await Promise.race([
    until(() => readText(readyFile) !== null, `the controller to become ready (see ${process.logFile})`, { timeoutMs: readyTimeoutMs }),
    process.exited.then((status) => {
      throw new Error(`the controller ended with ${status.signal ?? status.code} before it was ready:\n${tail(process.lines())}`);
    }),
  ]);
  // Parsing boundary: the controller's own contract, used right away by the tests.
  return JSON.parse(readText(readyFile) ?? '') as ControllerAddresses;
}

function readText(file: string): string | null {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return null; // Not there yet, or gone.
  }
}

/** A VMM is a process with an API socket below the machine's state directory; a wrapper shell is not one. */
function findVmms(stateDirectory: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      const args = (readText(`/proc/${pid}/cmdline`) ?? '').split('\0');
      const socket = args.find((arg, index) => args[index - 1] === '--api-socket' || arg.startsWith('--api-socket='));
      const program = args[0] ?? '';
      return socket !== undefined && socket.includes(stateDirectory) && !/(^|\/)(sh|bash|dash|node)$/.test(program);
    });
}
