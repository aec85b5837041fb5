/**
 * A real Postgres for a test file: a database of its own on the run's shared cluster, or a cluster of its own for tests
 * that kill it or count at it.
 *
 * Owns databases, their migration and counting at the server. The schema and its roles are the migrator's.
 */
import { randomBytes } from 'node:crypto';
import { adminUrl, databaseUrl, queryAsAdmin, startPostgres, type PostgresAccess, type PostgresCluster } from '#hack/stack/postgres.ts';
import { fileScope } from './file-scope.ts';
import { testPostgresSettings } from './postgres-settings.ts';

/** Roles belong to the whole cluster, so every database of a run uses the same passwords. */
export const appPassword = 'app-password';
export const systemPassword = 'system-password';

/** Counted by the server. Compare two readings; reading writes nothing. */
export interface PostgresCounters {
  /** Transactions that wrote, in the whole cluster: the next transaction id. Exact. */
  readonly writeTransactions: number;
  /** Bytes of write-ahead log, in the whole cluster. Exact. */
  readonly walBytes: number;
  /** Commits in this database, read-only ones included. Sessions report theirs with up to 10 s of delay. */
  readonly commits: number;
}

/** A database. */
export interface TestDatabase {
  readonly name: string;
  readonly adminUrl: string;
  /** Connection string of the application role. */
  readonly appUrl: string;
  /** Connection string of the cross-tenant role. */
  readonly systemUrl: string;
  /** Runs SQL as the superuser, who sees every tenant's rows. */
  query(sql: string, values?: readonly unknown[]): Promise<readonly Record<string, unknown>[]>;
  counters(): Promise<PostgresCounters>;
  /** Rows inserted, updated and deleted per table since the statistics began; up to 10 s late. */
  tableWrites(): Promise<Readonly<Record<string, number>>>;
}

/** What `useDatabase` makes. */
export interface DatabaseOptions {
  /** Where; the shared cluster when absent. */
  readonly postgres?: PostgresAccess;
  /** False leaves the database empty. */
  readonly migrated?: boolean;
}

/** A new, migrated database. */
export async function useDatabase(options: DatabaseOptions = {}): Promise<TestDatabase> {
  const access = options.postgres ?? (await fileScope().shared('postgres'));
  const name = `test_${randomBytes(6).toString('hex')}`;
  await queryAsAdmin(access, 'postgres', `CREATE DATABASE ${name}`);
  if (options.migrated !== false) {
    const { migrate } = await import('#db/migrate.ts');
    await migrate({ adminUrl: adminUrl(access, name), appPassword, systemPassword });
  }
  const query: TestDatabase['query'] = (sql, values) => queryAsAdmin(access, name, sql, values);
  return {
    name,
    adminUrl: adminUrl(access, name),
    appUrl: databaseUrl(access, { user: 'nkudo_app', password: appPassword, database: name }),
    systemUrl: databaseUrl(access, { user: 'nkudo_system', password: systemPassword, database: name }),
    query,
    counters: async () => {
      const [row] = await query(
        `SELECT pg_snapshot_xmax(pg_current_snapshot())::text AS next_xid,
                (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::text AS wal_bytes,
                (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database())::text AS commits`,
      );
      return {
        writeTransactions: Number(row?.['next_xid']),
        walBytes: Number(row?.['wal_bytes']),
        commits: Number(row?.['commits']),
      };
    },
    tableWrites: async () => {
      const rows = await query('SELECT relname, n_tup_ins + n_tup_upd + n_tup_del AS writes FROM pg_stat_user_tables');
      return Object.fromEntries(rows.map((row) => [String(row['relname']), Number(row['writes'])]));
    },
  };
}

/** A cluster of the file's own: it may be stopped, crashed and started again on the same data. */
export async function useDedicatedPostgres(options: { readonly settings?: readonly string[] } = {}): Promise<PostgresCluster> {
  const scope = fileScope();
  const cluster = await startPostgres({
    runDirectory: scope.directory,
    directory: scope.makeDirectory('pg'),
    logDirectory: scope.logDirectory,
    settings: [...testPostgresSettings, ...(options.settings ?? [])],
  });
  scope.defer(cluster.stop);
  return cluster;
}
