/**
 * The rows that fencing stands on, as the stores keep them: each method is one transaction of db/stores/lease-store.ts,
 * replacement-store.ts, microvm-store.ts or sightings.ts in plain data. The integration test of leases holds the real
 * ones to the same rules. It can be failed over to an older copy of itself.
 */
import { randomUUID } from 'node:crypto';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import type { Operation } from '#api/model/plan.ts';
import { operationId, planId, type HostId, type MicroVMId, type SessionId } from '#api/model/ids.ts';
import { parseEpoch, type Epoch } from '#api/model/epoch.ts';
import type { LeaseReading } from '#controller/ports/lease-store.ts';
import type { SiteId, TenantId } from '#api/model/ids.ts';
import { nextEpoch } from '#db/stores/microvm-binding.ts';

export interface Known {
  readonly microvmId: MicroVMId;
  readonly epoch: number;
  readonly revision: number;
}

interface HostRow {
  sessionId: SessionId | null;
  lastBeatAtMs: number | null;
  leaseEpoch: number | null;
  leaseMs: number | null;
  holds: number;
  reported: number;
  sightings: Known[];
}

interface OperationRow {
  readonly operation: Operation;
  isDispatched: boolean;
  isOpen: boolean;
  readonly isRemoval: boolean;
}

export interface MicroVMRow {
  readonly id: MicroVMId;
  desired: DesiredMicroVM;
  generation: number;
  hostId: HostId;
  epoch: Epoch;
  counters: { epoch: number; revision: number };
  observed: { hostId: HostId; epoch: number; revision: number } | null;
}

interface Rows {
  hosts: Map<HostId, HostRow>;
  microvms: Map<MicroVMId, MicroVMRow>;
  operations: OperationRow[];
  leaderEpoch: number;
  incarnation: number;
  keptTimeline: number;
}

/** Copies of the rows that a failover may fall back to. */
const copiesMax = 40;

export class SimDatabase {
  rows: Rows = { hosts: new Map(), microvms: new Map(), operations: [], leaderEpoch: 0, incarnation: 1, keptTimeline: 1 };
  timeline = 1;
  #witness = 1;
  readonly #ids: { readonly siteId: SiteId; readonly tenantId: TenantId };
  readonly #wallMs: () => number;
  readonly #copies: { readonly atMs: number; readonly rows: Rows }[] = [];

  constructor(ids: { readonly siteId: SiteId; readonly tenantId: TenantId }, wallMs: () => number) {
    this.#ids = ids;
    this.#wallMs = wallMs;
  }

  copy(nowMs: number): void {
    this.#copies.push({ atMs: nowMs, rows: structuredClone(this.rows) });
    if (this.#copies.length > copiesMax) this.#copies.shift();
  }

  /** What was committed after that moment is lost. */
  failOver(beforeMs: number): void {
    const copy = this.#copies.filter(({ atMs }) => atMs <= beforeMs).at(-1);
    if (copy === undefined) return;
    this.rows = structuredClone(copy.rows);
    this.#copies.length = 0;
    this.timeline += 1;
  }

  addHost(hostId: HostId): void {
    this.rows.hosts.set(hostId, { sessionId: null, lastBeatAtMs: null, leaseEpoch: null, leaseMs: null, holds: 0, reported: 1, sightings: [] });
  }

  /** Bumps the leadership, and the incarnation when this is not the database that was written down. */
  acquire(): number {
    if (this.rows.keptTimeline !== this.timeline) {
      this.rows.keptTimeline = this.timeline;
      // Kubernetes keeps the highest that was used: two failovers in a row never give one twice.
      this.#witness = Math.max(this.#witness, this.rows.incarnation) + 1;
      this.rows.incarnation = this.#witness;
    }
    this.rows.leaderEpoch += 1;
    return this.rows.leaderEpoch;
  }

  isReviewed(): boolean {
    return this.rows.keptTimeline === this.timeline;
  }

  isAwaited(): boolean {
    return !this.isReviewed() || [...this.rows.hosts.values()].some((host) => host.reported < this.rows.incarnation || host.sightings.length > 0);
  }

  create(id: MicroVMId, desired: DesiredMicroVM, hostId: HostId): void {
    const epoch = nextEpoch(this.rows.incarnation, 0);
    this.rows.microvms.set(id, { id, desired, generation: 1, hostId, epoch, counters: { epoch, revision: 1 }, observed: null });
    this.#order(id, hostId, 'Create', epoch, 1, desired, false);
  }

  #order(microvmId: MicroVMId, hostId: HostId, kind: 'Create' | 'Delete', epoch: Epoch, revision: number, desired: DesiredMicroVM | null, isRemoval: boolean): void {
    const operation: Operation = {
      id: operationId(randomUUID()), planId: planId(randomUUID()), microvmId, hostId, kind, epoch, revision, generation: 1, ...(desired === null ? {} : { desired }),
    };
    // Superseding leaves alone what a host owes.
    for (const row of this.rows.operations) if (!isRemoval && row.operation.microvmId === microvmId && row.operation.hostId !== hostId && !row.isRemoval && !row.isDispatched) row.isOpen = false;
    this.rows.operations.push({ operation, isDispatched: false, isOpen: true, isRemoval });
  }

