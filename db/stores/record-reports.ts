/** Takes one batch of reports of one host: executions, their operations and plans, observations; one commit. */
import { microVMId, type HostId, type MicroVMId, type TenantId } from '#api/model/ids.ts';
import type { MicroVMObservation } from '#api/model/microvm.ts';
import { isTerminal, type ExecutionReport, type ExecutionStatus, type OperationKind, type OperationStatus } from '#api/model/plan.ts';
import type { Actor } from '#controller/ports/audit.ts';
import type { ReportOutcome } from '#controller/ports/dispatch-store.ts';
import { appendAudit, type AuditEntry } from '../audit.ts';
import { rollUpPlans, writeOperationChanges, type OperationChange, type OperationError } from '../operation-status.ts';
import type { Tx } from '../tx.ts';
import { recordSiteOrders } from './site-orders.ts';
import { confirmDisplaced } from './displacements.ts';

interface ReportInput {
  readonly tenantId: TenantId;
  readonly hostId: HostId;
  readonly executions: readonly ExecutionReport[];
  readonly observations: readonly MicroVMObservation[];
}

interface OperationRow {
  readonly id: string;
  readonly plan_id: string;
  readonly microvm_id: string;
  readonly host_id: string;
  readonly kind: OperationKind;
  readonly status: OperationStatus;
  readonly revision: number;
  readonly error_code: string | null;
  readonly error_message: string | null;
  /** A caller asked the host to drop it, and the host did not say that it is too late. */
  readonly is_cancel_requested: boolean;
}

interface Refusal {
  readonly id: string;
  readonly code: string;
}

export async function recordReports(tx: Tx, input: ReportInput, actor: Actor): Promise<ReportOutcome> {
  const executions = await recordExecutions(tx, input);
  const observations = await recordObservations(tx, input);
  await appendAudit(tx, input.tenantId, actor, executions.entries);
  await recordSiteOrders(tx, input);
  return {
    refused: [...executions.refused, ...observations.refused],
    changed: [...new Set([...executions.changed, ...observations.changed])].map((id) => microVMId(id)),
    ...(executions.entries.some((entry) => entry.subject === 'displacement') ? { isHostChanged: true } : {}),
  };
}

interface Recorded {
  readonly refused: readonly Refusal[];
  readonly changed: readonly string[];
  readonly entries: readonly AuditEntry[];
}

async function recordExecutions(tx: Tx, input: ReportInput): Promise<Recorded> {
  if (input.executions.length === 0) return { refused: [], changed: [], entries: [] };
  const operations = await lockOperations(tx, input);
  const executions = await readExecutions(tx, input);
  const { refused, accepted } = sortReports(input, operations, executions);
  // An ended operation takes no further running attempt; how one ended is still worth keeping.
  const written = accepted.filter(({ report, operation }) => isNews(report, executions.get(report.executionId)) && !(report.status === 'Running' && isTerminal(operation.status)));
  await writeExecutions(tx, input.tenantId, written);
  const changes = deriveOperationChanges(accepted, operations);
  const ended = changes.filter((change) => change.to === 'Succeeded' && change.from !== 'Succeeded').map((change) => change.operationId);
  const outrun = await findOutrun(tx, input, ended);
  const all = [...changes, ...outrun.changes];
  const entries = [...(await writeSteps(tx, input.tenantId, all))];
  entries.push(...(await rollUpPlans(tx, input.tenantId, all.map((change) => change.planId))));
  const deletions = [...operations.values()].filter((row) => row.kind === 'Delete' && ended.includes(row.id));
  // A host that dropped the removal has accepted a later order for the microVM, so it holds nothing that was displaced.
  const over = all.filter((change) => isTerminal(change.to) && change.to !== 'Failed').map((change) => change.operationId);
  entries.push(...(await markTornDown(tx, input.tenantId, deletions)));
  entries.push(...(await confirmDisplaced(tx, input, [...operations.values()].filter((row) => row.kind === 'Delete' && over.includes(row.id)))));
  const changed = new Set([
    ...written.map(({ operation }) => operation.microvm_id),
    ...changes.flatMap((change) => operations.get(change.operationId)?.microvm_id ?? []),
  ]);
  return { refused, changed: [...changed], entries };
}

