/**
 * Nothing crosses tenants, whatever SQL is run under the application role; and the cross-tenant role can do no more
 * than its columns say. The tables come from the catalogue, so that a new one can't be forgotten.
 */
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { MeshReport } from '#api/model/mesh.ts';
import type { Database } from '#db/database.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';
import { actor, execution, makeFleet, makeHost, observation, openTestDatabase, publishAndClaim, publishInput, type Fleet, type TestHost } from './builders.ts';

/** Rows of these belong to no tenant. */
const tablesWithoutTenant = ['installation', 'leadership', 'migrations', 'transitions'];
const permissionDenied = '42501';
const meshReport: MeshReport = {
  state: 'Connected', rawState: 'Connected', peerId: '', publicKey: 'k', address: '100.64.0.1', fqdn: 'edge-1.netbird', isManagementConnected: true,
  isSignalConnected: true, peersRelayed: 0, peersDirect: 0, problem: '', wantsKey: false, orderRevision: 1, daemonMemoryBytes: 0,
};

let server: TestDatabase;
let db: Database;
let mine: Fleet;
let theirs: Fleet;
let theirHost: TestHost;
let app: pg.Client;
let system: pg.Client;
let tables: string[];

beforeAll(async () => {
  server = await useDatabase();
  db = openTestDatabase(server);
  mine = await makeFleet(db);
  theirs = await makeFleet(db, mine.epoch);
  for (const fleet of [mine, theirs]) {
    const host = await makeHost(fleet);
    const { record, operationId } = await publishAndClaim(fleet, host);
    await db.dispatch.recordReports({ tenantId: fleet.tenantId, hostId: host.hostId, executions: [execution(operationId)], observations: [observation(record)] }, actor);
    await db.logs.append(fleet.tenantId, host.hostId, { microvmId: record.microvmId, source: 'serial', incarnation: 1, offset: 0, data: Buffer.from('hello'), gapBytes: 0 });
    await db.mesh.saveSite(fleet.tenantId, fleet.siteId, { managementUrl: 'https://mesh.example', secretName: 'mesh', groupIds: {} }, fleet.epoch, actor);
    const order = { join: true, managementUrl: 'https://mesh.example', hostName: 'edge-1' };
    await db.mesh.saveHost({ tenantId: fleet.tenantId, siteId: fleet.siteId, hostId: host.hostId, order }, fleet.epoch, actor);
    await db.mesh.recordReport({ tenantId: fleet.tenantId, hostId: host.hostId, sessionId: host.sessionId }, meshReport);
    theirHost = host;
  }
  app = new pg.Client({ connectionString: server.appUrl });
  system = new pg.Client({ connectionString: server.systemUrl });
  await Promise.all([app.connect(), system.connect()]);
  const rows = await server.query(`select relname from pg_class c join pg_namespace n on n.oid = c.relnamespace where nspname = 'nkudo' and relkind in ('r', 'p', 'v', 'm')`);
  tables = rows.map((row) => String(row['relname'])).filter((name) => !tablesWithoutTenant.includes(name));
});
afterAll(async () => {
  await Promise.all([app.end(), system.end(), db.close()]);
});

/** Runs under a tenant and rolls back; the SQLSTATE when it was refused. */
async function asTenant(tenant: string | null, sql: string): Promise<pg.QueryResult | string> {
  await app.query('begin');
  try {
    if (tenant !== null) await app.query(`select set_config('app.tenant_id', $1, true)`, [tenant]);
    return await app.query(sql);
  } catch (error) {
    return error instanceof pg.DatabaseError ? String(error.code) : 'no SQLSTATE';
  } finally {
    await app.query('rollback');
  }
}

describe('the roles', () => {
  it('have no superuser, bypass no policy, own nothing and belong to no owner', async () => {
    const roles = await server.query(`select rolname, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolcanlogin from pg_roles where rolname like 'nkudo\\_%' order by 1`);
    const weak = { rolsuper: false, rolbypassrls: false, rolcreaterole: false, rolcreatedb: false };
    expect(roles).toEqual([
      { rolname: 'nkudo_app', ...weak, rolcanlogin: true }, { rolname: 'nkudo_maintenance', ...weak, rolcanlogin: false },
      { rolname: 'nkudo_owner', ...weak, rolcanlogin: false }, { rolname: 'nkudo_system', ...weak, rolcanlogin: true },
    ]);
    expect(await server.query(`select relname from pg_class where pg_get_userbyid(relowner) in ('nkudo_app', 'nkudo_system')`)).toEqual([]);
    expect(await server.query(`select 1 from pg_auth_members where pg_get_userbyid(member) in ('nkudo_app', 'nkudo_system')`)).toEqual([]);
  });
});

