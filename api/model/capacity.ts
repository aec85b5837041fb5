/**
 * How much of a host microVMs may take. Used by the placement decision and by the check inside the
 * binding transaction, so that the two can't disagree.
 */

/** Virtual processors per logical processor: most edge guests idle, and 16 is what OpenStack Nova ships with. */
export const cpuOvercommitRatio = 16;

/** What a host promises in percent of what it has, where its spec says nothing. Memory is never promised twice unasked. */
export const overcommitDefaults = { cpuPercent: cpuOvercommitRatio * 100, memoryPercent: 100 } as const;

/** Memory that one VMM process needs beside its guest, bytes. 11 MiB resident were measured; the rest is slack. */
export const vmmOverheadBytes = 32 * 2 ** 20;

export interface HostCapacity {
  readonly cpuCount: number;
  readonly memoryBytes: number;
  readonly reservedCpus: number;
  readonly reservedMemoryBytes: number;
  /** Percent of what is left after the reservation that may be promised, 100 to 1600; absent: {@link overcommitDefaults}. */
  readonly overcommitCpuPercent?: number;
  /** The same for memory, 100 to 200. */
  readonly overcommitMemoryPercent?: number;
}

/** What microVMs may take in all; never negative. */
export function allocatable(host: HostCapacity): { readonly cpus: number; readonly memoryBytes: number } {
  return {
    cpus: share(host.cpuCount - host.reservedCpus, host.overcommitCpuPercent ?? overcommitDefaults.cpuPercent),
    memoryBytes: share(host.memoryBytes - host.reservedMemoryBytes, host.overcommitMemoryPercent ?? overcommitDefaults.memoryPercent),
  };
}

/** Whole units, rounded down. */
function share(left: number, percent: number): number {
  return Math.max(0, Math.floor((left * percent) / 100));
}

/** What one microVM takes. */
export function required(microvm: { readonly cpuCount: number; readonly memoryBytes: number }): {
  readonly cpus: number;
  readonly memoryBytes: number;
} {
  return { cpus: microvm.cpuCount, memoryBytes: microvm.memoryBytes + vmmOverheadBytes };
}

interface Room {
  readonly cpus: number;
  readonly memoryBytes: number;
}

/**
 * Null when the host has room for what grows, else one sentence. Only what grows is asked about: a microVM that is there
 * already can always be stopped, shrunk or left as it is, also on a host that has promised more than it has.
 */
export function decideGrowth(input: {
  readonly hostName: string;
  /** Left beside all that are bound, this one with what it has; negative on a host that shrank. */
  readonly free: Room;
  readonly before: Room;
  readonly asked: Room;
}): string | null {
  const { hostName, free, before, asked } = input;
  const [cpus, memoryBytes] = [asked.cpus - before.cpus, asked.memoryBytes - before.memoryBytes];
  if (cpus > 0 && cpus > free.cpus) return `host ${hostName} has ${count(Math.max(0, free.cpus))} left, and the new spec asks for ${cpus} more`;
  if (memoryBytes > 0 && memoryBytes > free.memoryBytes) {
    return `host ${hostName} has ${wholeMi(Math.max(0, free.memoryBytes))} of memory left, and the new spec asks for ${wholeMi(memoryBytes)} more`;
  }
  return null;
}

function count(cpus: number): string {
  return `${cpus} ${cpus === 1 ? 'vCPU' : 'vCPUs'}`;
}

function wholeMi(bytes: number): string {
  return `${Math.floor(bytes / 2 ** 20)}Mi`;
}
