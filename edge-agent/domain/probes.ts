/**
 * What the probes of one boot of a guest have shown so far, and which is to be tried next. Pure: the
 * keeper does the tries and brings time and outcomes. Thresholds and gates are those of Kubernetes.
 *
 *   startup (if any) --success--> readiness and liveness, each on its own period
 *   startup or liveness --failureThreshold failures--> the guest is restarted, nothing is tried any more
 *   paused: nothing is tried, and readiness has to be proved anew afterwards
 *
 * A try that can't be made (no address) or was cut off counts for nothing: a guest is never restarted
 * because its host could not ask.
 */
import { probeRoles, type ProbeRole, type ProbeSpec, type ProbeSpecs, type ReadinessStatus } from '#api/model/microvm.ts';

export type ProbeOutcome =
  | { readonly kind: 'success' }
  /** The message names what was seen, for people. */
  | { readonly kind: 'failure'; readonly message: string }
  | { readonly kind: 'impossible'; readonly message: string }
  /** The try was ended by the agent itself. */
  | { readonly kind: 'cut' };

interface Track {
  /** In a row; never both above 0. */
  readonly successes: number;
  readonly failures: number;
  readonly verdict: 'unknown' | 'success' | 'failure' | 'impossible';
  /** Of the moment of the verdict. */
  readonly message: string;
  /** Boot clock, milliseconds. */
  readonly dueAtMs: number;
  readonly isTrying: boolean;
}

export interface Health {
  readonly isStartedUp: boolean;
  readonly isSuspended: boolean;
  /** The guest was started before this agent was, so that nothing is known of its readiness. */
  readonly isAdopted: boolean;
  readonly tracks: { readonly [Role in ProbeRole]?: Track };
}

export interface HealthJudgement {
  /** Absent without a startup and a readiness probe. */
  readonly readiness?: { readonly status: ReadinessStatus; readonly message: string };
  /** Present: the guest is to be restarted. */
  readonly failed?: { readonly role: ProbeRole; readonly message: string };
  readonly isStartedUp: boolean;
}

export interface HealthBeginning {
  readonly nowMs: number;
  /** How long the guest has run, milliseconds; a clock that jumped makes it no more than a longer wait. */
  readonly upMs: number;
  readonly isAdopted: boolean;
  /** The startup probe succeeded in this boot, as an earlier agent noted. */
  readonly isStartedUp: boolean;
}

export function beginHealth(specs: ProbeSpecs, { nowMs, upMs, isAdopted, isStartedUp }: HealthBeginning): Health {
  const first = ({ initialDelayMs }: ProbeSpec): number => nowMs + Math.min(initialDelayMs, Math.max(0, initialDelayMs - upMs));
  const tracks = probeRoles.flatMap((role) => (specs[role] === undefined ? [] : [[role, fresh(first(specs[role]))] as const]));
  return { isStartedUp: isStartedUp || specs.startup === undefined, isSuspended: false, isAdopted, tracks: Object.fromEntries(tracks) };
}

function fresh(dueAtMs: number): Track {
  return { successes: 0, failures: 0, verdict: 'unknown', message: '', dueAtMs, isTrying: false };
}

/** Those that may be tried at all, now or later. */
function activeRoles(health: Health): readonly ProbeRole[] {
  if (health.isSuspended || failedRole(health) !== undefined) return [];
  const asked: readonly ProbeRole[] = health.isStartedUp ? ['readiness', 'liveness'] : ['startup'];
  return asked.filter((role) => health.tracks[role] !== undefined);
}

function failedRole({ tracks, isStartedUp }: Health): ProbeRole | undefined {
  if (!isStartedUp && tracks.startup?.verdict === 'failure') return 'startup';
  return tracks.liveness?.verdict === 'failure' ? 'liveness' : undefined;
}

export function dueRoles(health: Health, nowMs: number): readonly ProbeRole[] {
  return activeRoles(health).filter((role) => {
    const track = health.tracks[role];
    return track !== undefined && !track.isTrying && track.dueAtMs <= nowMs;
  });
}

