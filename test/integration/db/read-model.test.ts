/**
 * What the read side costs with 10,000 microVMs of one tenant beside as many of others: each view is one statement, finds its
 * rows by an index, and reads a bounded number of pages. The plans are Postgres' own, made as the application's role.
 */
import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { planColumns } from '#db/stores/plan-views.ts';
import {
  executionById, executionsPage, hostById, hostByName, hostsPage, microvmById, microvmByName, microvmsPage, plansPage, siteByName, sitesPage,
} from '#db/stores/fleet-statements.ts';
import type { Statement } from '#db/tx.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';

const microvms = 10_000;
const hosts = 500;
const sites = 20;
/** 8 KiB pages that one page of a list may touch: a page of 100 rows with their joins. */
const pagesMax = 2_000;
/** Counts of a site are of a twentieth of the narrow tables here; reading those whole is fewer pages than looking each row up. */
const countedTables = ['host_liveness', 'observations'];

const mine = randomUUID();
let server: TestDatabase;
let app: pg.Client;

/** A tenant's rows at once, with the rules of single changes switched off. */
function seedTenant(tenant: string): Promise<unknown> {
  return server.query(`do $$ begin
    set local session_replication_role = replica;
    insert into nkudo.tenants (tenant_id, namespace) values ('${tenant}', 'ns-${tenant.slice(0, 8)}');
    insert into nkudo.sites (tenant_id, id, name, generation, require_approval) select '${tenant}', gen_random_uuid(), 'site-' || n, 1, false from generate_series(1, ${sites}) n;
    insert into nkudo.hosts (tenant_id, id, site_id, name, facts)
      select '${tenant}', gen_random_uuid(), s.id, 'host-' || n, '{}' from generate_series(1, ${hosts}) n join nkudo.sites s on s.tenant_id = '${tenant}' and s.name = 'site-' || (1 + n % ${sites});
    insert into nkudo.host_liveness (tenant_id, host_id, last_beat_at) select tenant_id, id, now() from nkudo.hosts where tenant_id = '${tenant}';
    insert into nkudo.microvms (tenant_id, id, site_id, name, generation, desired)
      select '${tenant}', gen_random_uuid(), h.site_id, 'vm-' || n, 1, '{}' from generate_series(1, ${microvms}) n join nkudo.hosts h on h.tenant_id = '${tenant}' and h.name = 'host-' || (1 + n % ${hosts});
    insert into nkudo.bindings (tenant_id, microvm_id, epoch, host_id, cpu_count, memory_bytes)
      select m.tenant_id, m.id, 4294967297, h.id, 1, 1 from nkudo.microvms m join nkudo.hosts h on h.tenant_id = m.tenant_id and h.name = 'host-' || (1 + substr(m.name, 4)::int % ${hosts}) where m.tenant_id = '${tenant}';
    insert into nkudo.plans (tenant_id, id, site_id, idempotency_key, content, content_hash, hash_version, revision, status, created_at)
      select m.tenant_id, gen_random_uuid(), m.site_id, m.name || '/' || r, '{}', repeat('0', 64), 1, 1, 'Succeeded', now() - r * interval '1 hour' - random() * interval '1 hour' from nkudo.microvms m, generate_series(1, 2) r where m.tenant_id = '${tenant}';
    insert into nkudo.operations (tenant_id, id, plan_id, microvm_id, host_id, kind, epoch, revision, generation, try_number, desired, status, created_at)
      select p.tenant_id, gen_random_uuid(), p.id, m.id, b.host_id, 'Update', 4294967297, 3 - split_part(p.idempotency_key, '/', 2)::int, 1, 1, '{}', 'Succeeded', p.created_at
      from nkudo.plans p join nkudo.microvms m on m.tenant_id = p.tenant_id and m.name = split_part(p.idempotency_key, '/', 1) join nkudo.bindings b on b.tenant_id = m.tenant_id and b.microvm_id = m.id where p.tenant_id = '${tenant}';
    insert into nkudo.execution_records (tenant_id, id, operation_id, microvm_id, host_id, plan_id, attempt, status, started_at, operation_at)
      select tenant_id, gen_random_uuid(), id, microvm_id, host_id, plan_id, a, case when random() < 0.01 then 'Failed' else 'Succeeded' end, created_at + a * interval '1 second', created_at from nkudo.operations, generate_series(1, 2) a where tenant_id = '${tenant}';
    insert into nkudo.observations (tenant_id, microvm_id, host_id, epoch, revision, generation, sequence, state, observed_at, restarts, is_crash_looping, is_restart_required)
      select tenant_id, microvm_id, host_id, epoch, 2, 1, 1, 'running', now(), 0, false, false from nkudo.bindings where tenant_id = '${tenant}';
  end $$`);
}

beforeAll(async () => {
  server = await useDatabase();
  for (const tenant of [mine, randomUUID()]) await seedTenant(tenant);
  await server.query('vacuum analyze');
  app = new pg.Client({ connectionString: server.appUrl });
  await app.connect();
  await app.query(`select set_config('app.tenant_id', '${mine}', false)`);
});
afterAll(() => app.end());

