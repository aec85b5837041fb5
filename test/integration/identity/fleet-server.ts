/**
 * Both front doors of the tenants' API inside the test's process, on a real database, asking a real API server about its
 * callers: for tests of who may call. No reconciler runs, so nothing is written but what a call writes.
 */
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { join } from 'node:path';
import pino, { type Logger } from 'pino';
import { encodeApiKey } from '#api/codec/api-key.ts';
import { inertFaultPoints } from '#api/fault-points/fault-points.ts';
import { apiKeyId, siteId, tenantId, type ApiKeyId, type MicroVMId, type PlanId, type SiteId, type TenantId } from '#api/model/ids.ts';
import { loadConnection } from '#controller/adapters/kubernetes/connection.ts';
import { createKubernetesClient } from '#controller/adapters/kubernetes/kubernetes-client.ts';
import { createKubernetesReviews } from '#controller/adapters/kubernetes/reviews.ts';
import type { CallLimits } from '#controller/domain/quota/call-limits.ts';
import { createAuthentication, type Authentication } from '#controller/fleet-api/authentication.ts';
import { createFleetCalls, type FleetCalls } from '#controller/fleet-api/fleet-calls.ts';
import { createFleetService, fleetAccess } from '#controller/fleet-api/fleet-service.ts';
import { createWakeUps } from '#controller/fleet-api/wake-ups.ts';
import { createCallers, type AccessTable } from '#controller/grpc/access.ts';
import { startListener } from '#controller/grpc/listener.ts';
import { startHttpApi } from '#controller/http-api/server.ts';
import { createAuthority } from '#controller/pki/certificates.ts';
import { createPki, type Pki } from '#controller/pki/pki.ts';
import type { ApiKeyRole } from '#controller/ports/api-key-store.ts';
import { createPlanDryRun } from '#controller/reconcilers/plan/dry-run.ts';
import { createTime } from '#controller/runtime/time.ts';
import { openDatabase, type Database } from '#db/database.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { useKubernetes, type TestKubernetes } from '#test/harness/kubernetes.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';
import { actor, execution, makeHost, observation, publishAndClaim, type Fleet } from '../db/builders.ts';

const dayMs = 86_400_000;
const hourMs = 3_600_000;

/** One namespace with a site, a host, a microVM, a plan and an execution. */
export interface TestTenant {
  readonly namespace: string;
  readonly tenantId: TenantId;
  readonly siteId: SiteId;
  readonly siteName: string;
  readonly hostId: string;
  readonly hostName: string;
  readonly microvmId: MicroVMId;
  readonly microvmName: string;
  readonly planId: PlanId;
  readonly operationId: string;
  readonly executionId: string;
}

export interface KeyOptions {
  readonly role: ApiKeyRole;
  readonly siteName?: string;
  readonly ttlMs?: number;
}

export interface FleetWorld {
  readonly kubernetes: TestKubernetes;
  readonly rows: TestDatabase;
  readonly database: Database;
  readonly pki: Pki;
  /** File of the key that signs the tokens of the API server. */
  readonly signingKeyFile: string;
  makeTenant(prefix: string): Promise<TestTenant>;
  /** Registers a key as the reconciler does and gives its text. */
  makeKey(tenant: TestTenant, options: KeyOptions): Promise<{ readonly text: string; readonly id: ApiKeyId; readonly secret: Uint8Array }>;
  revokeKey(tenant: TestTenant, id: ApiKeyId): Promise<void>;
  serve(options?: ServeOptions): Promise<FleetServer>;
}

export interface ServeOptions {
  readonly limits?: CallLimits;
  readonly log?: Logger;
  /** Changes of the parts, for seeded defects. */
  readonly table?: (table: AccessTable) => AccessTable;
  readonly calls?: (calls: FleetCalls) => FleetCalls;
  readonly authentication?: (authentication: Authentication) => Authentication;
}

export interface FleetServer {
  readonly grpc: string;
  readonly http: string;
  stop(): Promise<void>;
}

export async function useFleetWorld(): Promise<FleetWorld> {
  const [kubernetes, rows] = await Promise.all([useKubernetes(), useDatabase()]);
  const database = openDatabase({ appUrl: rows.appUrl, systemUrl: rows.systemUrl, ids: { uuid: () => randomUUID() } });
  fileScope().defer(() => database.close());
  return makeFleetWorld({ kubernetes, rows, database });
}

