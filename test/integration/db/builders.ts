/** Object mothers for the stores' tests: every field has a default, ids are fresh, one tenant with a site and a host. */
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import type { HostFacts } from '#api/model/host.ts';
import { enrollmentTokenId, executionId, hostId, microVMId, sessionId, siteId, tenantId, type HostId, type MicroVMId, type OperationId, type SessionId, type SiteId, type TenantId } from '#api/model/ids.ts';
import { parseEpoch } from '#api/model/epoch.ts';
import type { DesiredMicroVM, MicroVMObservation } from '#api/model/microvm.ts';
import type { ExecutionReport } from '#api/model/plan.ts';
import type { Actor } from '#controller/ports/audit.ts';
import type { IssueCertificate } from '#controller/ports/enrollment-store.ts';
import type { ExecutionFilter } from '#controller/ports/fleet-store.ts';
import type { MicroVMRecord, PublishInput } from '#controller/ports/microvm-store.ts';
import { openDatabase, type Database } from '#db/database.ts';
import type { TestDatabase } from '#test/harness/postgres.ts';

export const actor: Actor = { kind: 'controller', name: 'replica-1', from: '' };
export const ids = { uuid: randomUUID };

/** Any fixed time; the stores take it as an argument. */
export const nowMs = Date.UTC(2026, 0, 2, 3, 4, 5);

export function openTestDatabase(database: TestDatabase): Database {
  return openDatabase({ appUrl: database.appUrl, systemUrl: database.systemUrl, ids });
}

export function facts(overrides: Partial<HostFacts> = {}): HostFacts {
  return {
    hostName: 'edge-1', machineId: 'machine-1', bootId: 'boot-1', kernel: '6.12.0', architecture: 'x86_64', cpuModel: 'test', cpuCount: 4,
    memoryBytes: 8 * 2 ** 30, hasKvm: true, agentVersion: '0.1.0', hypervisor: { kind: 'simulated', version: '54.0.0', problem: '' }, ...overrides,
  };
}

export function desired(overrides: Partial<DesiredMicroVM> = {}): DesiredMicroVM {
  return {
    name: 'web', namespace: 'shop', runPolicy: 'Always', paused: false, restartNonce: 0,
    restart: { initialBackoffMs: 1000, maxBackoffMs: 60_000, maxRetries: 5, windowMs: 600_000 },
    cpuCount: 1, memoryBytes: 512 * 2 ** 20, boot: { kind: 'kernel', path: '/var/lib/kernel', cmdline: 'console=ttyS0' }, disks: [], serialLog: true,
    terminationGracePeriodMs: 30_000, ...overrides,
  };
}

export function freshHash(): Uint8Array {
  return createHash('sha256').update(randomBytes(32)).digest();
}

/** A signer that makes up the certificate. */
export const issue: IssueCertificate = async ({ counter }) => ({
  serial: randomBytes(16).toString('hex'), chainPem: `certificate ${counter}`, notBeforeMs: nowMs, notAfterMs: nowMs + 86_400_000,
});

export interface Fleet {
  readonly db: Database;
  readonly epoch: number;
  readonly tenantId: TenantId;
  readonly siteId: SiteId;
  readonly namespace: string;
}

/** A leader, and a tenant with one site. */
export async function makeFleet(db: Database, epoch?: number): Promise<Fleet> {
  const leads = epoch ?? (await db.leadership.acquire(actor)).epoch;
  const tenant = tenantId(randomUUID());
  const site = siteId(randomUUID());
  const namespace = `shop-${tenant.slice(0, 8)}`;
  await db.sites.save({ tenantId: tenant, namespace, siteId: site, name: 'store-1', generation: 1, requireApproval: false }, leads, actor);
  return { db, epoch: leads, tenantId: tenant, siteId: site, namespace };
}

export interface TestHost {
  readonly hostId: HostId;
  readonly sessionId: SessionId;
  readonly serial: string;
}

