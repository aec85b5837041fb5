/**
 * Several replicas of the controller on the database and the API server of one world, behind one address for agents. Owns
 * who runs, who is stopped and who leads by the replicas' own word; what must follow from it is the test's.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { RunningProcess } from '#hack/stack/process.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { startTcpRouter, type TcpRouter } from './tcp-router.ts';
import type { World } from './world.ts';

export interface Replica {
  readonly name: string;
  readonly process: RunningProcess;
  readonly endpoints: { readonly edge: string; readonly fleet: string; readonly http: string };
  /** Lines of its log, parsed. */
  log(): readonly LogLine[];
  /** Resolves with the first such line after `since` of its lines. */
  waitForLog(message: string, since?: number): Promise<LogLine>;
}

export interface LogLine {
  readonly time: number;
  readonly msg: string;
  readonly epoch?: number;
  readonly reason?: string;
}

export interface Replicas {
  readonly router: TcpRouter;
  start(name: string, environment?: Readonly<Record<string, string>>): Promise<Replica>;
  all(): readonly Replica[];
  /** Agents connect to these only, in turn. */
  routeTo(...replicas: readonly Replica[]): void;
  /** The holder of the Lease, by its name. */
  holder(): Promise<string>;
  /** Resolves once one of the replicas holds the Lease and says that it leads. */
  leader(): Promise<Replica>;
  /** Resolves with the replica that leads after `than`; `than` is not it. */
  nextLeader(than: Replica): Promise<Replica>;
}

const leasePath = '/apis/coordination.k8s.io/v1/namespaces/nkudo-system/leases/nkudo-controller';

/** The whole start is slow on a busy machine. */
const startTimeoutMs = 90_000;
/** A takeover ends in 15 s; waiting gives up long after. */
const takeoverTimeoutMs = 90_000;

export async function createReplicas(world: World, common: Readonly<Record<string, string>> = {}): Promise<Replicas> {
  const scope = fileScope();
  const programs = await scope.shared('programs');
  const router = await startTcpRouter();
  const replicas: Replica[] = [];

  const start: Replicas['start'] = async (name, environment = {}) => {
    await world.kubernetes.client.apply(`/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/${name}`, {
      apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'ClusterRoleBinding', metadata: { name },
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'cluster-admin' },
      subjects: [{ apiGroup: 'rbac.authorization.k8s.io', kind: 'User', name }],
    });
    const readyFile = join(scope.makeDirectory('c'), 'ready.json');
    const started = await scope.start({
      name,
      command: programs.node,
      args: [programs.controller, 'serve'],
      environment: {
        // A user of its own, so that the API server's audit log tells the replicas apart.
        KUBECONFIG: world.kubernetes.kubeconfigFor({ user: name }),
        NKUDO_DATABASE_URL: world.database.appUrl,
        NKUDO_DATABASE_SYSTEM_URL: world.database.systemUrl,
        NKUDO_EDGE_LISTEN: '127.0.0.1:0',
        NKUDO_FLEET_LISTEN: '127.0.0.1:0',
        NKUDO_HTTP_LISTEN: '127.0.0.1:0',
        NKUDO_API_LISTEN: '127.0.0.1:0',
        NKUDO_ADVERTISE: router.address,
        NKUDO_READY_FILE: readyFile,
        POD_NAME: name,
        NKUDO_LOG_LEVEL: 'debug',
        ...common,
        ...environment,
      },
    });
    await started.waitForLine(/"msg":"ready"/, { timeoutMs: startTimeoutMs });
    const endpoints = JSON.parse(readFileSync(readyFile, 'utf8')) as Replica['endpoints']; // Written by the controller.
    const log = (): readonly LogLine[] => started.lines().flatMap((line) => (line.startsWith('{') ? [JSON.parse(line) as LogLine] : [])); // Lines of pino.
    const replica: Replica = {
      name, process: started, endpoints, log,
      waitForLog: async (message, since = 0) => JSON.parse(await started.waitForLine((line) => line.includes(`"msg":${JSON.stringify(message)}`), { after: since, timeoutMs: takeoverTimeoutMs })) as LogLine, // As above.
    };
    replicas.push(replica);
    router.route(replicas.map(({ endpoints: { edge } }) => edge));
    return replica;
  };

  const holder = async (): Promise<string> => {
    const lease = await world.kubernetes.client.find(leasePath);
    return (lease?.['spec'] as { holderIdentity?: string } | undefined)?.holderIdentity ?? ''; // A Lease.
  };
  const leaderWhere = async (isWanted: (name: string) => boolean): Promise<Replica> => {
    const watching = world.kubernetes.client.watch(leasePath);
    try {
      const { object } = await watching.waitFor(
        (event) => {
          const name = (event.object['spec'] as { holderIdentity?: string }).holderIdentity ?? ''; // A Lease.
          return event.type !== 'DELETED' && name !== '' && isWanted(name);
        },
        { what: 'a replica to hold the Lease', timeoutMs: takeoverTimeoutMs },
      );
      const name = (object['spec'] as { holderIdentity?: string }).holderIdentity; // As above.
      const found = replicas.find((replica) => replica.name === name && replica.process.exitStatus() === null);
      if (found === undefined) throw new Error(`the holder ${name} of the Lease is none of the replicas`);
      await found.waitForLog('all objects are known; reconciling');
      return found;
    } finally {
      watching.stop();
    }
  };

  return {
    router,
    start,
    all: () => replicas,
    routeTo: (...chosen) => router.route(chosen.map(({ endpoints: { edge } }) => edge)),
    holder,
    leader: () => leaderWhere(() => true),
    nextLeader: (than) => leaderWhere((name) => name !== than.name),
  };
}
