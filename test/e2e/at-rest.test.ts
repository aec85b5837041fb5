import { statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import { describeEvent } from '#test/harness/audit-log.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { useDedicatedPostgres } from '#test/harness/postgres.ts';
import { until } from '#test/harness/until.ts';
import { createWorld, statusOf, siteName, type TestHost, type World } from './world.ts';

/** The measured window; it is the subject of the test, not a wait for something. */
const windowMs = 30_000;
const count = 20;
const heartbeatMs = 10_000;

let world: World;
let host: TestHost;

beforeAll(async () => {
  // A cluster of its own: its write counters are those of this file alone. Autovacuum would write by itself.
  world = await createWorld({ postgres: await useDedicatedPostgres({ settings: ['autovacuum=off'] }) });
  await world.startController();
  await world.createSite();
  host = await world.addHost('edge-1');
});

/** Every committed audit row is linked, every chain is signed to its end, and the statistics have counted both. */
async function isChainAtRest(): Promise<boolean> {
  const [row] = await world.database.query(`select (select count(*)::int from nkudo.audit_events) as events, (select count(*)::int from nkudo.audit_links) as links,
    (select count(*)::int from nkudo.audit_checkpoints) as checkpoints,
    (select count(*)::int from (select tenant_id, max(position) as position from nkudo.audit_links group by 1) h
      where not exists (select from nkudo.audit_checkpoints c where c.tenant_id = h.tenant_id and c.position = h.position)) as unsigned`);
  const writes = await world.database.tableWrites();
  return row?.['events'] === row?.['links'] && row?.['unsigned'] === 0 && writes['audit_links'] === row?.['links'] && writes['audit_checkpoints'] === row?.['checkpoints'];
}

/** Runs `nkudo-controller audit …` as an operator does. */
async function audit(args: readonly string[]): Promise<{ readonly code: number; readonly lines: readonly string[] }> {
  const programs = await fileScope().shared('programs');
  const run = await fileScope().start({
    name: `audit-${args[0] ?? ''}`,
    command: programs.node,
    args: [programs.controller, 'audit', ...args],
    environment: { KUBECONFIG: world.kubernetes.access.kubeconfig, NKUDO_DATABASE_SYSTEM_URL: world.database.systemUrl },
  });
  const end = await run.exited;
  return { code: end.code ?? -1, lines: run.lines() };
}

/** An idle session of Postgres hands its counts of table writes in after 10 s. Source: PostgreSQL, pgstat.c, PGSTAT_IDLE_INTERVAL. */
const statisticsDelayMs = 11_000;

describe('a fleet at rest', () => {
  it('[S7] writes nothing to Kubernetes and Postgres but the leadership Lease and the heartbeat, with 20 microVMs over 30 s', async () => {
    const names = Array.from({ length: count }, (_, index) => `rest-${index}`);
    await Promise.all(names.map((name) => world.applyMicroVM(name)));
    await Promise.all(names.map((name) => world.waitForCondition('microvms', name, { type: 'Running', status: 'True' })));
    // The coalesced counts of the Site are the last writes of the way there.
    await world.waitUntil('sites', siteName, 'all counted as running', (site) => (statusOf(site)['microvms'] as { running?: number } | undefined)?.running === count);
    await world.waitUntil('hosts', 'edge-1', 'all counted as allocated', (object) => (statusOf(object)['allocated'] as { microvms?: number } | undefined)?.microvms === count);
    await until(isChainAtRest, 'the audit chain to be linked and signed');
    await delay(statisticsDelayMs); // Nothing tells when sessions have handed in what they counted.
    const pids = host.vmms().map((vmm) => vmm.pid);
    expect(pids).toHaveLength(count);

    const mark = world.kubernetes.audit.mark();
    const before = { tables: await world.database.tableWrites(), counters: await world.database.counters() };
    await delay(windowMs);
    const after = { tables: await world.database.tableWrites(), counters: await world.database.counters() };
    const events = world.kubernetes.audit.since(mark);
    const writes = world.kubernetes.audit.writesSince(mark);

    const isLeadership = (uri: string): boolean => /\/leases\/nkudo-controller\b/.test(uri);
    expect(writes.filter((event) => !isLeadership(event.requestURI)).map(describeEvent)).toEqual([]);
    // The checker looked at something: the Lease was renewed meanwhile.
    expect(writes.filter((event) => isLeadership(event.requestURI)).length).toBeGreaterThan(0);
    expect(events.length).toBeGreaterThan(0);

    const changed = Object.entries(after.tables).filter(([table, total]) => total !== before.tables[table]).map(([table]) => table);
    expect(changed).toEqual(['host_liveness']);
    const transactions = after.counters.writeTransactions - before.counters.writeTransactions;
    const beats = Math.ceil(windowMs / heartbeatMs) + 1;
    console.log(`[S7] in ${windowMs / 1000} s: ${writes.length} writes of the Lease, ${transactions} writing transactions in Postgres (at most ${beats} beats), ${after.counters.walBytes - before.counters.walBytes} bytes of WAL`);
    expect(transactions).toBeGreaterThan(0);
    expect(transactions).toBeLessThanOrEqual(beats);
    expect(host.vmms().map((vmm) => vmm.pid)).toEqual(pids);
  });

  it('[C5] has each of its audit rows linked and signed, and an edited row is named by the command', async () => {
    await until(isChainAtRest, 'the audit chain to be linked and signed');
    const file = join(fileScope().directory, 'audit.jsonl');
    const exported = await audit(['export', '--file', file, '--rows']);
    expect(exported).toMatchObject({ code: 0 });
    expect(statSync(file).mode & 0o777).toBe(0o600);
    const sound = await audit(['verify', '--against', file]);
    expect(sound.lines.at(-1), sound.lines.join('\n')).toMatch(/^sound: \d{3,} rows of 2 chains$/);
    expect(sound.code).toBe(0);
    console.log(`[C5] ${sound.lines.join('\n[C5] ')}`);

    const [row] = await world.database.query(`select tenant_id::text as tenant, event_id::text as id, position::int as position from nkudo.audit_links order by tenant_id desc, position limit 1 offset 40`);
    await world.database.query(`do $$ begin set local session_replication_role = replica; update nkudo.audit_events set actor_name = 'nobody' where id = ${String(row?.['id'])}; end $$`);
    const bad = await audit(['verify', '--against', file]);
    expect(bad.code).toBe(3);
    expect(bad.lines.join('\n')).toContain(`${String(row?.['tenant'])}: BAD at position ${String(row?.['position'])}, row id ${String(row?.['id'])} in audit_events`);
  });
});
