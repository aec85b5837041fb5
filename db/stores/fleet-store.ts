/** Read side of the tenants' API. Every read runs as the tenant, so that the database itself keeps others' rows out. */
import { planId, tenantId, type PlanId, type TenantId } from '#api/model/ids.ts';
import type { ExecutionStatus, OperationKind, OperationStatus, PlanActionKind, PlanActionStatus, PlanStatus } from '#api/model/plan.ts';
import type { ExecutionView, FleetStore, HostView, MicroVMView, Page, PlanView, SiteView } from '#controller/ports/fleet-store.ts';
import { AppError } from '#api/model/error-codes.ts';
import type { Transactions, Tx } from '../tx.ts';
import { decodeCursor, encodeCursor } from './page-cursor.ts';

/** Most rows of one page. */
const pageMax = 500;

export function createFleetStore(transactions: Transactions): FleetStore {
  return {
    findTenant: async (namespace) => {
      // A namespace that was made again is another tenant: the newest has the name now.
      const { rows } = await transactions.systemQuery<{ tenant_id: string }>(
        { name: 'find-tenant', isHot: true, text: 'select tenant_id from nkudo.tenants where namespace = $1 order by created_at desc limit 1' },
        [namespace],
      );
      return rows[0] === undefined ? null : tenantId(rows[0].tenant_id);
    },
    loadPlan: (tenant, id) => transactions.tenant(tenant, (tx) => loadPlan(tx, tenant, id)),
    listPlans: (tenant, siteName, sinceMs) => transactions.tenant(tenant, (tx) => listPlans(tx, { tenant, siteName, sinceMs })),
    listSites: (tenant, siteName, silentBeforeMs) =>
      transactions.tenant(tenant, async (tx) => {
        const { rows } = await tx.query<SiteView>(sitesStatement, [tenant, siteName, new Date(silentBeforeMs)]);
        return rows;
      }),
    listHosts: (tenant, siteName, silentBeforeMs) =>
      transactions.tenant(tenant, async (tx) => {
        const { rows } = await tx.query<HostView>(hostsStatement, [tenant, siteName, new Date(silentBeforeMs)]);
        return rows;
      }),
    listMicroVMs: (tenant, siteName, page) =>
      transactions.tenant(tenant, async (tx) => {
        const after = page.cursor === null ? null : decodeCursor(page.cursor);
        const size = boundedSize(page.size);
        const { rows } = await tx.query<MicroVMView>(microvmsStatement, [tenant, siteName, after?.[0] ?? null, after?.[1] ?? null, size + 1]);
        return toPage(rows, size, (row) => [row.name, row.id]);
      }),
    listExecutions: (tenant, microvmId, page) =>
      transactions.tenant(tenant, async (tx) => {
        const after = page.cursor === null ? null : decodeCursor(page.cursor);
        const afterMs = after === null ? null : Number(after[0]);
        if (afterMs !== null && !Number.isSafeInteger(afterMs)) throw new AppError('INVALID_REQUEST', 'the page cursor is malformed');
        const size = boundedSize(page.size);
        const { rows } = await tx.query<ExecutionRow>(executionsStatement, [tenant, microvmId, afterMs, after?.[1] ?? null, size + 1]);
        return toPage(rows.map(toExecution), size, (row) => [String(row.startedAtMs), row.id]);
      }),
  };
}

function boundedSize(size: number): number {
  return Math.min(Math.max(1, Math.trunc(size)), pageMax);
}

/** `rows` holds one more than the page when there is a next one. */
function toPage<Row>(rows: readonly Row[], size: number, keys: (row: Row) => readonly [string, string]): Page<Row> {
  const page = rows.slice(0, size);
  const last = page.at(-1);
  return { rows: page, nextCursor: rows.length > size && last !== undefined ? encodeCursor(keys(last)) : null };
}

interface PlanRow {
  readonly id: string;
  readonly site_name: string;
  readonly idempotency_key: string;
  readonly content_hash: string;
  readonly status: PlanStatus;
  readonly is_forced: boolean;
  readonly created_at: number;
  readonly finished_at: number | null;
}

interface PlanOperationRow {
  readonly id: string;
  readonly plan_id: string;
  readonly microvm_id: string;
  readonly host_name: string;
  readonly kind: OperationKind;
  readonly epoch: number;
  readonly revision: number;
  readonly status: OperationStatus;
  readonly error_code: string | null;
  readonly error_message: string | null;
}

