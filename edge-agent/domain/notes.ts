/**
 * How a note changes the journal's record. Pure; together with the acceptance these are the only
 * ways in which a record changes, so everything that a restarted agent may find is made here.
 */
import type { ExitReason, LastExit } from '#api/model/microvm.ts';
import type { Note } from './diff.ts';
import { machineKey, type MicroVMRecord, type Now, type RunRecord, type StopCause, type StopRecord } from './microvm-record.ts';
import { omit } from './omit.ts';
import type { SeenExit } from './observed-state.ts';
import { failuresKeptMax, isRestartAsked, recentFailures, restartDelayMs, shouldRun } from './restart-policy.ts';

/** Waits for the guest of a microVM whose spec nobody knows (adopted and deleted), milliseconds. */
const graceWithoutSpecMs = 30_000;

export function applyNote(record: MicroVMRecord, note: Note, now: Now): MicroVMRecord {
  switch (note.kind) {
    case 'runBegun':
      return { ...record, run: beginRun(record, note) };
    case 'guestBooted':
      return { ...record, run: markBooted(record, note, now) };
    case 'startedUp':
      return { ...record, run: { ...record.run, startedUpIn: record.run.incarnation } };
    case 'runEnded':
      return { ...record, run: endRun(record, note, now) };
    case 'stopBegun':
      return { ...record, run: beginStop(record, note, now) };
    case 'changeBegun':
      return { ...record, run: beginChange(record, note) };
    case 'changeDone':
      return { ...record, run: { ...omit(record.run, 'changingTo'), ...(record.desired === null ? {} : { startedWith: machineKey(record.desired) }) } };
    case 'startAbandoned':
      return { ...record, run: { ...record.run, phase: 'abandoned' } };
  }
}

function beginRun(record: MicroVMRecord, note: Note & { kind: 'runBegun' }): RunRecord {
  const run = omit(record.run, 'restartDue', 'bootedAtMs', 'startedWith', 'changingTo', 'eventCursor');
  const isRestart = run.phase === 'ended' && !isRestartAsked(record);
  return {
    ...run,
    phase: 'starting',
    incarnation: run.incarnation + 1,
    appliedNonce: record.desired?.restartNonce ?? run.appliedNonce,
    ...appliedStarts(record),
    restarts: run.restarts + (isRestart ? 1 : 0),
    ...(note.over === undefined ? {} : { countedExit: note.over }),
  };
}

/** With this run the starts that were asked for at the site are honoured. */
function appliedStarts({ site }: MicroVMRecord): Pick<RunRecord, 'appliedSiteStarts'> {
  return site === undefined ? {} : { appliedSiteStarts: site.starts };
}

function markBooted(record: MicroVMRecord, { machine }: Note & { kind: 'guestBooted' }, now: Now): RunRecord {
  const { run, desired } = record;
  // An adopted guest has the machine of a boot that this journal never saw: nothing is known, so nothing is claimed.
  const isOurs = run.phase === 'starting' || run.phase === 'abandoned';
  return {
    ...run,
    phase: 'started',
    incarnation: Math.max(1, run.incarnation),
    appliedNonce: isOurs ? run.appliedNonce : (desired?.restartNonce ?? run.appliedNonce),
    ...(isOurs ? {} : appliedStarts(record)),
    bootedAtMs: now.wallMs,
    ...(desired === null ? {} : { startedWith: machine ?? machineKey(desired) }),
  };
}

/** An interrupted change of another target is settled: what it has plugged in belongs to the machine from here on. */
function beginChange({ run, desired }: MicroVMRecord, { from }: Note & { kind: 'changeBegun' }): RunRecord {
  return { ...run, ...(from === undefined ? {} : { startedWith: from }), ...(desired === null ? {} : { changingTo: machineKey(desired) }) };
}

