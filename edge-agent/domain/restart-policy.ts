/**
 * Decides whether a microVM is to run, and how long a restart waits. Pure; the meanings of the run
 * policies are those of the custom resource. A host reboot counts as a restart, never as a failure.
 */
import type { RestartSpec, RunPolicy } from '#api/model/microvm.ts';
import type { MicroVMRecord, Now, RunRecord } from './microvm-record.ts';

/** Bounds the journal record; a window with more failures than this is crash-looping under any sane limit. */
export const failuresKeptMax = 64;

/** Whether a guest is to run now or as soon as its back-off has passed. A stop that is under way is not looked at. */
export function shouldRun(record: MicroVMRecord): boolean {
  const { desired, run, site } = record;
  if (desired === null || record.isDeleting) return false;
  // What was ordered at the site goes before the spec.
  if (site?.override !== undefined && site.override.kind !== 'ForcedStart') return false;
  const policy = effectivePolicy(record);
  if (policy === undefined || policy === 'Halted') return false;
  if (policy === 'Always' || isRestartAsked(record)) return true;
  switch (policy) {
    case 'RerunOnFailure':
      return run.phase !== 'ended' || run.lastExit?.reason !== 'GuestShutdown';
    case 'Once':
      return run.phase !== 'ended';
    case 'Manual':
      return run.phase !== 'ended' && run.phase !== 'idle';
  }
}

/** The run policy as it holds here: one that somebody at the site runs against its spec goes on after a failure, and ends when its guest does. */
export function effectivePolicy({ desired, site }: MicroVMRecord): RunPolicy | undefined {
  return desired?.runPolicy === 'Halted' && site?.override?.isAgainstSpec === true ? 'RerunOnFailure' : desired?.runPolicy;
}

/** True when the restartNonce, or the count of starts asked for at the site, differs from what was last honoured. */
export function isRestartAsked({ desired, run, site }: MicroVMRecord): boolean {
  return desired !== null && (desired.restartNonce !== run.appliedNonce || (site?.starts ?? 0) !== (run.appliedSiteStarts ?? 0));
}

/** Failures of this boot of the host that still lie in the window. */
export function recentFailures(run: RunRecord, restart: RestartSpec, now: Now): readonly number[] {
  if (run.failureBootId !== now.bootId) return [];
  return run.failures.filter((ms) => ms > now.bootMs - restart.windowMs);
}

export function isCrashLooping(run: RunRecord, restart: RestartSpec, now: Now): boolean {
  return recentFailures(run, restart, now).length > restart.maxRetries;
}

/** Milliseconds before the restart that follows the latest of `failures` failures in the window. */
export function restartDelayMs(failures: number, restart: RestartSpec): number {
  if (failures <= 0) return 0;
  if (failures > restart.maxRetries) return restart.maxBackoffMs;
  return Math.min(restart.maxBackoffMs, restart.initialBackoffMs * 2 ** (failures - 1));
}

/** When the oldest failure leaves the window, boot clock; undefined when the microVM is not crash-looping. */
export function crashLoopEndsAtMs(run: RunRecord, restart: RestartSpec, now: Now): number | undefined {
  const failures = recentFailures(run, restart, now);
  const deciding = failures[failures.length - restart.maxRetries - 1];
  return deciding === undefined ? undefined : deciding + restart.windowMs;
}
