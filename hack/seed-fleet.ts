/**
 * A believable fleet for development, written through the stores as the product would: tenants, sites, hosts with
 * sessions, microVMs in many states with plans, executions, observations and a few console lines. Everything but the
 * times follows from the seed. Owns what the fleet looks like; which database is `db-seed.ts`'s.
 */
import { createHash } from 'node:crypto';
import type { HostFacts } from '#api/model/host.ts';
import { enrollmentTokenId, executionId, hostId, microVMId, sessionId, siteId, tenantId, type HostId, type SessionId, type SiteId, type TenantId } from '#api/model/ids.ts';
import type { DesiredMicroVM, MicroVMObservation } from '#api/model/microvm.ts';
import type { Actor } from '#controller/ports/audit.ts';
import type { MicroVMRecord } from '#controller/ports/microvm-store.ts';
import type { Database } from '#db/database.ts';

const businesses = ['bakery', 'clinic', 'depot', 'energy', 'farm', 'garage', 'harbour', 'market'];
const places = ['aachen', 'bergen', 'cork', 'delft', 'essen', 'faro', 'ghent', 'hull', 'izmir', 'jena', 'krakow', 'lyon'];
const programs = ['pos', 'cache', 'camera', 'broker', 'metrics', 'printer', 'web', 'sensors'];
const gibibyte = 2 ** 30;
const hourMs = 3_600_000;
const actor: Actor = { kind: 'system', name: 'db-seed', from: '' };

export interface FleetSize {
  readonly tenants: number;
  /** Of each tenant. */
  readonly sites: number;
  /** Of each site. */
  readonly hosts: number;
  /** On each host, on average; a host without room refuses some. */
  readonly microvms: number;
}

export interface SeedOptions {
  readonly db: Database;
  readonly size: FleetSize;
  /** Whole number; the same one gives the same ids. */
  readonly seed: number;
  readonly nowMs: number;
  readonly report: (line: string) => void;
}

interface Choice {
  readonly number: () => number;
  readonly uuid: () => string;
  readonly from: <Item>(items: readonly Item[]) => Item;
}

/** A stream of bytes from the seed; slow and even, which is enough here. */
function createChoice(seed: string): Choice {
  let count = 0;
  const bytes = (): Buffer => createHash('sha256').update(`${seed}/${(count += 1)}`).digest();
  const number = (): number => bytes().readUInt32BE(0) / 2 ** 32;
  return {
    number,
    uuid: () => {
      const raw = bytes().subarray(0, 16);
      raw[6] = ((raw[6] ?? 0) & 0x0f) | 0x40;
      raw[8] = ((raw[8] ?? 0) & 0x3f) | 0x80;
      return raw.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
    },
    from: (items) => {
      const item = items[Math.floor(number() * items.length)];
      if (item === undefined) throw new Error('nothing to choose from');
      return item;
    },
  };
}

interface Place {
  readonly options: SeedOptions;
  readonly choice: Choice;
  readonly epoch: number;
  readonly tenantId: TenantId;
  readonly namespace: string;
  readonly siteId: SiteId;
  readonly siteName: string;
}

interface SeededHost {
  readonly hostId: HostId;
  readonly sessionId: SessionId;
  /** Its microVMs are bound and nothing was heard of them. */
  readonly isSilent: boolean;
  sequence: number;
}

export interface SeedCounts {
  readonly tenants: number;
  readonly hosts: number;
  readonly microvms: number;
}

/** Fills the database. A tenant that is there already, from an earlier call with this seed, is left as it is. */
export async function seedFleet(options: SeedOptions): Promise<SeedCounts> {
  const { epoch } = await options.db.leadership.acquire(actor);
  const counts = { tenants: 0, hosts: 0, microvms: 0 };
  for (let index = 0; index < options.size.tenants; index += 1) {
    const choice = createChoice(`${options.seed}/${index}`);
    const tenant = tenantId(choice.uuid());
    const namespace = `${businesses[index % businesses.length] ?? 'tenant'}-${options.seed}-${index + 1}`;
    if ((await options.db.fleet.findTenant(namespace)) !== null) {
      options.report(`${namespace}: is there already`);
      continue;
    }
    counts.tenants += 1;
    for (let site = 0; site < options.size.sites; site += 1) {
      const siteName = `${places[(index * 5 + site) % places.length] ?? 'site'}-${site + 1}`;
      const place: Place = { options, choice, epoch, tenantId: tenant, namespace, siteId: siteId(choice.uuid()), siteName };
      const made = await seedSite(place, site === options.size.sites - 1);
      counts.hosts += made.hosts;
      counts.microvms += made.microvms;
    }
    options.report(`${namespace}: tenant ${tenant}, ${options.size.sites} sites`);
  }
  return counts;
}

