/**
 * The controller as one running thing: database, Kubernetes, certificate authority, the listeners,
 * then leadership and the reconcilers. Owns the order of start and stop; what each part does is its own.
 *
 * Every replica serves agents and tenants; only the one that leads reconciles. Losing the database or the
 * API server for a while ends nothing.
 */
import { randomUUID } from 'node:crypto';
import { rename, writeFile } from 'node:fs/promises';
import type { Logger } from 'pino';
import { createFaultPoints, pointsOf } from '#api/fault-points/fault-points.ts';
import { isAppError } from '#api/model/error-codes.ts';
import { openDatabase } from '#db/database.ts';
import { readDatabaseFacts } from '#db/database-facts.ts';
import { createHintBus } from '#db/hint-bus.ts';
import { createMaintenanceStore } from '#db/maintenance.ts';
import { deriveChainerUrl } from '#db/roles.ts';
import { createAuditStore } from '#db/stores/audit-store.ts';
import { awaitSchema } from './await-schema.ts';
import { loadConnection } from './adapters/kubernetes/connection.ts';
import { createGuestSecrets } from './adapters/kubernetes/guest-secrets.ts';
import { createKubernetesClient } from './adapters/kubernetes/kubernetes-client.ts';
import { createKubernetesReviews } from './adapters/kubernetes/reviews.ts';
import { createSecrets } from './adapters/kubernetes/secrets.ts';
import { createLogSink } from './adapters/log-sinks/log-sink.ts';
import { createNetbirdAccounts } from './adapters/netbird/netbird.ts';
import type { ServeConfig } from './config.ts';
import type { Core } from './core.ts';
import { createEdgeGateway, edgeAccess } from './edge-gateway/gateway.ts';
import { agentGatewaySteps, controllerSteps, meshGatewaySteps, planSteps } from './fault-points.ts';
import { createAuthentication } from './fleet-api/authentication.ts';
import { createFleetCalls } from './fleet-api/fleet-calls.ts';
import { createFleetService, fleetAccess } from './fleet-api/fleet-service.ts';
import { createWakeUps } from './fleet-api/wake-ups.ts';
import { createCallers } from './grpc/access.ts';
import { splitAddress, startListener, type Listener } from './grpc/listener.ts';
import { createHealth, createReflection, healthAccess, reflectionAccess, type Health } from './grpc/standard-services.ts';
import { startHttpApi } from './http-api/server.ts';
import { createReadiness } from './http/readiness.ts';
import { startHttpListener } from './http/server.ts';
import { lead, type Leader } from './lead.ts';
import { meshFaultPoints } from './mesh-fault-points.ts';
import { authoritySecret, loadAuthority, loadOrCreateAuthority } from './pki/authority-store.ts';
import { createFileCertificates, type FileCertificates } from './pki/file-certificates.ts';
import { createPki } from './pki/pki.ts';
import type { MeshOrders, MeshReports } from './ports/mesh-orders.ts';
import { createMeshOrders } from './reconcilers/mesh/key-maker.ts';
import { createPlanDryRun } from './reconcilers/plan/dry-run.ts';
import { errorFields } from './runtime/log.ts';
import { pause, createTime } from './runtime/time.ts';
import { createMetrics } from './telemetry/metrics.ts';
import { traceDispatch } from './telemetry/traced-stores.ts';
import { createTracing, isTracingAsked, noTracing } from './telemetry/tracing.ts';

/** A host is silent after so many missed beats. */
const silentBeats = 4;
const startRetryMs = 1_000;
/** Time that open calls get when the controller stops; below Kubernetes' default of 30 s for a pod. */
const stopGraceMs = 5_000;
const certificateCheckMs = 3_600_000;
/** A host asks for a key with a growing delay of its own; this only bounds what many hosts of one site ask for. */
const meshKeyRetryMaxMs = 30_000;

export interface RunningController {
  /** Resolves when the process must end with an error: it lost the leadership and could not let go of it. */
  readonly failed: Promise<void>;
  /** Says goodbye to hosts, lets calls finish, gives the Lease back. */
  stop(): Promise<void>;
}

/** Repeats what needs another server until it answers: at a cold start the order of starts is nobody's. */
async function untilItAnswers<Result>(core: Pick<Core, 'log' | 'time'>, what: string, signal: AbortSignal, work: () => Promise<Result>): Promise<Result> {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (!isAppError(error) || error.retry !== 'backoff' || error.code === 'INTERNAL' || signal.aborted) throw error;
      core.log.warn(errorFields(error), `${what} does not answer yet`);
      await pause(core.time, startRetryMs, signal);
    }
  }
}

interface Listeners {
  readonly edge: Listener;
  readonly fleet: Listener;
  readonly api: Listener;
  readonly healths: readonly Health[];
  stop(): Promise<void>;
}

