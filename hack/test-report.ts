/**
 * What a test run amounts to: pure functions from the runner's report and the checks' results to lines and a verdict.
 *
 * Owns the rules: nothing examined is a failure, a file that could not be loaded is a failure, and the last line counts.
 */
import type { CheckResult } from './checks.ts';

/** Suites that `npm test` leaves out, with where they run. */
const otherSuites = ['test:long (every fault point instead of a sample): npm run test:long', 'test:cluster (helm install, upgrade and uninstall in a real cluster): npm run test:cluster'];

interface Counts {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

/** One test file. */
export interface FileReport {
  /** Relative to the source tree. */
  readonly file: string;
  readonly counts: Counts;
  /** The file itself failed, for example while loading. */
  readonly isBroken: boolean;
}

/** Everything that is known when the runner has ended. */
export interface TestRun {
  readonly checks: readonly CheckResult[];
  readonly runnerExitCode: number;
  /** Null when the runner wrote none. */
  readonly files: readonly FileReport[] | null;
  /** A selection of tests runs without the static checks. */
  readonly isSelection: boolean;
  /** What else there is, and where it runs; by default what `npm test` leaves out. */
  readonly otherSuites?: readonly string[];
}

/** What to print and how to end. */
export interface Verdict {
  /** The last one counts tests. */
  readonly lines: readonly string[];
  readonly exitCode: 0 | 1;
}

/** Source: vitest's JSON reporter writes Jest's format: testResults[].assertionResults[].status. */
export function parseReport(report: unknown, root: string): readonly FileReport[] {
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
      file: String(field(result, 'name')).replace(`${root}/`, ''),
      counts,
      isBroken: field(result, 'status') === 'failed' && counts.failed === 0,
    };
  });
}

function field(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined;
}

/** Decides whether the run is good, and what to say. */
export function concludeTestRun(run: TestRun): Verdict {
  const files = run.files ?? [];
  const tests = total(files.map((file) => file.counts));
  const brokenFiles = files.filter((file) => file.isBroken).length;
  const checksWith = (outcome: CheckResult['outcome']): number => run.checks.filter((check) => check.outcome === outcome).length;
  const problems = describeProblems(run, { tests, brokenFiles });
  const counted = tests.failed + brokenFiles + checksWith('failed');
  const failed = counted === 0 && problems.length > 0 ? 1 : counted;
  return {
    lines: [
      'suites that ran:',
      ...(run.isSelection ? ['  (a selection: no static checks)'] : run.checks.map((check) => `  ${check.name}: ${check.outcome}`)),
      ...describeSuites(files),
      ...describeOthers(run.otherSuites ?? otherSuites),
      ...problems.map((problem) => `failed: ${problem}`),
      `${tests.passed + checksWith('passed')} passed, ${failed} failed, ${tests.skipped + checksWith('skipped')} skipped`,
    ],
    exitCode: failed === 0 ? 0 : 1,
  };
}

function describeOthers(suites: readonly string[]): string[] {
  return suites.length === 0 ? [] : ['suites that did not run:', ...suites.map((suite) => `  ${suite}`)];
}

/** One line per folder of tests; unit tests are one suite. */
function describeSuites(files: readonly FileReport[]): string[] {
  const suites = Map.groupBy(files, ({ file }) => {
    const [top = '', second = ''] = file.split('/');
    return top === 'test' ? `test/${second}` : 'unit';
  });
  return [...suites]
    .sort(([left], [right]) => left.localeCompare(right))
    .flatMap(([suite, members]) => {
      const counts = total(members.map((member) => member.counts));
      const hasRun = counts.passed + counts.failed > 0 || members.some((member) => member.isBroken);
      return hasRun ? [`  ${suite}: ${members.length} files, ${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`] : [];
    });
}

function total(counts: readonly Counts[]): Counts {
  const sum = (pick: (count: Counts) => number): number => counts.reduce((so, count) => so + pick(count), 0);
  return { passed: sum((count) => count.passed), failed: sum((count) => count.failed), skipped: sum((count) => count.skipped) };
}

function describeProblems(run: TestRun, found: { readonly tests: Counts; readonly brokenFiles: number }): string[] {
  return [
    ...(run.files === null ? ['the test runner wrote no report'] : []),
    ...(found.brokenFiles > 0 ? [`${found.brokenFiles} test files could not be loaded or failed outside of their tests`] : []),
    ...(found.tests.passed + found.tests.failed === 0 ? ['no test ran'] : []),
    ...(run.runnerExitCode === 0 || found.tests.failed > 0 ? [] : [`the test runner ended with ${run.runnerExitCode}`]),
  ];
}
