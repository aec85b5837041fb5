/**
 * Fencing numbers and bindings of one microVM inside a publishing transaction. The row of its counters is locked
 * first and orders all publishers; the host's row is locked for the capacity check. An epoch is above every one
 * that was issued here or reported by a host, and so is a revision.
 */
import { allocatable, decideGrowth, required } from '#api/model/capacity.ts';
import { makeEpoch, parseEpoch, splitEpoch, type Epoch } from '#api/model/epoch.ts';
import type { HostFacts } from '#api/model/host.ts';
import { hostId, type HostId, type MicroVMId, type SiteId, type TenantId } from '#api/model/ids.ts';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import { AppError } from '#api/model/error-codes.ts';
import type { AuditEntry } from '../audit.ts';
import type { LeaderTx, Tx } from '../tx.ts';

export interface Counters {
  /** 0 when none was ever issued. */
  readonly epoch: number;
  readonly revision: number;
}

export interface LiveBinding {
  readonly hostId: HostId;
  readonly epoch: Epoch;
  readonly cpuCount: number;
  readonly memoryBytes: number;
  /** Terms of the lease that it needs of its host; null: none. */
  readonly leaseMs: number | null;
}

/** Locks and returns the counters of the microVM. Makes the row when there is none. */
export async function lockCounters(tx: Tx, tenantId: TenantId, microvmId: MicroVMId): Promise<Counters> {
  const { rows } = await tx.query<{ epoch: number; revision: number }>(
    {
      name: 'lock-microvm-counters',
      isHot: true,
      text: `insert into nkudo.microvm_counters as c (tenant_id, microvm_id) values ($1, $2)
        on conflict (tenant_id, microvm_id) do update set epoch = c.epoch
        returning epoch, revision`,
    },
    [tenantId, microvmId],
  );
  const [row] = rows;
  if (row === undefined) throw new AppError('INTERNAL', 'the counters of a microvm gave no row');
  return row;
}

export async function saveCounters(tx: Tx, tenantId: TenantId, microvmId: MicroVMId, counters: Counters): Promise<void> {
  await tx.query(
    { name: 'save-microvm-counters', isHot: true, text: 'update nkudo.microvm_counters set epoch = $3, revision = $4 where tenant_id = $1 and microvm_id = $2' },
    [tenantId, microvmId, counters.epoch, counters.revision],
  );
}

/** An epoch that nobody has seen yet. */
export function nextEpoch(incarnation: number, highest: number): Epoch {
  if (highest === 0) return makeEpoch(incarnation, 1);
  const last = splitEpoch(parseEpoch(highest));
  return makeEpoch(Math.max(incarnation, last.incarnation), last.counter + 1);
}

export async function readBinding(tx: Tx, tenantId: TenantId, microvmId: MicroVMId): Promise<LiveBinding | null> {
  const { rows } = await tx.query<{ host_id: string; epoch: number; cpu_count: number; memory_bytes: number; lease_ms: number | null }>(
    {
      name: 'read-binding',
      isHot: true,
      text: `select host_id, epoch, cpu_count, memory_bytes, lease_ms from nkudo.bindings
        where tenant_id = $1 and microvm_id = $2 and released_at is null`,
    },
    [tenantId, microvmId],
  );
  const [row] = rows;
  if (row === undefined) return null;
  return { hostId: hostId(row.host_id), epoch: parseEpoch(row.epoch), cpuCount: row.cpu_count, memoryBytes: row.memory_bytes, leaseMs: row.lease_ms };
}

/** Locks the host and says whether it may take the microVM now. */
export async function hostTakes(tx: Tx, input: { readonly tenantId: TenantId; readonly siteId: SiteId; readonly hostId: HostId; readonly desired: DesiredMicroVM }): Promise<boolean> {
  const host = await lockRoom(tx, input);
  if (host === null || !host.isOpen) return false;
  const need = required(input.desired);
  return need.cpus <= host.free.cpus && need.memoryBytes <= host.free.memoryBytes;
}

/**
 * Whether the host has room for what a microVM asks for beyond what it has; it locks the host when there is such a part.
 * A host that takes no new ones gives room to those that it has. What is not known yet, since only the host knew it, is no growth.
 */
export async function hostLetsGrow(tx: Tx, input: { readonly tenantId: TenantId; readonly siteId: SiteId; readonly before: LiveBinding; readonly desired: DesiredMicroVM }): Promise<boolean> {
  const { cpuCount, memoryBytes, hostId: host } = input.before;
  const [before, asked] = [{ cpus: cpuCount, memoryBytes }, required(input.desired)];
  if (cpuCount === 0 || (asked.cpus <= before.cpus && asked.memoryBytes <= before.memoryBytes)) return true;
  const room = await lockRoom(tx, { tenantId: input.tenantId, siteId: input.siteId, hostId: host });
  return room !== null && decideGrowth({ hostName: '', free: room.free, before, asked }) === null;
}

