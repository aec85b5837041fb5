/**
 * The edge listener of one control plane inside the test's process, on a real database: for tests of what
 * crosses the wire and what is in the rows afterwards.
 */
import { randomBytes, randomUUID, createHash } from 'node:crypto';
import pino from 'pino';
import { encodeEnrollmentToken } from '#api/codec/enrollment-token.ts';
import { inertFaultPoints } from '#api/fault-points/fault-points.ts';
import { enrollmentTokenId, siteId, tenantId, type EnrollmentTokenId, type SiteId, type TenantId } from '#api/model/ids.ts';
import { createEdgeGateway, edgeAccess } from '#controller/edge-gateway/gateway.ts';
import { startListener } from '#controller/grpc/listener.ts';
import { createHealth, healthAccess } from '#controller/grpc/standard-services.ts';
import { createAuthority, type CertificateAuthority } from '#controller/pki/certificates.ts';
import { createPki, type Pki } from '#controller/pki/pki.ts';
import type { ChangeHint } from '#controller/ports/dispatch-store.ts';
import { createMetrics } from '#controller/telemetry/metrics.ts';
import { openDatabase, type Database } from '#db/database.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';
import { dialEdge, type EdgeClient } from './edge-client.ts';

const hourMs = 3_600_000;
const actor = { kind: 'controller', name: 'test', from: '' } as const;

export interface TokenOptions {
  readonly expiresAtMs?: number;
  readonly hostName?: string;
  readonly pins?: readonly string[];
}

export interface ControlPlane {
  readonly database: Database;
  readonly rows: TestDatabase;
  readonly pki: Pki;
  readonly authority: CertificateAuthority;
  readonly address: string;
  readonly tenant: TenantId;
  readonly site: SiteId;
  readonly epoch: number;
  readonly published: readonly ChangeHint[];
  hint(hint: ChangeHint): void;
  /** Registers a token as the reconciler does and gives its text. */
  issueToken(options?: TokenOptions): Promise<{ readonly text: string; readonly id: EnrollmentTokenId; readonly secret: string }>;
  dial(identity?: { readonly keyPem: string; readonly chainPem: string }): EdgeClient;
}

export async function startControlPlane(settings: { readonly pollIntervalMs?: number } = {}): Promise<ControlPlane> {
  const rows = await useDatabase();
  const ids = { uuid: () => randomUUID() };
  const database = openDatabase({ appUrl: rows.appUrl, systemUrl: rows.systemUrl, ids });
  const scope = fileScope();
  scope.defer(() => database.close());
  const { epoch } = await database.leadership.acquire(actor);
  const tenant = tenantId(randomUUID());
  const site = siteId(randomUUID());
  await database.sites.save({ tenantId: tenant, namespace: `ns-${randomBytes(4).toString('hex')}`, siteId: site, name: 'shop', generation: 1, requireApproval: false }, epoch, actor);
  const authority = await createAuthority(Date.now());
  const pki = await createPki({ authority, hosts: [], hostValidityMs: 24 * hourMs, nowMs: Date.now() });
  const log = pino({ level: 'silent' });
  const listeners: ((hint: ChangeHint) => void)[] = [];
  const published: ChangeHint[] = [];
  let address = '';
  const gateway = createEdgeGateway(
    {
      log,
      clock: { nowMs: () => Date.now(), monotonicMs: () => performance.now() },
      ids,
      pki,
      enrollments: database.enrollment,
      hosts: database.hosts,
      dispatch: database.dispatch,
      leases: database.leases,
      logs: database.logs,
      guestSecrets: { read: () => Promise.resolve([]) },
      hints: { publish: (hint) => void published.push(hint), onHint: (listener) => (listeners.push(listener), () => {}), onRemoteChange: () => () => {} },
      faults: inertFaultPoints(),
      metrics: createMetrics().gateway,
      settings: { recoveryWindowMs: 90 * 24 * hourMs, heartbeatIntervalMs: hourMs, pollIntervalMs: settings.pollIntervalMs ?? hourMs, replica: 'test', endpoints: () => [address] },
      onLogStored: () => {},
    },
    { log },
  );
  const listener = await startListener({
    listen: '127.0.0.1:0',
    certificates: pki.serverCertificates,
    asksForClientCertificate: true,
    table: { ...edgeAccess, ...healthAccess },
    interceptor: gateway.callers.interceptor,
    services: [...gateway.services, createHealth({ log }, []).service],
  });
  address = listener.address;
  gateway.start();
  scope.defer(async () => {
    await gateway.stop();
    await listener.stop(1_000);
  });
  return {
    database,
    rows,
    pki,
    authority,
    address,
    tenant,
    site,
    epoch,
    published,
    hint: (hint) => listeners.forEach((each) => each(hint)),
    issueToken: async (options = {}) => {
      const secret = randomBytes(32).toString('base64url');
      const id = enrollmentTokenId(randomUUID());
      await database.enrollment.registerToken(
        {
          tenantId: tenant,
          tokenId: id,
          siteId: site,
          secretHash: createHash('sha256').update(Buffer.from(secret, 'base64url')).digest(),
          hostName: options.hostName ?? null,
          expiresAtMs: options.expiresAtMs ?? Date.now() + hourMs,
        },
        epoch,
        actor,
      );
      return { id, secret, text: encodeEnrollmentToken({ endpoints: [address], pins: options.pins ?? pki.pins(), secret }) };
    },
    dial: (identity) => {
      const client = dialEdge({ address, trustBundlePem: pki.trustBundlePem(), ...(identity === undefined ? {} : { identity }) });
      scope.defer(() => client.close());
      return client;
    },
  };
}
