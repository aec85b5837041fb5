/**
 * Desired against observed: given one look, what is the next thing to do for a microVM? Pure and
 * level-based: after any crash the same question has the same answer, and at the fixpoint it is
 * `done`. A decision is one journal note, one step, a wait, or nothing.
 *
 * Order of the rules: ends are counted first, a stop under way is finished, then the machine is
 * brought to where the desired state wants it.
 */
import { seedKey } from './cloud-init.ts';
import { disksKey, hasManagedDisks } from './images.ts';
import { compareMachine, networksOf, noteRunningMachine, resembles, seenMachine, unknownMachine, type MachineChange, type MachineState } from './machine-change.ts';
import { compareFence, isPast, isSameProcess, machineKey, type MicroVMRecord, type ProcessKey, type StopCause } from './microvm-record.ts';
import type { SeenExit, StepGroup, View } from './observed-state.ts';
import { crashLoopEndsAtMs, effectivePolicy, isCrashLooping, isRestartAsked, shouldRun } from './restart-policy.ts';

export const stepNames = [
  'prepareDirectory',
  'writeIdentity',
  'checkFiles',
  'ensureDisks',
  'ensureSeed',
  'ensureNetworks',
  'spawnVmm',
  'createVm',
  'bootVm',
  'pauseVm',
  'resumeVm',
  'resizeCpus',
  'resizeMemory',
  'plugDisk',
  'unplugDisk',
  'growDisk',
  'plugNetwork',
  'unplugNetwork',
  'pressPowerButton',
  'shutdownVmm',
  'killVmm',
  'removeNetworks',
  'removeDirectory',
] as const;
export type StepName = (typeof stepNames)[number];

/** A fact or an intent that the journal takes up before anything else happens. */
export type Note =
  /** `over`: the ended process that still shows in the directory and has nothing to do with this run. */
  | { readonly kind: 'runBegun'; readonly over?: ProcessKey }
  /** `machine`: what it runs on, where that may be another one than is desired now. */
  | { readonly kind: 'guestBooted'; readonly machine?: string }
  /** Its startup probe succeeded in this boot. */
  | { readonly kind: 'startedUp' }
  /** `isFenced`: it was ended because its lease ran out, by whoever saw to that. */
  | { readonly kind: 'runEnded'; readonly exit: SeenExit; readonly isFenced?: boolean }
  /** `notAfterBootMs`: the wait for the guest ends then at the latest. */
  | { readonly kind: 'stopBegun'; readonly cause: StopCause; readonly notAfterBootMs?: number }
  /** Live changes begin to make the desired machine of the one that the guest has, which is `from`. */
  | { readonly kind: 'changeBegun'; readonly from?: string }
  /** The guest has the desired machine. */
  | { readonly kind: 'changeDone' }
  | { readonly kind: 'startAbandoned' };

export type Decision =
  | { readonly kind: 'note'; readonly note: Note }
  | { readonly kind: 'step'; readonly step: StepName }
  | { readonly kind: 'wait'; readonly for: WaitReason; readonly untilBootMs: number }
  /** Nothing of a microVM that is to go is left. */
  | { readonly kind: 'gone' }
  | { readonly kind: 'done'; readonly recheckAtBootMs?: number };

/**
 * restart: the back-off of the restart policy. guest: it was asked to power off. vmm: its API or its
 * start. images: one is being fetched. retry: a step failed. lease: the host has none that was confirmed. fence: the directory knows a later operation than the journal (an
 * older journal was put back), so only a still later one may touch the microVM.
 */
export type WaitReason = 'restart' | 'guest' | 'vmm' | 'retry' | 'lease' | 'images' | 'fence';

/** How soon a VMM that is busy or under way is looked at again, milliseconds. */
export const vmmRecheckMs = 500;
const fenceRecheckMs = 60_000;
/** The end of a pause wakes what waits for it; this covers a wake that was lost. */
const pausedRecheckMs = 60_000;
/** A confirmed lease wakes what waits for it; this covers a wake that was lost. */
const leaseRecheckMs = 60_000;

export function decideNext(view: View): Decision {
  const { attempt, now } = view;
  const decision = decide(view);
  const group = groupOf(decision);
  const { failed } = attempt;
  if (failed !== undefined && group === failed.group && failed.retryAtBootMs > now.bootMs) {
    return { kind: 'wait', for: 'retry', untilBootMs: failed.retryAtBootMs };
  }
  return decision;
}

/** Steps of one group wait together after one of them failed. */
export function stepGroup(step: StepName): StepGroup {
  switch (step) {
    case 'pauseVm':
    case 'resumeVm':
      return 'change';
    case 'resizeCpus':
    case 'resizeMemory':
    case 'plugDisk':
    case 'unplugDisk':
    case 'growDisk':
    case 'plugNetwork':
    case 'unplugNetwork':
      return 'machine';
    case 'pressPowerButton':
    case 'shutdownVmm':
    case 'killVmm':
      return 'stop';
    case 'removeNetworks':
    case 'removeDirectory':
      return 'remove';
    default:
      return 'start';
  }
}

