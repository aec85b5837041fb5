/**
 * Operations on their way to a host and reports on their way back. Every replica uses it, each call for one host of
 * one tenant; rows of other hosts are refused. Ended operations never change again, so that repeats and reports
 * that arrive late or in another order have no effect.
 */
import { parseEpoch } from '#api/model/epoch.ts';
import { hostId, microVMId, operationId, planId, tenantId, type MicroVMId } from '#api/model/ids.ts';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import type { Operation, OperationKind, OperationStatus } from '#api/model/plan.ts';
import type { DispatchStore, ReportOutcome } from '#controller/ports/dispatch-store.ts';
import { appendAudit } from '../audit.ts';
import { rollUpPlans, writeOperationChanges, type OperationChange } from '../operation-status.ts';
import { isPartitionMissing } from '../pool.ts';
import type { Transactions, Tx } from '../tx.ts';
import { recordReports } from './record-reports.ts';

/** Most operations that one claim returns. */
const claimMax = 256;

type ClaimInput = Parameters<DispatchStore['claim']>[0];
type ReportInput = Parameters<DispatchStore['recordReports']>[0];
type ReceiptInput = Parameters<DispatchStore['recordReceipt']>[0];

export function createDispatchStore(transactions: Transactions): DispatchStore {
  return {
    claim: (input) => transactions.tenant(input.tenantId, (tx) => claim(tx, input)),
    listHostsWithPending: async (replica) => {
      const { rows } = await transactions.systemQuery<{ tenant_id: string; host_id: string; has_cancels: boolean }>(pendingHostsStatement, [replica]);
      return rows.map((row) => ({ tenantId: tenantId(row.tenant_id), hostId: hostId(row.host_id), hasCancels: row.has_cancels }));
    },
    listCancels: async (tenant, host) =>
      transactions.tenant(tenant, async (tx) => {
        const { rows } = await tx.query<{ id: string }>(cancelsStatement, [tenant, host]);
        return rows.map((row) => operationId(row.id));
      }),
    recordReceipt: (input, actor) =>
      transactions.tenant(input.tenantId, async (tx) => {
        if (input.disposition === 'TooLate') await endCancel(tx, input);
        const change = await decideReceipt(tx, input);
        if (change === null) return [];
        const entries = [...(await writeOperationChanges(tx, input.tenantId, [change])), ...(await rollUpPlans(tx, input.tenantId, [change.planId]))];
        await appendAudit(tx, input.tenantId, actor, entries);
        return [change.microvmId];
      }),
    recordReports: async (input, actor) => {
      const record = (): Promise<ReportOutcome> => transactions.tenant(input.tenantId, (tx) => recordReports(tx, input, actor));
      try {
        return await record();
      } catch (error) {
        if (!isPartitionMissing(error, 'write-executions')) throw error;
        // No partition takes the row: retention has dropped the month of its operation, or nobody made this one yet.
        for (const at of await readOperationTimes(transactions, input)) await transactions.systemQuery(ensurePartitionStatement, [new Date(at)]);
        return record();
      }
    },
  };
}

const ensurePartitionStatement = { name: 'ensure-execution-partition', text: 'select nkudo.ensure_execution_partition($1)' };

async function readOperationTimes(transactions: Transactions, input: ReportInput): Promise<readonly number[]> {
  return transactions.tenant(input.tenantId, async (tx) => {
    const { rows } = await tx.query<{ created_at: number }>(
      { name: 'read-operation-times', text: 'select created_at from nkudo.operations where tenant_id = $1 and id = any($2)' },
      [input.tenantId, input.executions.map((report) => report.operationId)],
    );
    return rows.map((row) => row.created_at);
  });
}

const pendingHostsStatement = {
  name: 'list-hosts-with-pending',
  isHot: true,
  text: `select l.tenant_id, l.host_id, bool_or(o.is_cancel) as has_cancels from nkudo.host_liveness l
    join (
      select tenant_id, host_id, false as is_cancel from nkudo.operations where status = 'Pending'
      union all
      select tenant_id, host_id, true from nkudo.operations where cancel_requested_at is not null and status in ('Dispatched', 'Running')
    ) o on o.tenant_id = l.tenant_id and o.host_id = l.host_id
    where l.replica = $1 and l.session_id is not null group by l.tenant_id, l.host_id`,
};

/** Most cancels that one look gives. */
const cancelsMax = 256;

const cancelsStatement = {
  name: 'list-cancels',
  isHot: true,
  text: `select id from nkudo.operations
    where tenant_id = $1 and host_id = $2 and cancel_requested_at is not null and status in ('Dispatched', 'Running') order by revision limit ${cancelsMax}`,
};

/** The host has answered: it is not asked again, and the report of the operation says how it ends. */
async function endCancel(tx: Tx, input: ReceiptInput): Promise<void> {
  await tx.query(
    {
      name: 'end-cancel',
      text: 'update nkudo.operations set cancel_requested_at = null where tenant_id = $1 and id = $2 and host_id = $3 and cancel_requested_at is not null',
    },
    [input.tenantId, input.operationId, input.hostId],
  );
}

interface OperationRow {
  readonly id: string;
  readonly plan_id: string;
  readonly microvm_id: string;
  readonly kind: OperationKind;
  readonly epoch: number;
  readonly revision: number;
  readonly generation: number;
  readonly desired: DesiredMicroVM | null;
  readonly start_within_ms: number | null;
  readonly status: OperationStatus;
}

const operationColumns = 'id, plan_id, microvm_id, kind, epoch, revision, generation, desired, start_within_ms, status';

