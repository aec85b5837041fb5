/**
 * The reconcilers of a leading controller inside the test's process, on a real API server and a real Postgres.
 * Agents are played by `machine.ts` through the same stores that the gateway uses.
 */
import { randomUUID } from 'node:crypto';
import pino, { type Logger } from 'pino';
import { inertFaultPoints } from '#api/fault-points/fault-points.ts';
import { loadConnection } from '#controller/adapters/kubernetes/connection.ts';
import { createGuestSecrets } from '#controller/adapters/kubernetes/guest-secrets.ts';
import { createKubernetesClient, type KubernetesClient } from '#controller/adapters/kubernetes/kubernetes-client.ts';
import type { ProcessFaultPoints } from '#controller/fault-points.ts';
import type { ChangeHint } from '#controller/ports/dispatch-store.ts';
import { startReconcilers, type Reconcilers, type ReconcilersOptions } from '#controller/reconcilers/compose.ts';
import { createTime } from '#controller/runtime/time.ts';
import { openDatabase, type Database } from '#db/database.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { useKubernetes, type TestKubernetes } from '#test/harness/kubernetes.ts';
import { until } from '#test/harness/until.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';
import type { KubernetesObject } from '#hack/stack/kubernetes-client.ts';

const hourMs = 3_600_000;
const group = '/apis/nkudo.dev/v1alpha1';
export const time = createTime({ nowMs: () => Date.now(), monotonicMs: () => performance.now(), random: () => Math.random() });
export const siteName = 'shop-1';

export type Plural = 'sites' | 'hosts' | 'microvms' | 'enrollmenttokens' | 'apikeys' | 'microvmsets' | 'agentrollouts';

export interface Leader {
  readonly kubernetes: TestKubernetes;
  readonly kube: KubernetesClient;
  readonly rows: TestDatabase;
  readonly database: Database;
  readonly namespace: string;
  readonly epoch: number;
  hint(hint: ChangeHint): void;
  onHint(listener: (hint: ChangeHint) => void): void;
  /** Starts the reconcilers again under a new epoch, as another replica would. */
  restart(): Promise<void>;
  path(plural: Plural, name?: string): string;
  apply(plural: Plural, name: string, spec: object): Promise<KubernetesObject>;
  remove(plural: Plural, name: string): Promise<void>;
  waitFor(plural: Plural, name: string, what: string, matches: (object: KubernetesObject) => boolean): Promise<KubernetesObject>;
  waitForCondition(plural: Plural, name: string, condition: string): Promise<KubernetesObject>;
  waitUntilGone(plural: Plural, name: string): Promise<void>;
}

export interface LeaderOptions {
  readonly settings?: Partial<ReconcilersOptions['settings']>;
  readonly faults?: ProcessFaultPoints;
  readonly log?: Logger;
  readonly kube?: (access: TestKubernetes['access']) => KubernetesClient;
  /** Changes what the reconcilers see of the database. */
  readonly stores?: (stores: ReconcilersOptions['stores']) => ReconcilersOptions['stores'];
}

/** Speed is shown by mechanism: with resync, poll and beats an hour apart, only events move anything. */
const settings = { heartbeatIntervalMs: hourMs, resyncIntervalMs: hourMs, pollIntervalMs: hourMs, aggregateIntervalMs: 300 };