/** Registers a token and returns its hash. */
export async function makeToken(fleet: Fleet, overrides: { readonly hostName?: string; readonly expiresAtMs?: number } = {}): Promise<{ readonly secretHash: Uint8Array; readonly tokenId: ReturnType<typeof enrollmentTokenId> }> {
  const secretHash = freshHash();
  const tokenId = enrollmentTokenId(randomUUID());
  await fleet.db.enrollment.registerToken(
    { tenantId: fleet.tenantId, tokenId, siteId: fleet.siteId, secretHash, hostName: overrides.hostName ?? null, expiresAtMs: overrides.expiresAtMs ?? nowMs + 3_600_000 },
    fleet.epoch, actor,
  );
  return { secretHash, tokenId };
}

export function enrollInput(secretHash: Uint8Array, overrides: { readonly name?: string | null; readonly publicKeyHash?: Uint8Array; readonly nowMs?: number; readonly facts?: HostFacts } = {}) {
  return {
    secretHash, publicKeyHash: overrides.publicKeyHash ?? freshHash(), hostName: overrides.name === undefined ? 'edge-1' : overrides.name,
    facts: overrides.facts ?? facts(), nowMs: overrides.nowMs ?? nowMs, newHostId: hostId(randomUUID()), actor, issue,
  };
}

/** An enrolled host with an open session on replica `replica-1`. */
export async function makeHost(fleet: Fleet, name = 'edge-1', hostFacts = facts({ hostName: name })): Promise<TestHost> {
  const { secretHash } = await makeToken(fleet);
  const enrolled = await fleet.db.enrollment.enroll(enrollInput(secretHash, { name, facts: hostFacts }));
  const session = sessionId(randomUUID());
  await fleet.db.hosts.openSession(
    { tenantId: fleet.tenantId, hostId: enrolled.hostId, sessionId: session, replica: 'replica-1', facts: hostFacts, known: [], certificateSerial: enrolled.certificate.serial }, actor,
  );
  return { hostId: enrolled.hostId, sessionId: session, serial: enrolled.certificate.serial };
}

export function publishInput(fleet: Fleet, host: TestHost | null, overrides: Partial<PublishInput> = {}): PublishInput {
  return {
    tenantId: fleet.tenantId, siteId: fleet.siteId, microvmId: microVMId(randomUUID()), name: 'web', generation: 1, desired: desired(), kind: 'Create',
    placeOn: host?.hostId ?? null, tryNumber: 1, ...overrides,
  };
}

/** Publishes and returns the record. */
export async function publish(fleet: Fleet, input: PublishInput): Promise<MicroVMRecord> {
  const result = await fleet.db.microvms.publish(input, fleet.epoch, actor);
  if (!('record' in result)) throw new Error(`the host was expected to take it: ${JSON.stringify(result)}`);
  return result.record;
}

export function observation(record: MicroVMRecord, overrides: Partial<MicroVMObservation> = {}): MicroVMObservation {
  return {
    microvmId: record.microvmId, epoch: record.binding?.epoch ?? parseEpoch(2 ** 32 + 1), revision: record.newestOperation?.revision ?? 1,
    generation: record.generation, sequence: 1, state: 'running', observedAtMs: nowMs, bootedAtMs: nowMs, restarts: 0, isCrashLooping: false,
    isRestartRequired: false, ...overrides,
  };
}

export function execution(operation: OperationId, overrides: Partial<ExecutionReport> = {}): ExecutionReport {
  return {
    executionId: executionId(randomUUID()), operationId: operation, attempt: 1, status: 'Running', startedAtMs: nowMs, isFinal: false, ...overrides,
  };
}

export interface Claimed {
  readonly record: MicroVMRecord;
  readonly operationId: OperationId;
  readonly microvmId: MicroVMId;
}

/** Publishes one microVM and claims its operation for the host. */
export async function publishAndClaim(fleet: Fleet, host: TestHost, overrides: Partial<PublishInput> = {}): Promise<Claimed> {
  const record = await publish(fleet, publishInput(fleet, host, overrides));
  await fleet.db.dispatch.claim({ tenantId: fleet.tenantId, hostId: host.hostId, sessionId: host.sessionId, includeDispatched: false });
  if (record.newestOperation === null) throw new Error('a publication has an operation');
  return { record, operationId: record.newestOperation.id, microvmId: record.microvmId };
}

/** Limits nothing. */
export const everyExecution: ExecutionFilter = { siteName: null, microvmId: null, operationId: null, planId: null, status: null, startedFromMs: null, startedBeforeMs: null };
