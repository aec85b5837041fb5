/**
 * What the agent needs to confine VMMs: a user for each, limits of memory, processor and processes for each,
 * and the truth about what of it this host can do.
 *
 * Owns the contract; users, control groups and units are the adapter's. It protects two invariants: a user
 * is never given to a second microVM while anything of the first is left, and what could not be confined is
 * said in {@link VmmIsolation.facts}, never left out in silence.
 */
import type { IsolationFacts } from '#api/model/host.ts';
import type { MicroVMId } from '#api/model/ids.ts';

/** What the guest was promised; the limits are made from it. */
export interface GuestSize {
  /** The most that it may have without a restart, bytes. */
  readonly memoryBytes: number;
  /** The most vCPUs that it may have without a restart. */
  readonly cpuCount: number;
}

/** A user without a name, whose group has the same number. */
export interface VmmUser {
  readonly userId: number;
  /** Supplementary ones: for devices, and for files that the operator opens to VMMs. */
  readonly groupIds: readonly number[];
}

/** A service of systemd that runs one VMM. */
export interface VmmUnit {
  readonly name: string;
  /** As `systemd-run --property` takes them. */
  readonly properties: readonly string[];
}

export interface Confinement {
  /** Null: the user of the agent itself. */
  readonly user: VmmUser | null;
  /** Words that come before the command of the VMM. */
  readonly prefix: readonly string[];
  /** Directories of control groups that the VMM joins before its program starts. */
  readonly cgroups: readonly string[];
  /** Files in which the kernel counts what it killed for want of memory. */
  readonly oomFiles: readonly string[];
  /** Absent where systemd does not run. */
  readonly unit?: VmmUnit;
}

export interface VmmIsolation {
  /** What this host can do; asked once, at the start of the agent. */
  facts(): IsolationFacts;

  /** Supplementary groups of every VMM. */
  groupIds(): readonly number[];

  /**
   * The user of a microVM whose directory exists; null where VMMs run as the agent. Allocates one when it has none,
   * durable on return. Idempotent.
   * @throws HYPERVISOR_FAILED when the range is used up
   */
  userOf(microvmId: MicroVMId): VmmUser | null;

  /** Makes all that a VMM is confined by, anew, before it is started. No VMM may live in the directory. */
  prepare(microvmId: MicroVMId, size: GuestSize): Promise<Confinement>;

  /** Removes the limits of a microVM whose VMM is gone. Idempotent. */
  release(microvmId: MicroVMId): Promise<void>;

  /**
   * Removes the limits of microVMs of this agent that are not in `kept`, whatever crash left them.
   * @returns the names of what was removed
   */
  sweep(kept: ReadonlySet<MicroVMId>): Promise<readonly string[]>;
}