const operationColumns = 'id, plan_id, microvm_id, host_id, kind, status, revision, error_code, error_message, cancel_requested_at is not null as is_cancel_requested';

/** Locks those that are open. An ended one never changes, and a lock would be a write. */
async function lockOperations(tx: Tx, input: ReportInput): Promise<ReadonlyMap<string, OperationRow>> {
  const ids = [...new Set(input.executions.map((report) => report.operationId))];
  const found = await tx.query<OperationRow>(
    { name: 'read-reported-operations', isHot: true, text: `select ${operationColumns} from nkudo.operations where tenant_id = $1 and id = any($2)` },
    [input.tenantId, ids],
  );
  const open = found.rows.filter((row) => row.host_id === input.hostId && !isTerminal(row.status)).map((row) => row.id);
  if (open.length === 0) return new Map(found.rows.map((row) => [row.id, row]));
  const locked = await tx.query<OperationRow>(
    {
      name: 'lock-reported-operations',
      isHot: true,
      text: `select ${operationColumns} from nkudo.operations where tenant_id = $1 and id = any($2) order by id for no key update`,
    },
    [input.tenantId, open],
  );
  return new Map([...found.rows, ...locked.rows].map((row) => [row.id, row]));
}

interface ExecutionRow {
  readonly id: string;
  readonly operation_id: string;
  readonly attempt: number;
  readonly status: ExecutionStatus;
}

async function readExecutions(tx: Tx, input: ReportInput): Promise<ReadonlyMap<string, ExecutionRow>> {
  const { rows } = await tx.query<ExecutionRow>(
    {
      name: 'read-reported-executions',
      isHot: true,
      text: `select id, operation_id, attempt, status from nkudo.execution_records
        where tenant_id = $1 and (id = any($2) or operation_id = any($3))`,
    },
    [input.tenantId, input.executions.map((report) => report.executionId), input.executions.map((report) => report.operationId)],
  );
  return new Map(rows.map((row) => [row.id, row]));
}

interface AcceptedReport {
  readonly report: ExecutionReport;
  readonly operation: OperationRow;
}

/** Refuses what belongs to another host or contradicts what is stored; the rest comes back oldest attempt first. */
function sortReports(input: ReportInput, operations: ReadonlyMap<string, OperationRow>, stored: ReadonlyMap<string, ExecutionRow>): { readonly refused: readonly Refusal[]; readonly accepted: readonly AcceptedReport[] } {
  const refused: Refusal[] = [];
  const accepted: AcceptedReport[] = [];
  const ids = new Map([...stored.values()].map((row) => [`${row.operation_id}/${row.attempt}`, row.id]));
  const owners = new Map([...stored.values()].map((row) => [row.id, `${row.operation_id}/${row.attempt}`]));
  for (const report of input.executions.toSorted(byAttempt)) {
    const operation = operations.get(report.operationId);
    const attempt = `${report.operationId}/${report.attempt}`;
    if (operation === undefined) refused.push({ id: report.executionId, code: 'NOT_FOUND' });
    else if (operation.host_id !== input.hostId) refused.push({ id: report.executionId, code: 'PERMISSION_DENIED' });
    else if ((ids.get(attempt) ?? report.executionId) !== report.executionId || (owners.get(report.executionId) ?? attempt) !== attempt) {
      refused.push({ id: report.executionId, code: 'CONFLICT' });
    } else {
      ids.set(attempt, report.executionId);
      owners.set(report.executionId, attempt);
      accepted.push({ report, operation });
    }
  }
  return { refused, accepted };
}

function byAttempt(left: ExecutionReport, right: ExecutionReport): number {
  return left.attempt - right.attempt || Number(left.status !== 'Running') - Number(right.status !== 'Running') || Number(left.isFinal) - Number(right.isFinal);
}

