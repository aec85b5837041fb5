/** Hosts, bound microVMs and requests of placement with every field defaulted. */
import { hostId, microVMId, type HostId } from '#api/model/ids.ts';
import type { BoundMicroVM, CandidateHost, PlacementRequest } from '#controller/domain/placement/model.ts';
import { createSiteIndex, type SiteIndex } from '#controller/domain/placement/site-index.ts';

export const gib = 2 ** 30;

export const hostIdOf = (index: number): HostId => hostId(`00000000-0000-4000-8000-${String(index).padStart(12, '0')}`);
export const microvmIdOf = (index: number) => microVMId(`00000000-0000-4000-9000-${String(index).padStart(12, '0')}`);

export function candidateHost(index: number, changes: Partial<CandidateHost> = {}): CandidateHost {
  return {
    hostId: hostIdOf(index),
    name: `edge-${index}`,
    labels: {},
    taints: [],
    isRevoked: false,
    isDeleting: false,
    isQuarantined: false,
    isApproved: true,
    isUnschedulable: false,
    isDraining: false,
    hasHypervisor: true,
    features: new Set(),
    capacity: { cpuCount: 4, memoryBytes: 8 * gib, reservedCpus: 0, reservedMemoryBytes: 0 },
    ...changes,
  };
}

export function boundMicroVM(index: number, host: number, changes: Partial<BoundMicroVM> = {}): BoundMicroVM {
  return { microvmId: microvmIdOf(index), hostId: hostIdOf(host), labels: {}, cpus: 1, memoryBytes: gib, priority: 0, isMovable: true, isLeaving: false, apart: [], ...changes };
}

/** Its id is none of {@link boundMicroVM}'s below 900,000. */
export function placementRequest(changes: Partial<PlacementRequest> = {}): PlacementRequest {
  return {
    microvmId: microvmIdOf(900_000), cpuCount: 1, memoryBytes: gib, labels: {}, hostName: null, matchLabels: {}, tolerations: [], together: [], apart: [], spread: [], priority: 0, features: [],
    ...changes,
  };
}

export function siteIndex(hosts: readonly CandidateHost[], bound: readonly BoundMicroVM[] = []): SiteIndex {
  const index = createSiteIndex();
  for (const host of hosts) index.putHost(host);
  for (const microvm of bound) index.bind(microvm);
  return index;
}
