/** What was displaced from a host: noted with the replacement, ended by the host's report that it is gone. */
import { microVMId, type HostId, type TenantId } from '#api/model/ids.ts';
import type { Displacement } from '#controller/ports/lease-store.ts';
import type { AuditEntry } from '../audit.ts';
import type { Tx } from '../tx.ts';

/** Most that the status of a Host shows. */
const shownMax = 64;

export interface DisplacementRow {
  readonly tenantId: TenantId;
  readonly id: string;
  readonly microvmId: string;
  readonly hostId: HostId;
  readonly epoch: number;
  readonly operationId: string;
  readonly orphanedDisks: readonly string[];
}

/** The host gets no lease until it is confirmed; the caller holds its row. */
export async function insertDisplacement(tx: Tx, row: DisplacementRow): Promise<AuditEntry> {
  await tx.query(
    {
      name: 'insert-displacement',
      text: `insert into nkudo.displacements (tenant_id, id, microvm_id, host_id, epoch, operation_id, orphaned_disks) values ($1, $2, $3, $4, $5, $6, $7)`,
    },
    [row.tenantId, row.id, row.microvmId, row.hostId, row.epoch, row.operationId, row.orphanedDisks],
  );
  await tx.query(
    { name: 'hold-lease', text: 'update nkudo.host_liveness set lease_holds = lease_holds + 1 where tenant_id = $1 and host_id = $2' },
    [row.tenantId, row.hostId],
  );
  return { action: 'displaced', subject: 'displacement', id: row.id, before: null, after: row };
}

/** Deletions that ended well on a host: those that it was ordered for a displacement end that. */
export async function confirmDisplaced(tx: Tx, from: { readonly tenantId: TenantId; readonly hostId: HostId }, deletions: readonly { readonly id: string }[]): Promise<readonly AuditEntry[]> {
  if (deletions.length === 0) return [];
  const { rows } = await tx.query<{ id: string }>(
    {
      name: 'confirm-displaced',
      text: `update nkudo.displacements set stopped_at = now() where tenant_id = $1 and host_id = $2 and operation_id = any($3) and stopped_at is null returning id`,
    },
    [from.tenantId, from.hostId, deletions.map((deletion) => deletion.id)],
  );
  if (rows.length === 0) return [];
  await tx.query(
    { name: 'release-lease', text: 'update nkudo.host_liveness set lease_holds = greatest(0, lease_holds - $3) where tenant_id = $1 and host_id = $2' },
    [from.tenantId, from.hostId, rows.length],
  );
  return rows.map((row) => ({ action: 'stopped', subject: 'displacement', id: row.id, before: { isStopped: false }, after: { isStopped: true } }));
}

export async function readDisplaced(tx: Tx, tenantId: TenantId, hostId: HostId): Promise<readonly Displacement[]> {
  const { rows } = await tx.query<{ microvm_id: string; name: string; displaced_at: number; is_stopped: boolean; orphaned_disks: string[] }>(
    {
      name: 'list-displaced',
      isHot: true,
      text: `select d.microvm_id, m.name, d.displaced_at, d.stopped_at is not null as is_stopped, d.orphaned_disks
        from nkudo.displacements d join nkudo.microvms m on m.tenant_id = d.tenant_id and m.id = d.microvm_id
        where d.tenant_id = $1 and d.host_id = $2 order by d.displaced_at desc limit ${shownMax}`,
    },
    [tenantId, hostId],
  );
  return rows.map((row) => ({
    microvmId: microVMId(row.microvm_id), name: row.name, displacedAtMs: row.displaced_at, isStopped: row.is_stopped, orphanedDisks: row.orphaned_disks,
  }));
}
