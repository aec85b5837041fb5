/**
 * Starts the product for the demo as a user would: migrate, controller, enroll, agent. Owns the commands and where their
 * files lie; knows nothing of what the demo shows with them.
 */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { randomBytes } from 'node:crypto';
import { createHostIsolation } from '#edge-agent/adapters/isolation/host-isolation.ts';
import { createGuestNetworks } from '#edge-agent/adapters/network/guest-networks.ts';
import { createHostNetwork } from '#edge-agent/adapters/network/host-network.ts';
import { resolveConfig } from '#edge-agent/config/resolve.ts';
import { deriveRunConfig } from '#edge-agent/config.ts';
import type { ProductPrograms } from '../build-programs.ts';
import { adminUrl, databaseUrl, type PostgresAccess } from '../stack/postgres.ts';
import { startProcess, tail, type RunningProcess } from '../stack/process.ts';
import type { KubernetesApi } from './kubernetes-api.ts';

const readyTimeoutMs = 60_000;
const readyPollMs = 50;
const database = 'postgres';
const networkRemovalTimeoutMs = 30_000;

/** Where things are and who is there. */
export interface ProductContext {
  readonly programs: ProductPrograms;
  readonly kubernetes: KubernetesApi;
  readonly postgres: PostgresAccess;
  readonly runDirectory: string;
  readonly logDirectory: string;
}

/** Addresses that the controller bound. */
export interface Addresses {
  readonly edge: string;
  readonly fleet: string;
  readonly api: string;
  readonly http: string;
}

/** Migrates the database, starts a controller and waits until it says it is ready. */
export async function startController(context: ProductContext): Promise<{ process: RunningProcess; addresses: Addresses }> {
  const passwords = { app: randomBytes(16).toString('hex'), system: randomBytes(16).toString('hex') };
  const environment = {
    KUBECONFIG: context.kubernetes.kubeconfig,
    NKUDO_DATABASE_ADMIN_URL: adminUrl(context.postgres, database),
    NKUDO_DATABASE_URL: databaseUrl(context.postgres, { user: 'nkudo_app', password: passwords.app, database }),
    NKUDO_DATABASE_SYSTEM_URL: databaseUrl(context.postgres, { user: 'nkudo_system', password: passwords.system, database }),
  };
  const migrate = await startProcess(nodeProcess(context, { name: 'migrate', args: [context.programs.controller, 'migrate'], environment }));
  const end = await migrate.exited;
  if (end.code !== 0) {
    throw new Error(`nkudo-controller migrate failed:\n${tail(migrate.lines())}`);
  }
  const readyFile = join(context.runDirectory, 'controller-ready.json');
  const { NKUDO_DATABASE_ADMIN_URL: _unused, ...serveEnvironment } = environment;
  const process = await startProcess(
    nodeProcess(context, {
      name: 'controller',
      args: [context.programs.controller, 'serve'],
      environment: {
        ...serveEnvironment,
        NKUDO_EDGE_LISTEN: '127.0.0.1:0',
        NKUDO_FLEET_LISTEN: '127.0.0.1:0',
        NKUDO_HTTP_LISTEN: '127.0.0.1:0',
        NKUDO_NAMESPACE: context.kubernetes.systemNamespace,
        // One person looks at one host: the counts of Site and Host may follow at once.
        NKUDO_AGGREGATE_INTERVAL_MS: '200',
        NKUDO_READY_FILE: readyFile,
      },
    }),
  );
  return { process, addresses: await waitForReadyFile(process, readyFile) };
}

async function waitForReadyFile(process: RunningProcess, file: string): Promise<Addresses> {
  const deadline = performance.now() + readyTimeoutMs;
  while (performance.now() < deadline && process.exitStatus() === null) {
    if (existsSync(file)) {
      // Parsing boundary: written by the controller, by rename.
      return JSON.parse(readFileSync(file, 'utf8')) as Addresses;
    }
    await delay(readyPollMs);
  }
  throw new Error(`the controller did not become ready:\n${tail(process.lines())}`);
}

/** Where the demo's host keeps its state. */
export function stateDirectory({ runDirectory }: Pick<ProductContext, 'runDirectory'>): string {
  return join(runDirectory, 'edge-1');
}

/**
 * Takes bridges, taps, rules and DHCP of the demo's guests off this machine: they belong to no process, so the end of all
 * processes leaves them. The VMMs must be gone. Only root's agent can have made any.
 */
export async function removeGuestNetworks(runDirectory: string): Promise<void> {
  if (process.getuid?.() !== 0) return;
  // Of the demo's agent: its environment has the PATH and no setting of the network.
  const environment = { PATH: process.env['PATH'] };
  const { network, isolation } = deriveRunConfig(resolveConfig({ environment, flags: { stateDir: stateDirectory({ runDirectory }) } }), environment);
  const networks = createGuestNetworks({ ...network, vmmUserIdOf: () => 0, host: createHostNetwork(network.path) });
  await networks.sweep(new Set(), AbortSignal.timeout(networkRemovalTimeoutMs));
  await createHostIsolation({ ...isolation, stateDirectory: stateDirectory({ runDirectory }) }).sweep(new Set());
}

/** Exchanges the token for the host's identity. */
export async function enrollHost(context: ProductContext, token: string): Promise<void> {
  const tokenFile = join(context.runDirectory, 'token');
  mkdirSync(stateDirectory(context), { mode: 0o700 });
  writeFileSync(tokenFile, token, { mode: 0o600 });
  const enroll = await startProcess(
    nodeProcess(context, {
      name: 'enroll',
      args: [context.programs.edge, 'enroll', '--state-dir', stateDirectory(context), '--token-file', tokenFile, '--name', 'edge-1'],
      environment: {},
    }),
  );
  const end = await enroll.exited;
  rmSync(tokenFile);
  if (end.code !== 0) {
    throw new Error(`nkudo-edge enroll failed:\n${tail(enroll.lines())}`);
  }
}

/** Starts the agent; its microVMs may use files below `imageDirectory` only. */
export function startAgent(context: ProductContext, options: { readonly hypervisor: string; readonly imageDirectory: string }): Promise<RunningProcess> {
  return startProcess(
    nodeProcess(context, {
      name: 'edge-1',
      args: [
        context.programs.edge,
        'run',
        ...['--state-dir', stateDirectory(context)],
        ...['--hypervisor', options.hypervisor],
        ...['--allow-path', options.imageDirectory],
      ],
      environment: {},
    }),
  );
}

interface NodeProcess {
  readonly name: string;
  readonly args: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
}

function nodeProcess(context: ProductContext, program: NodeProcess) {
  return {
    ...program,
    command: context.programs.node,
    runDirectory: context.runDirectory,
    logFile: join(context.logDirectory, `${program.name}.log`),
  };
}
