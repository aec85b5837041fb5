/**
 * What the agent needs from a hypervisor: one VMM process for each microVM directory, found again
 * by looking, driven by calls that are safe to repeat.
 *
 * Owns the contract; how a VMM is started, found and spoken to is the adapter's. It protects
 * invariant I1 on one host: for one directory there is never a second live VMM, whoever crashes
 * when. The agent writes its own intent (`vm.json`, fsynced) before it calls {@link Hypervisor.spawn}.
 *
 * All calls take an AbortSignal and have a deadline of their own; an aborted call rejects with the
 * signal's reason, and its effect may or may not have happened: observe before anything else. All
 * other failures are AppErrors: HYPERVISOR_TIMEOUT (no answer in time, outcome unknown),
 * HYPERVISOR_FAILED (no process, or the VMM refused), and the codes that a call names.
 */
import type { BootSource, ExitReason, RateLimit } from '#api/model/microvm.ts';
import type { Confinement, VmmUser } from './isolation.ts';

/** A network card of the guest, on a tap that exists and is up. */
export interface VmNetwork {
  /** Unique within the microVM, DNS-1123 label. */
  readonly name: string;
  /** Device of the host, at most 15 characters. */
  readonly tap: string;
  readonly mac: string;
}

/** A disk of the guest, in a file that exists. */
export interface VmDisk {
  /** Unique within the microVM: a DNS-1123 label for a disk of a spec, with a dot for one that the agent adds. */
  readonly name: string;
  /** Absolute. */
  readonly path: string;
  readonly readOnly: boolean;
  /** Absent: the VMM looks what it is. A VMM may look all the same, so what a guest could have written is checked before. */
  readonly format?: 'raw' | 'qcow2';
  readonly rateLimit?: RateLimit;
}

/** The resolved machine of one boot. Everything in it is data: no part ever becomes shell text. */
export interface VmSpec {
  /** vCPUs at boot, ≥ 1. */
  readonly cpuCount: number;
  /** Most vCPUs that can be plugged in later, ≥ cpuCount. */
  readonly cpuMax: number;
  /** Guest RAM in bytes, a multiple of 2 MiB, > 0. */
  readonly memoryBytes: number;
  /** Most RAM that can be plugged in later, bytes: memoryBytes and a multiple of 128 MiB above it; absent: none can be. */
  readonly memoryMaxBytes?: number;
  /** Other processes of the host can map the RAM; absent: no. */
  readonly memoryShared?: boolean;
  /** Size of the huge pages that hold the RAM; absent: ordinary pages. */
  readonly hugepageBytes?: number;
  readonly boot: BootSource;
  readonly disks: readonly VmDisk[];
  /** In the order in which the guest sees them; absent: none. */
  readonly networks?: readonly VmNetwork[];
  /** Whether COM1 is written to the file that {@link VmmPaths.serialLog} names; else it is dropped. */
  readonly serialLog: boolean;
  /** COM1 is the socket {@link VmmPaths.serialSocket} instead, in both directions. */
  readonly serialInteractive?: true;
  /** The guest gets a vsock device, whose host side is {@link VmmPaths.vsockSocket}. */
  readonly vsock?: { readonly cid: number };
}

/** Files of one VM directory that others may read. The VMM truncates both at its own start. */
export interface VmmPaths {
  /** COM1 of the guest. Truncated again at every boot and reboot. Mode 0600. */
  readonly serialLog: string;
  /**
   * Listens from `create` on for one client; a second one replaces the first. Measured on v54: the guest
   * never waits for a reader; without one the VMM keeps the newest 1 MiB and drops the rest in silence.
   */
  readonly serialSocket: string;
  /** Listens while the guest is booted; `CONNECT <port>` reaches the guest. */
  readonly vsockSocket: string;
  /** The VMM's own log, for people and support bundles. */
  readonly vmmLog: string;
}

export interface HypervisorFacts {
  readonly binaryPath: string;
  /** What `--version` says after the program's name, such as `v53.0-246-gae44c2971`. */
  readonly version: string;
  /** Whether /dev/kvm can be opened for reading and writing by this process. */
  readonly isKvmUsable: boolean;
  /** Whether VMMs can confine themselves to their files with Landlock; `unknown` before the first one was tried. */
  readonly landlock: 'yes' | 'no' | 'unknown';
}

/** A process that can't be mistaken for a later one with the same pid. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Field 22 of /proc/<pid>/stat: clock ticks since boot, as a decimal string. */
  readonly startTime: string;
  /** /proc/sys/kernel/random/boot_id of the boot in which it was started. */
  readonly bootId: string;
}

/**
 * `none`: no configuration. `created`: configured, not booted, or shut down again.
 * `unreachable`: the process lives and its API did not answer in time (busy, hung, or ending).
 */
export type VmmApiState = 'none' | 'created' | 'running' | 'paused' | 'unreachable';

