/**
 * Postgres under load that is restarted, fails over to a standby, and takes no writes: what was acknowledged stays, what was not
 * says that the database is away, repeating gives one effect, and nothing has to be started again.
 */
import { appendFileSync, chmodSync, chownSync, cpSync, readdirSync, readlinkSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import { beforeAll, describe, expect, it } from 'vitest';
import type { MicroVMId } from '#api/model/ids.ts';
import { openDatabase, type Database } from '#db/database.ts';
import { findFreePort } from '#hack/stack/free-port.ts';
import { adminUrl, queryAsAdmin, type PostgresAccess, type PostgresCluster } from '#hack/stack/postgres.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { useDatabase, useDedicatedPostgres, type TestDatabase } from '#test/harness/postgres.ts';
import { startTcpProxy, type TcpProxy } from '#test/harness/tcp-proxy.ts';
import { until } from '#test/harness/until.ts';
import { actor, desired, execution, ids, makeFleet, makeHost, observation, publishAndClaim, publishInput, type Fleet, type TestHost } from './builders.ts';

const workers = 8;

let primary: PostgresCluster;
let server: TestDatabase;
let proxy: TcpProxy;
let target: PostgresAccess;
let db: Database;
let fleet: Fleet;
let host: TestHost;

beforeAll(async () => {
  primary = await useDedicatedPostgres({ settings: ['wal_level=replica', 'max_wal_senders=4', 'hot_standby=on'] });
  target = primary;
  server = await useDatabase({ postgres: primary });
  proxy = await startTcpProxy(() => `127.0.0.1:${target.port}`);
  const through = (url: string): string => url.replace(`127.0.0.1:${primary.port}`, proxy.address);
  db = openDatabase({ appUrl: through(server.appUrl), systemUrl: through(server.systemUrl), ids });
  fileScope().defer(() => db.close());
  fleet = await makeFleet(db);
  host = await makeHost(fleet);
});

interface Load {
  readonly acknowledged: Set<MicroVMId>;
  readonly errors: Set<string>;
  stop(): Promise<void>;
}

/** Publishes microVMs one after another on each worker; one that failed is tried again until it is acknowledged. */
function startLoad(): Load {
  const acknowledged = new Set<MicroVMId>();
  const errors = new Set<string>();
  let isOver = false;
  const work = async (): Promise<void> => {
    while (!isOver) {
      const input = publishInput(fleet, host, { desired: desired({ cpuCount: 0, memoryBytes: 0 }) });
      for (let isDone = false; !isDone; ) {
        try {
          await db.microvms.publish(input, fleet.epoch, actor);
          acknowledged.add(input.microvmId);
          isDone = true;
        } catch (error) {
          errors.add(error instanceof Error && 'code' in error ? String(error.code) : String(error));
        }
      }
    }
  };
  const running = Promise.all(Array.from({ length: workers }, work));
  return {
    acknowledged,
    errors,
    stop: async () => {
      isOver = true;
      await running;
    },
  };
}

const more = (load: Load, count: number): Promise<void> => {
  const wanted = load.acknowledged.size + count;
  return until(() => load.acknowledged.size >= wanted, `${count} more acknowledgements`);
};

async function expectEachOnce(load: Load, at: PostgresAccess): Promise<void> {
  const rows = await queryAsAdmin(at, server.name, 'select count(*)::int as operations, count(distinct microvm_id)::int as microvms from nkudo.operations where microvm_id = any($1)', [[...load.acknowledged]]);
  expect(rows).toEqual([{ operations: load.acknowledged.size, microvms: load.acknowledged.size }]);
}

/** A copy of the primary that follows it, with every commit waiting for it. */
async function startStandby(): Promise<PostgresAccess> {
  const scope = fileScope();
  const pid = primary.pid();
  if (pid === null) throw new Error('the primary is down');
  const program = readlinkSync(`/proc/${pid}/exe`);
  await primary.stop();
  const directory = join(primary.dataDirectory, '..', 'standby');
  cpSync(primary.dataDirectory, directory, { recursive: true, preserveTimestamps: true });
  rmSync(join(directory, 'postmaster.pid'), { force: true });
  writeFileSync(join(directory, 'standby.signal'), '');
  appendFileSync(join(directory, 'postgresql.auto.conf'), `\nprimary_conninfo = 'host=127.0.0.1 port=${primary.port} user=postgres password=${primary.password}'\n`);
  await primary.start();
  const port = await findFreePort();
  const owner = statSync(primary.dataDirectory);
  for (const name of ['.', ...readdirSync(directory, { recursive: true }).map(String)]) chownSync(join(directory, name), owner.uid, owner.gid);
  chmodSync(directory, 0o700);
  const settings = ['unix_socket_directories=', 'listen_addresses=127.0.0.1', `port=${port}`, 'hot_standby=on', 'max_connections=400', 'shared_buffers=64MB'];
  const standby = await scope.start({
    name: 'standby', command: program, args: ['-D', directory, ...settings.flatMap((setting) => ['-c', setting])], environment: { LANG: 'C', LC_ALL: 'C' }, workingDirectory: '/',
    ...(process.getuid?.() === 0 ? { uid: owner.uid, gid: owner.gid } : {}),
  });
  await standby.waitForLine(/ready to accept read-only connections/);
  await queryAsAdmin(primary, 'postgres', `alter system set synchronous_standby_names = '*'`);
  await queryAsAdmin(primary, 'postgres', 'select pg_reload_conf()');
  await until(async () => (await queryAsAdmin(primary, 'postgres', `select 1 from pg_stat_replication where state = 'streaming' and sync_state = 'sync'`)).length === 1, 'the standby to follow');
  return { port, password: primary.password };
}

describe('Postgres under load', () => {
  it('is restarted, and every call either has its effect once or says that the database is away', async () => {
    const load = startLoad();
    await more(load, 40);
    await primary.stop();
    await until(() => load.errors.size > 0, 'the outage to be noticed');
    await primary.start();
    await more(load, 40);
    await load.stop();
    expect([...load.errors]).toEqual(['DATABASE_UNAVAILABLE']);
    await expectEachOnce(load, primary);
  });

  it('takes no writes: calls say so, nothing is marked failed, and all goes on when it takes them again', async () => {
    const { record, operationId } = await publishAndClaim(fleet, host, { desired: desired({ cpuCount: 0, memoryBytes: 0 }) });
    const reports = { tenantId: fleet.tenantId, hostId: host.hostId, executions: [execution(operationId, { status: 'Succeeded', isFinal: true })], observations: [observation(record)] };
    await queryAsAdmin(primary, 'postgres', 'alter system set default_transaction_read_only = on');
    await queryAsAdmin(primary, 'postgres', 'select pg_reload_conf()');
    const admin = new pg.Client({ connectionString: adminUrl(primary, server.name) });
    await admin.connect();
    await until(async () => (await admin.query<{ on: string }>(`select current_setting('default_transaction_read_only') as on`)).rows[0]?.on === 'on', 'the setting');
    const away = { code: 'DATABASE_UNAVAILABLE', retry: 'backoff' };
    await expect(db.dispatch.recordReports(reports, actor)).rejects.toMatchObject(away);
    await expect(db.microvms.publish(publishInput(fleet, host), fleet.epoch, actor)).rejects.toMatchObject(away);
    await expect(db.logs.append(fleet.tenantId, host.hostId, { microvmId: record.microvmId, source: 'serial', incarnation: 1, offset: 0, data: Buffer.from('x'), gapBytes: 0 })).rejects.toMatchObject(away);
    expect(await db.microvms.load(fleet.tenantId, record.microvmId)).toMatchObject({ newestOperation: { status: 'Dispatched' } });
    await admin.query('set default_transaction_read_only = off');
    await admin.query('alter system reset default_transaction_read_only');
    await admin.query('select pg_reload_conf()');
    await admin.end();
    await until(() => db.dispatch.recordReports(reports, actor).then(() => true), 'the reports to be taken');
    expect(await db.microvms.load(fleet.tenantId, record.microvmId)).toMatchObject({ newestOperation: { status: 'Succeeded' } });
  });

  it('fails over to its standby, and nothing that was acknowledged is lost', async () => {
    const standby = await startStandby();
    const load = startLoad();
    await more(load, 40);
    await primary.crash();
    target = standby;
    proxy.drop();
    // For a moment the copy answers and takes no writes, as it does behind a real virtual address.
    await until(() => load.errors.size > 0, 'the outage to be noticed');
    await queryAsAdmin(standby, 'postgres', 'select pg_promote()');
    await more(load, 40);
    await load.stop();
    expect([...load.errors]).toEqual(['DATABASE_UNAVAILABLE']);
    await expectEachOnce(load, standby);
  });
});