interface PlanNode {
  readonly 'Node Type': string;
  readonly 'Relation Name'?: string;
  readonly 'Actual Rows': number;
  readonly 'Actual Loops': number;
  readonly 'Shared Hit Blocks': number;
  readonly 'Shared Read Blocks': number;
  readonly 'Rows Removed by Filter'?: number;
  readonly Plans?: readonly PlanNode[];
}

/** A table that was read from end to end counts from so many rows on: what is empty or tiny is best read whole. */
const wholeRowsMax = 100;

async function explain(statement: Statement, values: readonly unknown[]): Promise<{ readonly pages: number; readonly scans: readonly string[]; readonly rows: number }> {
  const { rows } = await app.query<{ 'QUERY PLAN': readonly { readonly Plan: PlanNode }[] }>(`explain (analyze, buffers, format json) ${statement.text}`, [...values]);
  const root = rows[0]?.['QUERY PLAN'][0]?.Plan;
  if (root === undefined) throw new Error('no plan');
  const scans: string[] = [];
  const walk = (node: PlanNode): void => {
    const read = (node['Actual Rows'] + (node['Rows Removed by Filter'] ?? 0)) * node['Actual Loops'];
    if (node['Node Type'] === 'Seq Scan' && read > wholeRowsMax) scans.push(node['Relation Name'] ?? '');
    node.Plans?.forEach(walk);
  };
  walk(root);
  return { pages: root['Shared Hit Blocks'] + root['Shared Read Blocks'], scans, rows: root['Actual Rows'] * root['Actual Loops'] };
}

it('finds what it shows by an index, one statement for each view, whatever it is asked for', async () => {
  const one = async (table: string): Promise<string> => String((await server.query(`select id::text as id from nkudo.${table} where tenant_id = '${mine}' limit 1`))[0]?.['id']);
  const [microvm, host, plan, execution, operation] = [await one('microvms'), await one('hosts'), await one('plans'), await one('execution_records'), await one('operations')];
  const silent = new Date(0);
  const now = new Date();
  const noExecutionFilter = [mine, null, null, null, null, null, null, null, null, null, 101, null];
  const executionsBy = (position: number, value: unknown): readonly unknown[] => noExecutionFilter.map((none: unknown, index) => (index === position ? value : none));
  const cases: readonly (readonly [string, Statement, readonly unknown[], number])[] = [
    ['microVMs, first page', microvmsPage, [mine, null, null, null, null, null, 101], 101],
    ['microVMs, a later page', microvmsPage, [mine, null, null, null, 'vm-5', microvm, 101], 101],
    ['a microVM by name', microvmByName, [mine, null, 'vm-77'], 1],
    ['a microVM by UID', microvmById, [mine, null, microvm], 1],
    ['hosts, first page', hostsPage, [mine, null, silent, null, null, 101], 101],
    ['a host by name', hostByName, [mine, null, silent, 'host-7'], 1],
    ['a host by UID', hostById, [mine, null, silent, host], 1],
    ['a site with its counts', siteByName, [mine, null, silent, 'site-3'], 1],
    ['plans, first page', plansPage(planColumns), [mine, null, null, null, true, null, null, 101], 101],
    ['plans of a microVM', plansPage(planColumns), [mine, null, microvm, null, true, null, null, 101], 2],
    ['executions, newest', executionsPage, noExecutionFilter, 101],
    ['executions of a microVM', executionsPage, executionsBy(2, microvm), 4],
    ['executions of an operation', executionsPage, executionsBy(3, operation), 2],
    ['executions of a plan', executionsPage, executionsBy(4, plan), 2],
    ['executions of a host', executionsPage, executionsBy(11, 'host-7'), 80],
    ['executions of an hour', executionsPage, executionsBy(6, new Date(now.getTime() - 3_600_000)), 101],
    ['an execution by id', executionById, [mine, execution], 1],
  ];
  const report: string[] = [];
  const findings: string[] = [];
  for (const [name, statement, values, wanted] of cases) {
    const { pages, scans, rows } = await explain(statement, values);
    report.push(`${name}: ${pages} pages, ${rows} rows${scans.length === 0 ? '' : `, whole tables: ${scans.join(', ')}`}`);
    const isExplained = statement === siteByName && scans.every((table) => countedTables.includes(table));
    if ((scans.length > 0 && !isExplained) || pages > pagesMax || rows > wanted) findings.push(report.at(-1) ?? '');
  }
  console.log(`read model at ${microvms} microVMs\n  ${report.join('\n  ')}`);
  expect(findings).toEqual([]);
});

it('counts all sites of the tenant in one statement that reads no more than the tenant has', async () => {
  const { pages, rows } = await explain(sitesPage, [mine, null, new Date(0), null, null, 101]);
  console.log(`all ${sites} sites with their counts: ${pages} pages`);
  expect(rows).toBe(sites);
  // One look at each of its microVMs and their observations.
  expect(pages).toBeLessThanOrEqual(microvms * 8);
});