interface PlanActionRow {
  readonly plan_id: string;
  readonly kind: PlanActionKind;
  readonly name: string;
  readonly microvm_id: string | null;
  readonly status: PlanActionStatus;
  readonly generation: number | null;
  readonly operation_id: string | null;
  readonly error_code: string | null;
  readonly error_message: string | null;
}

const planColumns = 'p.id, s.name as site_name, p.idempotency_key, p.content_hash, p.status, p.is_forced, p.created_at, p.finished_at';

async function loadPlan(tx: Tx, tenant: TenantId, id: PlanId): Promise<PlanView | null> {
  const { rows } = await tx.query<PlanRow>(
    {
      name: 'load-plan',
      isHot: true,
      text: `select ${planColumns} from nkudo.plans p join nkudo.sites s on s.tenant_id = p.tenant_id and s.id = p.site_id
        where p.tenant_id = $1 and p.id = $2`,
    },
    [tenant, id],
  );
  return (await withParts(tx, tenant, rows))[0] ?? null;
}

/** Most plans of one look of a watch. */
const plansMax = 500;

async function listPlans(tx: Tx, input: { readonly tenant: TenantId; readonly siteName: string | null; readonly sinceMs: number }): Promise<readonly PlanView[]> {
  const { rows } = await tx.query<PlanRow>(
    {
      name: 'list-plans',
      isHot: true,
      text: `select ${planColumns} from nkudo.plans p join nkudo.sites s on s.tenant_id = p.tenant_id and s.id = p.site_id
        where p.tenant_id = $1 and p.origin = 'caller' and ($2::text is null or s.name = $2) and (p.finished_at is null or p.finished_at >= $3 or p.created_at >= $3)
        order by p.created_at desc limit ${plansMax}`,
    },
    [input.tenant, input.siteName, new Date(input.sinceMs)],
  );
  return withParts(tx, input.tenant, rows);
}

async function withParts(tx: Tx, tenant: TenantId, plans: readonly PlanRow[]): Promise<readonly PlanView[]> {
  if (plans.length === 0) return [];
  const ids = plans.map((plan) => plan.id);
  const operations = await tx.query<PlanOperationRow>(
    {
      name: 'load-plan-operations',
      isHot: true,
      text: `select o.id, o.plan_id, o.microvm_id, h.name as host_name, o.kind, o.epoch, o.revision, o.status, o.error_code, o.error_message
        from nkudo.operations o join nkudo.hosts h on h.tenant_id = o.tenant_id and h.id = o.host_id
        where o.tenant_id = $1 and o.plan_id = any($2) order by o.revision, o.id`,
    },
    [tenant, ids],
  );
  const actions = await tx.query<PlanActionRow>(
    {
      name: 'load-plan-actions',
      isHot: true,
      text: `select plan_id, kind, name, microvm_id, status, generation, operation_id, error_code, error_message
        from nkudo.plan_actions where tenant_id = $1 and plan_id = any($2) order by position`,
    },
    [tenant, ids],
  );
  return plans.map((plan) => ({
    id: planId(plan.id), siteName: plan.site_name, idempotencyKey: plan.idempotency_key, contentHash: plan.content_hash, status: plan.status,
    createdAtMs: plan.created_at, finishedAtMs: plan.finished_at, isForced: plan.is_forced,
    operations: operations.rows.filter((row) => row.plan_id === plan.id).map((row) => ({
      id: row.id, microvmId: row.microvm_id, hostName: row.host_name, kind: row.kind, epoch: row.epoch, revision: row.revision, status: row.status,
      error: toError(row),
    })),
    actions: actions.rows.filter((row) => row.plan_id === plan.id).map((row) => ({
      kind: row.kind, name: row.name, microvmId: row.microvm_id, status: row.status, generation: row.generation, operationId: row.operation_id, error: toError(row),
    })),
  }));
}

function toError(row: { readonly error_code: string | null; readonly error_message: string | null }): { readonly code: string; readonly message: string } | null {
  return row.error_code === null ? null : { code: row.error_code, message: row.error_message ?? '' };
}

