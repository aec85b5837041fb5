/**
 * What the journal remembers of one microVM: the accepted intent, how far the current run has come,
 * and what must survive a crash to decide the next step. JSON-safe by construction (no Date, Map or
 * bigint). It never says what is true now; that comes from looking at the VMM and the directory.
 */
import type { Epoch } from '#api/model/epoch.ts';
import type { ExecutionId, MicroVMId, OperationId, PlanId } from '#api/model/ids.ts';
import type { BootSource, DesiredMicroVM, DiskSpec, LastExit, ManagedDisk, NetworkSpec } from '#api/model/microvm.ts';
import type { OperationKind } from '#api/model/plan.ts';
import type { SiteOrder, SiteOverride } from '#api/model/site-orders.ts';
import { seedInputs } from './cloud-init.ts';
import { omit } from './omit.ts';

/** A process that can't be mistaken for a later one with the same pid. */
export interface ProcessKey {
  readonly pid: number;
  readonly startTime: string;
  readonly bootId: string;
}

/** A moment of the boot clock, which stands still at a reboot of the host: only comparable within one boot. */
export interface BootMoment {
  readonly bootId: string;
  readonly ms: number;
}

/**
 * idle: no run was asked for since the creation or the last requested stop. starting: the intent to
 * start this incarnation is durable. started: its guest ran. ended: it ended by itself.
 * abandoned: the VMM refused to create or boot it; whatever is left of the VMM is to go.
 */
export type RunPhase = 'idle' | 'starting' | 'started' | 'ended' | 'abandoned';

/** Why a running microVM is being stopped; decides what follows its exit. */
export type StopCause = 'halted' | 'restart' | 'deleted' | 'crashLoop' | 'once' | 'lease' | 'unhealthy' | 'panic';

export interface StopRecord {
  readonly cause: StopCause;
  /** When waiting for the guest ends; a moment of an earlier boot has passed. */
  readonly deadline: BootMoment;
  /** Whether the power button is pressed. Durable before the press, and never pressed twice. */
  readonly usesButton: boolean;
}

export interface RunRecord {
  readonly phase: RunPhase;
  /** Number of the boot, from 1; 0 before the first. In-place reboots of the guest count. */
  readonly incarnation: number;
  /** The restartNonce that was last honoured; 0 before the first. */
  readonly appliedNonce: number;
  /** `starts` of the site that was last honoured; absent: 0. */
  readonly appliedSiteStarts?: number;
  /** The machine of the running guest: what it was started with, and what live changes have made of it; see `machineKey`. */
  readonly startedWith?: string;
  /** The machine that live changes are making of it. Durable before the first of them, gone after the last. */
  readonly changingTo?: string;
  readonly bootedAtMs?: number;
  /** The incarnation whose startup probe succeeded. */
  readonly startedUpIn?: number;
  readonly restarts: number;
  /** Ends within the window, oldest first, milliseconds of the boot clock of `failureBootId`. */
  readonly failures: readonly number[];
  readonly failureBootId: string;
  /** Not before this moment the next restart may begin. */
  readonly restartDue?: BootMoment;
  readonly lastExit?: LastExit;
  /** The process whose end is already counted. */
  readonly countedExit?: ProcessKey;
  readonly stop?: StopRecord;
  /** Where counting of guest reboots goes on, see EventCursor of the hypervisor port. */
  readonly eventCursor?: { readonly pid: number; readonly startTime: string; readonly offset: number };
}

export type OperationState = 'accepted' | 'running' | 'done';

export interface OperationRecord {
  readonly id: OperationId;
  readonly planId: PlanId;
  readonly kind: OperationKind;
  readonly state: OperationState;
  /** Of the running or last execution, from 1; 0 before the first. */
  readonly attempt: number;
  readonly executionId?: ExecutionId;
  readonly startedAtMs?: number;
  readonly startBefore?: BootMoment;
  /** The report that ended it, kept so that a repeated delivery can be answered again. */
  readonly result?: {
    readonly status: 'Succeeded' | 'Failed' | 'Expired' | 'Dropped';
    readonly finishedAtMs: number;
    readonly error?: Problem;
  };
}

export interface Problem {
  readonly code: string;
  readonly message: string;
}

/** What somebody at the site ordered; outlives operations, restarts and power cuts. */
export interface SiteRecord {
  /** What stands; goes before the desired state. */
  readonly override?: SiteOverride;
  /** How often a start or a restart was asked for; each is honoured once. */
  readonly starts: number;
  /** Number of the newest order; 0 before the first. */
  readonly newest: number;
  /** Orders that no control plane has acknowledged, oldest first, at most `siteOrdersMax`. */
  readonly untold: readonly SiteOrder[];
  /** How many older ones were not kept. */
  readonly lost: number;
}

/** The intent before the accepted operation; comes back when that one is dropped before it started. */
export interface Intent {
  readonly desired: DesiredMicroVM | null;
  readonly generation: number;
  readonly isDeleting: boolean;
  /** The override that the operation lifted. */
  readonly siteOverride?: SiteOverride;
}

