/**
 * Brings one microVM to its desired state, one turn at a time: look, decide (pure), then one journal
 * note or one step, and look again. Owns the order `intent durable -> effect -> result durable ->
 * report`; it knows nothing of the control plane. At most one turn runs for a microVM at any time.
 */
import { transition } from 'xstate';
import { withDeadline } from '#api/model/deadline.ts';
import { AppError, isAppError } from '#api/model/error-codes.ts';
import { executionId } from '#api/model/ids.ts';
import type { ObservedState, ObservedWarning } from '#api/model/microvm.ts';
import type { ExecutionReport } from '#api/model/plan.ts';
import { isExpired, withdraw } from '../domain/acceptance.ts';
import { creationKey, decideNext, networksKey, stepGroup, type Decision, type Note, type StepName, type WaitReason } from '../domain/diff.ts';
import { seedKey } from '../domain/cloud-init.ts';
import { disksKey } from '../domain/images.ts';
import { initialRun, type MicroVMRecord, type Problem } from '../domain/microvm-record.ts';
import { applyNote, countReboots } from '../domain/notes.ts';
import { classify, projectObservation, type ObservationContent } from '../domain/observation.ts';
import { noAttempt, type Attempt, type View } from '../domain/observed-state.ts';
import { concludeOperation, endUnfinished, failOperation, problemOf, runningReport, startOperation, succeedOperation, type Progress } from '../domain/operation-progress.ts';
import { omit } from '../domain/omit.ts';
import { endUnleased, forgetTold, keptDownBy, keptDownProblem } from '../domain/site-orders.ts';
import { retryDelayMs } from '../domain/retry-delay.ts';
import { around, type EdgeFaultPoints, type EdgeFaultStep } from '../fault-points.ts';
import { microvmMachine, type MicroVMSnapshot } from '../machines/microvm.machine.ts';
import type { Clock, Entropy } from '../ports/clock.ts';
import type { HostFiles } from '../ports/host-files.ts';
import type { EnsuredDisks, GuestDisks } from '../ports/images.ts';
import type { Hypervisor } from '../ports/hypervisor.ts';
import type { KeptSecrets } from '../ports/kept-secrets.ts';
import type { Journal } from '../ports/journal.ts';
import type { Logger } from '../ports/logger.ts';
import type { VmmIsolation } from '../ports/isolation.ts';
import type { GuestNetworks } from '../ports/network.ts';
import type { Seeds } from '../ports/seeds.ts';
import type { VmDirectories } from '../ports/vm-directories.ts';
import { steps } from '../steps/steps.ts';
import type { ConsoleKeeper } from './console-keeper.ts';
import type { LeaseKeeper } from './lease-keeper.ts';
import type { ProbeKeeper } from './probe-keeper.ts';
import { followReboots, type RebootFollower } from './reboot-follower.ts';
import type { Slots } from '#api/model/slots.ts';

export interface WorkerDeps {
  readonly journal: Journal;
  readonly hypervisor: Hypervisor;
  readonly directories: VmDirectories;
  readonly files: HostFiles;
  readonly networks: GuestNetworks;
  readonly isolation: VmmIsolation;
  readonly disks: GuestDisks;
  readonly secrets: KeptSecrets;
  readonly seeds: Seeds;
  readonly probes: Pick<ProbeKeeper, 'noticed' | 'viewOf' | 'forget'>;
  readonly consoles: Pick<ConsoleKeeper, 'noticed' | 'forget'>;
  readonly leases: Pick<LeaseKeeper, 'viewOf' | 'prepare' | 'noticed' | 'guardDirectoryOf' | 'isHeld'>;
  readonly hostMemoryBytes: number;
  readonly clock: Clock;
  readonly entropy: Entropy;
  readonly faults: EdgeFaultPoints;
  readonly logger: Logger;
  /** Shared by all workers: bounds how many VMMs are started or booted at once. */
  readonly bootSlots: Slots;
  readonly reporter: Reporter;
  /** A failure after which the process must not go on, such as a journal that can't be written. */
  readonly onFatal: (error: unknown) => void;
}

/** Where a worker says what it saw; the reporter numbers, collapses and sends. */
export interface Reporter {
  /** @param isSettled false: the state is passing, so sending may wait for the next one */
  observed(content: ObservationContent, isSettled: boolean): void;
  /** Reports were enqueued in the journal. */
  reportsQueued(): void;
}