const sitesStatement = {
  name: 'fleet-sites',
  isHot: true,
  text: `select s.id, s.name, h.hosts, h.online as "hostsOnline", m.microvms, m.running as "microvmsRunning"
    from nkudo.sites s
    cross join lateral (
      select count(*) as hosts, count(*) filter (where l.last_beat_at >= $3) as online
      from nkudo.hosts h left join nkudo.host_liveness l on l.tenant_id = h.tenant_id and l.host_id = h.id
      where h.tenant_id = s.tenant_id and h.site_id = s.id and h.revoked_at is null
    ) h
    cross join lateral (
      select count(*) as microvms, count(*) filter (where o.state = 'running') as running
      from nkudo.microvms m left join nkudo.observations o on o.tenant_id = m.tenant_id and o.microvm_id = m.id
      where m.tenant_id = s.tenant_id and m.site_id = s.id and m.released_at is null
    ) m
    where s.tenant_id = $1 and s.deleted_at is null and ($2::text is null or s.name = $2) order by s.name`,
};

const hostsStatement = {
  name: 'fleet-hosts',
  isHot: true,
  text: `select h.id, h.name, s.name as "siteName", h.is_approved as "isApproved", h.revoked_at is not null as "isRevoked",
      coalesce(l.last_beat_at >= $3, false) as "isOnline", l.last_beat_at as "lastBeatAtMs", b.microvms
    from nkudo.hosts h
    join nkudo.sites s on s.tenant_id = h.tenant_id and s.id = h.site_id
    left join nkudo.host_liveness l on l.tenant_id = h.tenant_id and l.host_id = h.id
    cross join lateral (
      select count(*) as microvms from nkudo.bindings b where b.tenant_id = h.tenant_id and b.host_id = h.id and b.released_at is null
    ) b
    where h.tenant_id = $1 and h.revoked_at is null and ($2::text is null or s.name = $2) order by h.name`,
};

const microvmsStatement = {
  name: 'fleet-microvms',
  isHot: true,
  text: `select m.id, m.name, s.name as "siteName", h.name as "hostName", b.epoch, v.state, v.observed_at as "observedAtMs",
      coalesce(v.restarts, 0) as restarts, o.plan_id as "planId", p.status as "planStatus"
    from nkudo.microvms m
    join nkudo.sites s on s.tenant_id = m.tenant_id and s.id = m.site_id
    left join nkudo.bindings b on b.tenant_id = m.tenant_id and b.microvm_id = m.id and b.released_at is null
    left join nkudo.hosts h on h.tenant_id = b.tenant_id and h.id = b.host_id
    left join nkudo.observations v on v.tenant_id = m.tenant_id and v.microvm_id = m.id
    left join lateral (
      select n.plan_id from nkudo.operations n where n.tenant_id = m.tenant_id and n.microvm_id = m.id order by n.revision desc limit 1
    ) o on true
    left join nkudo.plans p on p.tenant_id = m.tenant_id and p.id = o.plan_id
    where m.tenant_id = $1 and m.released_at is null and ($2::text is null or s.name = $2)
      and ($3::text is null or (m.name, m.id) > ($3, $4::uuid))
    order by m.name, m.id limit $5`,
};

interface ExecutionRow {
  readonly id: string;
  readonly operation_id: string;
  readonly microvm_id: string;
  readonly kind: OperationKind;
  readonly attempt: number;
  readonly status: ExecutionStatus;
  readonly started_at: number;
  readonly finished_at: number | null;
  readonly error_code: string | null;
  readonly error_message: string | null;
}

/** Newest first. Start times have the precision of a millisecond, as the wire has. */
const executionsStatement = {
  name: 'fleet-executions',
  isHot: true,
  text: `select e.id, e.operation_id, e.microvm_id, o.kind, e.attempt, e.status, e.started_at, e.finished_at, e.error_code, e.error_message
    from nkudo.executions e join nkudo.operations o on o.tenant_id = e.tenant_id and o.id = e.operation_id
    where e.tenant_id = $1 and ($2::uuid is null or e.microvm_id = $2)
      and ($3::bigint is null or (e.started_at, e.id) < (to_timestamp($3::double precision / 1000), $4::uuid))
    order by e.started_at desc, e.id desc limit $5`,
};

function toExecution(row: ExecutionRow): ExecutionView {
  return {
    id: row.id, operationId: row.operation_id, microvmId: row.microvm_id, kind: row.kind, attempt: row.attempt, status: row.status,
    startedAtMs: row.started_at, finishedAtMs: row.finished_at, error: toError(row),
  };
}
