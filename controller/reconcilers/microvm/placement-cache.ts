/**
 * The indexes that placement decides from, one for each Site, read once and then kept up to date: rows of hosts as the
 * Host reconciler reads them, objects as they change, bindings as they are published. No decision reads a whole site.
 *
 * It lives as long as one leadership. What it says of room is a hint; the binding transaction decides, and what it
 * refuses is read anew.
 */
import { required } from '#api/model/capacity.ts';
import { isHypervisorUsable } from '#api/model/host.ts';
import { microVMId, type HostId, type MicroVMId, type SiteId, type TenantId } from '#api/model/ids.ts';
import type { Host } from '#crds/gen/host.ts';
import type { MicroVM } from '#crds/gen/microvm.ts';
import { featuresOf } from '#controller/domain/placement/features.ts';
import { hasLocalData } from '#controller/domain/placement/local-data.ts';
import type { AffinityTerm, BoundMicroVM, CandidateHost } from '#controller/domain/placement/model.ts';
import { createSiteIndex, type SiteIndex } from '#controller/domain/placement/site-index.ts';
import type { BindingRecord, EvictionStore } from '#controller/ports/eviction-store.ts';
import type { HostRecord, HostStore } from '#controller/ports/host-store.ts';
import type { MicroVMRecord } from '#controller/ports/microvm-store.ts';
import type { Reflector } from '#controller/runtime/reflector.ts';

export interface PlacementCache {
  /** Reads the site the first time. */
  of(tenantId: TenantId, siteId: SiteId): Promise<SiteIndex>;
  hostChanged(record: HostRecord): void;
  /** What the row says of a binding, read or written a moment ago. */
  bound(object: MicroVM, record: MicroVMRecord): void;
  released(siteId: SiteId, microvmId: MicroVMId): void;
  /** Reads one host and its bindings again: it was found to be another than the index says. */
  reloadHost(tenantId: TenantId, siteId: SiteId, hostId: HostId): Promise<void>;
  /** Whole sites read, since the leadership began. */
  sitesRead(): number;
}

interface CachedSite {
  readonly index: SiteIndex;
  readonly records: Map<HostId, HostRecord>;
  /** Changes that came while the site was being read; null afterwards. */
  pending: (() => void)[] | null;
  reading: Promise<void>;
}

export interface PlacementCacheDeps {
  readonly hosts: Pick<HostStore, 'listBySite' | 'load'>;
  readonly bindings: Pick<EvictionStore, 'listBindings'>;
  readonly hostObjects: Reflector<Host>;
  readonly microvmObjects: Reflector<MicroVM>;
}

export function createPlacementCache(deps: PlacementCacheDeps): PlacementCache {
  const sites = new Map<SiteId, CachedSite>();
  let sitesRead = 0;

  const candidateOf = (record: HostRecord): CandidateHost => toCandidate(record, deps.hostObjects.get({ namespace: record.namespace, name: record.name }));
  const putHost = (site: CachedSite, record: HostRecord): void => {
    if (record.isRevoked) {
      site.records.delete(record.hostId);
      site.index.removeHost(record.hostId);
      return;
    }
    site.records.set(record.hostId, record);
    site.index.putHost(candidateOf(record));
  };
  const putBinding = (site: CachedSite, binding: BindingRecord): void => site.index.bind(toBound(binding, deps.microvmObjects.findByUid(binding.microvmId)));
  const change = (id: SiteId, apply: (site: CachedSite) => void): void => {
    const site = sites.get(id);
    if (site === undefined) return;
    if (site.pending === null) apply(site);
    else site.pending.push(() => apply(site));
  };
  const read = async (site: CachedSite, tenantId: TenantId, id: SiteId): Promise<void> => {
    try {
      const [hosts, bindings] = await Promise.all([deps.hosts.listBySite(tenantId, id), deps.bindings.listBindings(tenantId, { siteId: id })]);
      sitesRead += 1;
      for (const binding of bindings) putBinding(site, binding);
      for (const record of hosts) putHost(site, record);
      const pending = site.pending ?? [];
      site.pending = null;
      for (const apply of pending) apply();
    } catch (error) {
      // The next decision reads it again.
      sites.delete(id);
      throw error;
    }
  };

  deps.hostObjects.onChange(({ before, after }) => {
    if (before?.metadata.generation === after?.metadata.generation && before?.metadata.deletionTimestamp === after?.metadata.deletionTimestamp &&
      JSON.stringify(before?.metadata.labels) === JSON.stringify(after?.metadata.labels)) return;
    const object = after ?? before;
    if (object === undefined) return;
    for (const [id, site] of sites) {
      for (const record of site.records.values()) {
        if (record.name === object.metadata.name && record.namespace === object.metadata.namespace) change(id, (cached) => putHost(cached, cached.records.get(record.hostId) ?? record));
      }
    }
  });
  deps.microvmObjects.onChange(({ before, after }) => {
    const object = after ?? before;
    if (object === undefined) return;
    const id = microVMId(object.metadata.uid);
    for (const site of sites.keys()) {
      if (after === undefined) {
        change(site, ({ index }) => {
          index.unbind(id);
          index.dropNomination(id);
        });
      } else {
        change(site, ({ index }) => {
          const known = index.bindingOf(id);
          if (known !== undefined) index.bind(toBound(known, after));
        });
      }
    }
  });

  return {
    of: async (tenantId, id) => {
      let site = sites.get(id);
      if (site === undefined) {
        site = { index: createSiteIndex(), records: new Map(), pending: [], reading: Promise.resolve() };
        sites.set(id, site);
        site.reading = read(site, tenantId, id);
      }
      await site.reading;
      return site.index;
    },
    hostChanged: (record) => change(record.siteId, (site) => putHost(site, record)),
    bound: (object, record) =>
      change(record.siteId, ({ index }) => {
        const { binding, desired } = record;
        const known = index.bindingOf(record.microvmId);
        if (binding === null) return;
        const size = desired === null ? { cpus: known?.cpus ?? 0, memoryBytes: known?.memoryBytes ?? 0 } : required(desired);
        const isLeaving = binding.leaving != null || record.isDeleting;
        if (known?.hostId === binding.hostId && known.cpus === size.cpus && known.memoryBytes === size.memoryBytes && known.isLeaving === isLeaving) return;
        index.bind(toBound({ microvmId: record.microvmId, hostId: binding.hostId, ...size, isLeaving }, object));
      }),
    released: (id, microvmId) => change(id, ({ index }) => index.unbind(microvmId)),
    reloadHost: async (tenantId, id, hostId) => {
      const [record, bindings] = await Promise.all([deps.hosts.load(tenantId, hostId), deps.bindings.listBindings(tenantId, { hostId })]);
      change(id, (site) => {
        if (record !== null) putHost(site, record);
        const there = new Set(bindings.map(({ microvmId }) => microvmId));
        for (const microvmId of [...(site.index.byId(hostId)?.bound.keys() ?? [])]) if (!there.has(microvmId)) site.index.unbind(microvmId);
        for (const binding of bindings) putBinding(site, binding);
      });
    },
    sitesRead: () => sitesRead,
  };
}