export interface MicroVMWorker {
  record(): MicroVMRecord;
  state(): ObservedState;
  /** Whether a VMM lived at the last look. */
  isLive(): boolean;
  /** Puts a record in place that was just made durable, and looks. */
  take(record: MicroVMRecord): void;
  /** The same for a record that asks nothing else of it: what is under way goes on. */
  noted(record: MicroVMRecord): void;
  /** How far it is with what was asked of it last. */
  situation(): Situation;
  /** Calls back whenever the situation may have changed. Returns how to end that. */
  onSituation(callback: () => void): () => void;
  /** The control plane has the orders of the site up to that number. */
  ordersTold(upTo: number): Promise<void>;
  /** Looks soon; many calls are one. */
  wake(): void;
  /** Resolves when no turn runs any more. The microVM goes on. */
  stop(): Promise<void>;
}

/** busy: something is being done. settled: nothing is left to do. waits: for something that may take long. */
export interface Situation {
  readonly progress: 'busy' | 'settled' | 'waits';
  readonly state: ObservedState;
  /** With `waits`. */
  readonly waitsFor?: WaitReason;
  readonly problem?: Problem;
}

/** Longest time for one step beyond the deadlines of the hypervisor itself, milliseconds. */
const stepDeadlineMs = 120_000;
/** After the file that a start waits for has changed: half of the first delay, and the longest, milliseconds. */
const changedFileDelayMs = 50;
const changedFileDelayMaxMs = 5_000;
/** A running microVM is looked at this often although nothing told of a change, milliseconds. */
const safetyLookMs = 60_000;
/** Turns in one go before others get their chance; a create takes about ten. */
const turnsMax = 64;
/** News of an image wakes what waits for it; this covers a wake that was lost, milliseconds. */
const imagesRecheckMs = 60_000;
/** Networks that have to do without something are made sure of again after this time, with the next look, milliseconds. */
const warnedLookMs = 600_000;
/** What may take longer than somebody who typed a command wants to wait. */
const longWaits: readonly WaitReason[] = ['restart', 'retry', 'lease', 'images', 'fence'];
const passingStates: readonly ObservedState[] = ['preparing', 'booting'];

