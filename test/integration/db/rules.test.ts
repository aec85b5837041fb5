/** What the database itself refuses, whoever writes. Each rule is tried as the application role with plain SQL. */
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { operationStatuses, operationTransitions, planTransitions, type OperationStatus } from '#api/model/plan.ts';
import type { Database } from '#db/database.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';
import { actor, makeFleet, makeHost, openTestDatabase, publish, publishInput, type Fleet, type TestHost } from './builders.ts';

let server: TestDatabase;
let db: Database;
let fleet: Fleet;
let host: TestHost;
let app: pg.Client;

beforeAll(async () => {
  server = await useDatabase();
  db = openTestDatabase(server);
  fleet = await makeFleet(db);
  host = await makeHost(fleet, 'edge-1');
  app = new pg.Client({ connectionString: server.appUrl });
  await app.connect();
});
afterAll(async () => {
  await Promise.all([app.end(), db.close()]);
});

const auditSql = (kind: string, id: string): string =>
  `insert into nkudo.audit_events (tenant_id, actor_kind, actor_name, actor_from, action, subject_kind, subject_id)
   values ('${fleet.tenantId}', 'system', 'test', '', 'tried', '${kind}', '${id}')`;

/** Commits; the SQLSTATE when a statement or the commit was refused. */
async function tryCommit(statements: readonly string[]): Promise<string> {
  await app.query('begin');
  await app.query(`select set_config('app.tenant_id', $1, true)`, [fleet.tenantId]);
  try {
    for (const sql of statements) await app.query(sql);
    await app.query('commit');
    return 'committed';
  } catch (error) {
    await app.query('rollback');
    return error instanceof pg.DatabaseError ? String(error.code) : 'no SQLSTATE';
  }
}

/** As tryCommit, then undone as the superuser, so that cells do not disturb each other. */
async function newOperation(): Promise<{ operation: string; plan: string; microvm: string }> {
  const record = await publish(fleet, publishInput(fleet, host, { desired: { ...publishInput(fleet, host).desired, cpuCount: 0, memoryBytes: 0 } }));
  return { operation: String(record.newestOperation?.id), plan: String(record.newestOperation?.planId), microvm: record.microvmId };
}

/** Puts a status without the triggers, as only the superuser can. */
async function force(table: string, id: string, status: OperationStatus): Promise<void> {
  await server.query(`do $$ begin set local session_replication_role = replica; update nkudo.${table} set status = '${status}' where id = '${id}'; end $$`);
}

describe('transitions', () => {
  it.each([['operations', 'operation', operationTransitions], ['plans', 'plan', planTransitions]] as const)('of %s are refused unless the model allows them', async (table, kind, allowed) => {
    const found = await newOperation();
    const id = kind === 'plan' ? found.plan : found.operation;
    let cells = 0;
    for (const from of operationStatuses) {
      for (const to of operationStatuses.filter((status) => status !== from)) {
        await force(table, id, from);
        const outcome = await tryCommit([`update nkudo.${table} set status = '${to}' where id = '${id}'`, auditSql(kind, id)]);
        expect(outcome, `${from} to ${to}`).toBe(allowed[from].includes(to) ? 'committed' : 'NK001');
        cells += 1;
      }
    }
    expect(cells).toBe(56);
  });

  it('start as Pending', async () => {
    const { plan } = await newOperation();
    expect(await tryCommit([`insert into nkudo.plans (tenant_id, id, site_id, idempotency_key, content, content_hash, hash_version, revision, status)
      select tenant_id, gen_random_uuid(), site_id, 'other', content, content_hash, 1, 1, 'Running' from nkudo.plans where id = '${plan}'`])).toBe('NK001');
  });
});

