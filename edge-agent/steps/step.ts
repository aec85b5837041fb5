/**
 * What a step is: one idempotent effect on the host. The supervisor chooses it, guards it with a
 * deadline, retries it, and looks again afterwards; a step only acts.
 */
import type { EdgeFaultStep } from '../fault-points.ts';
import type { StepName } from '../domain/diff.ts';
import type { MicroVMRecord } from '../domain/microvm-record.ts';
import type { View } from '../domain/observed-state.ts';
import type { HostFiles } from '../ports/host-files.ts';
import type { Hypervisor } from '../ports/hypervisor.ts';
import type { EnsuredDisks, GuestDisks, MadeDisk } from '../ports/images.ts';
import type { VmmIsolation } from '../ports/isolation.ts';
import type { GuestNetworks } from '../ports/network.ts';
import type { Seeds } from '../ports/seeds.ts';
import type { VmDirectories } from '../ports/vm-directories.ts';

/** What has to be there before a VMM is started that may be replaced elsewhere. */
export interface StartGuard {
  /** @throws AppError GUARD_FAILED */
  prepare(record: MicroVMRecord): Promise<void>;
  /** Undefined for a microVM that needs no guard. */
  guardDirectoryOf(record: MicroVMRecord): string | undefined;
}

export interface StepContext {
  /** What the step was chosen by. */
  readonly view: View;
  readonly record: MicroVMRecord;
  readonly hypervisor: Hypervisor;
  readonly directories: VmDirectories;
  readonly files: HostFiles;
  readonly networks: GuestNetworks;
  readonly isolation: VmmIsolation;
  /** Runs an effect inside the step between fault points of its own. */
  readonly within: <Value>(step: EdgeFaultStep, effect: () => Promise<Value>) => Promise<Value>;
  readonly disks: GuestDisks;
  readonly seeds: Seeds;
  /** The managed disks that were made for this start. */
  readonly madeDisks: readonly MadeDisk[];
  readonly foundDisks: (found: EnsuredDisks) => void;
  /** An image that was pending moved on. */
  readonly onImageNews: () => void;
  readonly leases: StartGuard;
  /** Something the guest has to do without although the step succeeded. */
  readonly warn: (code: string, message: string) => void;
  /** Memory of the host, bytes. */
  readonly hostMemoryBytes: number;
  readonly signal: AbortSignal;
}

export interface Step {
  readonly name: StepName;
  /** The fault points around it; absent for steps that are on no create or delete path, or have no effect. */
  readonly faultStep?: EdgeFaultStep;
  /** Longest time for it, milliseconds; absent: that of most steps. One that has its own ends early when the record changes. */
  readonly deadlineMs?: number;
  /** Whether the look leaves something for it to do. */
  isNeeded(view: View): boolean;
  /** Idempotent unless it says otherwise. @throws AppError */
  perform(context: StepContext): Promise<void>;
  /** Whether a look after it shows its result; true where nothing can show it. */
  verify(view: View): boolean;
}