/** Locks the host; null when the site has no such. */
async function lockRoom(tx: Tx, input: { readonly tenantId: TenantId; readonly siteId: SiteId; readonly hostId: HostId }): Promise<{ readonly isOpen: boolean; readonly free: { readonly cpus: number; readonly memoryBytes: number } } | null> {
  const { rows } = await tx.query<{ facts: HostFacts; reserved_cpus: number; reserved_memory_bytes: number; overcommit_cpu_percent: number | null; overcommit_memory_percent: number | null; is_open: boolean }>(
    {
      name: 'lock-host-for-binding',
      isHot: true,
      text: `select h.facts, h.reserved_cpus, h.reserved_memory_bytes, h.overcommit_cpu_percent, h.overcommit_memory_percent,
          h.revoked_at is null and h.quarantined_at is null and not h.is_unschedulable and (h.is_approved or not s.require_approval) as is_open
        from nkudo.hosts h join nkudo.sites s on s.tenant_id = h.tenant_id and s.id = h.site_id
        where h.tenant_id = $1 and h.id = $2 and h.site_id = $3
        for no key update of h`,
    },
    [input.tenantId, input.hostId, input.siteId],
  );
  const [host] = rows;
  if (host === undefined) return null;
  // Read after the lock, in a statement of its own, so that it sees what the last holder committed.
  const taken = await tx.query<{ cpus: number; memory_bytes: number }>(
    {
      name: 'read-allocated',
      isHot: true,
      text: `select coalesce(sum(cpu_count), 0)::bigint as cpus, coalesce(sum(memory_bytes), 0)::bigint as memory_bytes
        from nkudo.bindings where tenant_id = $1 and host_id = $2 and released_at is null`,
    },
    [input.tenantId, input.hostId],
  );
  const room = allocatable({
    cpuCount: host.facts.cpuCount,
    memoryBytes: host.facts.memoryBytes,
    reservedCpus: host.reserved_cpus,
    reservedMemoryBytes: host.reserved_memory_bytes,
    ...(host.overcommit_cpu_percent === null ? {} : { overcommitCpuPercent: host.overcommit_cpu_percent }),
    ...(host.overcommit_memory_percent === null ? {} : { overcommitMemoryPercent: host.overcommit_memory_percent }),
  });
  const used = taken.rows[0] ?? { cpus: 0, memory_bytes: 0 };
  return { isOpen: host.is_open, free: { cpus: room.cpus - used.cpus, memoryBytes: room.memoryBytes - used.memory_bytes } };
}

export async function insertBinding(tx: Tx, input: { readonly tenantId: TenantId; readonly microvmId: MicroVMId; readonly binding: LiveBinding }): Promise<AuditEntry> {
  const { binding } = input;
  await tx.query(
    {
      name: 'insert-binding',
      isHot: true,
      text: 'insert into nkudo.bindings (tenant_id, microvm_id, epoch, host_id, cpu_count, memory_bytes, lease_ms) values ($1, $2, $3, $4, $5, $6, $7)',
    },
    [input.tenantId, input.microvmId, binding.epoch, binding.hostId, binding.cpuCount, binding.memoryBytes, binding.leaseMs],
  );
  return { action: 'bound', subject: 'binding', id: input.microvmId, before: null, after: binding };
}

/** Takes over changed sizes and terms, once {@link hostLetsGrow} said that the host has room for them. */
export async function resizeBinding(tx: Tx, input: { readonly tenantId: TenantId; readonly microvmId: MicroVMId; readonly before: LiveBinding; readonly desired: DesiredMicroVM }): Promise<readonly AuditEntry[]> {
  const need = { ...required(input.desired), leaseMs: input.desired.lease?.stopOnHostAfterMs ?? null };
  if (need.cpus === input.before.cpuCount && need.memoryBytes === input.before.memoryBytes && need.leaseMs === input.before.leaseMs) return [];
  await tx.query(
    {
      name: 'resize-binding',
      text: `update nkudo.bindings set cpu_count = $3, memory_bytes = $4, lease_ms = $5
        where tenant_id = $1 and microvm_id = $2 and released_at is null`,
    },
    [input.tenantId, input.microvmId, need.cpus, need.memoryBytes, need.leaseMs],
  );
  return [{ action: 'resized', subject: 'binding', id: input.microvmId, before: input.before, after: need }];
}

export async function releaseBinding(tx: Tx, tenantId: TenantId, microvmId: MicroVMId, before: LiveBinding): Promise<AuditEntry> {
  await tx.query(
    { name: 'release-binding', text: 'update nkudo.bindings set released_at = now() where tenant_id = $1 and microvm_id = $2 and released_at is null' },
    [tenantId, microvmId],
  );
  return { action: 'released', subject: 'binding', id: microvmId, before, after: null };
}

/**
 * The binding under which the next operation goes out. When the host reported a higher epoch than ours (the database
 * was restored), the microVM is bound again under one that is above it: to the same host, or to `movedTo`, which has it.
 */
export async function currentBinding(tx: LeaderTx, input: { readonly tenantId: TenantId; readonly microvmId: MicroVMId; readonly counters: Counters; readonly found: LiveBinding; readonly movedTo?: HostId | null }): Promise<{ readonly binding: LiveBinding; readonly entries: readonly AuditEntry[] }> {
  const { tenantId, microvmId, counters, found } = input;
  if (found.epoch >= counters.epoch) return { binding: found, entries: [] };
  const binding = { ...found, hostId: input.movedTo ?? found.hostId, epoch: nextEpoch(tx.incarnation, counters.epoch) };
  const released = await releaseBinding(tx, tenantId, microvmId, found);
  return { binding, entries: [released, await insertBinding(tx, { tenantId, microvmId, binding })] };
}
