/**
 * Every state change has its audit row in the same transaction, whoever writes and whatever table: held by triggers that
 * are compared with the list in `db/audited-tables.ts`, and tried on each table.
 */
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { auditedTables, unauditedTables } from '#db/audited-tables.ts';
import type { Database } from '#db/database.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';
import { actor, enrollInput, execution, makeFleet, makeHost, makeToken, observation, openTestDatabase, publish, publishAndClaim, publishInput, type Fleet, type TestHost } from './builders.ts';

let server: TestDatabase;
let db: Database;
let fleet: Fleet;
let host: TestHost;
let admin: pg.Client;

beforeAll(async () => {
  server = await useDatabase();
  db = openTestDatabase(server);
  fleet = await makeFleet(db);
  host = await makeHost(fleet);
  const { record, operationId } = await publishAndClaim(fleet, host);
  await db.dispatch.recordReports({ tenantId: fleet.tenantId, hostId: host.hostId, executions: [execution(operationId)], observations: [observation(record)] }, actor);
  await server.query(`do $$ begin
    set local session_replication_role = replica;
    insert into nkudo.api_keys (tenant_id, id, name, key_hash, access, expires_at) values ('${fleet.tenantId}', gen_random_uuid(), 'ci', sha256('key'), 'read', now());
    insert into nkudo.plan_actions (tenant_id, id, plan_id, position, kind, name) select tenant_id, gen_random_uuid(), id, 0, 'Create', 'web' from nkudo.plans limit 1;
    insert into nkudo.adoptions (tenant_id, id, object_uid, generation_base) select tenant_id, id, gen_random_uuid(), 1 from nkudo.microvms where tenant_id = '${fleet.tenantId}' limit 1;
    insert into nkudo.guest_holds (tenant_id, id, host_id, network, port, space, value, is_mesh) select tenant_id, id, '${host.hostId}', 'lan', 'web', 'tcp', '80', false from nkudo.microvms where tenant_id = '${fleet.tenantId}' limit 1;
    insert into nkudo.displacements (tenant_id, id, microvm_id, host_id, epoch, operation_id) select tenant_id, gen_random_uuid(), microvm_id, host_id, epoch, id from nkudo.operations where tenant_id = '${fleet.tenantId}' limit 1;
    insert into nkudo.mesh_sites (tenant_id, id, management_url, secret_name, group_ids) values ('${fleet.tenantId}', '${fleet.siteId}', 'https://mesh', 'mesh', '{}');
    insert into nkudo.mesh_hosts (tenant_id, id, site_id, is_joined, management_url, host_name) values ('${fleet.tenantId}', '${host.hostId}', '${fleet.siteId}', false, '', '');
    insert into nkudo.agent_rollout_hosts (tenant_id, id, rollout_id, ring, target_version, nonce, from_version, state) values ('${fleet.tenantId}', '${host.hostId}', gen_random_uuid(), 'all', '0.5.0', 0, '0.4.0', 'Ordered');
  end $$`);
  admin = new pg.Client({ connectionString: server.adminUrl });
  await admin.connect();
});
afterAll(async () => {
  await Promise.all([admin.end(), db.close()]);
});

/** Runs the statements, asks the deferred triggers as a COMMIT would, and rolls back. */
async function tryCommit(statements: readonly string[]): Promise<string> {
  await admin.query('begin');
  try {
    for (const sql of statements) await admin.query(sql);
    await admin.query('set constraints all immediate');
    return 'committed';
  } catch (error) {
    return error instanceof pg.DatabaseError ? String(error.code) : 'no SQLSTATE';
  } finally {
    await admin.query('rollback');
  }
}

/** Takes one row out and puts it in again, the second with every trigger. */
function insertAgain(table: string, columns: string): readonly string[] {
  return [
    `create temp table copy on commit drop as select ctid as place, * from nkudo.${table} limit 1`,
    ...(['plans', 'operations', 'plan_actions'].includes(table) ? [`update copy set status = 'Pending'`] : []),
    'set local session_replication_role = replica',
    `delete from nkudo.${table} where ctid = (select place from copy)`,
    'set local session_replication_role = origin',
    `insert into nkudo.${table} (${columns}) select ${columns} from copy`,
  ];
}