export async function startLeader(options: LeaderOptions = {}): Promise<Leader> {
  const [kubernetes, rows] = await Promise.all([useKubernetes({ exclusive: true }), useDatabase()]);
  const scope = fileScope();
  const kube =
    options.kube?.(kubernetes.access) ??
    createKubernetesClient({ connection: loadConnection(kubernetes.access.kubeconfig), fieldManager: 'nkudo-controller', userAgent: 'nkudo-controller', time });
  const database = openDatabase({ appUrl: rows.appUrl, systemUrl: rows.systemUrl, ids: { uuid: () => randomUUID() } });
  const namespace = await kubernetes.createNamespace('shop');
  const listeners = new Set<(hint: ChangeHint) => void>();
  const log = options.log ?? pino({ level: process.env['NKUDO_TEST_LOG'] ?? 'silent' });
  let epoch = 0;
  let running: Reconcilers | null = null;
  const start = async (): Promise<void> => {
    await running?.stop();
    ({ epoch } = await database.leadership.acquire({ kind: 'controller', name: 'test', from: '' }));
    const stores = { sites: database.sites, hosts: database.hosts, microvms: database.microvms, enrollment: database.enrollment, plans: database.plans, evictions: database.evictions, apiKeys: database.apiKeys, leases: database.leases, replacements: database.replacements, agentRollouts: database.agentRollouts, recovery: database.recovery };
    running = startReconcilers({
      kube,
      stores: options.stores?.(stores) ?? stores,
      guestSecrets: createGuestSecrets(kube),
      hints: {
        publish: (hint) => listeners.forEach((listener) => listener(hint)),
        onHint: (listener) => {
          listeners.add(listener);
          return () => void listeners.delete(listener);
        },
        onRemoteChange: () => () => {},
      },
      changes: database.changes,
      time,
      ids: { uuid: () => randomUUID() },
      faults: options.faults ?? inertFaultPoints(),
      log,
      epoch,
      replica: 'test',
      settings: { ...settings, ...options.settings },
      pki: { endpoints: () => ['127.0.0.1:7443'], pins: () => ['ab'.repeat(32)] },
    });
    await running.ready;
  };
  await start();
  scope.defer(async () => {
    await running?.stop();
    kube.close();
    await database.close();
  });
  const path: Leader['path'] = (plural, name) => `${group}/namespaces/${namespace}/${plural}${name === undefined ? '' : `/${name}`}`;
  const kinds: Record<Plural, string> = { sites: 'Site', hosts: 'Host', microvms: 'MicroVM', enrollmenttokens: 'EnrollmentToken', apikeys: 'APIKey', microvmsets: 'MicroVMSet', agentrollouts: 'AgentRollout' };
  const waitFor: Leader['waitFor'] = async (plural, name, what, matches) => {
    const watching = kubernetes.client.watch(path(plural, name));
    try {
      return (await watching.waitFor((event) => event.type !== 'DELETED' && matches(event.object), { what: `${plural}/${name}: ${what}`, timeoutMs: 30_000 })).object;
    } finally {
      watching.stop();
    }
  };
  return {
    kubernetes,
    kube,
    rows,
    database,
    namespace,
    get epoch() {
      return epoch;
    },
    hint: (hint) => listeners.forEach((listener) => listener(hint)),
    onHint: (listener) => void listeners.add(listener),
    restart: start,
    path,
    apply: (plural, name, spec) =>
      kubernetes.client.apply(path(plural, name), { apiVersion: 'nkudo.dev/v1alpha1', kind: kinds[plural], metadata: { name, namespace }, spec }),
    remove: async (plural, name) => {
      const answer = await kubernetes.client.request('DELETE', path(plural, name));
      if (answer.status >= 300) throw new Error(`delete of ${plural}/${name}: ${answer.status}`);
    },
    waitFor,
    waitForCondition: (plural, name, wanted) =>
      waitFor(plural, name, wanted, (object) => describeConditions(object).some((condition) => condition === wanted || condition.startsWith(`${wanted}/`))),
    // Asked again and again: a watch that begins after the deletion never tells of it.
    waitUntilGone: (plural, name) => until(async () => (await kubernetes.client.find(path(plural, name))) === null, `${plural}/${name} to be gone`, { timeoutMs: 30_000 }),
  };
}

/** Each condition as `Type=Status/Reason`. */
export function describeConditions(object: KubernetesObject): readonly string[] {
  const conditions = statusOf(object)['conditions'];
  if (!Array.isArray(conditions)) return [];
  return conditions.map((condition: { type: string; status: string; reason: string }) => `${condition.type}=${condition.status}/${condition.reason}`);
}

export function messageOf(object: KubernetesObject, type: string): string {
  const conditions = statusOf(object)['conditions'];
  if (!Array.isArray(conditions)) return '';
  return conditions.find((condition: { type: string; message: string }) => condition.type === type)?.message ?? '';
}

export function statusOf(object: KubernetesObject): Readonly<Record<string, unknown>> {
  return (object['status'] as Record<string, unknown> | undefined) ?? {}; // JSON of the API server.
}

export function microvmSpec(changes: object = {}): object {
  return { siteRef: { name: siteName }, cpu: { count: 1 }, memory: { size: '64Mi' }, boot: { kernel: { path: '/images/guest.elf' } }, ...changes };
}

