/**
 * A running guest against the machine that is desired for it: nothing to do, the next live change, or
 * a restart. Pure. What is live and what is not is said in field-effects.ts, and held to this by its test.
 *
 * All or nothing: while one part needs a restart nothing is changed under the guest, and the whole
 * specification takes effect together at its next start. Of devices only those are touched that a
 * specification named; whatever else the VMM has is none of ours.
 */
import { memoryStepBytes, type DesiredMicroVM, type NetworkSpec } from '#api/model/microvm.ts';
import { seedInputs } from './cloud-init.ts';
import { keyOfMachine, machineKey, machineOf, parseMachine, type Machine, type MachineCard, type MachineDisk, type MicroVMRecord, type RunRecord } from './microvm-record.ts';
import type { SeenDevice, SeenMachine, SeenVmm, View } from './observed-state.ts';

export type MachineChange =
  | { readonly kind: 'resizeCpus'; readonly count: number; readonly needsGuest: boolean }
  | { readonly kind: 'resizeMemory'; readonly bytes: number; readonly needsGuest: true }
  | { readonly kind: 'plugDisk'; readonly name: string; readonly needsGuest: false }
  | { readonly kind: 'unplugDisk'; readonly name: string; readonly needsGuest: true }
  | { readonly kind: 'growDisk'; readonly name: string; readonly bytes: number; readonly needsGuest: false }
  | { readonly kind: 'plugNetwork'; readonly name: string; readonly needsGuest: false }
  | { readonly kind: 'unplugNetwork'; readonly name: string; readonly needsGuest: true };

export type MachineState =
  /** The guest has what is desired. */
  | { readonly kind: 'same' }
  /** In order; empty: all is done, and the record is to say so. */
  | { readonly kind: 'live'; readonly changes: readonly MachineChange[] }
  | { readonly kind: 'restart' }
  /** The VMM did not say what the guest has. */
  | { readonly kind: 'unknown' };

/** What the VMM has for it; undefined while it does not say. */
export function seenMachine(vmm: SeenVmm): SeenMachine | undefined {
  return vmm.kind === 'live' ? vmm.machine : undefined;
}

export function compareMachine({ desired, run }: MicroVMRecord, seen: SeenMachine | undefined): MachineState {
  if (desired === null || run.startedWith === undefined) return { kind: 'same' };
  if (run.changingTo === undefined && run.startedWith === machineKey(desired) && hasSizes(desired, seen)) return { kind: 'same' };
  const started = runningMachine(run, seen);
  const wanted = machineOf(desired);
  if (started === null || needsRestart(started, wanted, seen)) return { kind: 'restart' };
  return seen === undefined ? { kind: 'unknown' } : { kind: 'live', changes: changesTo(started, wanted, seen) };
}

/** Whether the running guest was started with another version of a Secret than it would be now. */
export function isSecretChanged({ desired, run }: MicroVMRecord, seen: SeenMachine | undefined): boolean {
  const [started, wanted] = [runningMachine(run, seen)?.extras.seed?.version, desired === null ? null : seedInputs(desired)?.version];
  return typeof started === 'string' && typeof wanted === 'string' && started !== wanted;
}

/** Key of a machine that is not the desired one, of which no more is known: only a restart helps. */
export const unknownMachine = 'null';

/** As far as the VMM can tell, its guest was started with what is desired. */
export function resembles(seen: SeenMachine, desired: DesiredMicroVM): boolean {
  // Names with a dot are of disks that the agent adds; no spec has one.
  const isSame = (devices: readonly SeenDevice[], wanted: readonly Named[]): boolean =>
    wanted.every(({ name }) => find(devices, name) !== undefined) && devices.every(({ name }) => name.includes('.') || find(wanted, name) !== undefined);
  return seen.cpuCount === desired.cpuCount && seen.memoryBytes === desired.memoryBytes && isSame(seen.disks, desired.disks) && isSame(seen.networks, desired.networks ?? []);
}

/** A guest may let go of a processor after it was given back, and takes its memory anew after a reboot. */
function hasSizes({ cpuCount, cpuMax, memoryBytes, memoryMaxBytes }: DesiredMicroVM, seen: SeenMachine | undefined): boolean {
  if (seen === undefined) return true;
  return (cpuMax === undefined || seen.cpusPresent === cpuCount) && (memoryMaxBytes === undefined || seen.memoryPresentBytes === memoryBytes);
}

