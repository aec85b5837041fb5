/**
 * Puts a signed release at the disposal of the launcher: checks it, stages it, and asks for a trial. Nothing changes for
 * the agent that runs until it is started anew. Repeating it after a crash at any moment is fine.
 */
import { AppError } from '#api/model/error-codes.ts';
import { judgeRelease } from '#api/model/release.ts';
import type { TrialNeeds } from '../domain/slot-selection.ts';
import { around, type EdgeFaultPoints } from '../fault-points.ts';
import type { AgentVersions } from '../ports/agent-versions.ts';
import type { Releases } from '../ports/releases.ts';

export interface InstallDeps {
  readonly releases: Releases;
  readonly versions: AgentVersions;
  readonly runningVersion: string;
  /** As uname -m. */
  readonly architecture: string;
  readonly nowMs: () => number;
  readonly faults: EdgeFaultPoints;
}

export interface InstallRequest {
  /** Path or URL of the manifest; not looked at when `version` is the one that ran last here. */
  readonly location: string;
  /** What the manifest has to be of; empty: any. */
  readonly version: string;
  readonly trial: { readonly needs: TrialNeeds; readonly deadlineSeconds: number };
  /** Done before the launcher is asked, for whoever must remember that it was. */
  readonly beforeSelect?: () => Promise<void>;
}

export type InstallResult = { readonly kind: 'present' | 'selected'; readonly version: string };

/** @throws RELEASE_*, UPDATE_UNSUPPORTED, DISK_FULL */
export async function installRelease(deps: InstallDeps, { location, version, trial, beforeSelect }: InstallRequest, signal: AbortSignal): Promise<InstallResult> {
  const { versions, faults } = deps;
  if (!versions.isSupported) throw new AppError('UPDATE_UNSUPPORTED');
  const { previousVersion } = versions.state();
  // It is here, and was checked when it came: going back needs nothing that may be out of reach.
  if (version !== '' && version === previousVersion && version !== deps.runningVersion) return selectPrevious(version);
  const release = await deps.releases.load(location, signal);
  const { manifest } = release;
  if (version !== '' && manifest.version !== version) throw new AppError('RELEASE_INVALID', `the manifest is of version ${manifest.version}, and ${version} was asked for`);
  const verdict = judgeRelease(manifest, { runningVersion: deps.runningVersion, previousVersion, architecture: deps.architecture, nowMs: deps.nowMs() });
  if (verdict.kind === 'refused') throw new AppError(verdict.code, verdict.message);
  if (verdict.kind === 'present') return { kind: 'present', version: manifest.version };
  if (manifest.version === previousVersion) return selectPrevious(manifest.version);
  const { artifact } = verdict;
  await around(faults, 'agent.stage', () => versions.stage({ version: manifest.version, artifact, manifest: release.text, signature: release.signature }, release.open(artifact, signal), signal));
  await beforeSelect?.();
  await around(faults, 'agent.select', () => versions.select('staged', trial));
  return { kind: 'selected', version: manifest.version };

  async function selectPrevious(kept: string): Promise<InstallResult> {
    await beforeSelect?.();
    await around(faults, 'agent.select', () => versions.select('previous', trial));
    return { kind: 'selected', version: kept };
  }
}