/** What a host promises beyond what it has, where its row says so. */
export function overcommitOf(record: Pick<HostRecord, 'overcommitCpuPercent' | 'overcommitMemoryPercent'>): { readonly overcommitCpuPercent?: number; readonly overcommitMemoryPercent?: number } {
  return {
    ...(record.overcommitCpuPercent === null ? {} : { overcommitCpuPercent: record.overcommitCpuPercent }),
    ...(record.overcommitMemoryPercent === null ? {} : { overcommitMemoryPercent: record.overcommitMemoryPercent }),
  };
}

function toCandidate(record: HostRecord, object: Host | undefined): CandidateHost {
  const { facts } = record;
  return {
    hostId: record.hostId,
    name: record.name,
    labels: object?.metadata.labels ?? {},
    taints: (object?.spec.taints ?? []).map(({ key, value = '', effect }) => ({ key, value, effect })),
    isRevoked: record.isRevoked,
    isDeleting: object?.metadata.deletionTimestamp !== undefined,
    isQuarantined: record.isQuarantined,
    isApproved: !record.requireApproval || record.isApproved,
    // The object is ahead of the row.
    isUnschedulable: object === undefined ? record.isUnschedulable : object.spec.unschedulable === true,
    isDraining: object?.spec.drain !== undefined,
    hasHypervisor: isHypervisorUsable(facts.hypervisor),
    features: featuresOf(facts),
    capacity: {
      cpuCount: facts.cpuCount, memoryBytes: facts.memoryBytes, reservedCpus: record.reservedCpus, reservedMemoryBytes: record.reservedMemoryBytes, ...overcommitOf(record),
    },
  };
}

function toBound(binding: BindingRecord, object: MicroVM | undefined): BoundMicroVM {
  const { placement, evictionStrategy } = object?.spec ?? {};
  return {
    microvmId: binding.microvmId,
    hostId: binding.hostId,
    cpus: binding.cpus,
    memoryBytes: binding.memoryBytes,
    isLeaving: binding.isLeaving,
    labels: object?.metadata.labels ?? {},
    priority: placement?.priority ?? 0,
    isMovable: object !== undefined && !hasLocalData(object.spec) && evictionStrategy !== 'None' && placement?.hostName === undefined,
    apart: toTerms(placement?.affinity?.apart).filter(({ isRequired }) => isRequired),
  };
}

export function toTerms(terms: readonly { readonly labelSelector: { readonly matchLabels?: Readonly<Record<string, string>> }; readonly topologyKey: string; readonly mode?: 'Required' | 'Preferred' }[] = []): AffinityTerm[] {
  return terms.map(({ labelSelector, topologyKey, mode }) => ({ matchLabels: labelSelector.matchLabels ?? {}, topologyKey, isRequired: mode !== 'Preferred' }));
}