function groupOf(decision: Decision): StepGroup | undefined {
  if (decision.kind === 'step') return stepGroup(decision.step);
  return decision.kind === 'note' && decision.note.kind === 'runBegun' ? 'start' : undefined;
}

function decide(view: View): Decision {
  const { record, vmm, now } = view;
  if (isBehindDirectory(view)) return { kind: 'wait', for: 'fence', untilBootMs: now.bootMs + fenceRecheckMs };
  switch (vmm.kind) {
    case 'starting':
      // Somebody's spawn is under way: ours joins it, a stop waits for its process.
      return record.run.phase === 'starting' && record.run.stop === undefined && shouldRun(record)
        ? step('spawnVmm')
        : waitForVmm(now.bootMs + vmmRecheckMs);
    case 'live':
      return decideLive(view, vmm.api);
    case 'exited':
      if (isNewEnd(record, vmm.exit)) return { kind: 'note', note: { kind: 'runEnded', exit: vmm.exit, ...(isFenced(view, vmm.exit) ? { isFenced: true } : {}) } };
      return decideDown(view);
    case 'absent':
      // The directory lost its traces while the journal says that a guest ran: somebody removed it.
      if (record.run.phase === 'started' || record.run.stop !== undefined) return { kind: 'note', note: { kind: 'runEnded', exit: { reason: 'Unknown' } } };
      return decideDown(view);
  }
}

/** The guard's kill looks like any other; without a lease it is no failure of the guest. */
function isFenced({ record, lease }: View, exit: SeenExit): boolean {
  return lease?.mustStop === true && exit.signal === 'SIGKILL' && record.run.stop === undefined;
}

/** Whether an end that was seen still has to be counted; each process is counted once. */
function isNewEnd(record: MicroVMRecord, exit: SeenExit): boolean {
  const { phase, stop, countedExit } = record.run;
  if (stop !== undefined || phase === 'started') return true;
  return phase === 'starting' && exit.process !== undefined && !isSameProcess(exit.process, countedExit);
}

function decideLive(view: View, api: 'none' | 'created' | 'running' | 'paused' | 'unreachable'): Decision {
  const { record } = view;
  const { run, desired } = record;
  if (run.stop !== undefined) return decideStop(view, api);
  if (api === 'unreachable') return decideUnreachable(view);
  const isGuestUp = api === 'running' || api === 'paused';
  // Also a guest that no journal knows, and one whose boot call got no answer: adopted, never doubled.
  if (isGuestUp && run.phase !== 'started') return { kind: 'note', note: { kind: 'guestBooted', ...optional('machine', bootedMachine(view)) } };
  const cause = stopCause(view, isGuestUp);
  if (cause !== undefined) return { kind: 'note', note: stopBegun(view, cause) };
  if (isGuestUp && view.health?.isStartedUp === true && desired?.probes?.startup !== undefined && run.startedUpIn !== run.incarnation) return { kind: 'note', note: { kind: 'startedUp' } };
  if (!isGuestUp) return decideUnbooted(view, api);
  if (needsIdentity(view)) return step('writeIdentity');
  const machine = compareMachine(record, seenMachine(view.vmm));
  if (canFollowNetworks(record, machine) && !hasNetworks(view)) return step('ensureNetworks');
  if (desired !== null && desired.paused !== (api === 'paused')) return step(desired.paused ? 'pauseVm' : 'resumeVm');
  return decideMachine(view, machine) ?? done(view);
}

/** The machine of a guest that runs. What it would have to let go of waits for the end of a pause. */
function decideMachine(view: View, machine: MachineState): Decision | undefined {
  const { record, vmm, now } = view;
  if (record.desired === null || machine.kind === 'same' || machine.kind === 'restart') return undefined;
  if (machine.kind === 'unknown') return waitForVmm(now.bootMs + vmmRecheckMs);
  const key = machineKey(record.desired);
  if (machine.changes.length === 0) return record.run.changingTo === undefined && record.run.startedWith === key ? undefined : { kind: 'note', note: { kind: 'changeDone' } };
  if (record.run.changingTo !== key) return { kind: 'note', note: { kind: 'changeBegun', ...optional('from', noteRunningMachine(record.run, seenMachine(vmm))) } };
  const isPaused = vmm.kind === 'live' && vmm.api === 'paused';
  const next = isPaused ? machine.changes.find(({ needsGuest }) => !needsGuest) : machine.changes[0];
  if (next === undefined) return { kind: 'wait', for: 'guest', untilBootMs: now.bootMs + pausedRecheckMs };
  return isToBeMade(next, record) ? (decideDisks(view) ?? step(next.kind)) : step(next.kind);
}

