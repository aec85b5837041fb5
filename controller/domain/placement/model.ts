/**
 * What placement decides from: hosts, the microVMs bound to them, and what a new one asks for. Neutral types; where
 * they come from (objects, rows) is the caller's.
 */
import type { HostCapacity } from '#api/model/capacity.ts';
import type { HostId, MicroVMId } from '#api/model/ids.ts';

export type Labels = Readonly<Record<string, string>>;

/** Topology key that every host has: its own name. */
export const hostNameKey = 'nkudo.dev/hostname';

export interface Taint {
  readonly key: string;
  readonly value: string;
  readonly effect: 'NoSchedule' | 'NoExecute';
}

export interface Toleration {
  /** Absent: every key. */
  readonly key?: string;
  readonly operator: 'Equal' | 'Exists';
  readonly value: string;
  /** Absent: every effect. */
  readonly effect?: Taint['effect'];
}

/** A host without what is bound to it, and without whether it is heard, which changes with time alone. */
export interface CandidateHost {
  readonly hostId: HostId;
  readonly name: string;
  readonly labels: Labels;
  readonly taints: readonly Taint[];
  readonly isRevoked: boolean;
  readonly isDeleting: boolean;
  readonly isQuarantined: boolean;
  readonly isApproved: boolean;
  readonly isUnschedulable: boolean;
  readonly isDraining: boolean;
  readonly hasHypervisor: boolean;
  readonly features: ReadonlySet<string>;
  readonly capacity: HostCapacity;
}

/** Microvms with these labels, and the label of hosts that makes them one place. */
export interface AffinityTerm {
  readonly matchLabels: Labels;
  readonly topologyKey: string;
  readonly isRequired: boolean;
}

export interface SpreadRule {
  readonly matchLabels: Labels;
  readonly topologyKey: string;
  /** Largest difference between two places, from 1. */
  readonly maxSkew: number;
  readonly isRequired: boolean;
}

/** A microVM with its room on a host. */
export interface BoundMicroVM {
  readonly microvmId: MicroVMId;
  readonly hostId: HostId;
  readonly labels: Labels;
  readonly cpus: number;
  readonly memoryBytes: number;
  readonly priority: number;
  /** It keeps no data on the host that it would lose elsewhere, and nothing holds it there. */
  readonly isMovable: boolean;
  /** Its teardown on this host was ordered: its room comes free. */
  readonly isLeaving: boolean;
  /** Its required terms: no such microVM may join its places. */
  readonly apart: readonly AffinityTerm[];
}

export interface PlacementRequest {
  readonly microvmId: MicroVMId;
  readonly cpuCount: number;
  readonly memoryBytes: number;
  readonly labels: Labels;
  /** The one host that may run it. */
  readonly hostName: string | null;
  readonly matchLabels: Labels;
  readonly tolerations: readonly Toleration[];
  readonly together: readonly AffinityTerm[];
  readonly apart: readonly AffinityTerm[];
  readonly spread: readonly SpreadRule[];
  /** Higher goes first; above that of others it may take their room. */
  readonly priority: number;
  readonly features: readonly string[];
  /** Not there: where it is at the moment and has to leave, or what can't give it its networks. */
  readonly excludedHosts?: ReadonlySet<HostId>;
}

export type Placement =
  | { readonly outcome: 'placed'; readonly hostId: HostId; readonly hostName: string }
  /** Room is made by moving these; empty while the room of others that leave is waited for. */
  | { readonly outcome: 'preempting'; readonly hostId: HostId; readonly hostName: string; readonly victims: readonly MicroVMId[]; readonly message: string }
  | { readonly outcome: 'unplaced'; readonly code: 'HOST_NOT_FOUND' | 'NO_HOST_FITS'; readonly message: string };

export function matches(labels: Labels, wanted: Labels): boolean {
  for (const key in wanted) if (labels[key] !== wanted[key]) return false;
  return true;
}

/** The place of a host under a topology key; undefined when it has none. */
export function placeOf(host: Pick<CandidateHost, 'name' | 'labels'>, topologyKey: string): string | undefined {
  return topologyKey === hostNameKey ? host.name : host.labels[topologyKey];
}

export function isTolerated(taint: Taint, tolerations: readonly Toleration[]): boolean {
  return tolerations.some(
    ({ key, operator, value, effect }) =>
      (effect === undefined || effect === taint.effect) && (key === undefined || key === taint.key) && (operator === 'Exists' || (key !== undefined && value === taint.value)),
  );
}
