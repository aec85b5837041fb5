/**
 * One microVM's host as plain data: a VMM, a directory and a clock, changed by steps the way the real
 * ones are. For properties of the decision alone; what a VMM really does is shown by the conformance suite.
 */
import assert from 'node:assert/strict';
import { seedKey } from '#edge-agent/domain/cloud-init.ts';
import { creationKey, decideNext, hasDisks, hasSeed, networksKey, stepGroup, type StepName } from '#edge-agent/domain/diff.ts';
import { disksKey } from '#edge-agent/domain/images.ts';
import { compareMachine, disksToPlug, networksOf, type MachineChange } from '#edge-agent/domain/machine-change.ts';
import type { MicroVMRecord, Now } from '#edge-agent/domain/microvm-record.ts';
import { applyNote, countReboots } from '#edge-agent/domain/notes.ts';
import { omit } from '#edge-agent/domain/omit.ts';
import { noAttempt, type Attempt, type SeenDevice, type SeenDirectory, type SeenExit, type SeenMachine, type SeenVmm, type View } from '#edge-agent/domain/observed-state.ts';

export type Disturbance = 'vmmKilled' | 'guestPowersOff' | 'guestReboots' | 'agentRestarts' | 'hostReboots' | 'stepFails' | 'apiHangs';

export class SimulatedHost {
  record: MicroVMRecord;
  vmm: SeenVmm = { kind: 'absent' };
  directory: SeenDirectory = { exists: false, identity: null };
  attempt: Attempt = noAttempt;
  now: Now;
  /** VMM processes ever started. */
  spawned = 0;
  buttonPresses = 0;
  isGone = false;
  /** Name and host ports of each network that was made. */
  networks: readonly string[] = [];
  /** A guest that does not react to its power button. */
  ignoresButton = false;
  /** A VMM that never answers again; only a kill ends it. */
  isStuck = false;
  /** A guest that lets go of nothing and takes no memory. */
  ignoresChanges = false;
  /** The next look for an image finds that it has to be fetched. */
  isImageSlow = false;
  /** Machine of the VMM that was created last. */
  #created: SeenMachine | undefined;
  #failNext = false;
  #isHung = false;

  constructor(record: MicroVMRecord, now: Now) {
    this.record = record;
    this.now = now;
  }

  view(): View {
    const vmm: SeenVmm = (this.#isHung || this.isStuck) && this.vmm.kind === 'live' ? { ...this.vmm, api: 'unreachable' } : this.vmm;
    this.#isHung = false;
    return { record: this.record, vmm, directory: this.directory, attempt: this.attempt, now: this.now };
  }

  /** @returns false at a fixpoint */
  turn(): boolean {
    const view = this.view();
    const decision = decideNext(view);
    this.#advance(1);
    switch (decision.kind) {
      case 'note':
        this.record = applyNote(this.record, decision.note, this.now);
        if (decision.note.kind === 'stopBegun') this.attempt = { ...this.attempt, mayPressButton: this.record.run.stop?.usesButton === true };
        return true;
      case 'step':
        this.#step(decision.step, view);
        return true;
      case 'wait':
        // Nothing of it comes before the end of the pause.
        if (decision.for === 'guest' && view.vmm.kind === 'live' && view.vmm.api === 'paused') return false;
        this.#advance(Math.max(1, decision.untilBootMs - this.now.bootMs));
        this.attempt = omit(this.attempt, 'disksPending');
        return true;
      case 'gone':
        this.isGone = true;
        return false;
      case 'done':
        return false;
    }
  }

  disturb(disturbance: Disturbance): void {
    switch (disturbance) {
      case 'vmmKilled':
        return this.#end({ reason: 'VMMCrash', signal: 'SIGKILL' });
      case 'guestPowersOff':
        return this.#isUp() ? this.#end({ reason: 'GuestShutdown', code: 0 }) : undefined;
      case 'guestReboots':
        if (this.machine !== undefined) this.#setMachine(rebooted(this.machine));
        if (this.#isUp()) this.record = countReboots(this.record, { count: 1, cursor: { pid: this.spawned, startTime: '1', offset: 1 } }, this.now);
        return;
      case 'agentRestarts':
        this.attempt = noAttempt;
        return;
      case 'hostReboots':
        this.attempt = noAttempt;
        this.networks = [];
        this.#end({ reason: 'HostReboot' });
        this.now = { wallMs: this.now.wallMs + 60_000, bootMs: 10, bootId: `${this.now.bootId}+` };
        return;
      case 'stepFails':
        this.#failNext = true;
        return;
      case 'apiHangs':
        this.#isHung = true;
        return;
    }
  }

  #isUp(): boolean {
    return this.vmm.kind === 'live' && (this.vmm.api === 'running' || this.vmm.api === 'paused');
  }

  #advance(ms: number): void {
    this.now = { ...this.now, wallMs: this.now.wallMs + ms, bootMs: this.now.bootMs + ms };
  }

