/** Facts about a host that the scheduler and people need, as the agent reports them. */

export interface HypervisorFacts {
  /** `simulated` when the VMM says so of itself; never guessed. */
  readonly kind: 'cloud-hypervisor' | 'simulated' | 'none';
  /** Version the VMM prints, such as `54.0.0`; empty when there is none. */
  readonly version: string;
  /** Why no VMM can be used, empty when one can. */
  readonly problem: string;
}

/** How far microVMs are kept apart from each other and from the host. */
export interface IsolationFacts {
  /** Each VMM has a user of its own. */
  readonly users: boolean;
  /** What of each microVM is limited: `memory`, `cpu`, `pids`. */
  readonly limits: readonly string[];
  readonly cgroups: 'v2' | 'v1' | 'hybrid' | 'none';
  /** Each VMM is a service of systemd. */
  readonly systemd: boolean;
  readonly landlock: 'yes' | 'no' | 'unknown';
  /** What is not as it should be, in words; empty when all is. */
  readonly problems: readonly string[];
}

/** What the machine has. No serial numbers. Lists are bounded by {@link hardwareMax}. */
export interface HardwareFacts {
  /** As /proc/cpuinfo names them. */
  readonly cpuFlags: readonly string[];
  readonly numaNodes: readonly { readonly id: number; /** Such as 0-3,8-11. */ readonly cpus: string; readonly memoryBytes: number }[];
  readonly hugepages: readonly { readonly pageBytes: number; readonly total: number; readonly free: number }[];
  readonly disks: readonly { readonly name: string; readonly sizeBytes: number; readonly isRotational: boolean }[];
  readonly nics: readonly NicFacts[];
  /** PCI devices of the display class; vendor and device are four hexadecimal digits. */
  readonly gpus: readonly { readonly address: string; readonly vendor: string; readonly device: string; readonly driver: string }[];
  readonly stateTotalBytes: number;
  /** Small changes are not told. */
  readonly stateFreeBytes: number;
}

export interface NicFacts {
  readonly name: string;
  readonly mac: string;
  /** 0 without a link, and where the driver does not tell. */
  readonly speedMbps: number;
  readonly driver: string;
  readonly isUp: boolean;
}

/** Entries that are told and kept of each list; what is beyond is left out. */
export const hardwareMax = { cpuFlags: 512, numaNodes: 64, hugepages: 8, disks: 128, nics: 64, gpus: 32 } as const;

export interface HostFacts {
  readonly hostName: string;
  /** From /etc/machine-id; empty when the machine has none. */
  readonly machineId: string;
  /** From /proc/sys/kernel/random/boot_id; changes with every boot. */
  readonly bootId: string;
  readonly kernel: string;
  /** `x86_64` or `aarch64`. */
  readonly architecture: string;
  readonly cpuModel: string;
  readonly cpuCount: number;
  readonly memoryBytes: number;
  readonly hasKvm: boolean;
  readonly agentVersion: string;
  readonly hypervisor: HypervisorFacts;
  /** Absent from agents that do not tell. */
  readonly isolation?: IsolationFacts;
  /** Absent from agents that do not tell. */
  readonly hardware?: HardwareFacts;
  /** Wall clock of the host minus that of the control plane, in steps of 10 s; absent when small or not known. */
  readonly clockSkewMs?: number;
}

/** True when a VMM can be started, as far as the agent can tell. */
export function isHypervisorUsable({ kind, problem }: HypervisorFacts): boolean {
  return kind !== 'none' && problem === '';
}

export const hostPhases = [
  'Pending',
  'Quarantined',
  'Ready',
  'Degraded',
  'Unreachable',
  'Draining',
  'Drained',
  'Revoked',
] as const;
export type HostPhase = (typeof hostPhases)[number];

/** How far a host is that is being emptied: by its drain, or by the deletion of its object. */
export type EmptyingPhase = Extract<HostPhase, 'Draining' | 'Drained'>;

export interface HostPhaseFacts {
  readonly isRevoked: boolean;
  readonly isQuarantined: boolean;
  /** Also where the Site asks for no approval. */
  readonly isApproved: boolean;
  readonly isOnline: boolean;
  /** Null: it is not being emptied. */
  readonly emptying: EmptyingPhase | null;
  readonly hypervisor: HypervisorFacts;
}

/** The phase of a machine that is enrolled. The first that is true is told: what is behind it does not matter yet, or is not known. */
export function deriveHostPhase(host: HostPhaseFacts): HostPhase {
  if (host.isRevoked) return 'Revoked';
  if (host.isQuarantined) return 'Quarantined';
  if (!host.isApproved) return 'Pending';
  if (!host.isOnline) return 'Unreachable';
  return host.emptying ?? (isHypervisorUsable(host.hypervisor) ? 'Ready' : 'Degraded');
}
