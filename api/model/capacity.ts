/**
 * How much of a host microVMs may take. Used by the placement decision and by the check inside the
 * binding transaction, so that the two can't disagree.
 */

/** Virtual processors per logical processor: most edge guests idle, and 16 is what OpenStack Nova ships with. */
export const cpuOvercommitRatio = 16;

/** Memory that one VMM process needs beside its guest, bytes. 11 MiB resident were measured; the rest is slack. */
export const vmmOverheadBytes = 32 * 2 ** 20;

export interface HostCapacity {
  readonly cpuCount: number;
  readonly memoryBytes: number;
  readonly reservedCpus: number;
  readonly reservedMemoryBytes: number;
}

/** What microVMs may take in all; never negative. */
export function allocatable(host: HostCapacity): { readonly cpus: number; readonly memoryBytes: number } {
  return {
    cpus: Math.max(0, (host.cpuCount - host.reservedCpus) * cpuOvercommitRatio),
    memoryBytes: Math.max(0, host.memoryBytes - host.reservedMemoryBytes),
  };
}

/** What one microVM takes. */
export function required(microvm: { readonly cpuCount: number; readonly memoryBytes: number }): {
  readonly cpus: number;
  readonly memoryBytes: number;
} {
  return { cpus: microvm.cpuCount, memoryBytes: microvm.memoryBytes + vmmOverheadBytes };
}
