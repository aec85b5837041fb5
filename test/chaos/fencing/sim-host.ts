/**
 * One host in virtual time: the agent's real decisions, lease keeper and beats over a journal, directories and VMMs in
 * plain data; the guard as its script behaves, going by the table in the form that it reads. Everything stands still
 * with the host, and what came due meanwhile happens when it goes on: the guard's look first.
 */
import type { Operation } from '#api/model/plan.ts';
import type { HostId, MicroVMId } from '#api/model/ids.ts';
import { formatTable, parseTable } from '#edge-agent/adapters/guard/guard-process.ts';
import { decideAcceptance } from '#edge-agent/domain/acceptance.ts';
import { creationKey, decideNext, networksKey, type StepName } from '#edge-agent/domain/diff.ts';
import { seedKey } from '#edge-agent/domain/cloud-init.ts';
import { disksKey } from '#edge-agent/domain/images.ts';
import { initialRun, type MicroVMRecord, type Now } from '#edge-agent/domain/microvm-record.ts';
import { applyNote } from '#edge-agent/domain/notes.ts';
import { noAttempt, type Attempt, type SeenDirectory, type SeenVmm, type View } from '#edge-agent/domain/observed-state.ts';
import type { Guard, GuardEntry } from '#edge-agent/ports/guard.ts';
import { createBeats, type Beats } from '#edge-agent/supervisor/beats.ts';
import { createLeaseKeeper, type LeaseKeeper } from '#edge-agent/supervisor/lease-keeper.ts';
import type { Known } from './sim-database.ts';
import type { Timeline } from './timeline.ts';

export interface VmmWitness {
  started(uid: MicroVMId, host: string, pid: number): void;
  ended(uid: MicroVMId, host: string, pid: number): void;
}

export interface HostOptions {
  readonly hostId: HostId;
  readonly name: string;
  readonly timeline: Timeline;
  readonly random: () => number;
  readonly witness: VmmWitness;
  /** Speed of its clock against true time. */
  readonly drift: number;
  readonly hasGuard: boolean;
}

const guardLookMs = 1_000;
const watcherMs = 3_000;
const turnsMax = 60;
const recheckMaxMs = 60_000;
const logger = { trace() {}, debug() {}, info() {}, warn() {}, error() {}, fatal() {}, child: () => logger } as unknown as Parameters<typeof createLeaseKeeper>[0]['logger']; // Nobody reads it here.

/** An agent process; another one after each start. */
interface Agent {
  readonly keeper: LeaseKeeper;
  readonly attempts: Map<MicroVMId, Attempt>;
  readonly wakes: Set<MicroVMId>;
  isAlive: boolean;
}

export class SimHost {
  readonly options: HostOptions;
  readonly hostId: HostId;
  readonly name: string;
  agent: Agent | null = null;
  isSuspended = false;
  isStandingStill = false;
  wallShiftMs = 0;
  onReport: (known: Known, isGone: boolean) => void = () => {};
  #boot = 1;
  #bootedAtMs = 0;
  #pids = 0;
  readonly #journal = new Map<MicroVMId, MicroVMRecord>();
  readonly #directories = new Map<MicroVMId, SeenDirectory>();
  readonly #vmms = new Map<MicroVMId, SeenVmm>();
  #table = '';
  #guard: { isAlive: boolean } | null = null;
  #guardKilledAtMs = -Infinity;
  #onGuardLost = (): void => {};
  readonly #deferred: (() => void)[] = [];

  constructor(options: HostOptions) {
    this.options = options;
    this.hostId = options.hostId;
    this.name = options.name;
  }