/** The machine as it is now: what an interrupted change has plugged in belongs to it, what it has removed does not. Null: the journal does not say. */
export function runningMachine({ startedWith, changingTo }: RunRecord, seen: SeenMachine | undefined): Machine | null {
  const started = startedWith === undefined ? null : parseMachine(startedWith);
  const target = changingTo === undefined ? null : parseMachine(changingTo);
  if (started === null || target === null || seen === undefined) return started;
  return {
    ...started,
    disks: union(started.disks, target.disks).filter(({ name }) => find(seen.disks, name) !== undefined),
    cards: union(started.cards, target.cards).filter(({ name }) => find(seen.networks, name) !== undefined),
  };
}

/** Networks that have to be there now: those of the guest until it has let go of them, and those that it is to get. */
export function networksOf({ desired, run }: MicroVMRecord): readonly NetworkSpec[] {
  const wanted = desired?.networks ?? [];
  const started = run.changingTo === undefined || run.startedWith === undefined ? null : parseMachine(run.startedWith);
  const leaving = (started?.cards ?? []).filter(({ name }) => !wanted.some((network) => network.name === name));
  return leaving.length === 0 ? wanted : [...wanted, ...leaving.map((card) => ({ ...card, ports: [] }))];
}

/** Names of the disks that a running guest is to get; undefined when the guest is yet to be started, and all of them are made. */
export function disksToPlug({ record, vmm }: Pick<View, 'record' | 'vmm'>): ReadonlySet<string> | undefined {
  const seen = seenMachine(vmm);
  if (seen === undefined) return undefined;
  const state = compareMachine(record, seen);
  const changes = state.kind === 'live' ? state.changes : [];
  return new Set(changes.filter(({ kind }) => kind === 'plugDisk').map((change) => ('name' in change ? change.name : '')));
}

/** The machine that the record is to remember when a live change begins. */
export function noteRunningMachine(run: RunRecord, seen: SeenMachine | undefined): string | undefined {
  const machine = runningMachine(run, seen);
  return machine === null ? run.startedWith : keyOfMachine(machine);
}

/**
 * What the running guest has now: where the specification lets it change, as the guest took it or gave it back; else as
 * the VMM was configured.
 */
export function observedSizes(desired: DesiredMicroVM, seen: SeenMachine | undefined): { readonly cpuCount?: number; readonly memoryBytes?: number } {
  if (seen === undefined) return {};
  return {
    cpuCount: desired.cpuMax === undefined ? seen.cpuCount : seen.cpusPresent,
    memoryBytes: desired.memoryMaxBytes === undefined ? seen.memoryBytes : seen.memoryPresentBytes,
  };
}

function needsRestart(started: Machine, wanted: Machine, seen: SeenMachine | undefined): boolean {
  if (canonical(fixedPart(started)) !== canonical(fixedPart(wanted))) return true;
  if (!canResizeMemory(started, wanted, seen)) return true;
  if (isReordered(started.disks, wanted.disks) || isReordered(started.cards, wanted.cards)) return true;
  // The disk that it booted from is never pulled out of a running guest, nor does another one take its place.
  const [root] = started.disks;
  if (root !== undefined && wanted.disks[0]?.name !== root.name) return true;
  // It could not open the file.
  if (seen?.isShutIn === true && wanted.disks.some(({ name, managed }) => managed === undefined && find(seen.disks, name) === undefined)) return true;
  return (
    started.disks.some((disk) => isOther(disk, find(wanted.disks, disk.name))) ||
    started.cards.some((card) => isOtherCard(card, find(wanted.cards, card.name)))
  );
}

/** Of the sizes only their limits, which the VMM is started with. */
function fixedPart({ cpuCount, boot, serialLog, extras }: Machine): unknown {
  return [boot, serialLog, { ...extras, cpuMax: extras.cpuMax ?? cpuCount }];
}

function canResizeMemory(started: Machine, wanted: Machine, seen: SeenMachine | undefined): boolean {
  if (wanted.memoryBytes === started.memoryBytes) return true;
  const { memoryMaxBytes } = wanted.extras;
  const bootBytes = seen?.memoryBootBytes ?? started.memoryBytes;
  return memoryMaxBytes !== undefined && wanted.memoryBytes >= bootBytes && wanted.memoryBytes <= memoryMaxBytes && (wanted.memoryBytes - bootBytes) % memoryStepBytes === 0;
}