async function seedSite(place: Place, isStrict: boolean): Promise<{ readonly hosts: number; readonly microvms: number }> {
  const { options, epoch } = place;
  await options.db.sites.save({ tenantId: place.tenantId, namespace: place.namespace, siteId: place.siteId, name: place.siteName, generation: 1, requireApproval: isStrict }, epoch, actor);
  let microvms = 0;
  for (let number = 1; number <= options.size.hosts; number += 1) {
    const host = await seedHost(place, number);
    for (let index = 1; index <= options.size.microvms; index += 1) {
      if (await seedMicroVM(place, host, `${place.choice.from(programs)}-${number}-${index}`)) microvms += 1;
    }
  }
  return { hosts: options.size.hosts, microvms };
}

async function seedHost(place: Place, number: number): Promise<SeededHost> {
  const { options, choice, epoch, tenantId: tenant } = place;
  const { db, nowMs } = options;
  const name = `edge-${place.siteName}-${number}`;
  const facts: HostFacts = {
    hostName: name, machineId: choice.uuid().replaceAll('-', ''), bootId: choice.uuid(), kernel: choice.from(['6.1.0-31-amd64', '6.8.0-60-generic', '6.12.22']),
    architecture: 'x86_64', cpuModel: choice.from(['Intel(R) N100', 'AMD Ryzen Embedded V1605B', 'Intel(R) Xeon(R) D-1718T']), cpuCount: choice.from([4, 8, 16]),
    memoryBytes: choice.from([16, 32, 64]) * gibibyte, hasKvm: true, agentVersion: '0.1.0', hypervisor: { kind: 'cloud-hypervisor', version: '54.0.0', problem: '' },
  };
  const secretHash = createHash('sha256').update(choice.uuid()).digest();
  await db.enrollment.registerToken({ tenantId: tenant, tokenId: enrollmentTokenId(choice.uuid()), siteId: place.siteId, secretHash, hostName: null, expiresAtMs: nowMs + hourMs }, epoch, actor);
  const enrolled = await db.enrollment.enroll({
    secretHash, publicKeyHash: createHash('sha256').update(choice.uuid()).digest(), hostName: name, facts, nowMs, newHostId: hostId(choice.uuid()), actor,
    issue: ({ counter }) => Promise.resolve({ serial: choice.uuid().replaceAll('-', ''), chainPem: `seeded certificate ${counter}`, notBeforeMs: nowMs, notAfterMs: nowMs + 24 * hourMs }),
  });
  await db.hosts.saveObject(
    { tenantId: tenant, hostId: enrolled.hostId, objectUid: choice.uuid(), isApproved: true, isUnschedulable: false, reservedCpus: 1, reservedMemoryBytes: gibibyte }, epoch, actor,
  );
  const host: SeededHost = { hostId: enrolled.hostId, sessionId: sessionId(choice.uuid()), isSilent: choice.number() < 0.1, sequence: 0 };
  await db.hosts.openSession({ tenantId: tenant, hostId: host.hostId, sessionId: host.sessionId, replica: 'db-seed', facts, known: [], certificateSerial: enrolled.certificate.serial }, actor);
  await db.hosts.flushBeats([{ tenantId: tenant, hostId: host.hostId, sessionId: host.sessionId, ageMs: host.isSilent ? 6 * hourMs : 0 }]);
  return host;
}

function desiredOf(place: Place, name: string): DesiredMicroVM {
  const { choice } = place;
  return {
    name, namespace: place.namespace, runPolicy: choice.from(['Always', 'Always', 'Always', 'RerunOnFailure', 'Once']), paused: false, restartNonce: 0,
    restart: { initialBackoffMs: 1_000, maxBackoffMs: 300_000, maxRetries: 5, windowMs: 600_000 }, cpuCount: choice.from([1, 1, 2]), memoryBytes: choice.from([0.25, 0.5, 1, 2]) * gibibyte,
    boot: { kind: 'kernel', path: '/var/lib/images/vmlinux', cmdline: 'console=ttyS0 root=/dev/vda ro' },
    disks: [{ name: 'root', path: `/var/lib/images/${name}.raw`, readOnly: false }], serialLog: true, terminationGracePeriodMs: 30_000,
  };
}

/** What became of a microVM, and how often. */
const fates = [
  ...Array.from({ length: 14 }, () => 'running' as const), 'updated', 'updated', 'stopped', 'crashLooping', 'failed', 'pending', 'deleting', 'deleted',
] as const;

