/** Lists of the tenants' API with filters and cursors, and single objects. Reads only, as the tenant. */
import type { TenantId } from '#api/model/ids.ts';
import type { ExecutionStatus, OperationKind } from '#api/model/plan.ts';
import { AppError } from '#api/model/error-codes.ts';
import type { AuditEventView, ByNameOrId, ExecutionView, FleetLists, HostView, MicroVMView, Page, PageRequest, PlanView, SiteView } from '#controller/ports/fleet-store.ts';
import type pg from 'pg';
import type { Statement, Transactions } from '../tx.ts';
import {
  auditPage, executionById, executionsPage, hostById, hostByName, hostsPage, microvmById, microvmByName, microvmsPage, plansPage, siteById, siteByName, sitesPage,
} from './fleet-statements.ts';
import { boundedSize, decodeCursor, toPage } from './page-cursor.ts';
import { planColumns, toError, withParts, type PlanRow } from './plan-views.ts';

/** Plans come with all their operations and actions. */
const planPageMax = 100;
/** The cursor of a list without UUIDs has this one. */
const noId = '00000000-0000-0000-0000-000000000000';

/** Name or time, and id, of the last row of the page before. */
function keysOf(page: PageRequest): readonly [string | null, string | null] {
  return page.cursor === null ? [null, null] : decodeCursor(page.cursor);
}

/** As {@link keysOf}, where the first one is a whole number; a larger one is no time that Postgres knows. */
function numberedKeysOf(page: PageRequest): readonly [string | null, string | null] {
  const keys = keysOf(page);
  if (keys[0] !== null && !(/^\d{1,16}$/.test(keys[0]) && Number.isSafeInteger(Number(keys[0])))) throw new AppError('INVALID_REQUEST', 'the page cursor is malformed');
  return keys;
}

const toDate = (ms: number | null): Date | null => (ms === null ? null : new Date(ms));
const pick = (by: ByNameOrId, byName: Statement, byId: Statement): readonly [Statement, string] => ('name' in by ? [byName, by.name] : [byId, by.id]);

export function createFleetLists(transactions: Transactions): FleetLists {
  const read = <Row extends pg.QueryResultRow>(tenant: TenantId, statement: Statement, values: readonly unknown[]): Promise<readonly Row[]> =>
    transactions.tenant(tenant, async (tx) => (await tx.query<Row>(statement, values)).rows);
  const first = async <Row extends pg.QueryResultRow>(tenant: TenantId, statement: Statement, values: readonly unknown[]): Promise<Row | null> =>
    (await read<Row>(tenant, statement, values))[0] ?? null;
  return {
    pageSites: async (tenant, silentBeforeMs, page) => {
      const size = boundedSize(page.size);
      const rows = await read<SiteView>(tenant, sitesPage, [tenant, null, new Date(silentBeforeMs), ...keysOf(page), size + 1]);
      return toPage(rows, size, (row) => [row.name, row.id]);
    },
    findSite: (tenant, by, silentBeforeMs) => {
      const [statement, value] = pick(by, siteByName, siteById);
      return first<SiteView>(tenant, statement, [tenant, null, new Date(silentBeforeMs), value]);
    },
    pageHosts: async (tenant, siteName, silentBeforeMs, page) => {
      const size = boundedSize(page.size);
      const rows = await read<HostView>(tenant, hostsPage, [tenant, siteName, new Date(silentBeforeMs), ...keysOf(page), size + 1]);
      return toPage(rows, size, (row) => [row.name, row.id]);
    },
    findHost: (tenant, by, silentBeforeMs) => {
      const [statement, value] = pick(by, hostByName, hostById);
      return first<HostView>(tenant, statement, [tenant, null, new Date(silentBeforeMs), value]);
    },
    pageMicroVMs: async (tenant, filter, page) => {
      const size = boundedSize(page.size);
      const rows = await read<MicroVMView>(tenant, microvmsPage, [tenant, filter.siteName, filter.hostName, filter.state, ...keysOf(page), size + 1]);
      return toPage(rows, size, (row) => [row.name, row.id]);
    },
    findMicroVM: (tenant, by) => {
      const [statement, value] = pick(by, microvmByName, microvmById);
      return first<MicroVMView>(tenant, statement, [tenant, null, value]);
    },
    pagePlans: (tenant, filter, page) =>
      transactions.tenant(tenant, async (tx): Promise<Page<PlanView>> => {
        const size = Math.min(boundedSize(page.size), planPageMax);
        const { rows } = await tx.query<PlanRow & { readonly created_micros: string }>(plansPage(planColumns), [
          tenant, filter.siteName, filter.microvmId, filter.status, filter.includesController, ...numberedKeysOf(page), size + 1,
        ]);
        const found = toPage(rows, size, (row) => [row.created_micros, row.id]);
        return { rows: await withParts(tx, tenant, found.rows), nextCursor: found.nextCursor };
      }),
    pageExecutions: async (tenant, filter, page) => {
      const size = boundedSize(page.size);
      const rows = await read<ExecutionRow>(tenant, executionsPage, [
        tenant, filter.siteName, filter.microvmId, filter.operationId, filter.planId, filter.status,
        toDate(filter.startedFromMs), toDate(filter.startedBeforeMs), ...numberedKeysOf(page), size + 1, filter.hostName ?? null,
      ]);
      return toPage(rows.map(toExecution), size, (row) => [String(row.startedAtMs), row.id]);
    },
    findExecution: async (tenant, executionId) => {
      const row = await first<ExecutionRow>(tenant, executionById, [tenant, executionId]);
      return row === null ? null : toExecution(row);
    },
    pageAuditEvents: async (tenant, filter, page) => {
      const size = boundedSize(page.size);
      const rows = await read<AuditEventView>(tenant, auditPage, [tenant, filter.subjectKind, filter.subjectId, numberedKeysOf(page)[0], size + 1]);
      return toPage(rows, size, (row) => [String(row.id), noId]);
    },
  };
}

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

function toExecution(row: ExecutionRow): ExecutionView {
  return {
    id: row.id, operationId: row.operation_id, microvmId: row.microvm_id, kind: row.kind, attempt: row.attempt, status: row.status,
    startedAtMs: row.started_at, finishedAtMs: row.finished_at, error: toError(row),
  };
}
