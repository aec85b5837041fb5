/**
 * The migrator: runs the SQL files in order, each in one transaction, under one advisory lock.
 * A file that was applied must still be there with the same hash; otherwise nothing is run at all.
 * Rows, roles' rights and queries belong to the SQL files and the stores.
 */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { describeConnectError } from './connect-error.ts';
import { silentLog, type DatabaseLog } from './log.ts';
import { ensureRoles, maintenanceRole, ownerRole, type LoginPasswords } from './roles.ts';

/** Key of the advisory lock; any constant that nothing else in the database uses. */
const migrationLock = 7_310_022_518;
/** Daily log partitions made ahead; the store makes further ones as days pass. */
export const logPartitionDaysAhead = 14;
/** Monthly partitions of executions made ahead. */
export const executionPartitionMonthsAhead = 3;

const filePattern = /^(\d{4})_[a-z0-9_]+\.sql$/;

export interface MigrateOptions extends LoginPasswords {
  /** Connection of a role that may create roles and a schema; a direct one, not through a transaction pooler. */
  readonly adminUrl: string;
  readonly log?: DatabaseLog;
  /** Folder of the SQL files; default: `migrations` beside the running file. */
  readonly migrationsDir?: string;
}

export interface MigrateResult {
  /** Names of the files that this call applied, in order. */
  readonly applied: readonly string[];
}

export class MigrationError extends Error {
  override readonly name = 'MigrationError';
}

interface MigrationFile {
  readonly name: string;
  readonly sql: string;
  readonly hash: string;
}

/**
 * Brings the database to the newest schema. Idempotent, and safe from several places at once: the others wait.
 * @throws MigrationError when an applied file was edited, is missing, or a new one sorts before an applied one
 */
export async function migrate(options: MigrateOptions): Promise<MigrateResult> {
  const log = options.log ?? silentLog;
  const files = loadMigrations(options.migrationsDir ?? migrationsDirectory());
  const admin = new pg.Client({ connectionString: options.adminUrl, connectionTimeoutMillis: 10_000, application_name: 'nkudo-migrate' });
  // A lost connection also fails the statement under way, which is where it is reported.
  admin.on('error', () => {});
  try {
    await admin.connect();
  } catch (error) {
    throw new MigrationError(describeConnectError(error, options.adminUrl, 'NKUDO_DATABASE_ADMIN_URL'), { cause: error });
  }
  try {
    await admin.query('select pg_advisory_lock($1)', [migrationLock]);
    await ensureRoles(admin, options.adminUrl, options);
    await ensureSchema(admin);
    const pending = checkHistory(files, await loadHistory(admin));
    for (const file of pending) {
      await apply(admin, file);
      log.info({ migration: file.name }, 'migration applied');
    }
    await admin.query('select nkudo.ensure_log_partitions($1)', [logPartitionDaysAhead]);
    return { applied: pending.map((file) => file.name) };
  } finally {
    await admin.end().catch(() => {}); // Ends the session and with it the lock.
  }
}

/** The bundle has the files beside it in `migrations`; in the source tree this module does. */
export function migrationsDirectory(): string {
  const script = process.argv[1];
  const candidates = [
    ...(script === undefined ? [] : [join(dirname(script), 'migrations')]),
    join(dirname(fileURLToPath(import.meta.url)), 'migrations'),
  ];
  const found = candidates.find((directory) => existsSync(join(directory, '0001_mvp1.sql')));
  if (found === undefined) throw new MigrationError(`no migrations found in ${candidates.join(' or ')}`);
  return found;
}

/** @throws MigrationError on a name that does not fit or a number used twice */
export function loadMigrations(directory: string): readonly MigrationFile[] {
  const names = readdirSync(directory).filter((name) => name.endsWith('.sql')).toSorted();
  const numbers = new Set<string>();
  return names.map((name) => {
    const number = filePattern.exec(name)?.[1];
    if (number === undefined) throw new MigrationError(`${name} is not named NNNN_words.sql`);
    if (numbers.has(number)) throw new MigrationError(`two migrations have the number ${number}`);
    numbers.add(number);
    const sql = readFileSync(join(directory, name), 'utf8');
    return { name, sql, hash: createHash('sha256').update(sql).digest('hex') };
  });
}

/** What has to run, after the applied ones were compared. */
function checkHistory(files: readonly MigrationFile[], history: readonly { name: string; hash: string }[]): readonly MigrationFile[] {
  const byName = new Map(files.map((file) => [file.name, file]));
  for (const applied of history) {
    const file = byName.get(applied.name);
    if (file === undefined) throw new MigrationError(`the migration ${applied.name} was applied to this database and is missing here: use a version of n-kudo that has it`);
    if (file.hash !== applied.hash) {
      throw new MigrationError(`the migration ${applied.name} was edited after it was applied (applied ${applied.hash.slice(0, 12)}, here ${file.hash.slice(0, 12)}): put it back and add a new file`);
    }
  }
  const newest = history.at(-1)?.name ?? '';
  const done = new Set(history.map((applied) => applied.name));
  const pending = files.filter((file) => !done.has(file.name));
  const late = pending.find((file) => file.name < newest);
  if (late !== undefined) throw new MigrationError(`the migration ${late.name} sorts before ${newest}, which was applied already: give it a higher number`);
  return pending;
}

async function loadHistory(admin: pg.Client): Promise<readonly { name: string; hash: string }[]> {
  const { rows } = await admin.query<{ name: string; hash: string }>('select name, hash from nkudo.migrations order by name');
  return rows;
}

/** Schema and history table, which the files themselves can't make; only when they are missing. */
async function ensureSchema(admin: pg.Client): Promise<void> {
  const { rows } = await admin.query<{ found: string | null }>(`select to_regclass('nkudo.migrations')::text as found`);
  if (rows[0]?.found !== null) return;
  await inTransaction(admin, async () => {
    await admin.query(`create schema if not exists nkudo authorization ${ownerRole}`);
    await admin.query(`set local role ${ownerRole}`);
    await admin.query(`grant usage, create on schema nkudo to ${maintenanceRole}`);
    await admin.query(`
      create table nkudo.migrations (
        name text primary key,
        hash text not null check (hash ~ '^[0-9a-f]{64}$'),
        applied_at timestamptz not null default now()
      )`);
    await admin.query('reset role');
    // The administrator needs no membership to read the history later.
    await admin.query(`set local role ${ownerRole}`);
    await admin.query('grant usage on schema nkudo to session_user');
    await admin.query('grant select on nkudo.migrations to session_user');
  });
}

async function apply(admin: pg.Client, file: MigrationFile): Promise<void> {
  try {
    await inTransaction(admin, async () => {
      await admin.query(`set local role ${ownerRole}`);
      await admin.query(file.sql);
      await admin.query(`set local role ${ownerRole}`);
      await admin.query('insert into nkudo.migrations (name, hash) values ($1, $2)', [file.name, file.hash]);
    });
  } catch (error) {
    throw new MigrationError(`the migration ${file.name} failed and was rolled back: ${error instanceof Error ? error.message : 'unknown error'}`, { cause: error });
  }
}

async function inTransaction(admin: pg.Client, work: () => Promise<void>): Promise<void> {
  await admin.query('begin');
  try {
    await work();
    await admin.query('commit');
  } catch (error) {
    await admin.query('rollback').catch(() => {}); // The first error is the one that matters.
    throw error;
  }
}
