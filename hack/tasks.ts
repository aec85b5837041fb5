/**
 * What the `npm run` scripts do, once the bootstrap has put everything in place. Owns the names and the order of steps;
 * each step's work is in its own file.
 */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { repositoryRoot } from './build-cache.ts';
import { quickChecks, runChecks, type CheckResult } from './checks.ts';
import { generateAll } from './generate.ts';
import { runClusterTests } from './run-cluster-tests.ts';
import { runVitest, runWholeTest } from './run-tests.ts';

interface Task {
  readonly summary: string;
  /** Gets the script's arguments; returns the exit code. */
  readonly run: (args: readonly string[]) => Promise<number>;
}

const tasks: Readonly<Record<string, Task>> = {
  demo: { summary: 'the whole path on this machine, from kubectl apply to a running microVM; --once ends by itself', run: (args) => runScript('hack/demo.ts', args) },
  dev: { summary: 'the same stack, kept until Ctrl-C', run: (args) => runScript('hack/demo.ts', args) },
  test: { summary: 'everything that gates a change; `-- -t "\\[S"` selects tests by name', run: runWholeTest },
  'test:unit': { summary: 'unit tests only', run: (args) => runVitest(['--project', 'unit', ...args]) },
  'test:integration': { summary: 'tests on real servers; arguments select files', run: (args) => runVitest(['--project', 'integration', ...args]) },
  'test:e2e': { summary: 'the user stories, through kubectl and a real agent', run: (args) => runVitest(['--project', 'integration', 'test/e2e', ...args]) },
  'test:long': { summary: 'full counts that are too long for every change', run: runLong },
  'test:cluster': { summary: 'the chart in a real cluster: install, upgrade under load, rollback, uninstall', run: runClusterTests },
  check: { summary: 'types, lint, import rules and unit tests', run: check },
  generate: { summary: 'write everything that is generated', run: generate },
  'db:seed': { summary: 'fill a database with a believable fleet; without NKUDO_DATABASE_URL one of its own', run: (args) => runScript('hack/db-seed.ts', args) },
  'build:edge': { summary: 'nkudo-edge as one executable file, in dist/; --help tells the options', run: (args) => runScript('hack/build-edge.ts', args) },
  release: { summary: 'every file of a release with its manifest, in dist/release/; --help tells the options', run: (args) => runScript('hack/release.ts', args) },
  'release:sign': { summary: 'sign files of a release, or make a key for that', run: (args) => runScript('hack/release/sign.ts', args) },
  bench: { summary: 'small measurements of what the design gives a budget for; arguments select', run: (args) => runScript('hack/bench/run.ts', args) },
  image: { summary: 'the controller’s image as an OCI archive, by buildah, docker or neither', run: (args) => runScript('hack/image/build-image.ts', args) },
  cluster: { summary: 'a real cluster on this machine: up, down; --help tells more', run: (args) => runScript('hack/cluster.ts', args) },
  smoke: { summary: 'sign-off: the whole critical path against the cluster of a kubeconfig, with a report', run: (args) => runScript('hack/smoke.ts', args) },
  verify: { summary: 'fail when a generated file is stale', run: () => runScript('hack/verify.ts', []) },
  help: { summary: 'this list', run: help },
};

function runLong(args: readonly string[]): Promise<number> {
  process.env['NKUDO_TEST_LONG'] = '1';
  return runVitest(['--project', 'long', ...args]);
}

async function check(args: readonly string[]): Promise<number> {
  const results = await runChecks(quickChecks);
  const unitCode = await runVitest(['--project', 'unit', ...args]);
  return results.some(isFailed) || unitCode !== 0 ? 1 : 0;
}

function isFailed(result: CheckResult): boolean {
  return result.outcome === 'failed';
}

async function generate(): Promise<number> {
  await generateAll((line) => process.stdout.write(`${line}\n`));
  return 0;
}

function help(): Promise<number> {
  process.stdout.write('npm run <task> [-- arguments]\n\n');
  for (const [name, task] of Object.entries(tasks)) {
    process.stdout.write(`  ${name.padEnd(18)} ${task.summary}\n`);
  }
  return Promise.resolve(0);
}

function runScript(script: string, args: readonly string[]): Promise<number> {
  const child = spawn(process.execPath, ['--import', 'tsx', join(repositoryRoot, script), ...args], { stdio: 'inherit', cwd: repositoryRoot });
  // The terminal sends Ctrl-C to the script too; it ends in its own time and we with it.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => child.kill('SIGTERM'));
  process.on('SIGHUP', () => child.kill('SIGHUP'));
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => resolve(code ?? 1));
  });
}

const [name = 'help', ...args] = process.argv.slice(2);
const task = Object.entries(tasks).find(([known]) => known === name)?.[1];
if (task === undefined) {
  process.stderr.write(`there is no task '${name}'\n`);
  await help();
  process.exitCode = 2;
} else {
  process.exitCode = await task.run(args);
}
