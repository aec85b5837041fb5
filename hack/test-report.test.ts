import { describe, expect, it } from 'vitest';
import { concludeTestRun, parseReport, type TestRun } from './test-report.ts';

const counts = (passed: number, failed = 0, skipped = 0) => ({ passed, failed, skipped });
const goodRun: TestRun = {
  checks: [{ name: 'types', outcome: 'passed', detail: '10 files' }],
  runnerExitCode: 0,
  files: [
    { file: 'api/model/epoch.test.ts', counts: counts(2), isBroken: false },
    { file: 'test/e2e/life.test.ts', counts: counts(3, 0, 1), isBroken: false },
  ],
  isSelection: false,
};

describe('the verdict over a test run', () => {
  it('counts tests and checks in its last line', () => {
    const verdict = concludeTestRun(goodRun);

    expect(verdict.lines.at(-1)).toBe('6 passed, 0 failed, 1 skipped');
    expect(verdict.exitCode).toBe(0);
  });

  it('names the suites that ran and those that did not', () => {
    const text = concludeTestRun(goodRun).lines.join('\n');

    expect(text).toContain('test/e2e: 1 files, 3 passed, 0 failed, 1 skipped');
    expect(text).toContain('unit: 1 files, 2 passed');
    expect(text).toContain('test:long');
  });

  it('fails when no test ran', () => {
    const verdict = concludeTestRun({ ...goodRun, checks: [], files: [] });

    expect(verdict.exitCode).toBe(1);
    expect(verdict.lines).toContain('failed: no test ran');
    expect(verdict.lines.at(-1)).toBe('0 passed, 1 failed, 0 skipped');
  });

  it('fails when the runner wrote no report', () => {
    expect(concludeTestRun({ ...goodRun, files: null }).exitCode).toBe(1);
  });

  it('fails when only a check failed', () => {
    const verdict = concludeTestRun({ ...goodRun, checks: [{ name: 'types', outcome: 'failed', detail: '' }] });

    expect(verdict.exitCode).toBe(1);
    expect(verdict.lines.at(-1)).toBe('5 passed, 1 failed, 1 skipped');
  });

  it('fails when a file could not be loaded', () => {
    const verdict = concludeTestRun({ ...goodRun, files: [{ file: 'test/x.test.ts', counts: counts(0), isBroken: true }, ...(goodRun.files ?? [])] });

    expect(verdict.exitCode).toBe(1);
    expect(verdict.lines.at(-1)).toBe('6 passed, 1 failed, 1 skipped');
  });

  it('fails when the runner failed although every test passed', () => {
    expect(concludeTestRun({ ...goodRun, runnerExitCode: 1 }).exitCode).toBe(1);
  });
});

describe('the runner’s report', () => {
  it('is read by file, with files that failed outside of their tests', () => {
    const report = {
      testResults: [
        { name: '/tree/a.test.ts', status: 'passed', assertionResults: [{ status: 'passed' }, { status: 'skipped' }] },
        { name: '/tree/b.test.ts', status: 'failed', assertionResults: [] },
      ],
    };

    expect(parseReport(report, '/tree')).toEqual([
      { file: 'a.test.ts', counts: counts(1, 0, 1), isBroken: false },
      { file: 'b.test.ts', counts: counts(0), isBroken: true },
    ]);
  });
});
