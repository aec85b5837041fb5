/**
 * What one look at a microVM found: the VMM, the directory, and the journal's record beside them.
 * The decision and the report are both made from this and nothing else.
 */
import type { ExitReason, ObservedWarning } from '#api/model/microvm.ts';
import type { ImageFormat } from './images.ts';
import type { LeaseView } from './lease.ts';
import type { HealthJudgement } from './probes.ts';
import type { DirectoryIdentity, MicroVMRecord, Now, Problem, ProcessKey } from './microvm-record.ts';

export type SeenApiState = 'none' | 'created' | 'running' | 'paused' | 'unreachable';

export interface SeenExit {
  readonly reason: ExitReason;
  readonly code?: number;
  readonly signal?: string;
  readonly atMs?: number;
  readonly process?: ProcessKey;
}

/** What the VMM says of the machine of a guest that runs or is paused. */
export interface SeenMachine {
  /** Processors that it was told to give the guest. */
  readonly cpuCount: number;
  /** Processors that the guest has: it lets go of one in its own time. */
  readonly cpusPresent: number;
  /** Memory that it was told to give the guest, bytes. */
  readonly memoryBytes: number;
  /** Memory that the guest has taken, bytes. */
  readonly memoryPresentBytes: number;
  /** Memory that the guest was booted with and can't be asked to give back, bytes. */
  readonly memoryBootBytes: number;
  /** Names of disks and networks that are plugged in; `isLeaving`: the guest was asked to let go of it, and has not. */
  readonly disks: readonly SeenDevice[];
  readonly networks: readonly SeenDevice[];
  /** The VMM has shut itself out of files that it was not started with, but for those in its own directory. */
  readonly isShutIn: boolean;
}

export interface SeenDevice {
  readonly name: string;
  readonly isLeaving: boolean;
  /** Size of the file of a disk, bytes; absent: it is no file that can be looked at. */
  readonly fileBytes?: number;
}

export type SeenVmm =
  | { readonly kind: 'absent' }
  | { readonly kind: 'starting' }
  | { readonly kind: 'live'; readonly process: ProcessKey; readonly api: SeenApiState; readonly machine?: SeenMachine }
  | { readonly kind: 'exited'; readonly exit: SeenExit };

export interface SeenDirectory {
  readonly exists: boolean;
  readonly identity: DirectoryIdentity | null;
  /** A disk for cloud-init lies there. */
  readonly hasSeed?: boolean;
}

export interface SeenDisk {
  readonly name: string;
  readonly path: string;
  readonly format: ImageFormat;
}

export type StepGroup = 'start' | 'change' | 'machine' | 'stop' | 'remove';

/** What this process remembers and a restarted agent can do without. */
export interface Attempt {
  /** The incarnation and machine that this process gave the VMM by vm.create. */
  readonly createdFor?: string;
  /** The incarnation and machine whose files this process has checked. */
  readonly checkedFor?: string;
  /** The networks and the incarnation for which this process has made them; see `networksKey`. */
  readonly networksFor?: string;
  /** The start for which this process has made the disk of cloud-init; see `seedKey`. */
  readonly seedFor?: string;
  /** The managed disks that this process has made, and for what start; see `disksKey`. */
  readonly disks?: { readonly for: string; readonly made: readonly SeenDisk[] };
  /** An image of them is on its way. */
  readonly disksPending?: { readonly for: string; readonly progress: string; readonly lookAgainAtBootMs: number };
  /** What those networks have to do without, and when to look again whether they still have to. */
  readonly networkWarnings?: { readonly warnings: readonly ObservedWarning[]; readonly lookAgainAtBootMs: number };
  /** This process has removed the networks of a microVM that is to go. */
  readonly areNetworksRemoved?: boolean;
  /** The intent to press the power button was made durable by this process, and the press has not been tried. */
  readonly mayPressButton: boolean;
  /** An orderly end of the VMM failed; it is killed next. */
  readonly isShutdownFailed: boolean;
  readonly failed?: { readonly group: StepGroup; readonly count: number; readonly retryAtBootMs: number; readonly problem: Problem };
}

export const noAttempt: Attempt = { mayPressButton: false, isShutdownFailed: false };

export interface View {
  readonly record: MicroVMRecord;
  readonly vmm: SeenVmm;
  readonly directory: SeenDirectory;
  readonly attempt: Attempt;
  /** Present for a microVM that runs under a lease of the host only. */
  readonly lease?: LeaseView | undefined;
  /** Present while the probes of the guest are tried. */
  readonly health?: HealthJudgement | undefined;
  /** The guest said that it is beyond help, and has not been reset since. */
  readonly hasPanicked?: boolean;
  readonly now: Now;
}