export interface MicroVMRecord {
  readonly microvmId: MicroVMId;
  /** Highest accepted (epoch, revision); never goes back. */
  readonly epoch: Epoch;
  readonly revision: number;
  readonly generation: number;
  /** Null only for a tombstone of a microVM whose spec was never seen. */
  readonly desired: DesiredMicroVM | null;
  readonly isDeleting: boolean;
  /** Nothing of it is left on the host; kept so that replayed operations are told apart. */
  readonly isTombstone: boolean;
  readonly operation?: OperationRecord;
  readonly previous?: Intent;
  readonly run: RunRecord;
  /** Absent before the first order of somebody at the site. */
  readonly site?: SiteRecord;
  readonly problem?: Problem;
}

export const initialRun: RunRecord = {
  phase: 'idle',
  incarnation: 0,
  appliedNonce: 0,
  restarts: 0,
  failures: [],
  failureBootId: '',
};

/** What the directory of a microVM says of itself; written and fsynced before its VMM starts. */
export interface DirectoryIdentity {
  readonly microvmId: MicroVMId;
  readonly epoch: Epoch;
  readonly revision: number;
  readonly incarnation: number;
}

/** Order of operations: negative when a comes before b, 0 when they are one. */
export function compareFence(a: Fence, b: Fence): number {
  return a.epoch === b.epoch ? a.revision - b.revision : a.epoch - b.epoch;
}

export interface Fence {
  readonly epoch: number;
  readonly revision: number;
}

export interface Now {
  /** Wall clock, epoch milliseconds: for what people read. */
  readonly wallMs: number;
  /** Boot clock, milliseconds: for every decision. */
  readonly bootMs: number;
  readonly bootId: string;
}

export function isPast(moment: BootMoment, now: Now): boolean {
  return moment.bootId !== now.bootId || moment.ms <= now.bootMs;
}

export function isSameProcess(a: ProcessKey | undefined, b: ProcessKey | undefined): boolean {
  return a !== undefined && b !== undefined && a.pid === b.pid && a.startTime === b.startTime && a.bootId === b.bootId;
}

/** A disk as the guest sees it: what becomes of it in the end, and who may fetch its image, is nothing that a guest sees. */
export type MachineDisk = Omit<DiskSpec, 'managed'> & { readonly managed?: Omit<ManagedDisk, 'isRetained' | 'secretName'> };
/** A card as the guest sees it: ports of the host change under it. */
export type MachineCard = Omit<NetworkSpec, 'ports'>;
/** Parts of the machine that came after the first ones; all of them are absent in a key that was made before. */
export type MachineExtras = Pick<DesiredMicroVM, 'cpuMax' | 'memoryMaxBytes' | 'memoryShared' | 'memoryHugepageBytes' | 'serialInteractive' | 'vsock'> & { readonly seed?: NonNullable<ReturnType<typeof seedInputs>> };

/** What a guest runs on, as far as a running one can't simply be told otherwise. */
export interface Machine {
  readonly cpuCount: number;
  readonly memoryBytes: number;
  readonly boot: BootSource;
  readonly disks: readonly MachineDisk[];
  readonly serialLog: boolean;
  readonly cards: readonly MachineCard[];
  readonly extras: MachineExtras;
}

export function machineOf(desired: DesiredMicroVM): Machine {
  const { cpuCount, memoryBytes, boot, disks, networks = [], serialLog, cpuMax, memoryMaxBytes, memoryShared, memoryHugepageBytes, serialInteractive, vsock } = desired;
  const seed = seedInputs(desired);
  return {
    cpuCount,
    memoryBytes,
    boot,
    disks: disks.map(({ managed, ...disk }) => (managed === undefined ? disk : { ...disk, managed: omit(managed, 'isRetained', 'secretName') })),
    serialLog,
    cards: networks.map(({ ports: _ports, ...card }) => card),
    extras: {
      ...(cpuMax === undefined ? {} : { cpuMax }),
      ...(memoryMaxBytes === undefined ? {} : { memoryMaxBytes }),
      ...(memoryShared === undefined ? {} : { memoryShared }),
      ...(memoryHugepageBytes === undefined ? {} : { memoryHugepageBytes }),
      ...(serialInteractive === true ? { serialInteractive } : {}),
      ...(vsock === undefined ? {} : { vsock }),
      ...(seed === null ? {} : { seed }),
    },
  };
}

/** Two equal keys: the running guest has the machine that is desired. Journals hold it, so a machine keeps the key that it had. */
export function machineKey(desired: DesiredMicroVM): string {
  return keyOfMachine(machineOf(desired));
}

export function keyOfMachine({ cpuCount, memoryBytes, boot, disks, serialLog, cards, extras }: Machine): string {
  const hasExtras = Object.keys(extras).length > 0;
  return JSON.stringify([cpuCount, memoryBytes, boot, disks, serialLog, ...(cards.length === 0 && !hasExtras ? [] : [cards]), ...(hasExtras ? [extras] : [])], sortedKeys);
}

/** The machine that a key stands for; null for text that is none. */
export function parseMachine(key: string): Machine | null {
  const parts: unknown = JSON.parse(key);
  if (!Array.isArray(parts)) return null;
  const [cpuCount, memoryBytes, boot, disks, serialLog, cards = [], extras = {}] = parts as [number, number, BootSource, MachineDisk[], boolean, MachineCard[]?, MachineExtras?]; // Only machineKey writes it.
  return { cpuCount, memoryBytes, boot, disks, serialLog, cards, extras };
}

function sortedKeys(_key: string, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
}