  now(): Now {
    const { timeline, drift } = this.options;
    return { wallMs: timeline.nowMs + this.wallShiftMs, bootMs: Math.round((timeline.nowMs - this.#bootedAtMs) * drift) + 1_000, bootId: `boot-${this.name}-${this.#boot}` };
  }

  /** Runs it now, or when the host and its agent go on. */
  whenRunning(run: () => void): void {
    if (this.isSuspended || this.isStandingStill) this.#deferred.push(run);
    else run();
  }

  #after(ms: number, run: () => void): () => void {
    let isCancelled = false;
    const cancel = this.options.timeline.after(ms / this.options.drift, () => this.whenRunning(() => void (isCancelled || run())));
    return () => {
      isCancelled = true;
      cancel();
    };
  }

  // The agent

  startAgent(): void {
    if (this.agent?.isAlive === true) return;
    const clock = { now: () => this.now(), after: (ms: number, run: () => void) => this.#after(ms, () => void (agent.isAlive && run())) };
    const guard = this.#guardPort(() => agent.isAlive);
    const agent: Agent = {
      attempts: new Map(), wakes: new Set(), isAlive: true,
      keeper: createLeaseKeeper({ guard, directories: directoriesPort, records: () => this.#journal.values(), clock, logger }),
    };
    this.agent = agent;
    agent.keeper.onConfirmed(() => {
      for (const [id, record] of this.#journal) if (record.desired?.lease !== undefined) this.#wake(agent, id);
    });
    for (const [id, record] of this.#journal) if (!record.isTombstone) this.#wake(agent, id);
  }

  killAgent(): void {
    if (this.agent === null) return;
    this.agent.isAlive = false;
    this.agent = null;
  }

  beats(send: (sequence: number, asking: { readonly holdsLease: boolean } | undefined) => void, close: () => void): Beats | null {
    const { agent } = this;
    if (agent === null) return null;
    const clock = { now: () => this.now(), after: (ms: number, run: () => void) => this.#after(ms, () => void (agent.isAlive && run())) };
    const beats = createBeats({ clock, leases: agent.keeper });
    const target = { send: (message: { kind: string; sequence?: number; asking?: { readonly holdsLease: boolean } }) => Promise.resolve(send(message.sequence ?? 0, message.asking)), close } as unknown as Parameters<Beats['start']>[1]; // The beats use these two.
    return { ...beats, start: (intervalMs) => beats.start(intervalMs, target) };
  }

  known(): readonly Known[] {
    return [...this.#journal.values()].map(({ microvmId, epoch, revision }) => ({ microvmId, epoch, revision }));
  }

  accept(operation: Operation): void {
    const { agent } = this;
    if (agent === null) return;
    const id = operation.microvmId;
    const decision = decideAcceptance(operation, this.#journal.get(id), this.#directories.get(id)?.identity ?? null, this.now());
    if (decision.kind === 'refuse') return;
    if (decision.kind === 'accept') {
      this.#journal.set(id, decision.record);
      agent.attempts.set(id, noAttempt);
    }
    this.#wake(agent, id);
  }

  /** Says again where each microVM stands. */
  reportAll(): void {
    for (const record of this.#journal.values()) this.onReport(record, record.isTombstone);
  }

  #wake(agent: Agent, id: MicroVMId): void {
    if (agent.wakes.has(id)) return;
    agent.wakes.add(id);
    this.#after(1 + this.options.random() * 20, () => {
      agent.wakes.delete(id);
      if (agent.isAlive) this.#work(agent, id);
    });
  }

  #work(agent: Agent, id: MicroVMId): void {
    for (let turn = 0; turn < turnsMax; turn += 1) {
      const record = this.#journal.get(id);
      if (record === undefined || record.isTombstone) return;
      const vmm = this.#vmms.get(id) ?? { kind: 'absent' };
      agent.keeper.noticed(record, vmm);
      const now = this.now();
      const attempt = agent.attempts.get(id) ?? noAttempt;
      const view: View = { record, vmm, directory: this.#directories.get(id) ?? { exists: false, identity: null }, attempt, lease: agent.keeper.viewOf(record, now), now };
      const decision = decideNext(view);
      switch (decision.kind) {
        case 'note': {
          const noted = applyNote(record, decision.note, now);
          this.#journal.set(id, noted);
          if (decision.note.kind === 'stopBegun') agent.attempts.set(id, { ...attempt, mayPressButton: noted.run.stop?.usesButton === true });
          if (decision.note.kind === 'runEnded') agent.attempts.set(id, noAttempt);
          break;
        }
        case 'step':
          agent.attempts.set(id, this.#step(agent, decision.step, view));
          break;
        case 'wait':
          this.#later(agent, id, decision.untilBootMs - now.bootMs);
          return this.onReport(record, false);
        case 'done':
          this.#later(agent, id, (decision.recheckAtBootMs ?? Infinity) - now.bootMs);
          return this.onReport(record, false);
        case 'gone':
          this.#journal.set(id, { ...record, isTombstone: true, run: { ...initialRun, incarnation: record.run.incarnation } });
          return this.onReport(record, true);
      }
    }
    this.#later(agent, id, 1_000);
  }

  #later(agent: Agent, id: MicroVMId, ms: number): void {
    this.#after(Math.max(1, Math.min(ms, recheckMaxMs)), () => {
      if (agent.isAlive) this.#work(agent, id);
    });
  }

  #step(agent: Agent, name: StepName, { record, attempt, vmm }: View): Attempt {
    const id = record.microvmId;
    switch (name) {
      case 'prepareDirectory':
        this.#directories.set(id, { exists: true, identity: null });
        return attempt;
      case 'writeIdentity':
        this.#directories.set(id, { exists: true, identity: { microvmId: id, epoch: record.epoch, revision: record.revision, incarnation: record.run.incarnation } });
        return attempt;
      case 'checkFiles':
        return { ...attempt, checkedFor: creationKey(record) };
      case 'ensureDisks':
        return { ...attempt, disks: { for: disksKey(record), made: [] } };
      case 'ensureSeed':
        return { ...attempt, seedFor: seedKey(record) };
      case 'ensureNetworks':
        return { ...attempt, networksFor: networksKey(record) };
      case 'removeNetworks':
        return { ...attempt, areNetworksRemoved: true };
      case 'spawnVmm':
        // The table is written before this returns to its caller; the guard of this model takes no time to start.
        void agent.keeper.prepare(record);
        this.#spawn(id);
        return attempt;
      case 'createVm':
        this.#set(id, 'created');
        return { ...attempt, createdFor: creationKey(record) };
      case 'bootVm':
      case 'resumeVm':
        this.#set(id, 'running');
        return attempt;
      case 'pauseVm':
        this.#set(id, 'paused');
        return attempt;
      case 'resizeCpus':
      case 'resizeMemory':
      case 'plugDisk':
      case 'unplugDisk':
      case 'growDisk':
      case 'plugNetwork':
      case 'unplugNetwork':
        throw new Error('the microVMs of this model keep their machine');
      case 'pressPowerButton':
        // A guest takes its time, or does not react at all.
        if (this.options.random() < 0.7) this.#guestEnds(id, vmm.kind === 'live' ? vmm.process.pid : 0);
        return { ...attempt, mayPressButton: false };
      case 'shutdownVmm':
        this.endVmm(id, 'GuestShutdown');
        return attempt;
      case 'killVmm':
        this.endVmm(id, 'VMMCrash');
        return attempt;
      case 'removeDirectory':
        this.#directories.set(id, { exists: false, identity: null });
        this.#vmms.set(id, { kind: 'absent' });
        return attempt;
    }
  }

  #guestEnds(id: MicroVMId, pid: number): void {
    this.options.timeline.after(this.options.random() * 800, () => {
      const vmm = this.#vmms.get(id);
      if (!this.isSuspended && vmm?.kind === 'live' && vmm.process.pid === pid) {
        this.endVmm(id, 'GuestShutdown');
        if (this.agent !== null) this.#wake(this.agent, id);
      }
    });
  }

  // VMMs

  #spawn(id: MicroVMId): void {
    this.#pids += 1;
    this.#vmms.set(id, { kind: 'live', api: 'none', process: { pid: this.#pids, startTime: String(this.#pids), bootId: this.now().bootId } });
    this.options.witness.started(id, this.name, this.#pids);
  }

  #set(id: MicroVMId, api: 'created' | 'running' | 'paused'): void {
    const vmm = this.#vmms.get(id);
    if (vmm?.kind === 'live') this.#vmms.set(id, { ...vmm, api });
  }

  endVmm(id: MicroVMId, reason: 'GuestShutdown' | 'VMMCrash' | 'HostReboot'): void {
    const vmm = this.#vmms.get(id);
    if (vmm?.kind !== 'live') return;
    this.#vmms.set(id, { kind: 'exited', exit: { reason, process: vmm.process, ...(reason === 'VMMCrash' ? { signal: 'SIGKILL' } : { code: 0 }) } });
    this.options.witness.ended(id, this.name, vmm.process.pid);
    if (this.agent !== null) this.#wake(this.agent, id);
  }

  liveIds(): readonly MicroVMId[] {
    return [...this.#vmms].flatMap(([id, vmm]) => (vmm.kind === 'live' ? [id] : []));
  }

  // The guard and the watchers

  #guardPort(isAgentAlive: () => boolean): Guard {
    this.#onGuardLost = () => {};
    return {
      directory: '/guard',
      load: () => parseTable(this.#table, this.now().bootId),
      save: (entries: readonly GuardEntry[]) => {
        this.#table = formatTable(entries, this.now().bootId);
      },
      ensure: () => {
        this.#startGuard();
        return Promise.resolve();
      },
      watch: () => {},
      onLost: (callback) => {
        this.#onGuardLost = () => void (isAgentAlive() && callback());
      },
      close: () => {},
    };
  }

  #startGuard(): void {
    if (!this.options.hasGuard || this.#guard?.isAlive === true) return;
    const guard = { isAlive: true };
    this.#guard = guard;
    const look = (): void => {
      if (!guard.isAlive || this.#guard !== guard) return;
      this.#after(this.#lookAtTable(), look);
    };
    look();
  }

  /** Ends what is overdue; milliseconds of this host's clock until the next look. */
  #lookAtTable(): number {
    const { bootMs, bootId } = this.now();
    let nextMs = guardLookMs;
    for (const { vmDirectory, end } of parseTable(this.#table, bootId)) {
      if (end.ms <= bootMs) this.endVmm(vmDirectory.slice(1) as MicroVMId, 'VMMCrash'); // The port made the path of it.
      else nextMs = Math.min(nextMs, end.ms - bootMs);
    }
    return nextMs;
  }

  killGuard(): void {
    // Nobody can do that on a machine that is suspended.
    if (this.#guard === null || !this.#guard.isAlive || this.isSuspended) return;
    this.#guard.isAlive = false;
    this.#guardKilledAtMs = this.options.timeline.nowMs;
    const killed = this.#guard;
    const lost = this.#onGuardLost;
    this.#after(5, lost);
    this.options.timeline.after(watcherMs, () => {
      const end = (): void => {
        if (this.#guard !== killed) return;
        for (const { vmDirectory } of parseTable(this.#table, this.now().bootId)) this.endVmm(vmDirectory.slice(1) as MicroVMId, 'VMMCrash');
      };
      if (this.isSuspended) this.#deferred.push(end);
      else end();
    });
  }

  // The machine

  /** The whole machine: its VMMs run no more than its agent does. */
  suspend(): void {
    // A suspend in the moment in which there is no guard is a second failure at once, which nothing here survives.
    if (this.isSuspended || this.options.timeline.nowMs - this.#guardKilledAtMs < watcherMs) return;
    this.isSuspended = true;
    for (const [id, vmm] of this.#vmms) if (vmm.kind === 'live') this.options.witness.ended(id, this.name, vmm.process.pid);
  }

  resume(): void {
    if (!this.isSuspended) return;
    this.isSuspended = false;
    if (this.#guard?.isAlive === true) this.#endQuietly();
    for (const [id, vmm] of this.#vmms) if (vmm.kind === 'live') this.options.witness.started(id, this.name, vmm.process.pid);
    this.#goOn();
  }

  /** As a look of the guard, of VMMs that the witness has seen ended. */
  #endQuietly(): void {
    const { bootMs, bootId } = this.now();
    for (const { vmDirectory, end } of parseTable(this.#table, bootId)) {
      const id = vmDirectory.slice(1) as MicroVMId;
      const vmm = this.#vmms.get(id);
      if (end.ms <= bootMs && vmm?.kind === 'live') this.#vmms.set(id, { kind: 'exited', exit: { reason: 'VMMCrash', signal: 'SIGKILL', process: vmm.process } });
    }
  }

  /** Agent and guard alone; the VMMs run on. */
  standStill(): void {
    this.isStandingStill = true;
  }

  goOn(): void {
    if (!this.isStandingStill) return;
    this.isStandingStill = false;
    this.#goOn();
  }

  #goOn(): void {
    if (this.isSuspended || this.isStandingStill) return;
    if (this.#guard?.isAlive === true) this.#lookAtTable();
    for (const run of this.#deferred.splice(0)) run();
  }

  reboot(): void {
    this.killAgent();
    for (const id of this.liveIds()) this.endVmm(id, 'HostReboot');
    if (this.#guard !== null) this.#guard.isAlive = false;
    this.#guard = null;
    this.#deferred.length = 0;
    this.#boot += 1;
    this.#bootedAtMs = this.options.timeline.nowMs;
  }
}

const directoriesPort = {
  path: (id: MicroVMId) => `/${id}`,
} as Parameters<typeof createLeaseKeeper>[0]['directories']; // The keeper uses paths only.