function isNews(report: ExecutionReport, stored: ExecutionRow | undefined): boolean {
  return stored === undefined || (stored.status === 'Running' && report.status !== 'Running');
}

async function writeExecutions(tx: Tx, tenantId: TenantId, accepted: readonly AcceptedReport[]): Promise<void> {
  // Of several reports on one execution the last in order counts: one row can't be written twice by one statement.
  const newest = [...new Map(accepted.map((item) => [item.report.executionId, item])).values()];
  if (newest.length === 0) return;
  await tx.query(
    {
      name: 'write-executions',
      isHot: true,
      text: `insert into nkudo.execution_records as x
          (tenant_id, id, operation_id, microvm_id, host_id, plan_id, attempt, status, started_at, finished_at, error_code, error_message, operation_at)
        select $1, r.id, r.operation_id, o.microvm_id, o.host_id, o.plan_id, r.attempt, r.status, r.started_at, r.finished_at, r.error_code, r.error_message, o.created_at
        from unnest($2::uuid[], $3::uuid[], $4::integer[], $5::text[], $6::timestamptz[], $7::timestamptz[], $8::text[], $9::text[])
          as r (id, operation_id, attempt, status, started_at, finished_at, error_code, error_message)
        join nkudo.operations o on o.tenant_id = $1 and o.id = r.operation_id
        on conflict (tenant_id, id, operation_at) do update
        set status = excluded.status, started_at = excluded.started_at, finished_at = excluded.finished_at,
          error_code = excluded.error_code, error_message = excluded.error_message, received_at = now()
        where x.status = 'Running'`,
    },
    [
      tenantId,
      newest.map(({ report }) => report.executionId),
      newest.map(({ report }) => report.operationId),
      newest.map(({ report }) => report.attempt),
      newest.map(({ report }) => report.status),
      newest.map(({ report }) => new Date(report.startedAtMs)),
      newest.map(({ report }) => (report.finishedAtMs === undefined ? null : new Date(report.finishedAtMs))),
      newest.map(({ report }) => report.error?.code.slice(0, 64) ?? null),
      newest.map(({ report }) => report.error?.message.slice(0, 4096) ?? null),
    ],
  );
}

/** One change for each operation that ends up different, from where it was to where the reports bring it. */
function deriveOperationChanges(accepted: readonly AcceptedReport[], operations: ReadonlyMap<string, OperationRow>): readonly OperationChange[] {
  const reached = new Map<string, { status: OperationStatus; error: OperationError | null }>();
  for (const { report, operation } of accepted) {
    const before = reached.get(operation.id) ?? { status: operation.status, error: storedError(operation) };
    if (!isTerminal(before.status)) reached.set(operation.id, applyReport(report, operation.is_cancel_requested));
  }
  return [...reached].flatMap(([id, { status, error }]) => {
    const row = operations.get(id);
    if (row === undefined) return [];
    const isSame = row.status === status && (row.error_code ?? null) === (error?.code ?? null) && (row.error_message ?? null) === (error?.message ?? null);
    return isSame ? [] : [{ operationId: id, planId: row.plan_id, from: row.status, to: status, error }];
  });
}

function storedError(row: OperationRow): OperationError | null {
  return row.error_code === null ? null : { code: row.error_code, message: row.error_message ?? '' };
}

/** Where a report brings an open operation. The error of a failed attempt shows until a later one succeeds. */
function applyReport(report: ExecutionReport, isCancelRequested: boolean): { status: OperationStatus; error: OperationError | null } {
  const error = report.error ?? null;
  if (!report.isFinal || report.status === 'Running') return { status: 'Running', error };
  switch (report.status) {
    case 'Succeeded':
      return { status: 'Succeeded', error: null };
    case 'Expired':
      return { status: 'Expired', error };
    case 'Dropped':
      // It may arrive before the receipt that answers the cancel.
      return { status: isCancelRequested ? 'Cancelled' : 'Superseded', error };
    case 'Failed':
    case 'OutcomeUnknown':
      return { status: 'Failed', error: error ?? { code: 'INTERNAL', message: 'the host gave no reason' } };
  }
}