  #end(exit: Omit<SeenExit, 'process'>): void {
    if (this.vmm.kind === 'live') this.vmm = { kind: 'exited', exit: { ...exit, process: this.vmm.process } };
  }

  #live(api: 'none' | 'created' | 'running' | 'paused'): void {
    assert(this.vmm.kind === 'live', 'the step needs a live VMM');
    const machine = api === 'none' || api === 'created' ? undefined : (this.vmm.machine ?? this.#created);
    this.vmm = { ...omit(this.vmm, 'machine'), api, ...(machine === undefined ? {} : { machine }) };
  }

  /** What a guest of that machine has, in the order of the desired state. */
  get machine(): SeenMachine | undefined {
    return this.vmm.kind === 'live' ? this.vmm.machine : undefined;
  }

  #change(view: View, kind: MachineChange['kind']): void {
    const state = compareMachine(view.record, this.machine);
    assert(state.kind === 'live', 'the machine of a guest changes only while all of the change is live');
    assert(this.record.run.changingTo !== undefined, 'the intent of a live change is durable before its effect');
    const change = state.changes.find((candidate) => candidate.kind === kind);
    assert(change !== undefined && this.machine !== undefined, 'a step has something to do');
    const isPaused = this.vmm.kind === 'live' && this.vmm.api === 'paused';
    assert(!(change.needsGuest && isPaused), 'a paused guest is asked for nothing');
    this.#setMachine(applyChange(this.machine, change, this.ignoresChanges));
    if (change.needsGuest && this.ignoresChanges) this.#fail(kind);
  }

  #setMachine(machine: SeenMachine): void {
    if (this.vmm.kind === 'live') this.vmm = { ...this.vmm, machine };
  }

  #step(name: StepName, view: View): void {
    if (name === 'pressPowerButton') this.attempt = { ...this.attempt, mayPressButton: false };
    if (this.#failNext || (this.isStuck && ['createVm', 'bootVm', 'pauseVm', 'resumeVm', 'pressPowerButton', 'shutdownVmm'].includes(name))) return this.#fail(name);
    switch (name) {
      case 'prepareDirectory':
        this.directory = { exists: true, identity: null };
        return;
      case 'writeIdentity': {
        assert(this.directory.exists, 'an identity needs its directory');
        const { microvmId, epoch, revision, run } = this.record;
        this.directory = { ...this.directory, exists: true, identity: { microvmId, epoch, revision, incarnation: run.incarnation } };
        return;
      }
      case 'checkFiles':
        this.attempt = { ...this.attempt, checkedFor: creationKey(this.record) };
        return;
      case 'ensureDisks':
        assert(this.directory.identity !== null, 'no disk before the directory says whose it is');
        for (const name of disksToPlug(view) ?? []) assert(this.machine?.disks.some((disk) => disk.name === name) !== true, 'no disk is made that a guest has');
        // The first look for an image begins its transfer, and its end is the news.
        this.attempt = this.isImageSlow
          ? { ...this.attempt, disksPending: { for: disksKey(this.record), progress: '0 %', lookAgainAtBootMs: this.now.bootMs + 60_000 } }
          : { ...omit(this.attempt, 'disksPending'), disks: { for: disksKey(this.record), made: (this.record.desired?.disks ?? []).map(({ name }) => ({ name, path: `/${name}`, format: 'raw' })) } };
        this.isImageSlow = false;
        return;
      case 'ensureSeed': {
        assert(this.directory.identity !== null, 'no seed before the directory says whose it is');
        assert(!this.#isUp(), 'no seed is made under a guest that runs');
        this.directory = { ...this.directory, hasSeed: this.record.desired?.cloudInit !== undefined };
        this.attempt = { ...this.attempt, seedFor: seedKey(this.record) };
        return;
      }
      case 'ensureNetworks':
        assert(this.directory.identity !== null, 'no network before the directory says whose it is');
        for (const { name } of this.machine?.networks ?? []) assert(networksOf(this.record).some((network) => network.name === name), 'a running guest keeps its cards');
        this.networks = networksOf(this.record).map(({ name, ports }) => `${name} ${ports.map(({ hostPort }) => hostPort).join()}`);
        this.attempt = { ...this.attempt, networksFor: networksKey(this.record) };
        return;
      case 'removeNetworks':
        assert(this.vmm.kind !== 'live', 'no network is taken from a VMM that lives');
        this.networks = [];
        this.attempt = { ...this.attempt, areNetworksRemoved: true };
        return;
      case 'spawnVmm':
        assert(hasDisks(view), 'no VMM before its disks');
        assert(hasSeed(view), 'no VMM before its seed');
        assert.equal(this.networks.length, this.record.desired?.networks?.length ?? 0, 'no VMM before its networks');
        assert(this.vmm.kind !== 'live', 'never two VMMs of one microVM');
        assert(this.directory.identity !== null, 'no VMM before its directory says whose it is');
        this.spawned += 1;
        this.vmm = { kind: 'live', api: 'none', process: { pid: this.spawned, startTime: '1', bootId: this.now.bootId } };
        return;
      case 'createVm':
        assert(!this.#isUp(), 'a running guest is never created anew');
        assert(hasSeed(view), 'no configuration that names a seed before there is one');
        this.#live('created');
        this.#created = machineFrom(this.record);
        this.attempt = { ...this.attempt, createdFor: creationKey(view.record) };
        return;
      case 'bootVm':
        return this.#live('running');
      case 'pauseVm':
        return this.#live('paused');
      case 'resumeVm':
        return this.#live('running');
      case 'resizeCpus':
      case 'resizeMemory':
      case 'plugDisk':
      case 'unplugDisk':
      case 'growDisk':
      case 'unplugNetwork':
        return this.#change(view, name);
      case 'plugNetwork':
        assert(this.networks.length === networksOf(this.record).length, 'no card before its tap');
        return this.#change(view, name);
      case 'pressPowerButton':
        this.buttonPresses += 1;
        if (!this.ignoresButton) this.#end({ reason: 'GuestShutdown', code: 0 });
        return;
      case 'shutdownVmm':
        return this.#end({ reason: 'Operator', code: 0 });
      case 'killVmm':
        this.isStuck = false;
        return this.#end({ reason: 'VMMCrash', signal: 'SIGKILL' });
      case 'removeDirectory':
        assert(this.vmm.kind !== 'live', 'the directory of a live VMM stays');
        this.directory = { exists: false, identity: null };
        this.vmm = { kind: 'absent' };
        return;
    }
  }

  #fail(name: StepName): void {
    this.#failNext = false;
    if (name === 'pressPowerButton') return;
    if (name === 'shutdownVmm') {
      this.attempt = { ...this.attempt, isShutdownFailed: true };
      return;
    }
    this.attempt = {
      ...this.attempt,
      failed: { group: stepGroup(name), count: 1, retryAtBootMs: this.now.bootMs + 1_000, problem: { code: 'HYPERVISOR_FAILED', message: 'simulated' } },
    };
    if (name === 'spawnVmm' || name === 'createVm' || name === 'bootVm') this.record = applyNote(this.record, { kind: 'startAbandoned' }, this.now);
  }
}