export interface VmmExit {
  readonly reason: ExitReason;
  /** Exit code; absent when a signal ended it or nobody saw the end. */
  readonly code?: number;
  /** Name of the ending signal, such as SIGKILL. */
  readonly signal?: string;
  /** When the end was recorded, wall clock, epoch milliseconds; absent when nobody saw it. */
  readonly atMs?: number;
  /** The process that ended; absent when only a claim without a process was found. */
  readonly process?: ProcessIdentity;
}

/**
 * absent: this directory has no trace of a VMM. starting: a spawn is under way (by anybody).
 * live: the process with exactly this identity exists. exited: it is gone, and nothing holds the
 * directory, so that a spawn may begin at once.
 */
export type VmmObservation =
  | { readonly kind: 'absent' }
  | { readonly kind: 'starting' }
  /** `machine`: present while a guest runs or is paused. */
  | { readonly kind: 'live'; readonly process: ProcessIdentity; readonly api: VmmApiState; readonly machine?: VmMachine }
  | { readonly kind: 'exited'; readonly exit: VmmExit };

/** What a VMM says of the machine of its guest. */
export interface VmMachine {
  /** Processors that it was told to give the guest. */
  readonly cpuCount: number;
  /** Processors that the guest has: those that it was given and has not let go of. Whether it uses them only the guest knows. */
  readonly cpusPresent: number;
  /** RAM that it was told to give the guest, bytes. */
  readonly memoryBytes: number;
  /** RAM that the guest has taken, bytes. */
  readonly memoryPresentBytes: number;
  /** RAM that the guest was booted with, bytes: it can't be asked to give any of it back. */
  readonly memoryBootBytes: number;
  readonly disks: readonly VmDevice[];
  readonly networks: readonly VmDevice[];
  /** The VMM has shut itself out of files that it was not started with, but for those in its own directory. */
  readonly isShutIn: boolean;
}

/** A disk or card that a spec named and that is plugged in. */
export interface VmDevice {
  readonly name: string;
  /** Its removal was asked for, and the guest has not let go of it. */
  readonly isLeaving: boolean;
  /** Size of the file of a disk, bytes; absent for a card. */
  readonly fileBytes?: number;
}

export interface VmmInfo {
  readonly state: 'created' | 'running' | 'paused';
  readonly memoryBytes: number;
  readonly cpuCount: number;
  readonly kernelPath?: string;
  readonly diskPaths: readonly string[];
}

/** Per device id, the counters of the running VM. Counters restart at 0 with a reboot. */
export type VmmCounters = Readonly<Record<string, Readonly<Record<string, number>>>>;

/** Place in the event stream of one VMM process. JSON-safe, to be kept over agent restarts. */
export interface EventCursor {
  readonly pid: number;
  readonly startTime: string;
  /** Bytes of the stream that are behind the reader. */
  readonly offset: number;
}

export interface VmmEvent {
  readonly source: string;
  /** Such as `booted`, `rebooted`, `shutdown`, `panic`; new VMM versions add words. */
  readonly event: string;
  readonly properties: Readonly<Record<string, string>>;
  /** Milliseconds since the VMM process started, by its monotonic clock. */
  readonly sinceStartMs: number;
  /** Where to resume after this event. */
  readonly cursor: EventCursor;
}

export interface Hypervisor {
  /**
   * Looks at the host's hypervisor without starting a VM.
   * @throws HYPERVISOR_MISSING when the binary can't be run.
   */
  probe(signal: AbortSignal): Promise<HypervisorFacts>;

  paths(vmDirectory: string): VmmPaths;

  /**
   * Makes sure that the directory has a live VMM whose API answers, and returns its identity.
   * Idempotent: a live VMM is adopted, a spawn that is under way is waited for. Blocks until the
   * first ping. The directory must exist. The VMM outlives this process.
   * `guardDirectory`: the VMM gets a watcher that ends it when the guard there is gone.
   * `confinement`: what a VMM that is started is confined by; one that is adopted stays as it is.
   */
  spawn(vmDirectory: string, signal: AbortSignal, options?: { readonly guardDirectory?: string; readonly confinement?: Confinement }): Promise<ProcessIdentity>;

  /**
   * Looks, changes nothing. `live` is true of the moment of looking: pid, start time and boot id
   * were compared. Waits up to a second for a VMM that is just ending, so that its exit is complete.
   */
  observe(vmDirectory: string, signal: AbortSignal): Promise<VmmObservation>;

  /**
   * Gives the VMM exactly this configuration. Idempotent while not booted: an earlier, unbooted
   * configuration is replaced. Checks the files first, since the VMM itself does so only at boot.
   * `user`: the files inside the directory that the configuration names become readable, and disks writable, to it.
   * @throws KERNEL_NOT_FOUND, INITRAMFS_NOT_FOUND, DISK_NOT_FOUND, NOT_ENOUGH_MEMORY, HUGEPAGES_UNAVAILABLE, SPEC_REFUSED;
   *   HYPERVISOR_FAILED also when a guest runs already.
   */
  create(vmDirectory: string, spec: VmSpec, signal: AbortSignal, options?: { readonly user?: VmmUser | null }): Promise<void>;

