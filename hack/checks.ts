/**
 * The checks that need no running server: types, lint, import rules, wire contract, generated code.
 *
 * Owns how each tool is called and the proof that it looked at something: a check that examined nothing fails. What the
 * tools enforce is in their own configuration files.
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { repositoryRoot } from './build-cache.ts';

/** How a check ended. `examined` counts what it looked at, in its own unit. */
export interface CheckResult {
  readonly name: string;
  readonly outcome: 'passed' | 'failed' | 'skipped';
  readonly detail: string;
}

interface ToolRun {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

interface Check {
  readonly name: string;
  readonly run: () => Promise<Omit<CheckResult, 'name'>>;
}

const sourceFolders = ['api', 'controller', 'crds', 'db', 'edge-agent', 'hack', 'test'];

const typesCheck: Check = {
  name: 'types (tsc)',
  run: async () => {
    const result = await runTool('tsc', ['--noEmit', '-p', '.', '--listFiles']);
    const isOwn = (line: string): boolean => line.startsWith(`${repositoryRoot}/`) && !line.includes('/node_modules/');
    const lines = result.stdout.split('\n');
    const messages = lines.filter((line) => !line.startsWith('/')).join('\n');
    return judge(result.code === 0, { examined: lines.filter(isOwn).length, unit: 'files', output: messages + result.stderr });
  },
};

const lintCheck: Check = {
  name: 'lint (oxlint)',
  run: async () => {
    const result = await runTool('oxlint', ['--type-aware', '--deny-warnings']);
    const examined = Number(/on (\d+) files/.exec(result.stdout)?.[1] ?? 0);
    return judge(result.code === 0, { examined, unit: 'files', output: result.stdout + result.stderr });
  },
};

const importsCheck: Check = {
  name: 'import rules (dependency-cruiser)',
  run: async () => {
    const folders = sourceFolders.filter((folder) => existsSync(join(repositoryRoot, folder)));
    const result = await runTool('depcruise', ['--config', '.dependency-cruiser.cjs', '--output-type', 'err', ...folders]);
    const examined = Number(/\((\d+) modules|(\d+) modules, \d+ dependencies/.exec(result.stdout)?.slice(1).find(Boolean) ?? 0);
    const dependencies = Number(/(\d+) dependencies cruised/.exec(result.stdout)?.[1] ?? 0);
    return judge(result.code === 0 && dependencies > 0, { examined, unit: 'modules', output: result.stdout + result.stderr });
  },
};

const wireLintCheck: Check = {
  name: 'wire contract (buf lint)',
  run: async () => {
    const files = await runTool('buf', ['ls-files']);
    const result = await runTool('buf', ['lint']);
    return judge(files.code === 0 && result.code === 0, {
      examined: files.stdout.split('\n').filter((line) => line.endsWith('.proto')).length,
      unit: 'proto files',
      output: files.stderr + result.stdout + result.stderr,
    });
  },
};

/** Compared with the newest release tag, or before the first release with the last commit. */
const wireBreakingCheck: Check = {
  name: 'wire compatibility (buf breaking)',
  run: async () => {
    const reference = wireReference();
    if (reference === null) {
      return { outcome: 'skipped', detail: 'there is no git history here to compare with' };
    }
    const result = await runTool('buf', ['breaking', '--against', `.git#ref=${reference}`]);
    const files = await runTool('buf', ['ls-files']);
    const judged = judge(result.code === 0, {
      examined: files.stdout.split('\n').filter((line) => line.endsWith('.proto')).length,
      unit: 'proto files',
      output: result.stdout + result.stderr,
    });
    return { ...judged, detail: `${judged.detail} against ${reference}` };
  },
};

function wireReference(): string | null {
  const git = (args: string[]): string | null => {
    const result = spawnSync('git', args, { cwd: repositoryRoot, encoding: 'utf8' });
    return result.status === 0 ? result.stdout.trim() : null;
  };
  if (!existsSync(join(repositoryRoot, '.git'))) {
    return null;
  }
  const tag = git(['describe', '--tags', '--abbrev=0', '--match', 'v*']);
  const reference = tag ?? git(['rev-parse', 'HEAD']);
  const hasContract = reference !== null && (git(['ls-tree', '-r', '--name-only', reference, 'api/proto']) ?? '') !== '';
  return hasContract ? reference : null;
}

const generatedCheck: Check = {
  name: 'generated code (hack/verify.ts)',
  run: async () => {
    const result = await runTool('node', ['--import', 'tsx', join('hack', 'verify.ts')]);
    const examined = Number(/(\d+) generated files/.exec(result.stdout)?.[1] ?? 0);
    return judge(result.code === 0, { examined, unit: 'generated files', output: result.stdout + result.stderr });
  },
};

/** Everything static, in the order of how fast it fails. */
export const staticChecks: readonly Check[] = [lintCheck, typesCheck, importsCheck, wireLintCheck, wireBreakingCheck, generatedCheck];
/** What `npm run check` runs before the unit tests. */
export const quickChecks: readonly Check[] = [lintCheck, typesCheck, importsCheck];

/** Runs the checks one after the other and prints one line for each, with the tool's output when it failed. */
export async function runChecks(checks: readonly Check[]): Promise<CheckResult[]> {
  const results: CheckResult[] = [];
  for (const check of checks) {
    const startedAt = performance.now();
    const result = { name: check.name, ...(await check.run()) };
    const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
    process.stdout.write(`check ${result.outcome}: ${result.name}, ${result.detail} (${seconds} s)\n`);
    results.push(result);
  }
  return results;
}

interface Evidence {
  readonly examined: number;
  readonly unit: string;
  readonly output: string;
}

function judge(isClean: boolean, evidence: Evidence): Omit<CheckResult, 'name'> {
  if (evidence.examined === 0) {
    return { outcome: 'failed', detail: `it looked at no ${evidence.unit}\n${evidence.output}` };
  }
  return isClean
    ? { outcome: 'passed', detail: `${evidence.examined} ${evidence.unit}` }
    : { outcome: 'failed', detail: `${evidence.examined} ${evidence.unit}\n${evidence.output}` };
}

/** Runs a program of node_modules/.bin. */
export async function runTool(name: string, args: readonly string[]): Promise<ToolRun> {
  const child = spawn(join(repositoryRoot, 'node_modules', '.bin', name), args, {
    cwd: repositoryRoot,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, PATH: `${join(repositoryRoot, 'node_modules', '.bin')}:${process.env['PATH'] ?? ''}` },
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => (stdout += chunk));
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (stderr += chunk));
  const code = await new Promise<number>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (exitCode) => resolve(exitCode ?? 1));
  });
  return { code, stdout, stderr };
}