function isToBeMade(change: MachineChange, { desired }: MicroVMRecord): boolean {
  return change.kind === 'plugDisk' && desired?.disks.find(({ name }) => name === change.name)?.managed !== undefined;
}

function optional<Name extends string, Value>(name: Name, value: Value | undefined): { readonly [Key in Name]?: Value } {
  return value === undefined ? {} : ({ [name]: value } as { readonly [Key in Name]?: Value }); // A computed key widens to string.
}

/** The intent may have changed since its VMM was configured: then the guest does not have what is desired. */
function bootedMachine({ record, vmm, attempt }: View): string | undefined {
  const { createdFor } = attempt;
  const ours = `${record.run.incarnation} `;
  if (createdFor?.startsWith(ours) === true) return createdFor.slice(ours.length);
  const seen = seenMachine(vmm);
  return seen === undefined || record.desired === null || resembles(seen, record.desired) ? undefined : unknownMachine;
}

/** It may be busy for a moment, so only what is to end anyway is ended: at last without its consent. */
function decideUnreachable(view: View): Decision {
  const { phase } = view.record.run;
  if (phase === 'abandoned') return endOfVmm(view);
  const cause = stopCause(view, phase === 'started');
  return cause === undefined ? waitForVmm(view.now.bootMs + vmmRecheckMs) : { kind: 'note', note: stopBegun(view, cause) };
}

function waitForVmm(untilBootMs: number): Decision {
  return { kind: 'wait', for: 'vmm', untilBootMs };
}

/** An orderly end leaves nothing behind; a VMM that does not take part in it is killed. */
function endOfVmm({ attempt }: View): Decision {
  return step(attempt.isShutdownFailed ? 'killVmm' : 'shutdownVmm');
}

function stopBegun({ lease }: View, cause: StopCause): Note {
  const endsAt = lease?.endsAtBootMs ?? undefined;
  return { kind: 'stopBegun', cause, ...(cause === 'lease' && endsAt !== undefined ? { notAfterBootMs: endsAt } : {}) };
}

function stopCause(view: View, isGuestUp: boolean): StopCause | undefined {
  const { record, lease, now } = view;
  const { desired, run } = record;
  if (record.isDeleting || desired === null) return 'deleted';
  if (lease?.mustStop === true) return 'lease';
  if (!isGuestUp) return run.phase === 'starting' && !shouldRun(record) ? 'halted' : undefined;
  if (!shouldRun(record)) return 'halted';
  if (isRestartAsked(record)) return 'restart';
  if (view.hasPanicked === true) return 'panic';
  if (view.health?.failed !== undefined) return 'unhealthy';
  // A reboot in place stamps both with one moment; a later boot has another one, whatever the wall clock did meanwhile.
  if (run.lastExit?.reason !== 'GuestReboot' || run.lastExit.atMs !== run.bootedAtMs) return undefined;
  const policy = effectivePolicy(record);
  if (policy === 'Once') return 'once';
  return policy !== 'Manual' && isCrashLooping(run, desired.restart, now) ? 'crashLoop' : undefined;
}

/** A VMM without a running guest. */
function decideUnbooted(view: View, api: 'none' | 'created'): Decision {
  const { record, attempt } = view;
  if (record.run.phase !== 'starting') return endOfVmm(view);
  if (needsIdentity(view)) return step('writeIdentity');
  const disks = decideDisks(view);
  if (disks !== undefined) return disks;
  if (!hasSeed(view)) return step('ensureSeed');
  if (!hasNetworks(view)) return step('ensureNetworks');
  // A configuration that this process did not make may be that of an older desired state.
  if (api === 'none' || attempt.createdFor !== creationKey(record)) return step('createVm');
  return step('bootVm');
}

/** Names one configuration of one incarnation. */
export function creationKey(record: MicroVMRecord): string {
  return `${record.run.incarnation} ${record.desired === null ? '' : machineKey(record.desired)}`;
}

/** Names the networks of one incarnation: a boot of the host takes them away, so each start makes sure of them. */
export function networksKey(record: MicroVMRecord): string {
  return `${record.run.incarnation} ${JSON.stringify(networksOf(record))}`;
}

/** True for a microVM without managed disks. */
export function hasDisks({ record, attempt }: View): boolean {
  return !hasManagedDisks(record.desired) || attempt.disks?.for === disksKey(record);
}

/** Without data for cloud-init: that no seed of an earlier start is left. */
export function hasSeed({ record, directory, attempt }: View): boolean {
  if (record.desired?.cloudInit === undefined) return directory.hasSeed !== true;
  return directory.hasSeed === true && attempt.seedFor === seedKey(record);
}

