/**
 * `npm test`: the static checks, then every test that gates a change, then one line that counts them.
 *
 * Owns calling vitest. A selection (`-t`, file names) runs the selected tests only, without the static checks. What the
 * result amounts to is decided in `test-report.ts`.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { repositoryRoot } from './build-cache.ts';
import { ensureGoTool } from './build-go-tools.ts';
import { ensureKubernetes } from './build-kubernetes.ts';
import { runChecks, staticChecks } from './checks.ts';
import { concludeTestRun, parseReport, type FileReport } from './test-report.ts';

/** Runs everything, or with arguments the tests they select; resolves with the exit code. */
export async function runWholeTest(args: readonly string[]): Promise<number> {
  const isSelection = args.length > 0;
  const checks = isSelection ? [] : await runChecks(staticChecks);
  await ensureKubernetes();
  // Here, because here is no time limit; a selection builds what it needs itself.
  if (!isSelection) for (const tool of ['helm', 'kubeconform', 'actionlint', 'nfpm'] as const) await ensureGoTool(tool);
  const folder = mkdtempSync(join(tmpdir(), 'nkudo-report-'));
  try {
    const reportFile = join(folder, 'report.json');
    const runnerExitCode = await runVitest([
      '--project=unit',
      '--project=integration',
      '--reporter=default',
      '--reporter=json',
      `--outputFile.json=${reportFile}`,
      ...args,
    ]);
    const verdict = concludeTestRun({ checks, runnerExitCode, files: readReport(reportFile), isSelection });
    process.stdout.write(`\n${verdict.lines.join('\n')}\n`);
    return verdict.exitCode;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Runs vitest with its output on the terminal; resolves with its exit code. */
export function runVitest(args: readonly string[]): Promise<number> {
  const child = spawn(join(repositoryRoot, 'node_modules', '.bin', 'vitest'), ['run', ...args], { stdio: 'inherit', cwd: repositoryRoot });
  // The terminal sends Ctrl-C to vitest too; it takes its servers down, and we wait for it.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => child.kill('SIGTERM'));
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => resolve(code ?? 1));
  });
}

/** What vitest's JSON reporter wrote. */
export function readReport(file: string): readonly FileReport[] | null {
  try {
    return parseReport(JSON.parse(readFileSync(file, 'utf8')), repositoryRoot);
  } catch {
    return null; // vitest ended before it wrote one; its exit code and output say why.
  }
}