export function createMicroVMWorker(initial: MicroVMRecord, deps: WorkerDeps): MicroVMWorker {
  const { journal, hypervisor, directories, clock, entropy, faults, reporter } = deps;
  const { microvmId } = initial;
  const directory = directories.path(microvmId);
  const logger = deps.logger.child({ microvmId });
  const stopping = new AbortController();

  let record = initial;
  let attempt: Attempt = noAttempt;
  let snapshot: MicroVMSnapshot = microvmMachine.resolveState({ value: 'unknown', context: {} });
  let isLive = false;
  let isConverged = false;
  let lastStep: StepName | undefined;
  let isWanted = false;
  let running: Promise<void> | undefined;
  let cancelTimer = (): void => {};
  let cancelFileWatch = (): void => {};
  let follower: RebootFollower | undefined;
  /** Ends a step that takes long when the record that it works for was replaced. */
  let longStep: AbortController | undefined;
  let isAwaitingImages = false;
  /** News that came while a step was looking must not be lost. */
  let imageNews = 0;
  let situation: Situation = { progress: 'busy', state: 'unknown' };
  const onSituation = new Set<() => void>();

  const newExecution = () => executionId(entropy.uuid());

  function wake(): void {
    if (stopping.signal.aborted) return;
    isWanted = true;
    running ??= run().finally(() => {
      running = undefined;
      if (isWanted) wake();
    });
  }

  async function run(): Promise<void> {
    cancelTimer();
    try {
      for (let turns = 0; !stopping.signal.aborted; turns += 1) {
        isWanted = false;
        const goesOn = await turn();
        if (!goesOn && !isWanted) return;
        if (turns >= turnsMax) return scheduleIn(1_000);
      }
    } catch (error) {
      if (stopping.signal.aborted) return;
      if (isAppError(error) && error.code !== 'JOURNAL_FAILED') {
        logger.warn({ err: error }, 'the microVM could not be looked at');
        see('unknown');
        return scheduleIn(retryDelayMs(3, entropy.random()));
      }
      deps.onFatal(error);
    }
  }

  /** @returns whether there may be more to do at once */
  async function turn(): Promise<boolean> {
    if (follower !== undefined && follower.rebootsSeen() > 0) {
      const seen = follower.take();
      save(countReboots(record, seen, clock.now()));
    }
    const view = await look();
    if (view.record !== record) return true;
    if (record.operation !== undefined && isExpired(record.operation, view.now)) {
      save(withdraw(record), [endUnfinished(record.operation, 'Expired', newExecution(), view.now)]);
      return true;
    }
    if (record.site?.override?.acceptsTwoCopies === true && deps.leases.isHeld(view.now)) {
      logger.info({}, 'a lease is confirmed: what was started without one goes on under it');
      await saveAt('journal.siteOrder', view.record, { record: endUnleased(view.record), reports: [] });
      return true;
    }
    const decision = decideNext(view);
    observe(view, decision);
    if (isAwaitingImages && !mayAwaitImages(decision)) {
      isAwaitingImages = false;
      deps.disks.forgo(microvmId);
    }
    switch (decision.kind) {
      case 'note':
        return takeNote(decision.note, view);
      case 'step':
        return runStep(decision.step, view);
      case 'wait':
        reportRunning();
        scheduleAt(decision.untilBootMs);
        return false;
      case 'gone':
        return forget(view);
      case 'done':
        return finish(view, decision);
    }
  }

  async function look(): Promise<View> {
    const [vmm, seenDirectory] = await Promise.all([hypervisor.observe(directory, stopping.signal), directories.look(microvmId)]);
    isLive = vmm.kind === 'live';
    if (vmm.kind === 'live') follow();
    const now = clock.now();
    // What was missing may have been installed: the networks are made sure of again.
    if (attempt.networkWarnings !== undefined && attempt.networkWarnings.lookAgainAtBootMs <= now.bootMs) attempt = omit(attempt, 'networksFor');
    deps.leases.noticed(record, vmm);
    const lease = deps.leases.viewOf(record, now);
    deps.probes.noticed(record, vmm, wake);
    deps.consoles.noticed(record, vmm, wake);
    const health = deps.probes.viewOf(record);
    return {
      record,
      vmm,
      directory: seenDirectory,
      attempt,
      ...(lease === undefined ? {} : { lease }),
      ...(health === undefined ? {} : { health }),
      ...(follower?.hasPanicked() === true ? { hasPanicked: true } : {}),
      now,
    };
  }

  function follow(): void {
    if (follower !== undefined || stopping.signal.aborted) return;
    follower = followReboots({ hypervisor, directory, cursor: record.run.eventCursor ?? null, signal: stopping.signal, onNews: wake, clock, logger });
    void follower.ended.then(() => {
      follower = undefined;
      wake();
    });
  }

  /** Makes a fact or an intent durable. What the record says meanwhile may have changed: then the look is repeated. */
  async function takeNote(note: Note, view: View): Promise<boolean> {
    isConverged = false;
    const isIntent = note.kind === 'runBegun' || note.kind === 'stopBegun';
    const begun = isIntent ? startOperation(view.record, newExecution(), view.now) : view.record;
    const noted = applyNote(begun, note, view.now);
    const after: View = { ...view, record: noted };
    const next = decideNext(after);
    // A guest that has booted mostly ends the operation as well: one write for both.
    const isResult = note.kind === 'guestBooted' && next.kind === 'done';
    const progress: Progress = isResult ? succeedOperation(noted, newExecution(), view.now) : { record: noted, reports: [] };
    const saved = await saveAt(isResult ? 'journal.result' : 'journal.intent', view.record, progress);
    if (!saved) return true;
    if (note.kind === 'stopBegun') attempt = { ...attempt, mayPressButton: noted.run.stop?.usesButton === true, isShutdownFailed: false };
    if (note.kind === 'runEnded') attempt = { ...attempt, mayPressButton: false, isShutdownFailed: false };
    if (isResult) settle();
    logger.info({ note: note.kind, boot: record.run.incarnation, ...(note.kind === 'runEnded' ? { exit: record.run.lastExit } : {}) }, 'took note');
    observe({ ...after, record, attempt }, next);
    return true;
  }

  async function runStep(name: StepName, view: View): Promise<boolean> {
    isConverged = false;
    const step = steps[name];
    if (lastStep === name && !step.verify(view)) {
      lastStep = undefined;
      return failed(name, new AppError('HYPERVISOR_FAILED', `${name} had no effect that can be seen`), view.record);
    }
    // An attempt is durable before its first effect.
    if (record.operation !== undefined && record.operation.state !== 'done' && record.operation.startedAtMs === undefined) {
      return (await saveAt('journal.intent', view.record, { record: startOperation(view.record, newExecution(), view.now), reports: [] })) || true;
    }
    if (!step.isNeeded(view)) return true;
    lastStep = name;
    if (name === 'pressPowerButton') attempt = { ...attempt, mayPressButton: false };
    const warnings: ObservedWarning[] = [];
    const warn = (code: string, message: string): void => {
      if (!(attempt.networkWarnings?.warnings ?? []).some((known) => known.code === code)) logger.warn({ step: name, code, error: message }, 'a guest has to do without something');
      warnings.push({ code, message });
    };
    const interrupt = new AbortController();
    const newsBefore = imageNews;
    if (step.deadlineMs !== undefined) longStep = interrupt;
    const perform = (): Promise<void> =>
      withDeadline(stopping.signal, step.deadlineMs ?? stepDeadlineMs, (signal) =>
        step.perform({
          view,
          record: view.record,
          hypervisor,
          directories,
          files: deps.files,
          networks: deps.networks,
          isolation: deps.isolation,
          within: (inner, effect) => around(faults, inner, effect),
          disks: deps.disks,
          seeds: deps.seeds,
          madeDisks: view.attempt.disks?.made ?? [],
          foundDisks: (found) => takeDisks(found, view.record, newsBefore),
          onImageNews,
          leases: deps.leases,
          warn,
          hostMemoryBytes: deps.hostMemoryBytes,
          signal: AbortSignal.any([signal, interrupt.signal]),
        }),
      );
    const guarded = () => (step.faultStep === undefined ? perform() : around(faults, step.faultStep, perform));
    try {
      await (name === 'spawnVmm' || name === 'bootVm' ? deps.bootSlots.run(guarded) : guarded());
    } catch (error) {
      if (stopping.signal.aborted) return false;
      if (interrupt.signal.aborted) return true;
      // Nobody knows what is on the disk after an I/O error: only a new look helps.
      if (isAppError(error) && error.code === 'JOURNAL_FAILED') throw error;
      return failed(name, toAppError(error, name), view.record);
    } finally {
      longStep = undefined;
    }
    if (name === 'createVm') attempt = { ...attempt, createdFor: creationKey(view.record) };
    if (name === 'ensureSeed') attempt = { ...attempt, seedFor: seedKey(view.record) };
    if (name === 'ensureNetworks') attempt = { ...omit(attempt, 'networkWarnings'), networksFor: networksKey(view.record), ...keepWarnings(warnings, clock.now().bootMs) };
    if (name === 'removeNetworks') attempt = { ...omit(attempt, 'networksFor', 'networkWarnings'), areNetworksRemoved: true };
    if (name === 'checkFiles') attempt = { ...attempt, checkedFor: creationKey(view.record) };
    return true;
  }

  function takeDisks(found: EnsuredDisks, seen: MicroVMRecord, newsBefore: number): void {
    isAwaitingImages = found.kind === 'pending';
    const key = disksKey(seen);
    if (found.kind === 'made') attempt = { ...omit(attempt, 'disksPending'), disks: { for: key, made: found.disks } };
    else if (imageNews === newsBefore) attempt = { ...attempt, disksPending: { for: key, progress: found.progress, lookAgainAtBootMs: clock.now().bootMs + imagesRecheckMs } };
  }

  function onImageNews(): void {
    imageNews += 1;
    attempt = omit(attempt, 'disksPending');
    wake();
  }

  /** A step failed: the operation hears of it, the step waits, and what was half started goes away. */
  async function failed(name: StepName, error: AppError, seen: MicroVMRecord): Promise<boolean> {
    lastStep = undefined;
    logger.warn({ step: name, code: error.code, error: error.message }, 'a step failed');
    if (name === 'pressPowerButton') return true;
    if (name === 'shutdownVmm') {
      attempt = { ...attempt, isShutdownFailed: true };
      return true;
    }
    const now = clock.now();
    const count = (attempt.failed?.count ?? 0) + 1;
    const problem = problemOf(error);
    attempt = { ...attempt, failed: { group: stepGroup(name), count, retryAtBootMs: now.bootMs + retryDelayMs(count, entropy.random()), problem } };
    watchCause(error);
    if (record !== seen) return true;
    const isHalfStarted = name === 'spawnVmm' || name === 'createVm' || name === 'bootVm';
    const base = isHalfStarted ? applyNote(record, { kind: 'startAbandoned' }, now) : record;
    const isOpen = record.operation !== undefined && record.operation.state !== 'done';
    const isKnown = !isOpen && !isHalfStarted && record.problem?.code === problem.code && record.problem.message === problem.message;
    if (isKnown) return true;
    await saveAt('journal.result', record, failOperation(base, problem, error.retry !== 'backoff', now));
    return true;
  }

  function watchCause(error: AppError): void {
    const path = error.details['path'];
    cancelFileWatch();
    cancelFileWatch = typeof path !== 'string' ? () => {} : deps.files.watchFor(path, () => {
      const { failed } = attempt;
      if (failed === undefined) return;
      // A file that is being written changes all the time, and a try costs a process.
      const soonestMs = clock.now().bootMs + Math.min(changedFileDelayMaxMs, changedFileDelayMs * 2 ** Math.min(failed.count, 20));
      attempt = { ...attempt, failed: { ...failed, retryAtBootMs: Math.min(failed.retryAtBootMs, soonestMs) } };
      wake();
    });
  }

  async function finish(view: View, decision: Decision & { kind: 'done' }): Promise<boolean> {
    const isOpen = record.operation !== undefined && record.operation.state !== 'done';
    if (isOpen || record.problem !== undefined) {
      const keeper = keptDownBy(view.record);
      const progress = isOpen && keeper !== undefined ? concludeOperation(view.record, keptDownProblem(keeper), newExecution(), view.now) : succeedOperation(view.record, newExecution(), view.now);
      const saved = await saveAt('journal.result', view.record, progress);
      if (!saved) return true;
      settle();
      observe({ ...view, record, attempt }, decision);
    }
    settle();
    if (!isConverged) logger.info({ state: snapshot.value, restarts: record.run.restarts, ...(view.vmm.kind === 'live' ? { vmmPid: view.vmm.process.pid } : {}) }, 'converged');
    isConverged = true;
    const recheckMs = Math.min(decision.recheckAtBootMs === undefined ? Infinity : decision.recheckAtBootMs - view.now.bootMs, view.vmm.kind === 'live' ? safetyLookMs : Infinity);
    if (recheckMs !== Infinity) scheduleIn(Math.max(1, recheckMs));
    return false;
  }

  async function forget(view: View): Promise<boolean> {
    await around(faults, 'secrets.remove', () => deps.secrets.save(microvmId, []));
    const { record: done, reports } = succeedOperation(view.record, newExecution(), view.now);
    const tombstone: MicroVMRecord = { ...omit(done, 'previous', 'problem', 'site'), ...(done.site === undefined ? {} : { site: omit(done.site, 'override') }), isTombstone: true, run: { ...initialRun, incarnation: done.run.incarnation } };
    const saved = await saveAt('journal.forget', view.record, { record: tombstone, reports });
    if (!saved) return true;
    settle();
    observe({ ...view, record, attempt }, { kind: 'gone' });
    return false;
  }

  function settle(): void {
    lastStep = undefined;
    // What was made on the host is still there; a changed key says when it is not enough.
    const { networksFor, networkWarnings } = attempt;
    attempt = { ...noAttempt, ...(networksFor === undefined ? {} : { networksFor }), ...(networkWarnings === undefined ? {} : { networkWarnings }) };
    cancelFileWatch();
  }

  /** @returns false when the record was replaced meanwhile: nothing was written then */
  async function saveAt(step: EdgeFaultStep, seen: MicroVMRecord, progress: Progress): Promise<boolean> {
    await faults.reach(`${step}:before`);
    if (record !== seen) return false;
    save(progress.record, progress.reports);
    await faults.reach(`${step}:after`);
    if (progress.reports.length > 0) reporter.reportsQueued();
    return true;
  }

  function save(next: MicroVMRecord, reports: readonly ExecutionReport[] = []): void {
    journal.saveMicroVM(next, reports);
    record = next;
  }

  /** An operation that has to wait for a guest or a back-off says that it runs. */
  function reportRunning(): void {
    const report = runningReport(record);
    if (report === undefined || reportedRunning === report.executionId) return;
    reportedRunning = report.executionId;
    journal.enqueue(report);
    reporter.reportsQueued();
  }
  let reportedRunning: string | undefined;

  function observe(view: View, decision: Decision): void {
    const state = classify(view, decision);
    see(state);
    // Networks that are about to be made sure of may have a warning in a moment.
    if (view.record === record) toSituation(state, decision);
    const isPassing = (passingStates.includes(state) && !(decision.kind === 'wait' && decision.for === 'images')) || (decision.kind === 'step' && decision.step === 'ensureNetworks');
    reporter.observed(projectObservation(view, state), !isPassing);
  }

  function toSituation(state: ObservedState, decision: Decision): void {
    const problem = attempt.failed?.problem ?? record.problem;
    const waitsFor = decision.kind === 'wait' && longWaits.includes(decision.for) ? decision.for : undefined;
    const progress = decision.kind === 'done' || decision.kind === 'gone' ? 'settled' : waitsFor === undefined ? 'busy' : 'waits';
    situation = { progress, state, ...(waitsFor === undefined ? {} : { waitsFor }), ...(problem === undefined ? {} : { problem }) };
    for (const callback of onSituation) callback();
  }

  function see(state: ObservedState): void {
    const event = { type: `seen.${state}` } as const;
    if (!snapshot.can(event)) {
      logger.warn({ from: snapshot.value, to: state }, 'a change that this agent did not make');
      snapshot = microvmMachine.resolveState({ value: 'unknown', context: {} });
    }
    [snapshot] = transition(microvmMachine, snapshot, event);
  }

  function scheduleAt(bootMs: number): void {
    scheduleIn(Math.max(1, Math.min(bootMs - clock.now().bootMs, safetyLookMs)));
  }

  function scheduleIn(ms: number): void {
    cancelTimer();
    cancelTimer = clock.after(ms, wake);
  }

  return {
    record: () => record,
    state: () => snapshot.value as ObservedState, // The states of the machine are these.
    isLive: () => isLive,
    situation: () => situation,
    onSituation(callback) {
      onSituation.add(callback);
      return () => void onSituation.delete(callback);
    },
    async ordersTold(upTo) {
      if (forgetTold(record, upTo) === record) return;
      await faults.reach('journal.siteTold:before');
      const next = forgetTold(record, upTo);
      if (next !== record) save(next);
      await faults.reach('journal.siteTold:after');
    },
    take(next) {
      record = next;
      situation = { progress: 'busy', state: situation.state };
      longStep?.abort();
      const { mayPressButton, isShutdownFailed } = attempt;
      settle();
      attempt = { ...attempt, mayPressButton, isShutdownFailed };
      wake();
    },
    noted(next) {
      record = next;
      wake();
    },
    wake,
    async stop() {
      cancelTimer();
      cancelFileWatch();
      if (isAwaitingImages) deps.disks.forgo(microvmId);
      stopping.abort(new AppError('UNAVAILABLE', 'the agent stops'));
      await running;
      deps.probes.forget(microvmId);
      deps.consoles.forget(microvmId);
      await follower?.ended;
    },
  };
}

/** Whether what is next is on the way to a start. */
function mayAwaitImages(decision: Decision): boolean {
  if (decision.kind === 'step') return stepGroup(decision.step) === 'start';
  return decision.kind === 'note' || (decision.kind === 'wait' && (decision.for === 'images' || decision.for === 'retry' || decision.for === 'vmm'));
}

function keepWarnings(warnings: readonly ObservedWarning[], bootMs: number): Pick<Attempt, 'networkWarnings'> {
  return warnings.length === 0 ? {} : { networkWarnings: { warnings, lookAgainAtBootMs: bootMs + warnedLookMs } };
}

function toAppError(error: unknown, step: StepName): AppError {
  if (isAppError(error)) return error;
  if (error instanceof Error && error.name === 'TimeoutError') return new AppError('HYPERVISOR_TIMEOUT', `${step} did not end in time`, { cause: error });
  return new AppError('INTERNAL', `${step} failed: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
}
