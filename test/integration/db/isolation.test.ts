/**
 * Nothing crosses tenants, whatever SQL is run under the application role; and the cross-tenant role can do no more
 * than its columns say. The tables come from the catalogue, so that a new one can't be forgotten.
 */
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Database } from '#db/database.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';
import { probeShared, probeTenants, readCatalogue, runAsTenant, type Relation } from './tenant-probes.ts';
import { actor, execution, makeFleet, makeHost, observation, openTestDatabase, publishAndClaim, publishInput, type Fleet, type TestHost } from './builders.ts';

/** Rows of these belong to no tenant. */
const tablesWithoutTenant = ['audit_chain', 'installation', 'leadership', 'migrations', 'transitions'];
const permissionDenied = '42501';

let server: TestDatabase;
let db: Database;
let mine: Fleet;
let theirs: Fleet;
let theirHost: TestHost;
let app: pg.Client;
let system: pg.Client;
let relations: readonly Relation[];

/** Two tenants with rows in every table. */
async function makeTwoTenants(at: TestDatabase, stores: Database): Promise<{ readonly mine: Fleet; readonly theirs: Fleet; readonly theirHost: TestHost }> {
  const first = await makeFleet(stores);
  const second = await makeFleet(stores, first.epoch);
  const hosts: TestHost[] = [];
  for (const fleet of [first, second]) {
    const host = await makeHost(fleet);
    const { record, operationId } = await publishAndClaim(fleet, host);
    await stores.dispatch.recordReports({ tenantId: fleet.tenantId, hostId: host.hostId, executions: [execution(operationId)], observations: [observation(record, { siteOrders: [{ number: 1, kind: 'Stop', by: { user: 'alice', uid: 1001 }, atMs: 1 }] })] }, actor);
    await stores.logs.append(fleet.tenantId, host.hostId, { microvmId: record.microvmId, source: 'serial', incarnation: 1, offset: 0, data: Buffer.from('hello'), gapBytes: 0 });
    await at.query(`do $$ begin
      set local session_replication_role = replica;
      insert into nkudo.api_keys (tenant_id, id, name, key_hash, access, expires_at) values ('${fleet.tenantId}', gen_random_uuid(), 'ci', sha256('key'), 'read', now());
      insert into nkudo.plan_actions (tenant_id, id, plan_id, position, kind, name) select tenant_id, gen_random_uuid(), id, 0, 'Create', 'web' from nkudo.plans where tenant_id = '${fleet.tenantId}' limit 1;
      insert into nkudo.adoptions (tenant_id, id, object_uid, generation_base) select tenant_id, id, gen_random_uuid(), 1 from nkudo.microvms where tenant_id = '${fleet.tenantId}' limit 1;
      insert into nkudo.guest_holds (tenant_id, id, host_id, network, port, space, value, is_mesh) values ('${fleet.tenantId}', '${record.microvmId}', '${host.hostId}', 'lan', 'web', 'tcp', '80', false);
      insert into nkudo.displacements (tenant_id, id, microvm_id, host_id, epoch, operation_id) select tenant_id, gen_random_uuid(), microvm_id, host_id, epoch, id from nkudo.operations where tenant_id = '${fleet.tenantId}' limit 1;
      insert into nkudo.mesh_sites (tenant_id, id, management_url, secret_name, group_ids) values ('${fleet.tenantId}', '${fleet.siteId}', 'https://mesh', 'mesh', '{}');
      insert into nkudo.mesh_hosts (tenant_id, id, site_id, is_joined, management_url, host_name) values ('${fleet.tenantId}', '${host.hostId}', '${fleet.siteId}', false, '', '');
      insert into nkudo.mesh_reports (tenant_id, id, report) values ('${fleet.tenantId}', '${host.hostId}', '{}');
      insert into nkudo.executions (tenant_id, id, operation_id, microvm_id, attempt, status, started_at) select tenant_id, gen_random_uuid(), id, microvm_id, 9, 'Running', now() from nkudo.operations where tenant_id = '${fleet.tenantId}' limit 1;
      insert into nkudo.agent_rollout_hosts (tenant_id, id, rollout_id, ring, target_version, nonce, from_version, state) values ('${fleet.tenantId}', '${host.hostId}', gen_random_uuid(), 'all', '0.5.0', 0, '0.4.0', 'Ordered');
      insert into nkudo.log_exports (tenant_id, sink, delivered_xact, delivered_id) values ('${fleet.tenantId}', 'loki', '1', 1);
      insert into nkudo.audit_links (tenant_id, position, event_id, previous_hash, hash) select tenant_id, 1, min(id), sha256(''), sha256('a') from nkudo.audit_events where tenant_id = '${fleet.tenantId}' group by 1;
      insert into nkudo.audit_checkpoints (tenant_id, position, previous_position, root, signature, key_id) values ('${fleet.tenantId}', 1, 0, sha256('a'), 'x', 'x');
    end $$`);
    hosts.push(host);
  }
  const [, theirHost] = hosts;
  if (theirHost === undefined) throw new Error('unreachable');
  return { mine: first, theirs: second, theirHost };
}

