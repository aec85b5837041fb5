/**
 * `npm test`: the static checks, then every test that gates a change, then one line that counts them.
 *
 * Owns the summary and the exit code. A run without tests is a failure, and so is a check that looked at nothing.
 * A selection (`-t`, file names) runs the selected tests only, without the static checks.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { repositoryRoot } from './build-cache.ts';
import { ensureKubernetes } from './build-kubernetes.ts';
import { runChecks, staticChecks, type CheckResult } from './checks.ts';

interface Counts {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

/** Suites that `npm test` leaves out, with where they run. */
const otherSuites = ['test:long (full counts): npm run test:long', 'test:cluster (a cluster with running pods): not in this version'];

/** Runs everything, or with arguments the tests they select; resolves with the exit code. */
export async function runWholeTest(args: readonly string[]): Promise<number> {
  const isSelection = args.length > 0;
  const checks = isSelection ? [] : await runChecks(staticChecks);
  await ensureKubernetes();
  const folder = mkdtempSync(join(tmpdir(), 'nkudo-report-'));
  try {
    const reportFile = join(folder, 'report.json');
    const exitCode = await runVitest([
      '--project=unit',
      '--project=integration',
      '--reporter=default',
      '--reporter=json',
      `--outputFile.json=${reportFile}`,
      ...args,
    ]);
    return conclude({ checks, exitCode, report: readReport(reportFile), isSelection });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Runs vitest with its output on the terminal; resolves with its exit code. */
export function runVitest(args: readonly string[]): Promise<number> {
  const child = spawn(join(repositoryRoot, 'node_modules', '.bin', 'vitest'), ['run', ...args], { stdio: 'inherit', cwd: repositoryRoot });
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => child.kill('SIGTERM'));
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => resolve(code ?? 1));
  });
}

interface FileReport {
  readonly file: string;
  readonly counts: Counts;
  /** The file itself failed, for example while loading. */
  readonly isBroken: boolean;
}

/** Reads vitest's JSON report; null when there is none, which is a failure. */
function readReport(file: string): readonly FileReport[] | null {
  try {
    return parseReport(JSON.parse(readFileSync(file, 'utf8')));
  } catch {
    return null; // vitest ended before it wrote one; its exit code and output say why.
  }
}

/** Source: vitest's JSON reporter writes Jest's format: testResults[].assertionResults[].status. */
function parseReport(report: unknown): readonly FileReport[] {
  const results = field(report, 'testResults');
  return (Array.isArray(results) ? results : []).map((result: unknown) => {
    const tests = field(result, 'assertionResults');
    const statuses = (Array.isArray(tests) ? tests : []).map((test: unknown) => field(test, 'status'));
    const count = (matches: (status: unknown) => boolean): number => statuses.filter(matches).length;
    const counts = {
      passed: count((status) => status === 'passed'),
      failed: count((status) => status === 'failed'),
      skipped: count((status) => status !== 'passed' && status !== 'failed'),
    };
    return {
      file: String(field(result, 'name')).replace(`${repositoryRoot}/`, ''),
      counts,
      isBroken: field(result, 'status') === 'failed' && counts.failed === 0,
    };
  });
}

function field(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined;
}

interface Outcome {
  readonly checks: readonly CheckResult[];
  readonly exitCode: number;
  readonly report: readonly FileReport[] | null;
  readonly isSelection: boolean;
}

function conclude({ checks, exitCode, report, isSelection }: Outcome): number {
  const files = report ?? [];
  process.stdout.write('\nsuites that ran:\n');
  printChecks(checks, isSelection);
  printSuites(files);
  process.stdout.write('suites that did not run:\n');
  for (const suite of otherSuites) {
    process.stdout.write(`  ${suite}\n`);
  }
  const tests = total(files.map((file) => file.counts));
  const brokenFiles = files.filter((file) => file.isBroken).length;
  const checksWith = (outcome: CheckResult['outcome']): number => checks.filter((check) => check.outcome === outcome).length;
  const problems = describeProblems({ tests, brokenFiles, exitCode, hasReport: report !== null });
  const failed = tests.failed + brokenFiles + checksWith('failed') + (problems.length > 0 && tests.failed + brokenFiles === 0 ? 1 : 0);
  for (const problem of problems) {
    process.stdout.write(`failed: ${problem}\n`);
  }
  process.stdout.write(`${tests.passed + checksWith('passed')} passed, ${failed} failed, ${tests.skipped + checksWith('skipped')} skipped\n`);
  return failed === 0 ? 0 : 1;
}

function printChecks(checks: readonly CheckResult[], isSelection: boolean): void {
  if (isSelection) {
    process.stdout.write('  (a selection: no static checks)\n');
  }
  for (const check of checks) {
    process.stdout.write(`  ${check.name}: ${check.outcome}\n`);
  }
}

/** One line per folder of tests; unit tests are one suite. */
function printSuites(files: readonly FileReport[]): void {
  const suites = new Map<string, FileReport[]>();
  for (const file of files) {
    const [top = '', second = ''] = file.file.split('/');
    const suite = top === 'test' ? `test/${second}` : 'unit';
    suites.set(suite, [...(suites.get(suite) ?? []), file]);
  }
  for (const [suite, members] of [...suites].sort(([left], [right]) => left.localeCompare(right))) {
    const counts = total(members.map((member) => member.counts));
    if (counts.passed + counts.failed > 0 || members.some((member) => member.isBroken)) {
      process.stdout.write(`  ${suite}: ${members.length} files, ${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped\n`);
    }
  }
}

function total(counts: readonly Counts[]): Counts {
  const sum = (pick: (count: Counts) => number): number => counts.reduce((so, count) => so + pick(count), 0);
  return { passed: sum((count) => count.passed), failed: sum((count) => count.failed), skipped: sum((count) => count.skipped) };
}

function describeProblems(run: { tests: Counts; brokenFiles: number; exitCode: number; hasReport: boolean }): string[] {
  return [
    ...(run.hasReport ? [] : ['the test runner wrote no report']),
    ...(run.brokenFiles > 0 ? [`${run.brokenFiles} test files could not be loaded or failed outside of their tests`] : []),
    ...(run.tests.passed + run.tests.failed === 0 ? ['no test ran'] : []),
    ...(run.exitCode === 0 || run.tests.failed > 0 ? [] : [`the test runner ended with ${run.exitCode}`]),
  ];
}