/** What was never marked as handed out, in a restored database, is first marked so: the host evidently has it. */
async function writeSteps(tx: Tx, tenantId: TenantId, changes: readonly OperationChange[]): Promise<readonly AuditEntry[]> {
  const unmarked = changes.filter((change) => change.from === 'Pending').map((change) => ({ ...change, to: 'Dispatched' as const, error: null }));
  const first = await writeOperationChanges(tx, tenantId, unmarked);
  const marked = changes.map((change) => (change.from === 'Pending' ? { ...change, from: 'Dispatched' as const } : change));
  return [...first, ...(await writeOperationChanges(tx, tenantId, marked))];
}

/** A host that made an operation true refuses the older ones for good, so those that were handed out are over. */
async function findOutrun(tx: Tx, input: ReportInput, endedIds: readonly string[]): Promise<{ readonly changes: readonly OperationChange[] }> {
  if (endedIds.length === 0) return { changes: [] };
  const { rows } = await tx.query<{ id: string; plan_id: string; status: OperationStatus }>(
    {
      name: 'lock-outrun-operations',
      isHot: true,
      text: `select o.id, o.plan_id, o.status from nkudo.operations o
        join nkudo.operations e on e.tenant_id = o.tenant_id and e.microvm_id = o.microvm_id and e.host_id = o.host_id
        where e.tenant_id = $1 and e.id = any($2) and o.revision < e.revision and o.status in ('Dispatched', 'Running')
          and not o.id = any($2) and o.host_id = $3
        order by o.id for no key update of o`,
    },
    [input.tenantId, endedIds, input.hostId],
  );
  const unique = new Map(rows.map((row) => [row.id, row]));
  const reported = new Set(input.executions.map((report): string => report.operationId));
  const changes = [...unique.values()]
    .filter((row) => !reported.has(row.id))
    .map((row) => ({ operationId: row.id, planId: row.plan_id, from: row.status, to: 'Superseded' as const, error: null }));
  return { changes };
}

async function markTornDown(tx: Tx, tenantId: TenantId, deletions: readonly OperationRow[]): Promise<readonly AuditEntry[]> {
  if (deletions.length === 0) return [];
  const { rows } = await tx.query<{ id: string }>(
    {
      name: 'mark-torn-down',
      // What is gone from a host that was given up says nothing of the one that has it now.
      text: `update nkudo.microvms m set torn_down_at = now(), changed_at = now()
        from unnest($2::uuid[], $3::uuid[]) as d (microvm_id, host_id)
        where m.tenant_id = $1 and m.id = d.microvm_id and m.is_deleting and m.torn_down_at is null
          and not exists (select from nkudo.bindings b where b.tenant_id = $1 and b.microvm_id = m.id and b.released_at is null and b.host_id <> d.host_id)
        returning m.id`,
    },
    [tenantId, deletions.map((row) => row.microvm_id), deletions.map((row) => row.host_id)],
  );
  return rows.map((row) => ({ action: 'tornDown', subject: 'microvm', id: row.id, before: { isTornDown: false }, after: { isTornDown: true } }));
}

/** Keeps the newest observation of each microVM that is bound to the host. Age is checked again by the statement. */
async function recordObservations(tx: Tx, input: ReportInput): Promise<Recorded> {
  const newest = new Map<string, MicroVMObservation>();
  for (const seen of input.observations.toSorted((left, right) => left.epoch - right.epoch || left.sequence - right.sequence)) newest.set(seen.microvmId, seen);
  if (newest.size === 0) return { refused: [], changed: [], entries: [] };
  const ids = [...newest.keys()];
  const bound = await tx.query<{ microvm_id: string; epoch: number | null; sequence: number }>(
    {
      name: 'read-observed-of-host',
      isHot: true,
      text: `select b.microvm_id, o.epoch, o.sequence from nkudo.bindings b
        left join nkudo.observations o on o.tenant_id = b.tenant_id and o.microvm_id = b.microvm_id
        where b.tenant_id = $1 and b.host_id = $2 and b.microvm_id = any($3) and b.released_at is null`,
    },
    [input.tenantId, input.hostId, ids],
  );
  const stored = new Map(bound.rows.map((row) => [row.microvm_id, row]));
  const kept = [...newest.values()].filter((seen) => {
    const row = stored.get(seen.microvmId);
    return row !== undefined && (row.epoch === null || seen.epoch > row.epoch || (seen.epoch === row.epoch && seen.sequence > row.sequence));
  });
  const refused = ids.filter((id) => !stored.has(id)).map((id) => ({ id, code: 'NOT_FOUND' }));
  return { refused, changed: await writeObservations(tx, input, kept), entries: [] };
}