function machineFrom({ desired }: MicroVMRecord): SeenMachine {
  assert(desired !== null, 'only a desired microVM is created');
  const { cpuCount, memoryBytes, disks, networks = [] } = desired;
  const plugged = (name: string): SeenDevice => ({ name, isLeaving: false });
  return {
    cpuCount, cpusPresent: cpuCount, memoryBytes, memoryPresentBytes: memoryBytes, memoryBootBytes: memoryBytes,
    disks: disks.map(({ name, sizeBytes }) => ({ ...plugged(name), fileBytes: sizeBytes ?? 0 })), networks: networks.map(({ name }) => plugged(name)),
    isShutIn: false,
  };
}

/** A reboot in place gives the guest what the VMM was told, and nothing that it was to let go of. */
function rebooted(machine: SeenMachine): SeenMachine {
  const stays = ({ isLeaving }: SeenDevice): boolean => !isLeaving;
  return { ...machine, cpusPresent: machine.cpuCount, memoryPresentBytes: machine.memoryBytes, disks: machine.disks.filter(stays), networks: machine.networks.filter(stays) };
}

function applyChange(machine: SeenMachine, change: MachineChange, isIgnored: boolean): SeenMachine {
  const leave = (devices: readonly SeenDevice[], name: string): readonly SeenDevice[] =>
    isIgnored ? devices.map((device) => (device.name === name ? { ...device, isLeaving: true } : device)) : devices.filter((device) => device.name !== name);
  switch (change.kind) {
    case 'resizeCpus':
      return { ...machine, cpuCount: change.count, ...(isIgnored && change.needsGuest ? {} : { cpusPresent: change.count }) };
    case 'resizeMemory':
      return { ...machine, memoryBytes: change.bytes, ...(isIgnored ? {} : { memoryPresentBytes: change.bytes }) };
    case 'plugDisk':
      return { ...machine, disks: [...machine.disks, { name: change.name, isLeaving: false, fileBytes: 0 }] };
    case 'growDisk':
      return { ...machine, disks: machine.disks.map((disk) => (disk.name === change.name ? { ...disk, fileBytes: change.bytes } : disk)) };
    case 'unplugDisk':
      return { ...machine, disks: leave(machine.disks, change.name) };
    case 'plugNetwork':
      return { ...machine, networks: [...machine.networks, { name: change.name, isLeaving: false }] };
    case 'unplugNetwork':
      return { ...machine, networks: leave(machine.networks, change.name) };
  }
}
