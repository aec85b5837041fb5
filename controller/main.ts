/** Entry of `nkudo-controller`: commands, logging, signals, exit codes. What runs is in `serve.ts`. */
import { randomUUID } from 'node:crypto';
import { userInfo } from 'node:os';
import { Command, Option } from 'commander';
import pino, { type Logger } from 'pino';
import { openDatabase } from '#db/database.ts';
import { readDatabaseFacts } from '#db/database-facts.ts';
import { migrate, MigrationError } from '#db/migrate.ts';
import { deriveChainerUrl } from '#db/roles.ts';
import { createAuditStore } from '#db/stores/audit-store.ts';
import { runExport, runVerify, type AuditCommandDeps } from './audit/run.ts';
import { loadConnection } from './adapters/kubernetes/connection.ts';
import { createKubernetesClient } from './adapters/kubernetes/kubernetes-client.ts';
import { createWritableSecrets } from './adapters/kubernetes/secrets.ts';
import { createQuestions } from './adapters/kubernetes/questions.ts';
import { ConfigError, parseAuditConfig, parseDoctorConfig, parseMigrateConfig, parseNamespace, parseRebindConfig, parseServeConfig } from './config.ts';
import { runDoctor } from './doctor/doctor.ts';
import { authoritySecret, rotateStoredIntermediate } from './pki/authority-store.ts';
import { RebindError, rebindTenant } from './rebind.ts';
import { describeRemaining } from './remaining.ts';
import { createTime } from './runtime/time.ts';
import { serve } from './serve.ts';

/** A stop that takes longer is ended. */
const stopDeadlineMs = 20_000;

function createLog(level: string): Logger {
  // Synchronous, so that the last lines of a process that ends are not lost.
  return pino({ level, base: { program: 'nkudo-controller', pid: process.pid } }, pino.destination({ sync: true }));
}

async function runMigrate(): Promise<void> {
  const config = parseMigrateConfig(process.env);
  const log = createLog(config.logLevel);
  const { applied } = await migrate({
    adminUrl: config.databaseAdminUrl,
    appPassword: config.appPassword,
    systemPassword: config.systemPassword,
    ...(config.chainerPassword === undefined ? {} : { chainerPassword: config.chainerPassword }),
    log,
  });
  log.info({ applied }, 'the database has the newest schema');
}

async function runServe(): Promise<void> {
  const config = parseServeConfig(process.env, String(process.pid));
  const log = createLog(config.logLevel);
  const stopping = new AbortController();
  const stopRequested = new Promise<'stop'>((resolve) => {
    for (const name of ['SIGTERM', 'SIGINT'] as const) {
      process.once(name, () => {
        stopping.abort();
        resolve('stop');
      });
    }
  });
  const starting = serve(config, log, stopping.signal);
  const started = await Promise.race([starting, stopRequested]);
  if (started === 'stop') process.exit(0); // Nothing is promised to anybody yet.
  const end = await Promise.race([stopRequested, started.failed.then(() => 'lost' as const)]);
  if (end === 'lost') {
    log.fatal('the leadership was lost and could not be let go of');
    process.exit(1);
  }
  log.info('stopping');
  setTimeout(() => {
    log.error('the stop took too long');
    process.exit(1);
  }, stopDeadlineMs).unref();
  await started.stop();
  log.info('stopped');
  process.exit(0);
}

async function examineInstallation(output: 'table' | 'json'): Promise<void> {
  const config = parseDoctorConfig(process.env);
  const nowMs = (): number => Date.now();
  const deps = { database: () => readDatabaseFacts(config.logins, nowMs), kubernetes: () => createQuestions(loadConnection(null)), namespace: config.namespace, nowMs };
  process.exitCode = await runDoctor(deps, output, (text) => void process.stdout.write(`${text}\n`));
}

/** Runs a command on the audit chain. Its report goes to stdout; the program's own log is not wanted there. */
async function withAudit(command: (deps: AuditCommandDeps) => Promise<number>): Promise<void> {
  const config = parseAuditConfig(process.env);
  const url = config.databaseChainerUrl ?? deriveChainerUrl(config.databaseSystemUrl ?? '');
  if (url === null) throw new ConfigError('NKUDO_DATABASE_CHAINER_URL must be set, as NKUDO_DATABASE_SYSTEM_URL holds no password to derive from');
  const chain = createAuditStore({ url });
  try {
    process.exitCode = await command({ chain, namespace: config.namespace, nowMs: Date.now(), print: (line) => void process.stdout.write(`${line}\n`) });
  } finally {
    await chain.close();
  }
}