async function startGrpc(core: Core, ownCertificates: FileCertificates | null): Promise<Listeners> {
  const { config, database, hints, metrics, pki, time } = core;
  const log = core.log.child({ part: 'grpc' });
  const calls = { log, onEnd: metrics.countCall };
  const wakeUps = createWakeUps();
  hints.onHint((hint) => {
    if ('tenantId' in hint) wakeUps.wake(`tenant/${hint.tenantId}`);
  });
  hints.onRemoteChange(() => wakeUps.wakeAll());
  const gateway = createEdgeGateway(
    {
      log: core.log.child({ part: 'edge' }),
      clock: time,
      ids: { uuid: () => randomUUID() },
      pki,
      enrollments: database.enrollment,
      hosts: database.hosts,
      dispatch: traceDispatch(database.dispatch, core.tracing, time),
      leases: database.leases,
      logs: database.logs,
      guestSecrets: createGuestSecrets(core.kubernetes),
      hints,
      faults: core.faults,
      metrics: metrics.gateway,
      settings: { heartbeatIntervalMs: config.heartbeatIntervalMs, pollIntervalMs: config.pollIntervalMs, recoveryWindowMs: config.recoveryWindowMs, replica: config.replica, endpoints: core.endpoints },
      recovery: database.recovery,
      mesh: createMesh(core),
      agents: database.agentOrders,
      onLogStored: (microvmId) => wakeUps.wake(`log/${microvmId}`),
    },
    calls,
  );
  const authentication = createAuthentication(createKubernetesReviews(loadConnection(null)), time, { keys: database.apiKeys });
  const fleetTable = { ...fleetAccess, ...healthAccess, ...reflectionAccess };
  const fleetCallers = createCallers({ table: fleetTable, authenticate: ({ metadata, peer }) => authentication.authenticate(metadata, peer), hold: (caller, call) => authentication.open(caller, call), log });
  const fleetCalls = createFleetCalls({
    clock: time,
    fleet: database.fleet,
    plans: database.plans,
    planDryRun: createPlanDryRun({ kube: core.kubernetes, restoredRunPolicy: (tenantId, uid) => database.plans.lastRunPolicy(tenantId, uid) }),
    logs: database.logs,
    hints,
    faults: core.faults,
    authentication,
    wakeUps,
    silenceMs: silentBeats * config.heartbeatIntervalMs,
  });
  const fleetService = createFleetService(fleetCalls, { callers: fleetCallers, calls });
  const edgeHealth = createHealth(calls, ['nkudo.edge.v1.EdgeService', 'nkudo.edge.v1.EnrollmentService']);
  const fleetHealth = createHealth(calls, ['nkudo.v1.FleetService']);
  const edge = await startListener({
    listen: config.edgeListen,
    certificates: pki.serverCertificates,
    asksForClientCertificate: true,
    table: { ...edgeAccess, ...healthAccess },
    interceptor: gateway.callers.interceptor,
    services: [...gateway.services, edgeHealth.service],
  });
  const apiCertificates = ownCertificates ?? pki.serverCertificates;
  const fleet = await startListener({
    listen: config.fleetListen,
    certificates: apiCertificates,
    asksForClientCertificate: false,
    table: fleetTable,
    interceptor: fleetCallers.interceptor,
    services: [fleetService, fleetHealth.service, createReflection(calls)],
  });
  const api = await startHttpApi(
    { calls: fleetCalls, authentication, log: core.log.child({ part: 'api' }), clock: time, uuid: () => randomUUID(), allowedOrigins: config.apiAllowedOrigins, onEnd: metrics.countRequest },
    { listen: splitAddress(config.apiListen), certificates: apiCertificates },
  );
  gateway.start();
  return {
    edge,
    fleet,
    api,
    healths: [edgeHealth, fleetHealth],
    stop: async () => {
      await gateway.stop();
      await Promise.all([edge.stop(stopGraceMs), fleet.stop(stopGraceMs), api.stop(stopGraceMs)]);
    },
  };
}

/** What hosts of this replica get of the mesh, whoever leads. */
function createMesh(core: Core): MeshOrders & MeshReports {
  const { database, config, metrics, time } = core;
  const orders = createMeshOrders({
    store: database.mesh,
    kube: core.kubernetes,
    openAccount: core.openMeshAccount,
    meshFaults: core.meshFaults,
    metrics: metrics.mesh,
    time,
    log: core.log.child({ part: 'mesh' }),
    replica: config.replica,
    retryMaxMs: Math.min(config.meshRetryMaxMs, meshKeyRetryMaxMs),
  });
  return { ...orders, recordReport: (host, report) => database.mesh.recordReport(host, report) };
}

/** Whole or not at all: a reader never sees half a file. */
async function writeReadyFile(file: string, addresses: object): Promise<void> {
  await writeFile(`${file}.tmp`, JSON.stringify(addresses));
  await rename(`${file}.tmp`, file);
}

