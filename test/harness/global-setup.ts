/**
 * Runs once before the integration tests, in vitest's main process, and only when one is selected: makes the run's
 * folder, starts the broker, and takes everything down afterwards. If this process dies in any other way, the run
 * folder's watcher does it.
 */
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { TestProject } from 'vitest/node';
import { cacheRoot } from '#hack/build-cache.ts';
import { ensureKubernetes } from '#hack/build-kubernetes.ts';
import { createRunDirectory } from '#hack/stack/run-directory.ts';
import { startBroker } from './broker.ts';
import type { HarnessRun } from './run-context.ts';

/** Logs of this many runs are kept. */
const keptLogRuns = 8;

export async function setup(project: TestProject): Promise<() => Promise<void>> {
  // Here, because here is no time limit: a cold build takes minutes.
  await ensureKubernetes();
  const run = createRunDirectory('nkudo-t-');
  const context: HarnessRun = {
    runDirectory: run.path,
    logDirectory: createLogDirectory(),
    brokerSocket: join(run.path, 'broker.sock'),
  };
  const broker = await startBroker(context);
  project.provide('harness', context);
  return async () => {
    await broker.close();
    await run.close();
  };
}

function createLogDirectory(): string {
  const parent = join(cacheRoot(), 'test-logs');
  mkdirSync(parent, { recursive: true });
  for (const old of readdirSync(parent).sort().slice(0, -(keptLogRuns - 1))) {
    rmSync(join(parent, old), { recursive: true, force: true });
  }
  const directory = join(parent, `${new Date().toISOString().replaceAll(':', '-')}-${process.pid}`);
  mkdirSync(directory);
  return directory;
}