async function runRotate(): Promise<void> {
  const time = createTime({ nowMs: () => Date.now(), monotonicMs: () => performance.now(), random: () => Math.random() });
  const kube = createKubernetesClient({ connection: loadConnection(null), fieldManager: 'nkudo-controller', userAgent: 'nkudo-controller', time });
  try {
    const { intermediate } = await rotateStoredIntermediate(createWritableSecrets(kube, parseNamespace(process.env)), authoritySecret, Date.now());
    process.stdout.write(`new certificates are signed by ${intermediate.certificate.subject}; hosts need do nothing, those of before hold\n`);
  } finally {
    kube.close();
  }
}

async function runRebind(namespace: string, from: string | undefined): Promise<void> {
  const config = parseRebindConfig(process.env);
  const database = openDatabase({ appUrl: config.databaseUrl, systemUrl: config.databaseSystemUrl, ids: { uuid: () => randomUUID() } });
  const time = createTime({ nowMs: () => Date.now(), monotonicMs: () => performance.now(), random: () => Math.random() });
  const kube = createKubernetesClient({ connection: loadConnection(null), fieldManager: 'nkudo-controller', userAgent: 'nkudo-controller', time });
  try {
    await rebindTenant({ kube, identities: database.identities, user: `tenant rebind by ${userInfo().username}`, print: (line) => void process.stdout.write(`${line}\n`) }, namespace, from);
  } finally {
    kube.close();
    await database.close();
  }
}

/** Settings and migrations have their own sentences; everything else shows its stack. */
function fail(error: unknown): never {
  const text = error instanceof ConfigError || error instanceof MigrationError || error instanceof RebindError ? error.message : error instanceof Error ? (error.stack ?? error.message) : String(error);
  process.stderr.write(`nkudo-controller: ${text}\n`);
  process.exit(1);
}

const program = new Command('nkudo-controller').description('Runs microVMs on edge hosts from Kubernetes. Settings come from the environment.');
program
  .command('migrate')
  .description('bring the database to the newest schema')
  .action(() => runMigrate().catch(fail));
program
  .command('serve')
  .description('serve agents and tenants; reconcile while leading')
  .action(() => runServe().catch(fail));
program
  .command('doctor')
  .description('look at database, API server and certificates, and say what is wrong; exit code 4 when something is')
  .addOption(new Option('--output <format>', 'how to print it').choices(['table', 'json']).default('table'))
  .action((options: { output: 'table' | 'json' }) => examineInstallation(options.output).catch(fail));
program
  .command('remaining')
  .description('say what goes on when the control plane is uninstalled')
  .action(async () => {
    try {
      for (const line of await describeRemaining(createQuestions(loadConnection(null)))) process.stdout.write(`${line}\n`);
    } catch (error) {
      // Only told: an uninstallation is not to wait for a cluster in trouble.
      process.stdout.write(`what stays can not be told: ${error instanceof Error ? error.message : String(error)}\n`);
    }
  });
const audit = program.command('audit').description('the chain over the audit log');
audit
  .command('verify')
  .description('walk every chain and name the first row that is not as it was; exit code 3 when there is one')
  .option('--against <file>', 'checkpoints that `audit export` wrote: only they show that the end of a chain was cut off')
  .option('--public-key <file>', 'public keys to trust, in PEM; default: those of the Secret nkudo-audit')
  .action((options: { against?: string; publicKey?: string }) => withAudit((deps) => runVerify(deps, options)).catch(fail));
audit
  .command('export')
  .description('write all signed checkpoints to a file, to be kept outside of the database')
  .requiredOption('--file <file>', 'where to; replaced as a whole')
  .option('--rows', 'also the audit rows themselves')
  .option('--public-key <file>', 'public keys to put into the file, in PEM; default: those of the Secret nkudo-audit')
  .action((options: { file: string; rows?: true; publicKey?: string }) => withAudit((deps) => runExport(deps, options)).catch(fail));
program
  .command('ca')
  .description('the certificate authority of agents and listeners')
  .command('rotate')
  .description('a new intermediate below the same root; running replicas take it up within the hour, or when they are restarted')
  .action(() => runRotate().catch(fail));
program
  .command('tenant')
  .description('tenants and their namespaces')
  .command('rebind')
  .description('after the loss of a cluster: the tenant of a namespace of that name goes on in the present one')
  .argument('<namespace>', 'the namespace, in the cluster of KUBECONFIG')
  .option('--from <uid>', 'which tenant, when several had a namespace of that name')
  .action((namespace: string, options: { from?: string }) => runRebind(namespace, options.from).catch(fail));
await program.parseAsync();