/** `signal` gives up the start. @throws when a setting or the certificate authority can't be used */
export async function serve(config: ServeConfig, log: Logger, signal: AbortSignal): Promise<RunningController> {
  const time = createTime({ nowMs: () => Date.now(), monotonicMs: () => performance.now(), random: () => Math.random() });
  const ids = { uuid: () => randomUUID() };
  const database = openDatabase({ appUrl: config.databaseUrl, systemUrl: config.databaseSystemUrl, ids, log: log.child({ part: 'db' }) });
  const kubernetes = createKubernetesClient({ connection: loadConnection(null), fieldManager: 'nkudo-controller', userAgent: 'nkudo-controller', time });
  const base = { log, time };
  const metrics = createMetrics();
  database.onCommit(() => metrics.countCommit());
  const tracing = isTracingAsked(process.env) ? createTracing({ replica: config.replica }) : noTracing;
  let leader: Leader | null = null;
  // First of all, so that a liveness probe does not kill a process that waits for the database.
  const http = await startHttpListener(splitAddress(config.httpListen), {
    metrics: () => metrics.registry.metrics(),
    readiness: createReadiness([
      { name: 'started', look: () => Promise.resolve(leader === null ? 'the certificate authority or the listeners are not ready yet' : null) },
      { name: 'database', look: () => database.ping().then(() => null) },
      { name: 'informers', look: () => Promise.resolve(leader?.isSynced() === false ? 'this replica leads and has not seen all objects yet' : null) },
    ]),
  });
  await awaitSchema(
    {
      ...base,
      facts: () => readDatabaseFacts([{ variable: 'NKUDO_DATABASE_URL', url: config.databaseUrl }, { variable: 'NKUDO_DATABASE_SYSTEM_URL', url: config.databaseSystemUrl }], () => time.nowMs()),
    },
    signal,
  );
  const authority = await untilItAnswers(base, 'the Kubernetes API', signal, () => loadOrCreateAuthority(createSecrets(kubernetes, config.namespace), authoritySecret, time.nowMs()));
  const advertised = config.advertise === null ? [] : [splitAddress(config.advertise).host.replace(/^\[(.*)\]$/, '$1')];
  const pki = await createPki({ authority, hosts: advertised, hostValidityMs: config.hostCertificateMs, nowMs: time.nowMs() });
  const hints = createHintBus({ url: config.databaseSystemUrl, replica: config.replica, log: log.child({ part: 'hints' }) });
  const chainerUrl = config.databaseChainerUrl ?? deriveChainerUrl(config.databaseSystemUrl);
  const auditChain = chainerUrl === null ? null : createAuditStore({ url: chainerUrl, log: log.child({ part: 'audit' }) });
  const maintenance = createMaintenanceStore({ url: config.databaseSystemUrl, log: log.child({ part: 'maintenance' }) });
  let boundEdge: string | null = null;
  const core: Core = {
    ...base,
    config,
    database,
    maintenance,
    auditChain,
    logSink: config.logSink === null ? null : createLogSink(config.logSink),
    hints,
    kubernetes,
    pki,
    metrics,
    tracing,
    meshFaults: createFaultPoints({ socketPath: config.faultSocket, processName: 'controller', known: meshFaultPoints }),
    openMeshAccount: createNetbirdAccounts(time),
    faults: createFaultPoints({ socketPath: config.faultSocket, processName: 'controller', known: pointsOf([...controllerSteps, ...planSteps, ...meshGatewaySteps, ...agentGatewaySteps]) }),
    endpoints: () => (config.advertise === null ? (boundEdge === null ? [] : [boundEdge]) : [config.advertise]),
  };
  const apiCertificates = config.apiTlsDirectory === null ? null : createFileCertificates(config.apiTlsDirectory, log.child({ part: 'api' }));
  const grpc = await startGrpc(core, apiCertificates);
  boundEdge = grpc.edge.address;
  if (config.advertise === null && /^(0\.0\.0\.0|\[::\]):/.test(boundEdge)) {
    log.warn({ address: boundEdge }, 'NKUDO_ADVERTISE is not set: tokens will name an address that no other machine can dial');
  }
  leader = lead(core);
  const certificates = setInterval(() => {
    const renew = async (): Promise<void> => {
      // A person may have rotated the intermediate.
      await pki.useAuthority(await loadAuthority(createSecrets(kubernetes, config.namespace), authoritySecret), time.nowMs());
      await pki.renewServerCertificate(time.nowMs());
      apiCertificates?.reload();
    };
    renew().catch((error: unknown) => log.error({ err: error }, 'the certificates could not be looked after; those in use go on'));
  }, certificateCheckMs);
  const addresses = { edge: grpc.edge.address, fleet: grpc.fleet.address, api: grpc.api.address, http: http.address };
  if (config.readyFile !== null) await writeReadyFile(config.readyFile, addresses);
  log.info({ addresses }, 'ready');
  return {
    failed: leader.failed,
    stop: async () => {
      clearInterval(certificates);
      apiCertificates?.close();
      for (const health of grpc.healths) health.setServing(false);
      await Promise.all([leader.stop(), grpc.stop()]);
      await http.stop();
      await hints.close();
      kubernetes.close();
      await tracing.stop();
      await Promise.all([database.close(), maintenance.close(), auditChain?.close(), core.logSink?.close()]);
    },
  };
}
