/**
 * Starts what test files share, on first request and once per run: a run that selects no such test starts nothing.
 *
 * Lives in vitest's main process, so that a crashing worker takes nothing down with it. Protocol on a unix socket: one
 * line with a service's name in, one JSON line `{"ok": …}` or `{"error": "…"}` out.
 */
import { createServer, type Server } from 'node:net';
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { ensureKubernetes } from '#hack/build-kubernetes.ts';
import { buildPrograms } from '#hack/build-programs.ts';
import { buildGuest } from '#hack/build-guest.ts';
import { buildSimulator } from '#hack/build-simulator.ts';
import { startPostgres } from '#hack/stack/postgres.ts';
import { startKubernetesWithCrds } from '#hack/stack/crds.ts';
import { testPostgresSettings } from './postgres-settings.ts';
import type { HarnessRun, SharedServices } from './run-context.ts';

/** A running broker. */
export interface Broker {
  /** Stops what was started. */
  close(): Promise<void>;
}

type Starters = { readonly [Name in keyof SharedServices]: () => Promise<SharedServices[Name]> };

/** Listens on `run.brokerSocket`. */
export async function startBroker(run: HarnessRun): Promise<Broker> {
  const stops: (() => Promise<void>)[] = [];
  const starters = createStarters(run, stops);
  const started = new Map<string, Promise<unknown>>();
  const serve = (name: string): Promise<unknown> => {
    const starter = Object.entries(starters).find(([key]) => key === name)?.[1];
    if (starter === undefined) {
      return Promise.reject(new Error(`the harness has no service '${name}'`));
    }
    const service = started.get(name) ?? starter();
    started.set(name, service);
    return service;
  };
  const server = createServer((socket) => {
    const lines = createInterface({ input: socket });
    // The worker went away; nothing to answer. readline repeats its input's errors as its own.
    lines.on('error', () => socket.destroy());
    socket.on('error', () => socket.destroy());
    lines.on('line', (name) => {
      serve(name).then(
        (value) => socket.end(`${JSON.stringify({ ok: value })}\n`),
        (error: unknown) => socket.end(`${JSON.stringify({ error: error instanceof Error ? error.message : String(error) })}\n`),
      );
    });
  });
  await listen(server, run.brokerSocket);
  return {
    close: async () => {
      server.close();
      await Promise.allSettled(started.values());
      await Promise.allSettled(stops.map((stop) => stop()));
    },
  };
}

function createStarters(run: HarnessRun, stops: (() => Promise<void>)[]): Starters {
  return {
    kubernetes: async () => {
      const cluster = await startKubernetesWithCrds({
        programs: await ensureKubernetes(),
        runDirectory: run.runDirectory,
        directory: join(run.runDirectory, 'k8s'),
        logDirectory: join(run.logDirectory, 'shared'),
        isDurable: false,
      });
      stops.push(cluster.stop);
      const { server, caFile, adminToken, kubeconfig, kubectl, auditLog, directory } = cluster;
      return { server, caFile, adminToken, kubeconfig, kubectl, auditLog, directory };
    },
    postgres: async () => {
      const cluster = await startPostgres({
        runDirectory: run.runDirectory,
        directory: join(run.runDirectory, 'pg'),
        logDirectory: join(run.logDirectory, 'shared'),
        settings: testPostgresSettings,
      });
      stops.push(cluster.stop);
      return { port: cluster.port, password: cluster.password };
    },
    programs: () => buildPrograms(),
    simulator: () => buildSimulator(),
    guests: () => buildGuest(),
  };
}

function listen(server: Server, socketPath: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(socketPath, resolve);
  });
}