  /**
   * Boots what was created; true only when the guest's vCPUs run. Not idempotent: on any refusal the
   * configuration is removed, so that a half-made VM can't be booted by a second call (a real VMM
   * would then boot without the disk that failed); call create again.
   * @throws KERNEL_NOT_FOUND, KERNEL_NOT_BOOTABLE, DISK_NOT_FOUND, DISK_IN_USE, SPEC_REFUSED.
   */
  boot(vmDirectory: string, signal: AbortSignal): Promise<void>;

  /** Asks the guest to end. Returns when the request is queued; a guest may ignore it. Not observable: never repeat after an unknown outcome. */
  powerButton(vmDirectory: string, signal: AbortSignal): Promise<void>;

  /** Cuts the guest's power; the VMM stays, state `created`. Idempotent. */
  shutdown(vmDirectory: string, signal: AbortSignal): Promise<void>;

  /** Idempotent. */
  pause(vmDirectory: string, signal: AbortSignal): Promise<void>;

  /** Idempotent. */
  resume(vmDirectory: string, signal: AbortSignal): Promise<void>;

  /** Hard reset in place; ends `running`, also when it was paused. Not observable: never repeat after an unknown outcome. */
  reboot(vmDirectory: string, signal: AbortSignal): Promise<void>;

  /**
   * Gives a running or paused guest that many processors, at most the `cpuMax` of its spec, and waits a while until it
   * has let go of what it is to lose. Idempotent.
   * @throws GUEST_IGNORES_CHANGE when it has not; it was asked all the same.
   */
  resizeCpus(vmDirectory: string, count: number, signal: AbortSignal): Promise<void>;

  /**
   * Asks a running guest to have that much RAM, from what it was booted with to the `memoryMaxBytes` of its spec, and
   * waits a while until it has. Idempotent.
   * @throws GUEST_IGNORES_CHANGE when it has not; it was asked all the same. NOT_ENOUGH_MEMORY
   */
  resizeMemory(vmDirectory: string, bytes: number, signal: AbortSignal): Promise<void>;

  /**
   * Plugs a disk into a running or paused guest. Idempotent by name. `user` as with create.
   * @throws DISK_NOT_FOUND, DISK_IN_USE, SPEC_REFUSED
   */
  plugDisk(vmDirectory: string, disk: VmDisk, signal: AbortSignal, options?: { readonly user?: VmmUser | null }): Promise<void>;

  /** Plugs a card into a running or paused guest. Idempotent by name. @throws SPEC_REFUSED */
  plugNetwork(vmDirectory: string, network: VmNetwork, signal: AbortSignal): Promise<void>;

  /**
   * Asks a running guest to let go of a device, and waits a while until it has: only then the VMM has closed what is
   * behind it. Idempotent: without such a device it does nothing.
   * @throws GUEST_IGNORES_CHANGE when it has not; it was asked all the same.
   */
  unplug(vmDirectory: string, device: { readonly kind: 'disk' | 'network'; readonly name: string }, signal: AbortSignal): Promise<void>;

  /** Grows a plugged raw disk, file and device, to that size. Idempotent; never shrinks. @throws IMAGE_REFUSED for one that can't be grown */
  growDisk(vmDirectory: string, name: string, bytes: number, signal: AbortSignal): Promise<void>;

  /** Removes the configuration, cutting the guest's power first; the VMM stays, state `none`. Idempotent. */
  delete(vmDirectory: string, signal: AbortSignal): Promise<void>;

  /** @returns null when the VMM has no configuration. */
  info(vmDirectory: string, signal: AbortSignal): Promise<VmmInfo | null>;

  counters(vmDirectory: string, signal: AbortSignal): Promise<VmmCounters>;

  /** Ends guest and VMM in order; returns when the process is gone. Idempotent: without a live VMM it does nothing. */
  shutdownVmm(vmDirectory: string, signal: AbortSignal): Promise<void>;

  /** SIGKILL; returns when the process is gone and its exit is recorded. Idempotent. */
  kill(vmDirectory: string, signal: AbortSignal): Promise<void>;

  /** Blocks until the directory's VMM is gone. Without a live VMM it returns at once. */
  waitForExit(vmDirectory: string, signal: AbortSignal): Promise<VmmExit>;

  /**
   * The events of the live VMM, in order, from `cursor` on (or from the VMM's start when null or of
   * an earlier VMM). Ends when the VMM is gone and all it wrote was delivered; rejects when aborted. The
   * last one or two events of a VMM may never be written: decide by the process, not by an event.
   */
  events(vmDirectory: string, cursor: EventCursor | null, signal: AbortSignal): AsyncIterable<VmmEvent>;
}