/** A disk whose file or use changed. Growth of a raw one that the host made is followed by the VMM. */
function isOther(started: MachineDisk, wanted: MachineDisk | undefined): boolean {
  if (wanted === undefined) return false;
  const { sizeBytes: before, ...rest } = started;
  const { sizeBytes: after, ...others } = wanted;
  if (canonical(rest) !== canonical(others)) return true;
  if (before === after) return false;
  return !canGrow(wanted) || after === undefined || (before !== undefined && after < before);
}

function canGrow({ managed, readOnly }: MachineDisk): boolean {
  return managed !== undefined && !readOnly;
}

function isOtherCard(started: MachineCard, wanted: MachineCard | undefined): boolean {
  return wanted !== undefined && canonical(started) !== canonical(wanted);
}

interface Named {
  readonly name: string;
}

/** Those that stay have another order. */
function isReordered(started: readonly Named[], wanted: readonly Named[]): boolean {
  const stay = (list: readonly Named[], other: readonly Named[]): string => list.filter(({ name }) => find(other, name) !== undefined).map(({ name }) => name).join('/');
  return stay(started, wanted) !== stay(wanted, started);
}

/** What goes first, so that a name or a slot is free for what comes. */
function changesTo(started: Machine, wanted: Machine, seen: SeenMachine): readonly MachineChange[] {
  // One that is wanted again has to be gone first.
  const unwanted = (devices: readonly SeenDevice[], known: readonly Named[], wants: readonly Named[]): readonly string[] =>
    devices.filter(({ name, isLeaving }) => find(known, name) !== undefined && (isLeaving || find(wants, name) === undefined)).map(({ name }) => name);
  const lacking = (machine: readonly Named[], devices: readonly SeenDevice[]): readonly string[] => machine.filter(({ name }) => find(devices, name) === undefined).map(({ name }) => name);
  return [
    ...unwanted(seen.disks, started.disks, wanted.disks).map((name) => ({ kind: 'unplugDisk', name, needsGuest: true }) as const),
    ...unwanted(seen.networks, started.cards, wanted.cards).map((name) => ({ kind: 'unplugNetwork', name, needsGuest: true }) as const),
    ...(seen.cpusPresent === wanted.cpuCount && seen.cpuCount === wanted.cpuCount ? [] : [{ kind: 'resizeCpus', count: wanted.cpuCount, needsGuest: wanted.cpuCount < seen.cpusPresent } as const]),
    ...(wanted.memoryBytes === seen.memoryPresentBytes && wanted.memoryBytes === seen.memoryBytes ? [] : [{ kind: 'resizeMemory', bytes: wanted.memoryBytes, needsGuest: true } as const]),
    ...wanted.disks.flatMap((disk) => growthOf(find(started.disks, disk.name), disk, find(seen.disks, disk.name))),
    ...lacking(wanted.disks, seen.disks).map((name) => ({ kind: 'plugDisk', name, needsGuest: false }) as const),
    ...lacking(wanted.cards, seen.networks).map((name) => ({ kind: 'plugNetwork', name, needsGuest: false }) as const),
  ];
}

function growthOf(started: MachineDisk | undefined, { name, sizeBytes }: MachineDisk, seen: SeenDevice | undefined): readonly MachineChange[] {
  if (started === undefined || sizeBytes === undefined || started.sizeBytes === sizeBytes || seen === undefined || seen.isLeaving) return [];
  if (seen.fileBytes !== undefined && seen.fileBytes >= sizeBytes) return [];
  return [{ kind: 'growDisk', name, bytes: sizeBytes, needsGuest: false }];
}

function find<Item extends Named>(items: readonly Item[], name: string): Item | undefined {
  return items.find((item) => item.name === name);
}

function union<Item extends Named>(first: readonly Item[], second: readonly Item[]): readonly Item[] {
  return [...first, ...second.filter(({ name }) => find(first, name) === undefined)];
}

function canonical(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) =>
    typeof inner !== 'object' || inner === null || Array.isArray(inner) ? inner : Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1))),
  );
}