async function connect(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  return client;
}

beforeAll(async () => {
  server = await useDatabase();
  db = openTestDatabase(server);
  ({ mine, theirs, theirHost } = await makeTwoTenants(server, db));
  [app, system] = await Promise.all([connect(server.appUrl), connect(server.systemUrl)]);
  relations = await readCatalogue(server);
});
afterAll(async () => {
  await Promise.all([app.end(), system.end(), db.close()]);
});

describe('the roles', () => {
  it('have no superuser, bypass no policy, own nothing and belong to no owner', async () => {
    const roles = await server.query(`select rolname, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolcanlogin from pg_roles where rolname like 'nkudo\\_%' order by 1`);
    const weak = { rolsuper: false, rolbypassrls: false, rolcreaterole: false, rolcreatedb: false };
    expect(roles).toEqual([
      { rolname: 'nkudo_app', ...weak, rolcanlogin: true }, { rolname: 'nkudo_chainer', ...weak, rolcanlogin: true }, { rolname: 'nkudo_maintenance', ...weak, rolcanlogin: true },
      { rolname: 'nkudo_owner', ...weak, rolcanlogin: false }, { rolname: 'nkudo_system', ...weak, rolcanlogin: true },
    ]);
    expect(await server.query(`select relname from pg_class where pg_get_userbyid(relowner) in ('nkudo_app', 'nkudo_system', 'nkudo_chainer')`)).toEqual([]);
    expect(await server.query(`select 1 from pg_auth_members where pg_get_userbyid(member) in ('nkudo_app', 'nkudo_system', 'nkudo_chainer')`)).toEqual([]);
  });
});

describe('row level security', () => {
  it('is forced on every table that has rows of tenants, and partitions give no right of their own', async () => {
    const open = await server.query(
      `select relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
       where nspname = 'nkudo' and relkind in ('r', 'p') and not (relrowsecurity and relforcerowsecurity) order by 1`,
    );
    expect(open.map((row) => row['relname'])).toEqual(tablesWithoutTenant);
    expect(relations.filter(({ hasTenant }) => !hasTenant).map(({ name }) => name)).toEqual(tablesWithoutTenant);
    const partitions = await server.query(`select count(*)::int as n from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where nspname = 'nkudo' and relispartition and relkind = 'r' and (has_any_column_privilege('nkudo_app', c.oid, 'select') or has_any_column_privilege('nkudo_system', c.oid, 'select'))`);
    expect(partitions).toEqual([{ n: 0 }]);
  });

  it('[C4] lets no row cross between two tenants, in every relation of the catalogue by every operation as the application role', async () => {
    const who = await app.query(`select current_user as role, r.rolsuper, r.rolbypassrls, current_setting('row_security') as row_security from pg_roles r where r.rolname = current_user`);
    expect(who.rows).toEqual([{ role: 'nkudo_app', rolsuper: false, rolbypassrls: false, row_security: 'on' }]);
    // Both tenants have rows everywhere, else there is nothing that could cross. Only one of the partitions has any.
    for (const { name } of relations.filter((relation) => relation.hasTenant && !relation.isPartition)) {
      const counts = await server.query(`select count(distinct tenant_id)::int as tenants from nkudo.${name} where tenant_id in ($1, $2)`, [mine.tenantId, theirs.tenantId]);
      expect(counts, name).toEqual([{ tenants: 2 }]);
    }
    const ours = await probeTenants({ app, server, mine: mine.tenantId, theirs: theirs.tenantId }, relations);
    const shared = await probeShared({ app, mine: mine.tenantId }, relations);
    console.log(`[C4] ${ours.cells + shared.cells} statements on ${relations.length} relations`);
    expect([...ours.crossings, ...shared.crossings]).toEqual([]);
    expect(relations.length).toBeGreaterThan(40);
  });

  it('[C4] lets the application role run few functions with the rights of their owner, which show nothing of tenants', async () => {
    const functions = await server.query(`select p.proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = 'nkudo' and p.prosecdef and has_function_privilege('nkudo_app', p.oid, 'execute') order by 1`);
    expect(functions.map((row) => row['proname'])).toEqual(['applied_migrations', 'assert_leader', 'assert_leader_since', 'database_lineage']);
  });

  it('can not be used to bind a microVM to a host of another tenant', async () => {
    const result = await db.microvms.publish({ ...publishInput(mine, theirHost) }, mine.epoch, actor);
    expect(result).toEqual({ outcome: 'hostUnavailable' });
    const foreign = await runAsTenant(app, mine.tenantId, `insert into nkudo.bindings (tenant_id, microvm_id, epoch, host_id, cpu_count, memory_bytes)
      select tenant_id, id, 5000000000, '${theirHost.hostId}', 1, 1 from nkudo.microvms where released_at is null limit 1`);
    expect(['23503', '23505']).toContain(foreign);
  });

  it('refuses reports of one host on operations of another', async () => {
    const other = await makeHost(mine, 'edge-2');
    const first = await makeHost(mine, 'edge-3');
    const { record, operationId } = await publishAndClaim(mine, first);
    const outcome = await db.dispatch.recordReports(
      { tenantId: mine.tenantId, hostId: other.hostId, executions: [execution(operationId, { status: 'Succeeded', isFinal: true })], observations: [observation(record)] }, actor,
    );
    expect(outcome.refused.map((item) => item.code)).toEqual(['PERMISSION_DENIED', 'NOT_FOUND']);
    expect(await db.microvms.load(mine.tenantId, record.microvmId)).toMatchObject({ newestOperation: { status: 'Dispatched' }, observation: null });
    expect(await db.dispatch.recordReceipt({ tenantId: mine.tenantId, hostId: other.hostId, operationId, disposition: 'Accepted', error: null }, actor)).toEqual([]);
  });
});