function decideDisks(view: View): Decision | undefined {
  if (hasDisks(view)) return undefined;
  const { disksPending } = view.attempt;
  if (disksPending?.for !== disksKey(view.record) || disksPending.lookAgainAtBootMs <= view.now.bootMs) return step('ensureDisks');
  return { kind: 'wait', for: 'images', untilBootMs: disksPending.lookAgainAtBootMs };
}

function hasNetworks({ record, attempt }: View): boolean {
  return attempt.networksFor === networksKey(record);
}

/** The cards of a guest that needs a restart stay as they are; else the host follows, with ports, lost rules and taps that are to be plugged in. */
function canFollowNetworks({ desired, run }: MicroVMRecord, machine: MachineState): boolean {
  return desired !== null && (run.changingTo === undefined ? run.startedWith === machineKey(desired) : machine.kind !== 'restart' && run.changingTo === machineKey(desired));
}

function decideStop(view: View, api: string): Decision {
  const { record, attempt, now } = view;
  const { stop } = record.run;
  if (stop === undefined || attempt.isShutdownFailed) return step('killVmm');
  if (!stop.usesButton || isPast(stop.deadline, now)) return step('shutdownVmm');
  if (api === 'unreachable') return waitForVmm(Math.min(now.bootMs + vmmRecheckMs, stop.deadline.ms));
  if (api === 'none' || api === 'created') return step('shutdownVmm');
  // A paused guest can't see the button.
  if (api === 'paused') return step('resumeVm');
  if (attempt.mayPressButton && api === 'running') return step('pressPowerButton');
  return { kind: 'wait', for: 'guest', untilBootMs: stop.deadline.ms };
}

/** No process. */
function decideDown(view: View): Decision {
  const { record, now } = view;
  const { run, desired } = record;
  if (record.isDeleting || desired === null) return decideRemoval(view);
  if (!shouldRun(record)) {
    const next = decideDirectory(view);
    return next ?? done(view);
  }
  if (waitsForLease(view)) return { kind: 'wait', for: 'lease', untilBootMs: now.bootMs + leaseRecheckMs };
  if (run.phase !== 'starting') {
    if (run.restartDue !== undefined && !isPast(run.restartDue, now) && !isRestartAsked(record)) {
      return { kind: 'wait', for: 'restart', untilBootMs: run.restartDue.ms };
    }
    return { kind: 'note', note: { kind: 'runBegun', ...overOf(view) } };
  }
  return decideDirectory(view) ?? (isChecked(view) ? decideDisks(view) : step('checkFiles')) ?? step(hasSeed(view) ? (hasNetworks(view) ? 'spawnVmm' : 'ensureNetworks') : 'ensureSeed');
}

/** It is to run, and no lease allows it to be started. */
export function waitsForLease({ record, vmm, lease }: View): boolean {
  return lease?.mayStart === false && vmm.kind !== 'live' && vmm.kind !== 'starting' && shouldRun(record);
}

/** The directory goes last: as long as it is there, a later agent knows that something may be left. */
function decideRemoval({ directory, attempt }: View): Decision {
  if (attempt.areNetworksRemoved !== true) return step('removeNetworks');
  return directory.exists ? step('removeDirectory') : { kind: 'gone' };
}

function decideDirectory(view: View): Decision | undefined {
  if (!view.directory.exists) return step('prepareDirectory');
  return needsIdentity(view) ? step('writeIdentity') : undefined;
}

function needsIdentity(view: View): boolean {
  const { identity } = view.directory;
  return identity === null || compareFence(identity, view.record) !== 0 || identity.incarnation !== view.record.run.incarnation;
}

/** Whether the record would bring the directory back to an older fence. */
export function isBehindDirectory({ record, directory }: View): boolean {
  return directory.identity !== null && compareFence(directory.identity, record) > 0;
}

function overOf(view: View): { over?: ProcessKey } {
  const process = view.vmm.kind === 'exited' ? view.vmm.exit.process : undefined;
  return process === undefined ? {} : { over: process };
}

function isChecked(view: View): boolean {
  return view.attempt.checkedFor === creationKey(view.record);
}

function done(view: View): Decision {
  const { record, lease, vmm, now } = view;
  const loopEnds = record.desired === null ? undefined : crashLoopEndsAtMs(record.run, record.desired.restart, now);
  const leaseEnds = vmm.kind === 'live' ? (lease?.stopsAtBootMs ?? undefined) : undefined;
  const at = Math.min(loopEnds ?? Infinity, leaseEnds ?? Infinity);
  return at === Infinity ? { kind: 'done' } : { kind: 'done', recheckAtBootMs: at };
}

function step(name: StepName): Decision {
  return { kind: 'step', step: name };
}
