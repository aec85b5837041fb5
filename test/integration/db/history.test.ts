/** Executions by month: their history with filters and cursors, and what becomes of months that are past the retention. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { planId, type OperationId } from '#api/model/ids.ts';
import type { ExecutionFilter } from '#controller/ports/fleet-store.ts';
import type { Database } from '#db/database.ts';
import { createMaintenanceStore } from '#db/maintenance.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';
import { actor, desired, execution, makeFleet, makeHost, nowMs, openTestDatabase, publishAndClaim, type Claimed, type Fleet, type TestHost } from './builders.ts';

let server: TestDatabase;
let db: Database;
let fleet: Fleet;
let host: TestHost;

beforeAll(async () => {
  server = await useDatabase();
  db = openTestDatabase(server);
  fleet = await makeFleet(db);
  host = await makeHost(fleet);
});
afterAll(() => db.close());

const all: ExecutionFilter = { siteName: null, microvmId: null, operationId: null, planId: null, status: null, startedFromMs: null, startedBeforeMs: null };
const small = { desired: desired({ cpuCount: 0, memoryBytes: 0 }) };
const claimed = (at: TestHost = host): Promise<Claimed> => publishAndClaim(fleet, at, small);

function report(at: TestHost, operation: OperationId, overrides: Parameters<typeof execution>[1] = {}) {
  return db.dispatch.recordReports({ tenantId: fleet.tenantId, hostId: at.hostId, executions: [execution(operation, overrides)], observations: [] }, actor);
}

async function ids(filter: Partial<ExecutionFilter>): Promise<readonly string[]> {
  return (await db.fleet.pageExecutions(fleet.tenantId, { ...all, ...filter }, { size: 100, cursor: null })).rows.map((row) => row.operationId);
}

describe('the history of executions', () => {
  it('is limited by microVM, host, plan, outcome and time, and by several of them', async () => {
    const other = await makeHost(fleet, 'edge-2');
    const [first, second] = [await claimed(), await claimed(other)];
    await report(host, first.operationId, { startedAtMs: nowMs, status: 'Failed', finishedAtMs: nowMs + 1, error: { code: 'INTERNAL', message: 'x' } });
    await report(host, first.operationId, { attempt: 2, startedAtMs: nowMs + 1_000, status: 'Succeeded', finishedAtMs: nowMs + 1_500, isFinal: true });
    await report(other, second.operationId, { startedAtMs: nowMs + 2_000 });
    expect(await ids({})).toEqual([second.operationId, first.operationId, first.operationId]);
    expect(await ids({ microvmId: first.microvmId })).toEqual([first.operationId, first.operationId]);
    expect(await ids({ hostName: 'edge-2' })).toEqual([second.operationId]);
    expect(await ids({ hostName: 'edge-9' })).toEqual([]);
    const [row] = await server.query('select plan_id::text as plan_id from nkudo.operations where id = $1', [second.operationId]);
    expect(await ids({ planId: planId(String(row?.['plan_id'])) })).toEqual([second.operationId]);
    expect(await ids({ status: 'Failed' })).toEqual([first.operationId]);
    expect(await ids({ startedFromMs: nowMs + 1_000, startedBeforeMs: nowMs + 2_000 })).toEqual([first.operationId]);
    expect(await ids({ hostName: 'edge-1', status: 'Succeeded', startedFromMs: nowMs })).toEqual([first.operationId]);
  });

  it('comes in pages that follow each other without a gap, also where many began at the same time', async () => {
    const before = (await ids({})).length;
    const made = new Set<string>();
    for (let count = 0; count < 7; count += 1) {
      const { operationId } = await claimed();
      made.add(operationId);
      await report(host, operationId, { startedAtMs: nowMs + 5_000 });
    }
    const seen: string[] = [];
    let cursor: string | null = null;
    do {
      const page: Awaited<ReturnType<Database['fleet']['pageExecutions']>> = await db.fleet.pageExecutions(fleet.tenantId, all, { size: 3, cursor });
      seen.push(...page.rows.map((each) => each.operationId));
      cursor = page.nextCursor;
    } while (cursor !== null);
    expect(seen).toHaveLength(before + 7);
    expect(seen.filter((id) => made.has(id))).toHaveLength(7);
    expect(new Set(seen.slice(0, 7))).toEqual(made);
  });
});

describe('retention of executions', () => {
  const months = async (): Promise<readonly string[]> =>
    (await server.query(`select c.relname as name from pg_class c where relname ~ '^executions_[0-9]{6}$' and relkind = 'r' order by 1`)).map((row) => String(row['name']));

  /** An operation as it would be after so many months. */
  async function agedOperation(monthsAgo: number): Promise<Claimed> {
    const made = await claimed();
    await server.query(`do $$ begin set local session_replication_role = replica;
      update nkudo.operations set created_at = now() - interval '${monthsAgo} months' where id = '${made.operationId}'; end $$`);
    return made;
  }

  it('drops whole months that are past it, keeps the others, and makes months ahead when few are left', async () => {
    const maintenance = createMaintenanceStore({ url: server.systemUrl });
    expect(await maintenance.maintainExecutions(3)).toEqual({ monthsAhead: 3, made: 0, dropped: 0 });
    const [old, kept] = [await agedOperation(8), await agedOperation(2)];
    await report(host, old.operationId);
    await report(host, kept.operationId);
    expect(await months()).toHaveLength(6);
    expect(await maintenance.maintainExecutions(3)).toEqual({ monthsAhead: 3, made: 0, dropped: 1 });
    expect(await ids({ microvmId: old.microvmId })).toEqual([]);
    expect(await ids({ microvmId: kept.microvmId })).toEqual([kept.operationId]);
    for (const name of (await months()).slice(-2)) await server.query(`drop table nkudo.${name}`);
    expect(await maintenance.maintainExecutions(3)).toEqual({ monthsAhead: 3, made: 2, dropped: 0 });
    await maintenance.close();
  });

  it('takes a report on an operation whose month is gone, once, and lets it go with the next retention', async () => {
    const maintenance = createMaintenanceStore({ url: server.systemUrl });
    const late = await agedOperation(20);
    const reports = { tenantId: fleet.tenantId, hostId: host.hostId, executions: [execution(late.operationId, { status: 'Succeeded', isFinal: true })], observations: [] };
    expect(await db.dispatch.recordReports(reports, actor)).toMatchObject({ refused: [] });
    expect(await db.dispatch.recordReports(reports, actor)).toMatchObject({ refused: [] });
    expect(await ids({ microvmId: late.microvmId })).toEqual([late.operationId]);
    expect((await db.microvms.load(fleet.tenantId, late.microvmId))?.newestOperation?.status).toBe('Succeeded');
    expect(await maintenance.maintainExecutions(3)).toMatchObject({ dropped: 1 });
    await maintenance.close();
  });

  it('goes on with a month that an earlier call had detached, or begun to', async () => {
    const maintenance = createMaintenanceStore({ url: server.systemUrl });
    for (const monthsAgo of [30, 31]) await server.query(`select nkudo.ensure_execution_partition(now() - interval '${monthsAgo} months')`);
    const [first] = await months();
    await server.query(`alter table nkudo.execution_records detach partition nkudo.${first}`);
    await server.query(`update pg_inherits set inhdetachpending = true where inhrelid = (select oid from pg_class where relname = '${(await months())[1]}')`);
    expect(await maintenance.maintainExecutions(3)).toMatchObject({ dropped: 2 });
    await maintenance.close();
  });

  it('is done by a role that sees no row of anybody', async () => {
    const { deriveMaintenanceUrl } = await import('#db/roles.ts');
    const pg = (await import('pg')).default;
    const owner = new pg.Client({ connectionString: deriveMaintenanceUrl(server.systemUrl) ?? '' });
    await owner.connect();
    for (const table of ['execution_records', 'logs']) expect((await owner.query(`select count(*)::int as n from nkudo.${table}`)).rows).toEqual([{ n: 0 }]);
    await expect(owner.query('select 1 from nkudo.microvms')).rejects.toMatchObject({ code: '42501' });
    await owner.end();
  });
});