/** One change of each table that its other rules allow. */
const changes: Readonly<Record<string, string>> = {
  tenants: `namespace = namespace || 'x'`,
  sites: 'generation = generation + 1',
  hosts: 'is_approved = not is_approved',
  agents: 'revoked_at = now()',
  certificates: 'revoked_at = now()',
  enrollment_tokens: 'expires_at = now()',
  api_keys: 'revoked_at = now()',
  microvms: 'generation = generation + 1',
  adoptions: 'generation_base = generation_base + 1',
  agent_rollout_hosts: `state = 'Passed'`,
  bindings: 'cpu_count = cpu_count + 1',
  plans: `status = 'Failed'`,
  plan_actions: `status = 'Writing'`,
  operations: `status = 'Failed'`,
  guest_holds: 'retired_revision = 2',
  displacements: 'stopped_at = now()',
  mesh_sites: `secret_name = 'other'`,
  mesh_hosts: `group_id = 'other'`,
};

function auditSql(table: string, subject: string): string {
  const id = table === 'bindings' ? 'microvm_id' : table === 'tenants' ? 'tenant_id' : 'id';
  return `insert into nkudo.audit_events (tenant_id, actor_kind, actor_name, actor_from, action, subject_kind, subject_id) select tenant_id, 'system', 'test', '', 'tried', '${subject}', ${id} from nkudo.${table}`;
}