/** On what is there already. Making tenants and keys takes the leadership; serving does not. */
export async function makeFleetWorld(parts: Pick<FleetWorld, 'kubernetes' | 'rows' | 'database'>): Promise<FleetWorld> {
  const { kubernetes, rows, database } = parts;
  const scope = fileScope();
  let acquired: Promise<number> | null = null;
  const lead = (): Promise<number> => (acquired ??= database.leadership.acquire(actor).then(({ epoch }) => epoch));
  const pki = await createPki({ authority: await createAuthority(Date.now()), hosts: [], hostValidityMs: dayMs, nowMs: Date.now() });
  const time = createTime({ nowMs: () => Date.now(), monotonicMs: () => performance.now(), random: () => Math.random() });
  const connection = loadConnection(kubernetes.access.kubeconfig);
  const kube = createKubernetesClient({ connection, fieldManager: 'nkudo-controller', userAgent: 'nkudo-test', time });
  scope.defer(() => kube.close());
  let made = 0;

  const makeTenant = async (prefix: string): Promise<TestTenant> => {
    made += 1;
    const epoch = await lead();
    const namespace = await kubernetes.createNamespace(prefix);
    const { stdout } = await kubernetes.kubectl(['get', 'namespace', namespace, '-o', 'jsonpath={.metadata.uid}']);
    const tenant = tenantId(stdout.trim());
    const site = siteId(randomUUID());
    const siteName = `site-${made}`;
    await database.sites.save({ tenantId: tenant, namespace, siteId: site, name: siteName, generation: 1, requireApproval: false }, epoch, actor);
    const fleet: Fleet = { db: database, epoch, tenantId: tenant, siteId: site, namespace };
    const hostName = `host-${made}`;
    const host = await makeHost(fleet, hostName);
    const microvmName = `vm-${made}`;
    const { record, operationId, microvmId } = await publishAndClaim(fleet, host, { name: microvmName });
    const report = execution(operationId);
    await database.dispatch.recordReports({ tenantId: tenant, hostId: host.hostId, executions: [report], observations: [observation(record)] }, actor);
    await database.logs.append(tenant, host.hostId, { microvmId, source: 'serial', incarnation: 1, offset: 0, data: Buffer.from(`hello from ${microvmName}\n`), gapBytes: 0 });
    // A plan of a caller, open: cancelling it is a change.
    const { planId } = await database.plans.accept(
      { tenantId: tenant, key: 'seed', content: { site: siteName, isForced: false, actions: [{ kind: 'Stop', name: microvmName, uid: microvmId, object: null }] } },
      actor,
    );
    return { namespace, tenantId: tenant, siteId: site, siteName, hostId: host.hostId, hostName, microvmId, microvmName, planId, operationId, executionId: report.executionId };
  };

  const serve = async (options: ServeOptions = {}): Promise<FleetServer> => {
    const log = options.log ?? pino({ level: 'silent' });
    const plain = createAuthentication(createKubernetesReviews(connection), time, { keys: database.apiKeys, ...(options.limits === undefined ? {} : { limits: options.limits }) });
    const authentication = options.authentication?.(plain) ?? plain;
    const table = options.table?.(fleetAccess) ?? fleetAccess;
    const callers = createCallers({ table, authenticate: ({ metadata, peer }) => authentication.authenticate(metadata, peer), hold: (caller, call) => authentication.open(caller, call), log });
    const plainCalls = createFleetCalls({
      clock: time,
      fleet: database.fleet,
      plans: database.plans,
      planDryRun: createPlanDryRun({ kube, restoredRunPolicy: (tenant, uid) => database.plans.lastRunPolicy(tenant, uid) }),
      logs: database.logs,
      hints: { publish: () => {} },
      faults: inertFaultPoints(),
      authentication,
      wakeUps: createWakeUps(),
      silenceMs: hourMs,
    });
    const calls = options.calls?.(plainCalls) ?? plainCalls;
    const grpc = await startListener({
      listen: '127.0.0.1:0', certificates: pki.serverCertificates, asksForClientCertificate: false, table, interceptor: callers.interceptor,
      services: [createFleetService(calls, { callers, calls: { log } })],
    });
    const http = await startHttpApi(
      { calls, authentication, log, clock: time, uuid: () => randomUUID(), allowedOrigins: [] },
      { listen: { host: '127.0.0.1', port: 0 }, certificates: pki.serverCertificates },
    );
    const stop = async (): Promise<void> => {
      await Promise.all([grpc.stop(1_000), http.stop(1_000)]);
    };
    scope.defer(stop);
    return { grpc: grpc.address, http: http.address, stop };
  };

  return {
    kubernetes, rows, database, pki, makeTenant, serve,
    signingKeyFile: join(kubernetes.access.directory, 'service-account.key'),
    makeKey: async (tenant, { role, siteName, ttlMs }) => {
      const epoch = await lead();
      const id = apiKeyId(randomUUID());
      const secret = randomBytes(32);
      const secretHash = createHash('sha256').update(secret).digest();
      await database.apiKeys.register(
        {
          tenantId: tenant.tenantId, namespace: tenant.namespace, keyId: id, name: `key-${id.slice(0, 8)}`, secretHash, role, siteName: siteName ?? null,
          expiresAtMs: Date.now() + (ttlMs ?? dayMs),
        },
        epoch,
        actor,
      );
      return { text: encodeApiKey({ keyId: id, secret }), id, secret };
    },
    revokeKey: async (tenant, id) => database.apiKeys.revoke(tenant.tenantId, id, await lead(), actor),
  };
}