describe('audit', () => {
  it('fails the commit of every state change that has no audit row of its own in the same transaction', async () => {
    const { operation, plan, microvm } = await newOperation();
    const [key] = await server.query(`select id from nkudo.agents where tenant_id = $1`, [fleet.tenantId]);
    const [certificate] = await server.query(`select id from nkudo.certificates where tenant_id = $1`, [fleet.tenantId]);
    const [token] = await server.query(`select id from nkudo.enrollment_tokens where tenant_id = $1`, [fleet.tenantId]);
    const changes: readonly (readonly [kind: string, id: string, sql: string])[] = [
      ['operation', operation, `update nkudo.operations set status = 'Dispatched' where id = '${operation}'`],
      ['plan', plan, `update nkudo.plans set status = 'Dispatched' where id = '${plan}'`],
      ['microvm', microvm, `update nkudo.microvms set generation = generation + 1 where id = '${microvm}'`],
      ['binding', microvm, `update nkudo.bindings set cpu_count = cpu_count + 1 where microvm_id = '${microvm}'`],
      ['site', fleet.siteId, `update nkudo.sites set generation = generation + 1 where id = '${fleet.siteId}'`],
      ['tenant', fleet.tenantId, `update nkudo.tenants set namespace = namespace || 'x'`],
      ['host', host.hostId, `update nkudo.hosts set is_approved = not is_approved where id = '${host.hostId}'`],
      ['enrollmentToken', String(token?.['id']), `update nkudo.enrollment_tokens set expires_at = now() where id = '${String(token?.['id'])}'`],
      ['agent', String(key?.['id']), `update nkudo.agents set revoked_at = now() where id = '${String(key?.['id'])}'`],
      ['certificate', String(certificate?.['id']), `update nkudo.certificates set revoked_at = now() where id = '${String(certificate?.['id'])}'`],
    ];
    for (const [kind, id, sql] of changes) {
      expect(await tryCommit([sql]), kind).toBe('NK004');
      expect(await tryCommit([sql, auditSql(kind, fleet.siteId === id ? host.hostId : fleet.siteId)]), `${kind} with the row of another`).toBe('NK004');
      expect(await tryCommit([sql, auditSql(kind, id)]), kind).toBe('committed');
    }
  });

  it('does not count a row of an earlier transaction, and asks none for facts and beats', async () => {
    const { operation } = await newOperation();
    expect(await tryCommit([auditSql('operation', operation)])).toBe('committed');
    expect(await tryCommit([`update nkudo.operations set status = 'Dispatched' where id = '${operation}'`])).toBe('NK004');
    expect(await tryCommit([`update nkudo.hosts set facts = facts || '{"kernel":"7"}', facts_revision = facts_revision + 1 where id = '${host.hostId}'`])).toBe('committed');
    expect(await tryCommit([`update nkudo.host_liveness set last_beat_at = now() where host_id = '${host.hostId}'`])).toBe('committed');
  });

  it('is asked for by the trigger and by nothing else: without it the same change passes', async () => {
    const { operation } = await newOperation();
    const change = `update nkudo.operations set status = 'Dispatched' where id = '${operation}'`;
    await server.query('alter table nkudo.operations disable trigger audited_update');
    expect(await tryCommit([change])).toBe('committed');
    await server.query('alter table nkudo.operations enable trigger audited_update');
  });

  it('can only be appended to', async () => {
    for (const sql of [`update nkudo.audit_events set actor_name = 'x'`, 'delete from nkudo.audit_events', 'truncate nkudo.audit_events', `insert into nkudo.audit_events (tenant_id, xact, actor_kind, actor_name, actor_from, action, subject_kind, subject_id) values ('${fleet.tenantId}', '1', 'system', 'x', '', 'x', 'x', '${host.hostId}')`]) {
      expect(await tryCommit([sql]), sql).toBe('42501');
    }
  });
});

describe('what must not change', () => {
  it('is refused: content of plans and operations by grant and by trigger, generations, epochs and revisions backwards', async () => {
    const { operation, plan, microvm } = await newOperation();
    expect(await tryCommit([`update nkudo.plans set content = '{}' where id = '${plan}'`])).toBe('42501');
    expect(await tryCommit([`update nkudo.operations set revision = 9 where id = '${operation}'`])).toBe('42501');
    await expect(server.query(`update nkudo.plans set content = '{}' where id = '${plan}'`)).rejects.toMatchObject({ code: 'NK003' });
    await expect(server.query(`update nkudo.operations set desired = '{}' where id = '${operation}'`)).rejects.toMatchObject({ code: 'NK003' });
    expect(await tryCommit([`update nkudo.microvms set generation = 0 where id = '${microvm}'`, auditSql('microvm', microvm)])).toBe('NK005');
    expect(await tryCommit([`update nkudo.microvm_counters set revision = revision - 1 where microvm_id = '${microvm}'`])).toBe('NK005');
    expect(await tryCommit([`update nkudo.microvm_counters set epoch = epoch - 1 where microvm_id = '${microvm}'`])).toBe('NK005');
    expect(await tryCommit([`update nkudo.hosts set certificate_counter = 0, certificate_counter_used = 0 where id = '${host.hostId}'`])).toBe('NK005');
    await expect(server.query('update nkudo.leadership set epoch = epoch')).rejects.toMatchObject({ code: 'NK005' });
  });

  it('keeps one live binding for a microVM', async () => {
    const { microvm } = await newOperation();
    const second = `insert into nkudo.bindings (tenant_id, microvm_id, epoch, host_id, cpu_count, memory_bytes)
      select tenant_id, microvm_id, epoch + 1, host_id, 0, 0 from nkudo.bindings where microvm_id = '${microvm}'`;
    expect(await tryCommit([second])).toBe('23505');
    expect(await tryCommit([`update nkudo.bindings set released_at = now() where microvm_id = '${microvm}'`, second, auditSql('binding', microvm)])).toBe('committed');
    expect(await tryCommit([`update nkudo.bindings set released_at = null where microvm_id = '${microvm}' and released_at is not null`])).toBe('NK003');
  });

  it('gives the stores errors without a value of the statement in them', async () => {
    const { microvm } = await newOperation();
    const input = publishInput(fleet, host, { name: 'x'.repeat(300) });
    const error: unknown = await db.microvms.publish({ ...input }, fleet.epoch, actor).then(() => null, (thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: 'INTERNAL', details: { sqlstate: '23514', statement: 'save-microvm' } });
    expect(JSON.stringify([error, String(error), error instanceof Error ? error.stack : ''])).not.toContain('xxx');
    expect(microvm).toBeDefined();
  });
});