describe('the list of audited tables', () => {
  it('[C5] names every table that has rows of tenants, as audited or as not, and no other', async () => {
    const rows = await server.query(`select c.relname as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where n.nspname = 'nkudo' and c.relkind in ('r', 'p') and not c.relispartition
        and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id') order by 1`);
    expect(rows.map((row) => row['name'])).toEqual([...Object.keys(auditedTables), ...Object.keys(unauditedTables)].toSorted());
  });

  it('[C5] agrees with the triggers, for every column that a login role may change', async () => {
    for (const [table, { subject, silent }] of Object.entries(auditedTables)) {
      const triggers = await server.query(
        `select tgname as name, tgdeferrable and tginitdeferred as is_deferred, tgenabled::text as enabled, pg_get_triggerdef(oid) as definition
         from pg_trigger where tgrelid = $1::regclass and tgname in ('audited_insert', 'audited_update') order by tgname`,
        [`nkudo.${table}`],
      );
      expect(triggers, table).toMatchObject([{ name: 'audited_insert', is_deferred: true, enabled: 'O' }, { name: 'audited_update', is_deferred: true, enabled: 'O' }]);
      for (const trigger of triggers) expect(trigger['definition'], table).toContain(`require_audit('${subject}')`);
      expect(triggers[0]?.['definition'], table).not.toContain(' WHEN ');
      const definition = String(triggers[1]?.['definition']);
      const watched = (column: string): boolean => !definition.includes(' WHEN ') || definition.includes(`new.${column} `) || definition.includes(`new.${column},`) || definition.includes(`new.${column})`) || / WHEN \(\(?true/.test(definition);
      const columns = await server.query(
        `select distinct attname as name from pg_attribute a, unnest(array['nkudo_app', 'nkudo_system']) role where attrelid = $1::regclass and attnum > 0 and not attisdropped and has_column_privilege(role, attrelid, attnum, 'update') order by 1`,
        [`nkudo.${table}`],
      );
      const unwatched = columns.map((row) => String(row['name'])).filter((column) => !watched(column));
      expect(unwatched, table).toEqual(silent.toSorted());
      const deleters = await server.query(`select role from unnest(array['nkudo_app', 'nkudo_system', 'nkudo_chainer']) role where has_table_privilege(role, $1, 'delete') or has_table_privilege(role, $1, 'truncate')`, [`nkudo.${table}`]);
      expect(deleters, table).toEqual([]);
    }
  });
});

describe('a commit', () => {
  it.each(Object.entries(auditedTables))('[C5] of a row put into %s, or changed there, fails without its audit row, and passes with it', async (table, { subject }) => {
    const columnRows = await server.query(`select string_agg(quote_ident(attname), ', ' order by attnum) as names from pg_attribute where attrelid = $1::regclass and attnum > 0 and not attisdropped`, [`nkudo.${table}`]);
    const inserted = insertAgain(table, String(columnRows[0]?.['names']));
    const updated = [`update nkudo.${table} set ${changes[table] ?? 'no change is known for this table'}`];
    for (const statements of [inserted, updated]) {
      expect(await tryCommit(statements)).toBe('NK004');
      expect(await tryCommit([...statements, auditSql(table, 'nothing')])).toBe('NK004');
      expect(await tryCommit([...statements, auditSql(table, subject)])).toBe('committed');
    }
    // The seeded defect: without the triggers the same goes through.
    const off = ['audited_insert', 'audited_update'].map((trigger) => `alter table nkudo.${table} disable trigger ${trigger}`);
    for (const statements of [inserted, updated]) expect(await tryCommit([...off, ...statements])).toBe('committed');
  });
});

describe('the stores', () => {
  it('[C5] can change nothing when their audit rows do not arrive', async () => {
    const waiting = await publishAndClaim(fleet, host, { name: 'waiting' });
    const record = await publish(fleet, publishInput(fleet, host, { name: 'kept' }));
    const { secretHash } = await makeToken(fleet);
    await server.query(`create function nkudo.lose() returns trigger language plpgsql as 'begin return null; end';
      create trigger lose before insert on nkudo.audit_events for each row execute function nkudo.lose()`);
    const site = { tenantId: fleet.tenantId, namespace: fleet.namespace, siteId: fleet.siteId, name: 'store-1', generation: 99, requireApproval: true };
    const calls: Readonly<Record<string, () => Promise<unknown>>> = {
      save: () => db.sites.save(site, fleet.epoch, actor),
      publish: () => db.microvms.publish(publishInput(fleet, host, { name: 'new' }), fleet.epoch, actor),
      publishDeletion: () => db.microvms.publishDeletion({ tenantId: fleet.tenantId, microvmId: record.microvmId, generation: 2, tryNumber: 1 }, fleet.epoch, actor),
      forceDelete: () => db.microvms.forceDelete(fleet.tenantId, record.microvmId, fleet.epoch, actor),
      claim: () => db.dispatch.claim({ tenantId: fleet.tenantId, hostId: host.hostId, sessionId: host.sessionId, includeDispatched: false }),
      recordReceipt: () => db.dispatch.recordReceipt({ tenantId: fleet.tenantId, hostId: host.hostId, operationId: waiting.operationId, disposition: 'Accepted', error: null }, actor),
      registerToken: () => makeToken(fleet),
      enroll: () => db.enrollment.enroll(enrollInput(secretHash, { name: 'edge-9' })),
      saveObject: () => db.hosts.saveObject({ tenantId: fleet.tenantId, hostId: host.hostId, objectUid: fleet.siteId, isApproved: true, isUnschedulable: true, reservedCpus: 1, reservedMemoryBytes: 1 }, fleet.epoch, actor),
      revoke: () => db.hosts.revoke({ tenantId: fleet.tenantId, hostId: host.hostId, force: true }, fleet.epoch, actor),
    };
    const outcomes: Record<string, unknown> = {};
    for (const [name, call] of Object.entries(calls)) {
      outcomes[name] = await call().then(() => 'went through', (error: { details?: { sqlstate?: string } }) => error.details?.sqlstate);
    }
    expect(outcomes).toEqual(Object.fromEntries(Object.keys(calls).map((name) => [name, 'NK004'])));
    await server.query('drop trigger lose on nkudo.audit_events; drop function nkudo.lose()');
    await db.sites.save(site, fleet.epoch, actor);
  });
});
