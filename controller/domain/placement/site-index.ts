/**
 * The hosts of one Site and what is bound to them, kept up to date change by change, so that a decision reads and
 * never rebuilds. Hosts stand in the order in which placement prefers them: most free memory first, then the name.
 *
 * It is a copy in memory of one leader: the binding transaction decides. Room that was promised a moment ago counts as
 * taken (`bind` before the commit), so that two decisions in a row never promise the same room.
 */
import { allocatable, required } from '#api/model/capacity.ts';
import type { HostId, MicroVMId } from '#api/model/ids.ts';
import { matches, placeOf, type AffinityTerm, type BoundMicroVM, type CandidateHost, type Labels } from './model.ts';

export interface HostEntry {
  readonly host: CandidateHost;
  /** Nothing about the host itself but silence keeps microVMs away. */
  readonly isOpen: boolean;
  readonly bound: ReadonlyMap<MicroVMId, BoundMicroVM>;
  readonly freeCpus: number;
  readonly freeMemoryBytes: number;
}

interface MutableEntry {
  host: CandidateHost;
  isOpen: boolean;
  bound: Map<MicroVMId, BoundMicroVM>;
  freeCpus: number;
  freeMemoryBytes: number;
}

/** Room that is kept for one that has others moved for it. */
export interface Nomination {
  readonly hostId: HostId;
  readonly cpus: number;
  readonly memoryBytes: number;
  readonly priority: number;
}

export interface IndexFigures {
  /** Hosts that decisions looked at, over all decisions. */
  hostsVisited: number;
  decisions: number;
  /** Times a host was put in or taken out of the order. */
  hostsMoved: number;
}

interface ApartTerm {
  readonly term: AffinityTerm;
  /** Place to the number of microVMs there that have the term. */
  readonly places: Map<string, number>;
}

export interface SiteIndex {
  readonly figures: IndexFigures;
  size(): number;
  /** In order of preference. */
  ordered(): readonly HostEntry[];
  byName(name: string): HostEntry | undefined;
  byId(hostId: HostId): HostEntry | undefined;
  putHost(host: CandidateHost): void;
  removeHost(hostId: HostId): void;
  /** Takes over a binding, also in place of the one that it had. One on a host that is not known is kept for when it is. */
  bind(microvm: BoundMicroVM): void;
  unbind(microvmId: MicroVMId): void;
  bindingOf(microvmId: MicroVMId): BoundMicroVM | undefined;
  /** Bound microVMs with these labels; empty labels are all. */
  findBound(labels: Labels): Iterable<BoundMicroVM>;
  /** Places that microVMs with required terms keep free of one with these labels. */
  forbiddenPlaces(labels: Labels): ReadonlyMap<string, ReadonlySet<string>>;
  nominate(microvmId: MicroVMId, nomination: Nomination): void;
  dropNomination(microvmId: MicroVMId): void;
  hasNominations(): boolean;
  /** Room of a host that others are waiting for, as one of that priority sees it. */
  nominatedOn(hostId: HostId, for_: { readonly microvmId: MicroVMId; readonly priority: number }): { readonly cpus: number; readonly memoryBytes: number };
}