function endRun(record: MicroVMRecord, { exit, isFenced }: Note & { kind: 'runEnded' }, now: Now): RunRecord {
  const { stop } = record.run;
  const run = omit(record.run, 'stop', 'restartDue', 'bootedAtMs', 'startedWith', 'changingTo');
  const counted = exit.process === undefined ? {} : { countedExit: exit.process };
  if (isFenced === true || (stop !== undefined && endReasons[stop.cause] === undefined)) {
    return { ...run, ...counted, phase: 'idle', lastExit: lastExitOf({ ...exit, reason: exit.reason === 'HostReboot' ? 'HostReboot' : 'Operator' }, now) };
  }
  const ended: RunRecord = { ...run, ...counted, phase: 'ended', lastExit: lastExitOf(reasonedExit(exit, stop), now) };
  if (record.desired === null || !shouldRun({ ...record, run: ended })) return ended;
  // The reboots that led to this stop are counted already; a host reboot is nobody's failure.
  const isFailure = (stop === undefined || stop.cause === 'unhealthy' || stop.cause === 'panic') && exit.reason !== 'HostReboot';
  const failures = [...recentFailures(run, record.desired.restart, now), ...(isFailure ? [now.bootMs] : [])].slice(-failuresKeptMax);
  const delay = isFailure || stop !== undefined ? restartDelayMs(failures.length, record.desired.restart) : 0;
  return { ...ended, failures, failureBootId: now.bootId, restartDue: { bootId: now.bootId, ms: now.bootMs + delay } };
}

/** Ends that the agent brought about for a reason of the guest's; the others are the operator's. */
const endReasons: Readonly<Partial<Record<StopCause, ExitReason>>> = { crashLoop: 'GuestReboot', once: 'GuestReboot', unhealthy: 'Unhealthy', panic: 'GuestPanic' };

function reasonedExit(exit: SeenExit, stop: StopRecord | undefined): SeenExit {
  const reason = stop === undefined ? undefined : endReasons[stop.cause];
  if (reason === undefined) return exit;
  return reason !== 'GuestReboot' && exit.reason === 'HostReboot' ? exit : { ...exit, reason };
}

function lastExitOf(exit: SeenExit, now: Now): LastExit {
  return {
    reason: exit.reason,
    atMs: exit.atMs ?? now.wallMs,
    ...(exit.code === undefined ? {} : { code: exit.code }),
    ...(exit.signal === undefined ? {} : { signal: exit.signal }),
  };
}

function beginStop(record: MicroVMRecord, { cause, notAfterBootMs }: Note & { kind: 'stopBegun' }, now: Now): RunRecord {
  const isGraceful = cause === 'halted' || cause === 'restart' || cause === 'deleted' || cause === 'lease' || cause === 'unhealthy';
  const askedMs = isGraceful ? (record.desired?.terminationGracePeriodMs ?? graceWithoutSpecMs) : 0;
  const graceMs = Math.max(0, Math.min(askedMs, (notAfterBootMs ?? Infinity) - now.bootMs));
  return { ...record.run, stop: { cause, usesButton: graceMs > 0, deadline: { bootId: now.bootId, ms: now.bootMs + graceMs } } };
}

export interface RebootsSeen {
  readonly count: number;
  readonly cursor: { readonly pid: number; readonly startTime: string; readonly offset: number };
}

/** Guest reboots in place: each one is a restart, a failure and a new incarnation of the serial log. */
export function countReboots(record: MicroVMRecord, reboots: RebootsSeen, now: Now): MicroVMRecord {
  const { run, desired } = record;
  if (reboots.count === 0) return { ...record, run: { ...run, eventCursor: reboots.cursor } };
  const before = desired === null ? [] : recentFailures(run, desired.restart, now);
  const added = Array.from({ length: Math.min(reboots.count, failuresKeptMax) }, () => now.bootMs);
  return {
    ...record,
    run: {
      ...run,
      eventCursor: reboots.cursor,
      incarnation: run.incarnation + reboots.count,
      restarts: run.restarts + reboots.count,
      failures: [...before, ...added].slice(-failuresKeptMax),
      failureBootId: now.bootId,
      lastExit: { reason: 'GuestReboot', atMs: now.wallMs },
      bootedAtMs: now.wallMs,
    },
  };
}
