/** Facts about a host that the scheduler and people need, as the agent reports them. */

export interface HypervisorFacts {
  /** `simulated` when the VMM says so of itself; never guessed. */
  readonly kind: 'cloud-hypervisor' | 'simulated' | 'none';
  /** Version the VMM prints, such as `54.0.0`; empty when there is none. */
  readonly version: string;
  /** Why no VMM can be used, empty when one can. */
  readonly problem: string;
}

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