/** Returns the microVMs whose row changed. */
async function writeObservations(tx: Tx, input: ReportInput, seen: readonly MicroVMObservation[]): Promise<readonly MicroVMId[]> {
  if (seen.length === 0) return [];
  const { rows } = await tx.query<{ microvm_id: MicroVMId }>(
    {
      name: 'write-observations',
      isHot: true,
      text: `insert into nkudo.observations as o (tenant_id, host_id, microvm_id, epoch, revision, generation, sequence, state,
          observed_at, booted_at, restarts, is_crash_looping, is_restart_required, last_exit, problem, warnings, site_override, readiness, cpu_count, memory_bytes, is_secret_changed)
        select $1, $2, r.* from unnest($3::uuid[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[],
          $9::timestamptz[], $10::timestamptz[], $11::bigint[], $12::boolean[], $13::boolean[], $14::jsonb[], $15::jsonb[], $16::jsonb[], $17::jsonb[], $18::jsonb[], $19::integer[], $20::bigint[], $21::boolean[]) as r
        order by 3
        on conflict (tenant_id, microvm_id) do update
        set host_id = excluded.host_id, epoch = excluded.epoch, revision = excluded.revision, generation = excluded.generation,
          sequence = excluded.sequence, state = excluded.state, observed_at = excluded.observed_at, booted_at = excluded.booted_at,
          restarts = excluded.restarts, is_crash_looping = excluded.is_crash_looping,
          is_restart_required = excluded.is_restart_required, last_exit = excluded.last_exit,
          problem = excluded.problem, warnings = excluded.warnings, site_override = excluded.site_override, readiness = excluded.readiness,
          cpu_count = excluded.cpu_count, memory_bytes = excluded.memory_bytes, is_secret_changed = excluded.is_secret_changed, received_at = now()
        where excluded.epoch > o.epoch or (excluded.epoch = o.epoch and excluded.sequence > o.sequence)
        returning microvm_id`,
    },
    [
      input.tenantId,
      input.hostId,
      seen.map((item) => item.microvmId),
      seen.map((item) => item.epoch),
      seen.map((item) => item.revision),
      seen.map((item) => item.generation),
      seen.map((item) => item.sequence),
      seen.map((item) => item.state),
      seen.map((item) => new Date(item.observedAtMs)),
      seen.map((item) => (item.bootedAtMs === undefined ? null : new Date(item.bootedAtMs))),
      seen.map((item) => item.restarts),
      seen.map((item) => item.isCrashLooping),
      seen.map((item) => item.isRestartRequired),
      seen.map((item) => (item.lastExit === undefined ? null : JSON.stringify(item.lastExit))),
      seen.map((item) => (item.problem === undefined ? null : JSON.stringify(item.problem))),
      seen.map((item) => (item.warnings === undefined ? null : JSON.stringify(item.warnings))),
      seen.map((item) => (item.siteOverride === undefined ? null : JSON.stringify(item.siteOverride))),
      seen.map((item) => (item.readiness === undefined ? null : JSON.stringify(item.readiness))),
      seen.map((item) => item.cpuCount ?? null),
      seen.map((item) => item.memoryBytes ?? null),
      seen.map((item) => item.isSecretChanged === true),
    ],
  );
  return rows.map((row) => row.microvm_id);
}