export function createSiteIndex(): SiteIndex {
  const order: MutableEntry[] = [];
  const hosts = new Map<HostId, MutableEntry>();
  const names = new Map<string, MutableEntry>();
  const bindings = new Map<MicroVMId, BoundMicroVM>();
  const byLabel = new Map<string, Set<BoundMicroVM>>();
  const apartTerms = new Map<string, ApartTerm>();
  const nominations = new Map<MicroVMId, Nomination>();
  const figures: IndexFigures = { hostsVisited: 0, decisions: 0, hostsMoved: 0 };

  const insert = (entry: MutableEntry): void => {
    figures.hostsMoved += 1;
    order.splice(lowerBound(order, entry), 0, entry);
  };
  const take = (entry: MutableEntry): void => {
    const at = lowerBound(order, entry);
    if (order[at] !== entry) throw new Error('invariant: a host stands where the order says');
    order.splice(at, 1);
  };
  /** Room changes where a host stands, so it is taken out first. */
  const move = (entry: MutableEntry, change: () => void): void => {
    take(entry);
    change();
    insert(entry);
  };
  const countApart = (microvm: BoundMicroVM, by: 1 | -1): void => {
    const host = hosts.get(microvm.hostId)?.host;
    if (host === undefined) return;
    for (const term of microvm.apart) {
      if (!term.isRequired) continue;
      const place = placeOf(host, term.topologyKey);
      if (place === undefined) continue;
      const key = JSON.stringify([term.topologyKey, Object.entries(term.matchLabels).toSorted()]);
      const known = apartTerms.get(key) ?? { term, places: new Map<string, number>() };
      apartTerms.set(key, known);
      const count = (known.places.get(place) ?? 0) + by;
      if (count > 0) known.places.set(place, count);
      else known.places.delete(place);
      if (known.places.size === 0) apartTerms.delete(key);
    }
  };
  const postings = (microvm: BoundMicroVM): string[] => Object.entries(microvm.labels).map(([key, value]) => `${key}=${value}`);
  const unbind = (microvmId: MicroVMId): void => {
    const before = bindings.get(microvmId);
    if (before === undefined) return;
    bindings.delete(microvmId);
    for (const posting of postings(before)) {
      const set = byLabel.get(posting);
      set?.delete(before);
      if (set?.size === 0) byLabel.delete(posting);
    }
    countApart(before, -1);
    const entry = hosts.get(before.hostId);
    if (entry === undefined) return;
    move(entry, () => {
      entry.bound.delete(microvmId);
      entry.freeCpus += before.cpus;
      entry.freeMemoryBytes += before.memoryBytes;
    });
  };
  const removeHost = (hostId: HostId): readonly BoundMicroVM[] => {
    const entry = hosts.get(hostId);
    if (entry === undefined) return [];
    for (const microvm of entry.bound.values()) countApart(microvm, -1);
    take(entry);
    hosts.delete(hostId);
    if (names.get(entry.host.name) === entry) names.delete(entry.host.name);
    return [...entry.bound.values()];
  };

  return {
    figures,
    size: () => order.length,
    ordered: () => order,
    byName: (name) => names.get(name),
    byId: (hostId) => hosts.get(hostId),
    putHost: (host) => {
      const before = hosts.get(host.hostId);
      const isNew = before === undefined;
      const bound = isNew ? [...bindings.values()].filter((microvm) => microvm.hostId === host.hostId) : removeHost(host.hostId);
      const total = allocatable(host.capacity);
      const entry: MutableEntry = {
        host,
        isOpen: isOpen(host),
        bound: new Map(bound.map((microvm) => [microvm.microvmId, microvm])),
        freeCpus: total.cpus - sum(bound, ({ cpus }) => cpus),
        freeMemoryBytes: total.memoryBytes - sum(bound, ({ memoryBytes }) => memoryBytes),
      };
      hosts.set(host.hostId, entry);
      names.set(host.name, entry);
      insert(entry);
      for (const microvm of bound) countApart(microvm, 1);
    },
    removeHost: (hostId) => void removeHost(hostId),
    bind: (microvm) => {
      unbind(microvm.microvmId);
      bindings.set(microvm.microvmId, microvm);
      for (const posting of postings(microvm)) {
        const set = byLabel.get(posting) ?? new Set();
        set.add(microvm);
        byLabel.set(posting, set);
      }
      const entry = hosts.get(microvm.hostId);
      if (entry === undefined) return;
      move(entry, () => {
        entry.bound.set(microvm.microvmId, microvm);
        entry.freeCpus -= microvm.cpus;
        entry.freeMemoryBytes -= microvm.memoryBytes;
      });
      countApart(microvm, 1);
    },
    unbind,
    bindingOf: (microvmId) => bindings.get(microvmId),
    findBound: function* (labels) {
      let smallest: Iterable<BoundMicroVM> = bindings.values();
      let size = Infinity;
      for (const [key, value] of Object.entries(labels)) {
        const set = byLabel.get(`${key}=${value}`);
        if (set === undefined) return;
        if (set.size < size) [smallest, size] = [set, set.size];
      }
      for (const microvm of smallest) if (matches(microvm.labels, labels)) yield microvm;
    },
    forbiddenPlaces: (labels) => {
      const forbidden = new Map<string, Set<string>>();
      for (const { term, places } of apartTerms.values()) {
        if (!matches(labels, term.matchLabels)) continue;
        const set = forbidden.get(term.topologyKey) ?? new Set();
        for (const place of places.keys()) set.add(place);
        forbidden.set(term.topologyKey, set);
      }
      return forbidden;
    },
    nominate: (microvmId, nomination) => void nominations.set(microvmId, nomination),
    dropNomination: (microvmId) => void nominations.delete(microvmId),
    hasNominations: () => nominations.size > 0,
    nominatedOn: (hostId, { microvmId, priority }) => {
      let [cpus, memoryBytes] = [0, 0];
      if (nominations.size === 0) return { cpus, memoryBytes };
      for (const [id, nomination] of nominations) {
        if (nomination.hostId !== hostId || id === microvmId || nomination.priority < priority) continue;
        cpus += nomination.cpus;
        memoryBytes += nomination.memoryBytes;
      }
      return { cpus, memoryBytes };
    },
  };
}

function isOpen({ isRevoked, isDeleting, isQuarantined, isApproved, isDraining, isUnschedulable, hasHypervisor }: CandidateHost): boolean {
  return !isRevoked && !isDeleting && !isQuarantined && isApproved && !isDraining && !isUnschedulable && hasHypervisor;
}

export function needOf(request: { readonly cpuCount: number; readonly memoryBytes: number }): { readonly cpus: number; readonly memoryBytes: number } {
  return required(request);
}

function sum<Item>(items: readonly Item[], value: (item: Item) => number): number {
  return items.reduce((total, item) => total + value(item), 0);
}

/** Negative when `left` is to be preferred. Names are unique among the hosts of a site, so no two are equal. */
function compare(left: MutableEntry, right: MutableEntry): number {
  return right.freeMemoryBytes - left.freeMemoryBytes || (left.host.name < right.host.name ? -1 : left.host.name > right.host.name ? 1 : 0) || (left.host.hostId < right.host.hostId ? -1 : left.host.hostId > right.host.hostId ? 1 : 0);
}

/** The first place at which the entry may stand. */
function lowerBound(order: readonly MutableEntry[], entry: MutableEntry): number {
  let [low, high] = [0, order.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    const at = order[middle];
    if (at !== undefined && compare(at, entry) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}
