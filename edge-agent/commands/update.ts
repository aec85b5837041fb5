/**
 * `update`: another version of the agent, by whoever stands at the host; works offline. It stages and selects as the
 * agent does for the control plane, tells a running agent to start anew, and waits for how that ends.
 */
import { readFileSync } from 'node:fs';
import { machine } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { createFaultPoints } from '#api/fault-points/fault-points.ts';
import { AppError } from '#api/model/error-codes.ts';
import { createAgentSlots } from '../adapters/agent-slots/agent-slots.ts';
import { createHttpTransfer } from '../adapters/images/http-transfer.ts';
import { loadReleaseKeys } from '../adapters/releases/release-keys.ts';
import { createReleases } from '../adapters/releases/releases.ts';
import { createSystemClock, systemEntropy as entropy } from '../adapters/system/clock.ts';
import { agentVersion, type UpdatesConfig } from '../config.ts';
import { versionFaultPoints } from '../fault-points.ts';
import type { VersionsState } from '../ports/agent-versions.ts';
import { installRelease } from '../supervisor/install-release.ts';
import { renderTable } from './table.ts';

export interface UpdateOptions {
  readonly updates: UpdatesConfig;
  /** File or URL of a manifest. */
  readonly from: string | undefined;
  readonly rollback: boolean;
  readonly needsConnection: boolean;
  readonly wait: boolean;
  readonly output: string;
  readonly environment: Readonly<Record<string, string | undefined>>;
}

const pollMs = 500;
/** The launcher gives up by itself; this is for one that is not there. */
const waitBeyondDeadlineMs = 60_000;

/** @throws RELEASE_*, UPDATE_UNSUPPORTED, UPDATE_FAILED */
export async function update(options: UpdateOptions): Promise<string> {
  const { updates, from, rollback } = options;
  const versions = createAgentSlots(updates.launcher);
  if (from === undefined && !rollback) return show(versions.state(), options.output);
  if (from !== undefined && rollback) throw new AppError('INVALID_REQUEST', '--from and --rollback are two different things', { remedy: 'use one of them' });
  if (!versions.isSupported) throw new AppError('UPDATE_UNSUPPORTED', 'this program was not started by the launcher', { remedy: 'run /usr/bin/nkudo-edge, which is the launcher, after nkudo-edge install or the package' });
  const trial = { needs: options.needsConnection ? 'session' : 'start', deadlineSeconds: updates.deadlineSeconds } as const;
  const wanted = await select();
  if (wanted === null) return `${agentVersion} is the version that is run here already`;
  const agent = runningAgent(updates.launcher.directory);
  if (agent === null) return `the next start of the agent tries ${wanted}`;
  process.kill(agent, 'SIGHUP');
  return options.wait ? awaitTrial(wanted) : `the agent starts anew with ${wanted}`;

  async function select(): Promise<string | null> {
    if (from === undefined) {
      const { previousVersion } = versions.state();
      versions.select('previous', trial);
      return previousVersion ?? '';
    }
    const clock = createSystemClock();
    const releases = createReleases({ keys: () => loadReleaseKeys(updates.keysDirectory), openTransfer: createHttpTransfer(options.environment), clock, entropy });
    const faults = createFaultPoints({ socketPath: options.environment['NKUDO_FAULT_SOCKET'], processName: 'update', known: versionFaultPoints });
    const deps = { releases, versions, runningVersion: agentVersion, architecture: machine(), nowMs: () => clock.now().wallMs, faults };
    const result = await installRelease(deps, { location: from, version: '', trial }, new AbortController().signal);
    return result.kind === 'present' ? null : result.version;
  }

  async function awaitTrial(version: string): Promise<string> {
    const giveUpAt = performance.now() + 1_000 * updates.deadlineSeconds + waitBeyondDeadlineMs;
    while (versions.state().trialVersion !== null) {
      if (performance.now() > giveUpAt) throw new AppError('UPDATE_FAILED', `nothing is known of ${version} yet`, { remedy: 'look at the log of the agent: journalctl -u nkudo-edge' });
      await delay(pollMs);
    }
    const { failed } = versions.state();
    if (failed?.version === version) throw new AppError('UPDATE_FAILED', `${version} ${failed.reason}; the version before runs again`);
    return `${version} runs; the microVMs went on`;
  }
}

/** The agent that the launcher started last, if it lives. */
function runningAgent(directory: string | undefined): number | null {
  try {
    const [pid = '', startTime = ''] = readFileSync(join(directory ?? '', 'child'), 'utf8').trim().split(' ');
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // Field 22 of proc(5): with the pid it names one process for good.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] === startTime ? Number(pid) : null;
  } catch {
    return null; // No agent was started since the machine was, or it ended.
  }
}

function show({ previousVersion, trialVersion, failed }: VersionsState, output: string): string {
  const seen = { version: agentVersion, previousVersion, trialVersion, failed };
  if (output === 'json') return JSON.stringify(seen, null, 2);
  const failure = failed === null ? '-' : `${failed.version} ${failed.reason}`;
  return renderTable(['VERSION', 'BEFORE', 'ON TRIAL', 'GIVEN UP'], [[agentVersion, previousVersion ?? '-', trialVersion ?? '-', failure]]);
}
