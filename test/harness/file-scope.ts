/**
 * Everything one test file starts, and its guaranteed end: a folder, a log folder, processes, and what to undo.
 *
 * vitest isolates test files, so one scope per module instance is one per file. `file-setup.ts` closes it after the
 * file's last test, also when tests failed; a crashed worker's leftovers fall to the run folder.
 */
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { inject } from 'vitest';
import { startProcess, type ProcessSpec, type RunningProcess } from '#hack/stack/process.ts';
import { killProcessesOf } from '#hack/stack/run-directory.ts';
import type { HarnessRun, SharedServices } from './run-context.ts';
import { requestService } from './broker-client.ts';
import { removeControlGroups } from './control-groups.ts';

/** What a test says about a program; the rest is the scope's. */
export type FileProcessSpec = Omit<ProcessSpec, 'runDirectory' | 'logFile'> & { readonly logFile?: string };

/** See the module's header. */
export interface FileScope {
  readonly run: HarnessRun;
  /** The file's own folder, mode 0711; its path is short enough for unix sockets inside. */
  readonly directory: string;
  /** Kept after the run. */
  readonly logDirectory: string;
  /** A shared service, started on first request in the whole run. */
  shared<Name extends keyof SharedServices>(name: Name): Promise<SharedServices[Name]>;
  /** Starts a program whose log is `<name>.log` (appended on a second start); it is killed at the file's end. */
  start(spec: FileProcessSpec): Promise<RunningProcess>;
  /** Runs at the file's end, last registered first. */
  defer(undo: () => Promise<void> | void): void;
  /** A new folder inside the file's folder, mode 0711: others may pass through, not list. */
  makeDirectory(prefix: string): string;
}

let scope: (FileScope & { close(): Promise<void> }) | null = null;

/** The scope of the present test file. */
export function fileScope(): FileScope {
  scope ??= createScope(inject('harness'));
  return scope;
}

/** For `file-setup.ts` only. */
export async function closeFileScope(): Promise<void> {
  const closing = scope;
  scope = null;
  await closing?.close();
}

/** Where this file's logs are, or null when it started nothing. */
export function fileLogDirectory(): string | null {
  return scope?.logDirectory ?? null;
}

let testFileName = 'test';

/** For `file-setup.ts` only: names the folders. */
export function nameFileScope(testPath: string): void {
  testFileName = basename(testPath).replace(/(\.integration)?\.test\.ts$/, '');
}

function createScope(run: HarnessRun): FileScope & { close(): Promise<void> } {
  const directory = makePassableDirectory(join(run.runDirectory, 'f-'));
  const logDirectory = join(run.logDirectory, testFileName);
  mkdirSync(logDirectory, { recursive: true });
  const undos: (() => Promise<void> | void)[] = [];
  return {
    run,
    directory,
    logDirectory,
    shared: (name) => requestService(run, name),
    start: (spec) =>
      startProcess({ ...spec, runDirectory: directory, logFile: spec.logFile ?? join(logDirectory, `${spec.name}.log`) }),
    defer: (undo) => {
      undos.push(undo);
    },
    makeDirectory: (prefix) => makePassableDirectory(join(directory, `${prefix}-`)),
    close: async () => {
      const failures: unknown[] = [];
      for (const undo of undos.reverse()) {
        await Promise.resolve()
          .then(undo)
          .catch((error: unknown) => failures.push(error));
      }
      await killProcessesOf(directory);
      for (const stateDirectory of findStateDirectories(directory)) await removeControlGroups(stateDirectory);
      if (failures.length > 0) {
        throw new AggregateError(failures, 'cleaning up after the file failed');
      }
    },
  };
}

/** Those of agents that a test has run: each in a folder of its own. */
function findStateDirectories(directory: string): readonly string[] {
  const candidates = readdirSync(directory, { withFileTypes: true }).filter((entry) => entry.isDirectory()).map(({ name }) => join(directory, name, 'state'));
  return candidates.filter((path) => existsSync(path));
}

function makePassableDirectory(prefix: string): string {
  const directory = mkdtempSync(prefix);
  chmodSync(directory, 0o711);
  return directory;
}
