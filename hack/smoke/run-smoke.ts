/** One smoke run: what it needs on this machine, the walk, the report. Leaves no process and no file but logs and reports. */
import { join } from 'node:path';
import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { createRunDirectory } from '../stack/run-directory.ts';
import { smokeSteps, type SmokeContext, type SmokeSetup } from './path.ts';
import type { SmokeReport } from './report.ts';
import { walk, type WalkOptions } from './steps.ts';

export interface SmokeOptions extends Pick<WalkOptions, 'stepTimeoutMs' | 'timeoutOf' | 'onStep' | 'onResult'> {
  readonly setup: Omit<SmokeSetup, 'namespace' | 'runDirectory' | 'logDirectory'>;
  /** Kept: logs of the agent and of the guest's host. */
  readonly logDirectory: string;
  readonly installation: string;
  /** What drives the guest, for the report. */
  readonly hypervisor: string;
  /** For tests, which break a run on purpose. */
  readonly onContext?: (context: SmokeContext) => void;
}

export async function runSmoke(options: SmokeOptions): Promise<SmokeReport> {
  const run = createRunDirectory('nkudo-s-');
  mkdirSync(options.logDirectory, { recursive: true });
  const startedAt = new Date().toISOString();
  const startedMs = performance.now();
  const context: SmokeContext = { ...options.setup, namespace: `nkudo-smoke-${randomBytes(4).toString('hex')}`, runDirectory: run.path, logDirectory: options.logDirectory };
  options.onContext?.(context);
  try {
    const steps = await walk(smokeSteps, context, { nowMs: () => performance.now(), ...options });
    return { installation: options.installation, startedAt, durationMs: Math.round(performance.now() - startedMs), hypervisor: options.hypervisor, agentVersion: agentVersion(options.setup.agent), steps, logs: join(options.logDirectory) };
  } finally {
    await run.close();
  }
}

function agentVersion([command, ...args]: SmokeSetup['agent']): string {
  const { status, stdout } = spawnSync(command, [...args, '--version'], { encoding: 'utf8', timeout: 20_000 });
  return status === 0 ? stdout.trim() : 'of an unknown version';
}