describe('the cross-tenant role', () => {
  it('may change beats and leadership only, and reads no column that holds content', async () => {
    const rights = await server.query(`select table_name || '.' || column_name as at from information_schema.role_column_grants
      where grantee = 'nkudo_system' and table_schema = 'nkudo' and privilege_type = 'UPDATE' order by 1`);
    expect(rights.map((row) => row['at'])).toEqual([
      'host_liveness.last_beat_at', 'host_liveness.lease_epoch', 'host_liveness.lease_granted_until', 'host_liveness.lease_ms', 'installation.incarnation', 'installation.system_identifier', 'installation.timeline',
      'leadership.acquired_at', 'leadership.epoch', 'leadership.holder',
    ]);
    for (const sql of ['select desired from nkudo.microvms', 'select content from nkudo.plans', 'select data from nkudo.logs', 'select chain_pem from nkudo.certificates', 'select facts from nkudo.hosts', 'select report from nkudo.mesh_reports', 'select key_id from nkudo.mesh_hosts', 'delete from nkudo.host_liveness', 'select * from nkudo.audit_events']) {
      await expect(system.query(sql), sql).rejects.toMatchObject({ code: permissionDenied });
    }
  });
});

describe('the probes above', () => {
  it('[C4] turn red, for every table, when its policy is dropped, when its row level security is off, and when a policy lets everything through', async () => {
    const seeded = await useDatabase();
    const stores = openTestDatabase(seeded);
    const two = await makeTwoTenants(seeded, stores);
    const client = await connect(seeded.appUrl);
    const probe = { app: client, server: seeded, mine: two.mine.tenantId, theirs: two.theirs.tenantId };
    const tables = (await readCatalogue(seeded)).filter((relation) => relation.hasTenant && !relation.isPartition);
    const own = `tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid`;
    const defects = (table: string): readonly (readonly [seed: string, undo: string])[] => [
      [`drop policy tenant_isolation on ${table}`, `create policy tenant_isolation on ${table} to nkudo_app using (${own}) with check (${own})`],
      [`alter table ${table} disable row level security`, `alter table ${table} enable row level security`],
      [`create policy leak on ${table} to nkudo_app using (true) with check (true)`, `drop policy leak on ${table}`],
    ];
    const silent: string[] = [];
    let seeds = 0;
    for (const table of tables) {
      for (const [seed, undo] of defects(`nkudo.${table.name}`)) {
        await seeded.query(seed);
        if ((await probeTenants(probe, [table])).crossings.length === 0) silent.push(seed);
        await seeded.query(undo);
        seeds += 1;
      }
    }
    console.log(`[C4] ${seeds} seeded defects`);
    expect(silent).toEqual([]);
    expect((await probeTenants(probe, tables)).crossings).toEqual([]);
    // A view runs with the rights of its owner unless it says otherwise.
    await seeded.query('create view nkudo.leaky as select * from nkudo.sites; grant select on nkudo.leaky to nkudo_app');
    expect((await probeTenants(probe, (await readCatalogue(seeded)).filter(({ name }) => name === 'leaky'))).crossings).not.toEqual([]);
    await Promise.all([client.end(), stores.close()]);
  });
});