/** When the next try is due, boot clock; undefined while there is none to wait for. */
export function nextDueMs(health: Health): number | undefined {
  const due = activeRoles(health).flatMap((role) => {
    const track = health.tracks[role];
    return track === undefined || track.isTrying ? [] : [track.dueAtMs];
  });
  return due.length === 0 ? undefined : Math.min(...due);
}

export function tryBegan(health: Health, role: ProbeRole): Health {
  return withTrack(health, role, (track) => ({ ...track, isTrying: true }));
}

export function tryEnded(specs: ProbeSpecs, health: Health, role: ProbeRole, outcome: ProbeOutcome, nowMs: number): Health {
  const spec = specs[role];
  if (spec === undefined) return health;
  const next = withTrack(health, role, (track) => ({ ...count(track, outcome, spec), dueAtMs: nowMs + spec.periodMs, isTrying: false }));
  const isStartedUp = next.isStartedUp || (role === 'startup' && next.tracks.startup?.verdict === 'success');
  return { ...next, isStartedUp };
}

function count(track: Track, outcome: ProbeOutcome, spec: ProbeSpec): Track {
  switch (outcome.kind) {
    case 'cut':
      return track;
    case 'impossible':
      return { ...track, successes: 0, failures: 0, ...(track.verdict === 'impossible' ? {} : { verdict: 'impossible', message: outcome.message }) };
    case 'success': {
      const successes = Math.min(spec.successThreshold, track.successes + 1);
      const isNew = successes >= spec.successThreshold && track.verdict !== 'success';
      return { ...track, successes, failures: 0, ...(isNew ? { verdict: 'success', message: '' } : {}) };
    }
    case 'failure': {
      const failures = Math.min(spec.failureThreshold, track.failures + 1);
      const isNew = failures >= spec.failureThreshold && track.verdict !== 'failure';
      return { ...track, successes: 0, failures, ...(isNew ? { verdict: 'failure', message: outcome.message } : {}) };
    }
  }
}

function withTrack(health: Health, role: ProbeRole, change: (track: Track) => Track): Health {
  const track = health.tracks[role];
  return track === undefined ? health : { ...health, tracks: { ...health.tracks, [role]: change(track) } };
}

export function suspendHealth(health: Health): Health {
  return { ...health, isSuspended: true };
}

/** Everything but the success of startup is to be shown anew, at once. */
export function resumeHealth(health: Health, nowMs: number): Health {
  const tracks = probeRoles.flatMap((role) => (health.tracks[role] === undefined ? [] : [[role, fresh(Math.max(nowMs, health.tracks[role].verdict === 'unknown' ? health.tracks[role].dueAtMs : nowMs))] as const]));
  return { ...health, isSuspended: false, isAdopted: false, tracks: Object.fromEntries(tracks) };
}

export const pendingReadiness = { status: 'pending', message: 'no probe has succeeded yet since it was started' } as const;

export function hasReadiness(specs: ProbeSpecs | undefined): boolean {
  return specs?.startup !== undefined || specs?.readiness !== undefined;
}

export function judge(health: Health): HealthJudgement {
  const { tracks, isStartedUp } = health;
  const failed = failedRole(health);
  const track = failed === undefined ? undefined : tracks[failed];
  const readiness = judgeReadiness(health);
  return {
    isStartedUp,
    ...(readiness === undefined ? {} : { readiness }),
    ...(failed === undefined || track === undefined ? {} : { failed: { role: failed, message: track.message } }),
  };
}

function judgeReadiness({ tracks, isStartedUp, isAdopted }: Health): HealthJudgement['readiness'] {
  const { startup, readiness } = tracks;
  if (startup === undefined && readiness === undefined) return undefined;
  const role = isStartedUp && readiness !== undefined ? 'readiness' : 'startup';
  const verdict = role === 'startup' && isStartedUp ? 'success' : tracks[role]?.verdict;
  const message = tracks[role]?.message ?? '';
  switch (verdict) {
    case 'success':
      return { status: 'succeeded', message: `its ${role} probe succeeds` };
    case 'failure':
      return { status: 'failed', message: `its ${role} probe fails: ${message}` };
    case 'impossible':
      return { status: 'impossible', message: `its ${role} probe can not be tried: ${message}` };
    default:
      return isAdopted ? { status: 'notProbed', message: 'the agent of its host was started and has not probed it again yet' } : pendingReadiness;
  }
}