/** False when the host had no room. */
async function seedMicroVM(place: Place, host: SeededHost, name: string): Promise<boolean> {
  const { options, choice, epoch, tenantId: tenant } = place;
  const { db } = options;
  const desired = desiredOf(place, name);
  const input = { tenantId: tenant, siteId: place.siteId, microvmId: microVMId(choice.uuid()), name, generation: 1, desired, kind: 'Create', placeOn: host.hostId, tryNumber: 1 } as const;
  const published = await db.microvms.publish(input, epoch, actor);
  if (!('record' in published)) return false;
  const { record } = published;
  const fate = host.isSilent ? 'pending' : choice.from(fates);
  if (fate === 'pending') return true;
  await reportEnd(place, host, record, fate === 'failed' ? 'Failed' : 'Succeeded');
  await reportState(place, host, record, fate);
  if (fate === 'updated') {
    const update = await db.microvms.publish({ ...input, generation: 2, kind: 'Update', desired: { ...desired, terminationGracePeriodMs: 60_000 } }, epoch, actor);
    if ('record' in update) {
      await reportEnd(place, host, update.record, 'Succeeded');
      await reportState(place, host, update.record, 'running');
    }
  }
  if (fate === 'deleting' || fate === 'deleted') {
    const deletion = await db.microvms.publishDeletion({ tenantId: tenant, microvmId: input.microvmId, generation: 2, tryNumber: 1 }, epoch, actor);
    if (fate === 'deleted' && deletion !== null) {
      await reportEnd(place, host, deletion, 'Succeeded');
      await db.microvms.completeDeletion(tenant, input.microvmId, epoch, actor);
    }
    return true;
  }
  const text = `[    0.000000] Linux version 6.12.22\n[    0.412000] Run /sbin/init as init process\n${name} login: `;
  await db.logs.append(tenant, host.hostId, { microvmId: input.microvmId, source: 'serial', incarnation: 1, offset: 0, data: Buffer.from(text), gapBytes: 0 });
  return true;
}

/** Hands the newest operation to the host and lets it report how its execution ended. */
async function reportEnd(place: Place, host: SeededHost, record: MicroVMRecord, status: 'Succeeded' | 'Failed'): Promise<void> {
  const { options, choice, tenantId: tenant } = place;
  const operation = record.newestOperation;
  if (operation === null) throw new Error('a publication has an operation');
  await options.db.dispatch.claim({ tenantId: tenant, hostId: host.hostId, sessionId: host.sessionId, includeDispatched: false });
  await options.db.dispatch.recordReceipt({ tenantId: tenant, hostId: host.hostId, operationId: operation.id, disposition: 'Accepted', error: null }, actor);
  const startedAtMs = options.nowMs - Math.floor(choice.number() * 24 * hourMs);
  const base = { executionId: executionId(choice.uuid()), operationId: operation.id, attempt: 1, startedAtMs, finishedAtMs: startedAtMs + 200 + Math.floor(choice.number() * 2_000), isFinal: true };
  const error = { code: 'IMAGE_NOT_FOUND', message: `the file of disk root is not there` } as const;
  await options.db.dispatch.recordReports({ tenantId: tenant, hostId: host.hostId, executions: [status === 'Failed' ? { ...base, status, error } : { ...base, status }], observations: [] }, actor);
}

async function reportState(place: Place, host: SeededHost, record: MicroVMRecord, fate: (typeof fates)[number]): Promise<void> {
  const { options, choice, tenantId: tenant } = place;
  if (record.binding === null || record.newestOperation === null) throw new Error('a publication has a binding');
  const states: Readonly<Partial<Record<typeof fate, MicroVMObservation['state']>>> = { stopped: 'stopped', crashLooping: 'backoff', failed: 'failed' };
  const state = states[fate] ?? 'running';
  host.sequence += 1;
  const observation: MicroVMObservation = {
    microvmId: record.microvmId, epoch: record.binding.epoch, revision: record.newestOperation.revision, generation: record.generation, sequence: host.sequence, state,
    observedAtMs: options.nowMs, restarts: fate === 'crashLooping' ? 9 : 0, isCrashLooping: fate === 'crashLooping', isRestartRequired: false,
    ...(state === 'running' ? { bootedAtMs: options.nowMs - Math.floor(choice.number() * 72 * hourMs) } : {}),
    ...(fate === 'crashLooping' ? { lastExit: { reason: 'GuestPanic', atMs: options.nowMs - 60_000 } as const } : {}),
    ...(fate === 'stopped' ? { lastExit: { reason: 'GuestShutdown', atMs: options.nowMs - hourMs, code: 0 } as const } : {}),
  };
  await options.db.dispatch.recordReports({ tenantId: tenant, hostId: host.hostId, executions: [], observations: [observation] }, actor);
}
