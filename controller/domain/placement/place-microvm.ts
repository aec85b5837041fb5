/**
 * Chooses the host for a microVM that has none. Every host that does not fit is counted under the first
 * predicate that excluded it, so that a person reads why.
 *
 * Invariants: pure; the order of the hosts does not matter; a chosen host passes every predicate. The binding
 * transaction checks the room again, because others place at the same time.
 */
import { allocatable, required, type HostCapacity } from '#api/model/capacity.ts';
import type { HostId } from '#api/model/ids.ts';

export interface CandidateHost {
  readonly hostId: HostId;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly isRevoked: boolean;
  readonly isDeleting: boolean;
  readonly isQuarantined: boolean;
  readonly isApproved: boolean;
  readonly isUnschedulable: boolean;
  readonly isOnline: boolean;
  readonly hasHypervisor: boolean;
  readonly capacity: HostCapacity;
  readonly allocated: { readonly cpus: number; readonly memoryBytes: number };
}

export interface PlacementRequest {
  readonly cpuCount: number;
  readonly memoryBytes: number;
  /** The one host that may run it. */
  readonly hostName: string | null;
  readonly matchLabels: Readonly<Record<string, string>>;
}

export type Placement =
  | { readonly outcome: 'placed'; readonly hostId: HostId; readonly hostName: string }
  | { readonly outcome: 'unplaced'; readonly code: 'HOST_NOT_FOUND' | 'NO_HOST_FITS'; readonly message: string };

interface Predicate {
  readonly singular: string;
  readonly plural: string;
  readonly excludes: (host: CandidateHost, request: PlacementRequest) => boolean;
}

/** In this order: the first that excludes a host is the one that is counted. */
const predicates: readonly Predicate[] = [
  { singular: 'has another name', plural: 'have another name', excludes: (host, { hostName }) => hostName !== null && host.name !== hostName },
  {
    singular: 'lacks the labels of hostSelector',
    plural: 'lack the labels of hostSelector',
    excludes: (host, { matchLabels }) => Object.entries(matchLabels).some(([key, value]) => host.labels[key] !== value),
  },
  { singular: 'is revoked', plural: 'are revoked', excludes: (host) => host.isRevoked },
  { singular: 'is being deleted', plural: 'are being deleted', excludes: (host) => host.isDeleting },
  { singular: 'is quarantined', plural: 'are quarantined', excludes: (host) => host.isQuarantined },
  { singular: 'awaits approval', plural: 'await approval', excludes: (host) => !host.isApproved },
  { singular: 'is unschedulable', plural: 'are unschedulable', excludes: (host) => host.isUnschedulable },
  { singular: 'is silent', plural: 'are silent', excludes: (host) => !host.isOnline },
  { singular: 'has no usable hypervisor', plural: 'have no usable hypervisor', excludes: (host) => !host.hasHypervisor },
  { singular: 'lacks memory', plural: 'lack memory', excludes: (host, request) => freeOf(host).memoryBytes < required(request).memoryBytes },
  { singular: 'lacks CPUs', plural: 'lack CPUs', excludes: (host, request) => freeOf(host).cpus < required(request).cpus },
];

export function placeMicroVM(request: PlacementRequest, hosts: readonly CandidateHost[]): Placement {
  if (request.hostName !== null && !hosts.some((host) => host.name === request.hostName)) {
    return { outcome: 'unplaced', code: 'HOST_NOT_FOUND', message: `the site has no enrolled host ${request.hostName}` };
  }
  const exclusions = new Map<Predicate, number>();
  let chosen: CandidateHost | null = null;
  for (const host of hosts) {
    const excluding = predicates.find((predicate) => predicate.excludes(host, request));
    if (excluding !== undefined) exclusions.set(excluding, (exclusions.get(excluding) ?? 0) + 1);
    else if (chosen === null || isBetter(host, chosen)) chosen = host;
  }
  if (chosen !== null) return { outcome: 'placed', hostId: chosen.hostId, hostName: chosen.name };
  return { outcome: 'unplaced', code: 'NO_HOST_FITS', message: explain(hosts.length, exclusions) };
}

/** Most free memory first; then the name, so that equal hosts always give the same choice. */
function isBetter(host: CandidateHost, than: CandidateHost): boolean {
  const difference = freeOf(host).memoryBytes - freeOf(than).memoryBytes;
  return difference !== 0 ? difference > 0 : host.name < than.name;
}

function freeOf(host: CandidateHost): { readonly cpus: number; readonly memoryBytes: number } {
  const total = allocatable(host.capacity);
  return { cpus: total.cpus - host.allocated.cpus, memoryBytes: total.memoryBytes - host.allocated.memoryBytes };
}

function explain(total: number, exclusions: ReadonlyMap<Predicate, number>): string {
  if (total === 0) return '0 of 0 hosts fit: no machine is enrolled at the site';
  const counts = predicates.flatMap((predicate) => {
    const count = exclusions.get(predicate);
    return count === undefined ? [] : [`${count} ${count === 1 ? predicate.singular : predicate.plural}`];
  });
  return `0 of ${total} ${total === 1 ? 'host fits' : 'hosts fit'}: ${counts.join(', ')}`;
}