describe('row level security', () => {
  it('is forced on every table that has rows of tenants, and partitions give no right of their own', async () => {
    const open = await server.query(
      `select relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
       where nspname = 'nkudo' and relkind in ('r', 'p') and not (relrowsecurity and relforcerowsecurity) order by 1`,
    );
    expect(open.map((row) => row['relname'])).toEqual(tablesWithoutTenant);
    expect(tables.length).toBeGreaterThan(19);
    const partitions = await server.query(`select count(*)::int as n from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where nspname = 'nkudo' and relname ~ '^logs_[0-9]' and relkind = 'r' and (has_table_privilege('nkudo_app', c.oid, 'select') or has_table_privilege('nkudo_system', c.oid, 'select'))`);
    expect(partitions).toEqual([{ n: 0 }]);
  });

  it('shows a tenant its own rows only, and nobody any when no tenant is set', async () => {
    for (const table of tables) {
      const own = await asTenant(mine.tenantId, `select * from nkudo.${table}`);
      if (own === permissionDenied) continue; // A partition: reached through its parent only.
      if (typeof own === 'string') throw new Error(`${table}: ${own}`);
      expect(own.rows.every((row: { tenant_id: string }) => row.tenant_id === mine.tenantId), table).toBe(true);
      for (const none of [null, '']) {
        const result = await asTenant(none, `select * from nkudo.${table}`);
        expect(typeof result === 'string' ? result : result.rowCount, table).toBe(0);
      }
    }
    const filled = ['tenants', 'sites', 'hosts', 'host_liveness', 'agents', 'certificates', 'enrollment_tokens', 'microvms', 'microvm_counters', 'bindings', 'plans', 'operations', 'executions', 'observations', 'audit_events', 'log_cursors', 'logs', 'mesh_sites', 'mesh_hosts', 'mesh_reports'];
    for (const table of filled) {
      const own = await asTenant(mine.tenantId, `select * from nkudo.${table}`);
      expect(typeof own === 'string' ? 0 : own.rowCount, table).toBeGreaterThan(0);
    }
  });

  it('lets no tenant change, delete or add rows of another', async () => {
    const foreign = (column: string): string => (column === 'tenant_id' ? `'${theirs.tenantId}'::uuid` : column);
    // The rule that plans and operations start as Pending is asked before the policy.
    const values = (column: string): string => (column === 'status' ? `'Pending'` : foreign(column));
    for (const table of tables) {
      const columns = await server.query(`select column_name from information_schema.columns where table_schema = 'nkudo' and table_name = $1 and is_identity = 'NO'`, [table]);
      for (const column of columns.map((row) => String(row['column_name']))) {
        const updated = await asTenant(mine.tenantId, `update nkudo.${table} set ${column} = ${column} where tenant_id = '${theirs.tenantId}'`);
        expect(typeof updated === 'string' ? updated : updated.rowCount, `${table}.${column}`).toSatisfy((result: unknown) => result === permissionDenied || result === 0);
      }
      expect(await asTenant(mine.tenantId, `delete from nkudo.${table} where tenant_id = '${theirs.tenantId}'`), table).toBe(permissionDenied);
      // A whole foreign row, as its owner has it: refused by the policy before any key is compared.
      const copied = await server.query(`select string_agg(quote_ident(attname), ', ') as names from pg_attribute a where attrelid = 'nkudo.${table}'::regclass and attnum > 0 and not attisdropped
        and has_column_privilege('nkudo_app', attrelid, attname, 'insert')`);
      const names = copied[0]?.['names'];
      if (typeof names !== 'string') continue;
      const inserted = await asTenant(mine.tenantId, `insert into nkudo.${table} (${names}) select ${names.split(', ').map(table === 'executions' ? foreign : values).join(', ')} from nkudo.${table} limit 1`);
      const hadRows = await asTenant(mine.tenantId, `select 1 from nkudo.${table} limit 1`);
      if (typeof hadRows !== 'string' && (hadRows.rowCount ?? 0) > 0) expect(inserted, table).toBe(permissionDenied);
    }
  });

  it('can not be used to bind a microVM to a host of another tenant', async () => {
    const result = await db.microvms.publish({ ...publishInput(mine, theirHost) }, mine.epoch, actor);
    expect(result).toEqual({ outcome: 'hostUnavailable' });
    const foreign = await asTenant(mine.tenantId, `insert into nkudo.bindings (tenant_id, microvm_id, epoch, host_id, cpu_count, memory_bytes)
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
      'host_liveness.last_beat_at', 'installation.incarnation', 'installation.system_identifier', 'installation.timeline',
      'leadership.acquired_at', 'leadership.epoch', 'leadership.holder',
    ]);
    for (const sql of ['select desired from nkudo.microvms', 'select content from nkudo.plans', 'select data from nkudo.logs', 'select chain_pem from nkudo.certificates', 'select facts from nkudo.hosts', 'select report from nkudo.mesh_reports', 'select key_id from nkudo.mesh_hosts', 'delete from nkudo.host_liveness', 'select * from nkudo.audit_events']) {
      await expect(system.query(sql), sql).rejects.toMatchObject({ code: permissionDenied });
    }
  });
});

describe('the probes above', () => {
  it('turn red when row level security is off', async () => {
    const seeded = await useDatabase();
    const other = openTestDatabase(seeded);
    const first = await makeFleet(other);
    const second = await makeFleet(other, first.epoch);
    const client = new pg.Client({ connectionString: seeded.appUrl });
    await client.connect();
    const seen = async (): Promise<readonly string[]> => {
      await client.query('begin');
      await client.query(`select set_config('app.tenant_id', $1, true)`, [first.tenantId]);
      const { rows } = await client.query<{ tenant_id: string }>('select tenant_id from nkudo.sites');
      await client.query('rollback');
      return rows.map((row) => row.tenant_id).toSorted();
    };
    expect(await seen()).toEqual([first.tenantId]);
    await seeded.query('alter table nkudo.sites disable row level security');
    expect(await seen()).toEqual([first.tenantId, second.tenantId].toSorted());
    await Promise.all([client.end(), other.close()]);
  });
});