  /** recordKnown and openSession. */
  openSession(hostId: HostId, sessionId: SessionId, known: readonly Known[]): void {
    const host = this.#host(hostId);
    const isFirst = host.reported < this.rows.incarnation;
    const kept = new Set(host.sightings.map(({ microvmId }) => microvmId));
    host.sightings = known.filter(({ microvmId, epoch }) => {
      const row = this.rows.microvms.get(microvmId);
      if (row === undefined || row.hostId === hostId) return false;
      return (isFirst || kept.has(microvmId)) && epoch > row.epoch;
    });
    for (const { microvmId, epoch, revision } of known) {
      const row = this.rows.microvms.get(microvmId);
      const isTheirs = row?.hostId === hostId || host.sightings.some((sighting) => sighting.microvmId === microvmId);
      if (row !== undefined && isTheirs) row.counters = { epoch: Math.max(row.counters.epoch, epoch), revision: Math.max(row.counters.revision, revision) };
    }
    if (this.isReviewed()) host.reported = this.rows.incarnation;
    host.sessionId = sessionId;
    host.lastBeatAtMs = this.#wallMs();
  }

  flushBeat(hostId: HostId, sessionId: SessionId, ageMs: number): void {
    const host = this.#host(hostId);
    if (host.sessionId === sessionId) host.lastBeatAtMs = Math.max(host.lastBeatAtMs ?? -Infinity, this.#wallMs() - ageMs);
  }

  grant(hostId: HostId, sessionId: SessionId, holdsLease: boolean): number | null {
    const host = this.#host(hostId);
    const terms = [...this.rows.microvms.values()].flatMap((row) => (row.hostId === hostId && row.desired.lease !== undefined ? [row.desired.lease.stopOnHostAfterMs] : []));
    if (terms.length === 0 || host.sessionId !== sessionId || host.holds > 0) return null;
    if (!holdsLease && this.isAwaited()) return null;
    host.leaseEpoch = (host.leaseEpoch ?? 0) + 1;
    host.leaseMs = Math.max(...terms);
    this.flushBeat(hostId, sessionId, 0);
    return host.leaseMs;
  }

  list(): { readonly hosts: readonly LeaseReading[]; readonly lineage: string } {
    const hosts = [...this.rows.hosts].map(([hostId, { lastBeatAtMs, leaseEpoch, leaseMs }]): LeaseReading => ({ ...this.#ids, hostId, lastBeatAtMs, leaseEpoch, leaseMs }));
    return { hosts, lineage: `${this.timeline}/${this.rows.incarnation}` };
  }

  claim(hostId: HostId, sessionId: SessionId, includeDispatched: boolean): readonly Operation[] {
    if (this.#host(hostId).sessionId !== sessionId) return [];
    const open = this.rows.operations.filter((row) => row.operation.hostId === hostId && row.isOpen && (includeDispatched || !row.isDispatched));
    for (const row of open) row.isDispatched = true;
    return open.map((row) => row.operation);
  }

  /** A report: what the host has accepted, and whether a removal is done. */
  report(hostId: HostId, known: Known, isGone: boolean): void {
    const row = this.rows.microvms.get(known.microvmId);
    if (row?.hostId === hostId) row.observed = { hostId, epoch: known.epoch, revision: known.revision };
    for (const each of this.rows.operations) {
      const { operation } = each;
      if (!each.isOpen || operation.hostId !== hostId || operation.microvmId !== known.microvmId) continue;
      const isPast = operation.epoch < known.epoch || (operation.epoch === known.epoch && operation.revision < known.revision);
      const isIt = operation.epoch === known.epoch && operation.revision === known.revision;
      if (!(isPast && each.isDispatched) && !(isIt && (operation.kind === 'Create' || isGone))) continue;
      each.isOpen = false;
      if (each.isRemoval) this.#host(hostId).holds = Math.max(0, this.#host(hostId).holds - 1);
    }
  }

  replace(input: { readonly microvmId: MicroVMId; readonly from: { readonly hostId: HostId; readonly epoch: number; readonly lastBeatAtMs: number | null; readonly leaseEpoch: number | null; readonly lineage: string }; readonly placeOn: HostId }, leaderEpoch: number): 'replaced' | 'changed' | 'unconfirmed' | 'fenced' {
    if (leaderEpoch !== this.rows.leaderEpoch) return 'fenced';
    const row = this.rows.microvms.get(input.microvmId);
    const host = this.#host(input.from.hostId);
    if (row === undefined || row.hostId !== input.from.hostId || row.epoch !== input.from.epoch) return 'changed';
    if (host.lastBeatAtMs !== input.from.lastBeatAtMs || host.leaseEpoch !== input.from.leaseEpoch || input.from.lineage !== this.list().lineage) return 'changed';
    const since = row.observed?.hostId === row.hostId ? row.observed.revision : 0;
    const mayHave = this.rows.operations.filter(({ operation, isDispatched }) => isDispatched && operation.microvmId === row.id && operation.hostId === row.hostId && operation.revision >= since);
    if (!mayHave.every(({ operation }) => operation.desired?.lease !== undefined)) return 'unconfirmed';
    this.#move(row, input.placeOn);
    return 'replaced';
  }

  /** What publish does once all have reported: a microVM goes to the host that has it under a higher epoch. */
  settleSightings(leaderEpoch: number): void {
    const isWaiting = !this.isReviewed() || [...this.rows.hosts.values()].some((host) => host.reported < this.rows.incarnation);
    if (isWaiting || leaderEpoch !== this.rows.leaderEpoch) return;
    for (const row of this.rows.microvms.values()) {
      const sighted = [...this.rows.hosts]
        .flatMap(([hostId, host]) => host.sightings.filter(({ microvmId }) => microvmId === row.id).map((sighting) => ({ hostId, ...sighting })))
        .sort((a, b) => b.epoch - a.epoch)[0];
      if (sighted === undefined) continue;
      for (const host of this.rows.hosts.values()) host.sightings = host.sightings.filter(({ microvmId }) => microvmId !== row.id);
      if (sighted.epoch > row.epoch && sighted.epoch >= row.counters.epoch && sighted.hostId !== row.hostId) this.#move(row, sighted.hostId);
    }
  }

  #move(row: MicroVMRow, placeOn: HostId): void {
    const left = row.hostId;
    row.epoch = nextEpoch(this.rows.incarnation, row.counters.epoch);
    row.counters = { epoch: row.epoch, revision: row.counters.revision + 2 };
    row.hostId = placeOn;
    row.observed = null;
    this.#order(row.id, placeOn, 'Create', parseEpoch(row.epoch), row.counters.revision, row.desired, false);
    this.#order(row.id, left, 'Delete', parseEpoch(row.epoch), row.counters.revision - 1, null, true);
    this.#host(left).holds += 1;
  }

  #host(hostId: HostId): HostRow {
    const row = this.rows.hosts.get(hostId);
    if (row === undefined) throw new Error('no such host');
    return row;
  }
}
