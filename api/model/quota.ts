/**
 * The quota of a Site: the most that its microVMs may ask for together, and the one decision on it. Used inside the
 * binding transaction, so that two microVMs can't both take the last of it.
 */
import { vmmOverheadBytes } from './capacity.ts';
import type { DesiredMicroVM } from './microvm.ts';

/** A part that is left out has no limit. */
export interface SiteQuota {
  readonly microvms?: number;
  readonly vcpus?: number;
  /** Of the guests; what a VMM needs beside its guest does not count. */
  readonly memoryBytes?: number;
  /** Of disks whose size n-kudo knows, because it makes them. */
  readonly diskBytes?: number;
}

export interface QuotaUse {
  readonly microvms: number;
  readonly vcpus: number;
  readonly memoryBytes: number;
  readonly diskBytes: number;
}

export const nothingUsed: QuotaUse = { microvms: 0, vcpus: 0, memoryBytes: 0, diskBytes: 0 };

/** What one microVM counts for. */
export function quotaUseOf(desired: DesiredMicroVM): QuotaUse {
  const diskBytes = desired.disks.reduce((sum, disk) => sum + ('sizeBytes' in disk && typeof disk.sizeBytes === 'number' ? disk.sizeBytes : 0), 0);
  return { microvms: 1, vcpus: desired.cpuCount, memoryBytes: desired.memoryBytes, diskBytes };
}

/** What a binding counts for when its desired state is gone, because it is being torn down. */
export function quotaUseOfBinding(binding: { readonly cpuCount: number; readonly memoryBytes: number }): QuotaUse {
  return { microvms: 1, vcpus: binding.cpuCount, memoryBytes: Math.max(0, binding.memoryBytes - vmmOverheadBytes), diskBytes: 0 };
}

const parts = [
  { name: 'microvms', unit: (value: number) => `${value} ${value === 1 ? 'microVM' : 'microVMs'}` },
  { name: 'vcpus', unit: (value: number) => `${value} ${value === 1 ? 'vCPU' : 'vCPUs'}` },
  { name: 'memoryBytes', unit: (value: number) => `${showBytes(value)} of memory` },
  { name: 'diskBytes', unit: (value: number) => `${showBytes(value)} of disks` },
] as const satisfies readonly { readonly name: keyof SiteQuota; readonly unit: (value: number) => string }[];

function showBytes(bytes: number): string {
  for (const [size, suffix] of [[2 ** 40, 'Ti'], [2 ** 30, 'Gi'], [2 ** 20, 'Mi'], [2 ** 10, 'Ki']] as const) {
    if (bytes >= size && bytes % size === 0) return `${bytes / size}${suffix}`;
  }
  return `${bytes} bytes`;
}

/**
 * Null when there is room, else one sentence. Only what grows is asked about: a microVM that is there already can
 * always be stopped, shrunk or left as it is, also above a quota that was lowered.
 */
export function decideQuota(input: {
  readonly siteName: string;
  readonly quota: SiteQuota;
  /** Of all other microVMs of the site. */
  readonly others: QuotaUse;
  /** Of this one until now. */
  readonly before: QuotaUse;
  readonly asked: QuotaUse;
}): string | null {
  const { quota, others, before, asked } = input;
  for (const { name, unit } of parts) {
    const limit = quota[name];
    if (limit === undefined || asked[name] <= before[name] || others[name] + asked[name] <= limit) continue;
    return `the quota of Site ${input.siteName} is ${unit(limit)}: the other microVMs have ${unit(others[name])}, and this one asks for ${unit(asked[name])}`;
  }
  return null;
}