async function claim(tx: Tx, input: ClaimInput): Promise<readonly Operation[]> {
  const statuses = input.includeDispatched ? ['Pending', 'Dispatched'] : ['Pending'];
  const found = await tx.query<{ id: string; status: OperationStatus }>(
    {
      name: 'find-claimable',
      isHot: true,
      text: `select id, status from nkudo.operations
        where tenant_id = $1 and host_id = $2 and status in ('Pending', 'Dispatched') and status = any($3)
        order by revision limit ${claimMax}`,
    },
    [input.tenantId, input.hostId, statuses],
  );
  if (found.rowCount === 0) return [];
  if (!(await isHostsSession(tx, input))) return [];
  const ids = found.rows.map((row) => row.id);
  // A publisher may supersede one meanwhile: only what is still open after the lock is claimed.
  const locking = found.rows.some((row) => row.status === 'Pending') ? 'for no key update' : '';
  const { rows } = await tx.query<OperationRow>(
    {
      name: locking === '' ? 'read-claimable' : 'lock-claimable',
      isHot: true,
      text: `select ${operationColumns} from nkudo.operations
        where tenant_id = $1 and id = any($2) and status in ('Pending', 'Dispatched') order by revision ${locking}`,
    },
    [input.tenantId, ids],
  );
  await markDispatched(tx, input, rows.filter((row) => row.status === 'Pending'));
  return rows.map((row) => toOperation(row, input));
}

/** A session that was replaced, or a host that was revoked or quarantined or waits for its approval, gets nothing. */
async function isHostsSession(tx: Tx, input: ClaimInput): Promise<boolean> {
  const { rowCount } = await tx.query(
    {
      name: 'check-session',
      isHot: true,
      text: `select from nkudo.host_liveness l join nkudo.hosts h on h.tenant_id = l.tenant_id and h.id = l.host_id
          join nkudo.sites s on s.tenant_id = h.tenant_id and s.id = h.site_id
        where l.tenant_id = $1 and l.host_id = $2 and l.session_id = $3
          and h.recovered_incarnation >= (select incarnation from nkudo.installation) and h.revoked_at is null and h.quarantined_at is null
          and (h.is_approved or not s.require_approval)`,
    },
    [input.tenantId, input.hostId, input.sessionId],
  );
  return rowCount === 1;
}

async function markDispatched(tx: Tx, input: ClaimInput, pending: readonly OperationRow[]): Promise<void> {
  if (pending.length === 0) return;
  await tx.query(
    {
      name: 'mark-dispatched',
      isHot: true,
      text: `update nkudo.operations set status = 'Dispatched', dispatched_session_id = $3, dispatched_at = now(), changed_at = now()
        where tenant_id = $1 and id = any($2)`,
    },
    [input.tenantId, pending.map((row) => row.id), input.sessionId],
  );
  const plans = await rollUpPlans(tx, input.tenantId, pending.map((row) => row.plan_id));
  const operations = pending.map((row) => ({
    action: 'dispatched', subject: 'operation' as const, id: row.id, before: { status: 'Pending' }, after: { status: 'Dispatched', error: null },
  }));
  // The gateway acts for nobody here: it hands out what a reconciler or a person published.
  await appendAudit(tx, input.tenantId, { kind: 'system', name: `session/${input.sessionId}`, from: '' }, [...operations, ...plans]);
}

function toOperation(row: OperationRow, input: ClaimInput): Operation {
  return {
    id: operationId(row.id),
    planId: planId(row.plan_id),
    microvmId: microVMId(row.microvm_id),
    hostId: input.hostId,
    kind: row.kind,
    epoch: parseEpoch(row.epoch),
    revision: row.revision,
    generation: row.generation,
    ...(row.desired === null ? {} : { desired: row.desired }),
    ...(row.start_within_ms === null ? {} : { startWithinMs: row.start_within_ms }),
  };
}

/** Null when the receipt changes nothing. */
async function decideReceipt(tx: Tx, input: ReceiptInput): Promise<(OperationChange & { readonly microvmId: MicroVMId }) | null> {
  const { rows } = await tx.query<{ plan_id: string; microvm_id: string; status: OperationStatus; has_newer: boolean }>(
    {
      name: 'lock-operation-for-receipt',
      isHot: true,
      text: `select o.plan_id, o.microvm_id, o.status,
          exists (select from nkudo.operations n where n.tenant_id = o.tenant_id and n.microvm_id = o.microvm_id and n.revision > o.revision) as has_newer
        from nkudo.operations o
        where o.tenant_id = $1 and o.id = $2 and o.host_id = $3 and o.status in ('Dispatched', 'Running') and o.status <> $4
        for no key update`,
    },
    // What ended, or is accepted already, is not even locked: a lock is a write.
    [input.tenantId, input.operationId, input.hostId, input.disposition === 'Accepted' ? 'Running' : ''],
  );
  const [row] = rows;
  if (row === undefined) return null;
  const to = receiptStatus(input, row);
  if (to === null) return null;
  const error = to === 'Failed' ? (input.error ?? { code: 'INTERNAL', message: 'refused by the host without a reason' }) : null;
  return { operationId: input.operationId, planId: row.plan_id, microvmId: microVMId(row.microvm_id), from: row.status, to, error };
}

function receiptStatus(input: ReceiptInput, row: { readonly status: OperationStatus; readonly has_newer: boolean }): OperationStatus | null {
  switch (input.disposition) {
    case 'Accepted':
      return 'Running';
    case 'Refused':
      // Of what the host runs already it refuses the duplicate, not the operation.
      if (row.status === 'Running') return null;
      return row.has_newer && input.error?.code === 'STALE_OPERATION' ? 'Superseded' : 'Failed';
    case 'Dropped':
      return row.has_newer ? 'Superseded' : 'Cancelled';
    case 'TooLate':
      return null;
  }
}
