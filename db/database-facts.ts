/** What a person should know of the database before trusting it with microVMs: read once for `doctor`, under the program's own roles. */
import pg from 'pg';
import type { DatabaseFacts, RoleFacts, ServerFacts } from '#controller/ports/database-facts.ts';
import { describeConnectError } from './connect-error.ts';
import { loadMigrations, migrationsDirectory } from './migrate.ts';

export interface DatabaseLogin {
  readonly variable: string;
  readonly url: string;
}

const timeoutMs = 10_000;

/** Reads only; opens one connection for each login and closes it. The last login's view of the server counts. */
export async function readDatabaseFacts(logins: readonly DatabaseLogin[], nowMs: () => number): Promise<DatabaseFacts> {
  const roles: RoleFacts[] = [];
  let server: ServerFacts | null = null;
  for (const login of logins) {
    const client = new pg.Client({ connectionString: login.url, connectionTimeoutMillis: timeoutMs, statement_timeout: timeoutMs, application_name: 'nkudo-doctor' });
    client.on('error', () => {}); // The question under way tells.
    const role = decodeURIComponent(URL.parse(login.url)?.username ?? '');
    try {
      await client.connect();
      const { rows } = await client.query<{ strong: boolean }>('select rolsuper or rolbypassrls or rolcreaterole as strong from pg_roles where rolname = current_user');
      roles.push({ variable: login.variable, role, problem: null, isTooStrong: rows[0]?.strong === true });
      server = await readServer(client, nowMs);
    } catch (error) {
      roles.push({ variable: login.variable, role, problem: describeConnectError(error, login.url, login.variable), isTooStrong: false });
    } finally {
      await client.end().catch(() => {}); // It was only asked.
    }
  }
  return { roles, server };
}

async function readServer(client: pg.Client, nowMs: () => number): Promise<ServerFacts> {
  const askedMs = nowMs();
  const { rows } = await client.query<{ version: string; number: string; recovery: boolean; durable: boolean; standbys: string; sync: string; clock: Date }>(
    `select current_setting('server_version') as version, current_setting('server_version_num') as number, pg_is_in_recovery() as recovery,
      current_setting('fsync')::boolean and current_setting('full_page_writes')::boolean as durable,
      current_setting('synchronous_standby_names') as standbys, current_setting('synchronous_commit') as sync, clock_timestamp() as clock`,
  );
  const middleMs = (askedMs + nowMs()) / 2;
  const [row] = rows;
  if (row === undefined) throw new Error('the server gave no answer');
  return {
    version: row.version,
    versionNumber: Number(row.number),
    isInRecovery: row.recovery,
    isDurable: row.durable,
    synchronousStandbys: row.standbys,
    synchronousCommit: row.sync,
    incarnation: await optional(async () => (await client.query<{ incarnation: number }>('select incarnation from nkudo.installation')).rows[0]?.incarnation ?? null),
    pendingMigrations: await optional(() => readPending(client)),
    logPartitionsAhead: await optional(() => countPartitions(client)),
    clockAheadMs: Math.round(row.clock.getTime() - middleMs),
  };
}

/** Null for what is not there or may not be read. */
async function optional<Result>(read: () => Promise<Result>): Promise<Result | null> {
  try {
    return await read();
  } catch {
    return null;
  }
}

async function readPending(client: pg.Client): Promise<readonly string[]> {
  const { rows } = await client.query<{ name: string }>('select name from nkudo.applied_migrations()');
  const applied = new Set(rows.map((row) => row.name));
  return loadMigrations(migrationsDirectory()).map(({ name }) => name).filter((name) => !applied.has(name));
}

async function countPartitions(client: pg.Client): Promise<number> {
  const { rows } = await client.query<{ ahead: number }>(
    `select count(*)::int as ahead from pg_inherits i join pg_class c on c.oid = i.inhrelid
      where i.inhparent = 'nkudo.logs'::regclass and c.relname ~ '^logs_[0-9]{8}$' and to_date(substr(c.relname, 6), 'YYYYMMDD') > (now() at time zone 'UTC')::date`,
  );
  return rows[0]?.ahead ?? 0;
}
