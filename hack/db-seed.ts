/**
 * `npm run db:seed`: fills a database with a believable fleet, through the product's own stores. Owns the command line
 * and which database: the one in the environment, or a Postgres of its own that lives until Ctrl-C.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import pg from 'pg';
import { openDatabase } from '#db/database.ts';
import { migrate } from '#db/migrate.ts';
import { seedFleet } from './seed-fleet.ts';
import { adminUrl, databaseUrl, startPostgres } from './stack/postgres.ts';
import { createRunDirectory } from './stack/run-directory.ts';

const usage = `npm run db:seed -- [--tenants 2] [--sites 3] [--hosts 4] [--microvms 8] [--seed 1] [--once] [--force]

Writes into the database of NKUDO_DATABASE_URL and NKUDO_DATABASE_SYSTEM_URL; with NKUDO_DATABASE_ADMIN_URL it
migrates it first. Without any of them it starts a Postgres of its own and keeps it until Ctrl-C.

  --tenants, --sites, --hosts, --microvms   how many; each of the one before
  --seed N      the same number gives the same ids; a tenant that is there already is left as it is
  --once        do not keep the own Postgres
  --force       also into a database that a controller has led: its leader has to take the leadership again
`;

const ownPasswords = { app: randomBytes(12).toString('hex'), system: randomBytes(12).toString('hex') };
const sizeMax = 1_000;

interface Urls {
  readonly app: string;
  readonly system: string;
  readonly admin: string | null;
}

function say(line: string): void {
  process.stdout.write(`db:seed: ${line}\n`);
}

function whole(value: string, name: string): number {
  const parsed = Number(value);
  if (!Number.isInteger(parsed) || parsed < 1 || parsed > sizeMax) throw new Error(`--${name} must be a whole number from 1 to ${sizeMax}`);
  return parsed;
}

function urlsOfEnvironment(): Urls | null {
  const { NKUDO_DATABASE_URL: app, NKUDO_DATABASE_SYSTEM_URL: system, NKUDO_DATABASE_ADMIN_URL: admin } = process.env;
  if (app === undefined && system === undefined && admin === undefined) return null;
  if (app === undefined || system === undefined) throw new Error('NKUDO_DATABASE_URL and NKUDO_DATABASE_SYSTEM_URL must both be set');
  return { app, system, admin: admin ?? null };
}

async function startOwn(): Promise<{ readonly urls: Urls; stop(): Promise<void> }> {
  const run = createRunDirectory('nkudo-s-');
  const cluster = await startPostgres({ runDirectory: run.path, directory: join(run.path, 'postgres'), logDirectory: run.path });
  const url = (user: string, password: string): string => databaseUrl(cluster, { user, password, database: 'postgres' });
  return {
    urls: { app: url('nkudo_app', ownPasswords.app), system: url('nkudo_system', ownPasswords.system), admin: adminUrl(cluster, 'postgres') },
    stop: async () => {
      await cluster.stop();
      await run.close();
    },
  };
}

function passwordOf(url: string): string {
  return decodeURIComponent(URL.parse(url)?.password ?? '');
}

/** Taking the leadership fences whoever holds it, so a database in use is left alone. */
async function refuseLedDatabase(systemUrl: string): Promise<void> {
  const client = new pg.Client({ connectionString: systemUrl });
  await client.connect();
  try {
    const { rows } = await client.query<{ holder: string }>('select holder from nkudo.leadership');
    const holder = rows[0]?.holder ?? '';
    if (holder !== '' && holder !== 'db-seed') throw new Error(`the controller ${holder} has led this database; --force seeds it all the same`);
  } finally {
    await client.end();
  }
}

async function fill(urls: Urls, values: { readonly tenants: string; readonly sites: string; readonly hosts: string; readonly microvms: string; readonly seed: string; readonly force?: boolean }): Promise<void> {
  const size = { tenants: whole(values.tenants, 'tenants'), sites: whole(values.sites, 'sites'), hosts: whole(values.hosts, 'hosts'), microvms: whole(values.microvms, 'microvms') };
  if (urls.admin !== null) await migrate({ adminUrl: urls.admin, appPassword: passwordOf(urls.app), systemPassword: passwordOf(urls.system) });
  if (values.force !== true) await refuseLedDatabase(urls.system);
  const db = openDatabase({ appUrl: urls.app, systemUrl: urls.system, ids: { uuid: () => randomUUID() } });
  try {
    const counts = await seedFleet({ db, size, seed: whole(values.seed, 'seed'), nowMs: Date.now(), report: say });
    say(`made ${counts.tenants} tenants, ${counts.hosts} hosts, ${counts.microvms} microVMs`);
  } finally {
    await db.close();
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      tenants: { type: 'string', default: '2' },
      sites: { type: 'string', default: '3' },
      hosts: { type: 'string', default: '4' },
      microvms: { type: 'string', default: '8' },
      seed: { type: 'string', default: '1' },
      once: { type: 'boolean' },
      force: { type: 'boolean' },
      help: { type: 'boolean' },
    },
  });
  if (values.help === true) {
    process.stdout.write(usage);
    return;
  }
  const given = urlsOfEnvironment();
  if (given !== null) return fill(given, { ...values, force: values.force === true });
  const own = await startOwn();
  try {
    await fill(own.urls, { ...values, force: true });
    say(`superuser: ${own.urls.admin ?? ''}`);
    say(`NKUDO_DATABASE_URL=${own.urls.app}`);
    say(`NKUDO_DATABASE_SYSTEM_URL=${own.urls.system}`);
    if (values.once === true) return;
    say('kept until Ctrl-C');
    await new Promise<void>((resolve) => {
      for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(name, () => resolve());
      // A promise alone does not keep the process.
      setInterval(() => {}, 60_000);
    });
  } finally {
    await own.stop();
  }
}

try {
  await main();
  process.exit(0);
} catch (error) {
  process.stderr.write(`db:seed: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exit(1);
}
