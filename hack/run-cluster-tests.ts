/**
 * `npm run test:cluster`: the product in a real cluster, and one line that counts the tests.
 *
 * With `--when-possible`, as CI calls it, a machine that can have no cluster and tools that take too long to build are no
 * failure: it says that nothing ran and why, and counts every test as skipped, none as passed.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { repositoryRoot } from './build-cache.ts';
import { isGoToolBuilt } from './build-go-tools.ts';
import { areKubernetesAndNodeBuilt } from './build-kubernetes.ts';
import { clusterObstacle } from './cluster/cluster.ts';
import { readReport, runVitest } from './run-tests.ts';
import { concludeTestRun } from './test-report.ts';

const whenPossible = '--when-possible';
const buildLimitMs = 12 * 60_000;
const testFolder = join(repositoryRoot, 'test', 'cluster');

/** Resolves with the exit code. */
export async function runClusterTests(args: readonly string[]): Promise<number> {
  const isOptional = args.includes(whenPossible);
  const obstacle = clusterObstacle();
  if (obstacle !== null) return didNotRun(obstacle, isOptional);
  if (!areToolsBuilt() && !(await buildTools(isOptional ? buildLimitMs : null))) return didNotRun('its tools could not be built in time; npm run cluster -- tools builds them', isOptional);
  const folder = mkdtempSync(join(tmpdir(), 'nkudo-report-'));
  try {
    const reportFile = join(folder, 'report.json');
    const selection = args.filter((arg) => arg !== whenPossible);
    const runnerExitCode = await runVitest(['--project=cluster', '--reporter=default', '--reporter=json', `--outputFile.json=${reportFile}`, ...selection]);
    const verdict = concludeTestRun({ checks: [], runnerExitCode, files: readReport(reportFile), isSelection: true, otherSuites: [] });
    process.stdout.write(`\n${verdict.lines.join('\n')}\n`);
    return verdict.exitCode;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function didNotRun(reason: string, isOptional: boolean): number {
  const tests = readdirSync(testFolder).filter((name) => name.endsWith('.test.ts')).map((name) => readFileSync(join(testFolder, name), 'utf8'));
  const count = tests.join('\n').match(/^\s*it\(/gm)?.length ?? 0;
  process.stdout.write(`test:cluster did NOT run: ${reason}\n`);
  process.stdout.write(isOptional ? `0 passed, 0 failed, ${count} skipped\n` : `0 passed, ${count} failed, 0 skipped\n`);
  return isOptional ? 0 : 1;
}

const areToolsBuilt = (): boolean => areKubernetesAndNodeBuilt() && isGoToolBuilt('helm') && isGoToolBuilt('coredns');

/** In a process group of its own, since a build that takes too long has children. @returns whether it was done in time */
async function buildTools(limitMs: number | null): Promise<boolean> {
  const child = spawn(process.execPath, ['--import', 'tsx', join(repositoryRoot, 'hack/cluster.ts'), 'tools'], { cwd: repositoryRoot, stdio: 'inherit', detached: true });
  const ended = new Promise<boolean>((resolve) => {
    child.once('error', () => resolve(false));
    child.once('exit', (code) => resolve(code === 0));
  });
  const end = (): void => void (child.pid !== undefined && process.kill(-child.pid, 'SIGKILL'));
  process.once('SIGINT', end);
  process.once('SIGTERM', end);
  const timer = limitMs === null ? undefined : setTimeout(end, limitMs);
  try {
    return await ended;
  } finally {
    clearTimeout(timer);
    process.off('SIGINT', end);
    process.off('SIGTERM', end);
  }
}
