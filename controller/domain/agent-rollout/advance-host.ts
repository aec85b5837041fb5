/**
 * What becomes of one host that a rollout has told to update: from `Ordered` over `Soaking` to `Passed`, or `Failed`. Pure.
 *
 *   Ordered ──healthy──▶ Soaking ──for long enough──▶ Passed ──its ring is over──▶ Settled
 *      ▲  │                 │                            │
 *      └──┼──not healthy────┘                            │
 *         ▼ refused, rolled back, too late, too often    ▼ went back by itself
 *       Failed                                         Failed
 */
import { rolloutProblemMax, type RolloutHost, type RolloutRow, type RolloutSpec } from './model.ts';

/** A host that ceases to be healthy more often than this while it soaks does not run the version well. */
export const breaksMax = 2;

export interface Advance {
  readonly row: RolloutRow;
  /** Until a limit of time is reached; null: none is near. */
  readonly nextLookMs: number | null;
}

/** @param row of this try, and not given back */
export function advanceHost(spec: Pick<RolloutSpec, 'soakMs' | 'deadlineMs'>, host: RolloutHost, row: RolloutRow & { readonly ageMs: number }): Advance {
  const { ageMs, ...stored } = row;
  const stays: Advance = { row: stored, nextLookMs: null };
  const failed = (problem: string): Advance => ({ row: { ...stored, state: 'Failed', problem: problem.slice(0, rolloutProblemMax) }, nextLookMs: null });
  if (row.state === 'Failed' || row.state === 'Settled') return stays;
  const refusal = refusalOf(host, row);
  if (refusal !== null) return failed(refusal);
  const isRunning = host.runningVersion === row.targetVersion;
  if (row.state === 'Passed') return host.health === 'able' && !isRunning ? failed(`it went back to ${host.runningVersion} after it had run ${row.targetVersion}`) : stays;
  // A controller that has just begun to listen must not find hosts silent, nor healthy.
  if (host.health === 'undecided') return stays;
  const isHealthy = isRunning && host.health === 'able';
  if (row.state === 'Soaking') {
    if (isHealthy) return ageMs >= spec.soakMs ? { row: { ...stored, state: 'Passed' }, nextLookMs: null } : { row: stored, nextLookMs: spec.soakMs - ageMs };
    if (row.breaks >= breaksMax) return failed(`it ceased to be healthy ${row.breaks + 1} times while it soaked: ${problemOf(host, row)}`);
    return { row: { ...stored, state: 'Ordered', breaks: row.breaks + 1 }, nextLookMs: spec.deadlineMs };
  }
  if (isHealthy) return spec.soakMs === 0 ? { row: { ...stored, state: 'Passed' }, nextLookMs: null } : { row: { ...stored, state: 'Soaking' }, nextLookMs: spec.soakMs };
  if (ageMs >= spec.deadlineMs) return failed(`it was not healthy in time: ${problemOf(host, row)}`);
  return { row: stored, nextLookMs: spec.deadlineMs - ageMs };
}

/** What the host itself says against the order of this row; null: nothing. */
function refusalOf({ order, report }: RolloutHost, row: RolloutRow): string | null {
  if (order === null || report === null || row.order === null) return null;
  const isOfThis = order.version === row.targetVersion && row.order.version === row.targetVersion && report.orderRevision >= order.revision;
  if (!isOfThis || (report.phase !== 'Refused' && report.phase !== 'RolledBack')) return null;
  return report.problem || (report.phase === 'Refused' ? 'the host refused it' : 'it did not get ready, and the version before runs again');
}

function problemOf(host: RolloutHost, row: RolloutRow): string {
  if (host.runningVersion !== row.targetVersion) return `it runs ${host.runningVersion || 'an unknown version'}${host.healthProblem === '' ? '' : ` and ${host.healthProblem}`}`;
  return host.healthProblem;
}
