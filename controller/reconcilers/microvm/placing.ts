/**
 * Chooses the host of a microVM from the index of its Site. A choice is taken note of before it is committed, so that
 * the next one counts with it; one that came to nothing is found when the microVM is looked at again.
 */
import { decideGrowth, required } from '#api/model/capacity.ts';
import { siteId, type HostId, type SiteId } from '#api/model/ids.ts';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import { featuresNeededBy } from '#controller/domain/placement/features.ts';
import type { Placement, PlacementRequest, Toleration } from '#controller/domain/placement/model.ts';
import { placeMicroVM } from '#controller/domain/placement/place-microvm.ts';
import type { SiteIndex } from '#controller/domain/placement/site-index.ts';
import { waiting } from '#controller/runtime/outcome.ts';
import { toTerms } from './placement-cache.ts';
import type { MicroVMDeps, MicroVMScope, MicroVMStep, Obstacle } from './scope.ts';

/** Changes of hosts wake what waits for room; this covers a change that nobody told. */
export const unplacedRetryMs = 60_000;

/** A host that is there for it now. What stands in the way otherwise is a sentence. */
export type ChosenHost = Extract<Placement, { readonly outcome: 'placed' | 'unplaced' }>;

/** A host of the site; `without` those that it is to leave or that can't give it its networks. Nothing is moved for it. */
export async function chooseHost(scope: MicroVMScope, deps: MicroVMDeps, site: SiteId, desired: DesiredMicroVM, without: ReadonlySet<HostId>): Promise<ChosenHost> {
  const index = await indexOf(scope, deps, site);
  const placement = place(scope, deps, { index, desired, without });
  if (placement.outcome === 'preempting') return { outcome: 'unplaced', code: 'NO_HOST_FITS', message: placement.message };
  if (placement.outcome === 'placed') assume(scope, index, { desired, hostId: placement.hostId });
  return placement;
}

/** Whether another host could take it now; nothing is noted. */
export async function findElsewhere(scope: MicroVMScope, deps: MicroVMDeps, input: { readonly site: SiteId; readonly desired: DesiredMicroVM; readonly from: HostId }): Promise<Placement> {
  const index = await deps.placement.of(scope.tenantId, input.site);
  return place(scope, deps, { index, desired: input.desired, without: new Set([input.from]) });
}

/**
 * Null when the host that has it has room for what it grows to, which counts as taken then; else why not. Room that
 * others of its priority are having made for them is not for it.
 */
export async function findNoRoomToGrow(scope: MicroVMScope, deps: MicroVMDeps, desired: DesiredMicroVM): Promise<string | null> {
  const { record, id, tenantId } = scope;
  if (record?.binding == null || record.desired === null) return null;
  const [before, asked] = [required(record.desired), required(desired)];
  if (asked.cpus <= before.cpus && asked.memoryBytes <= before.memoryBytes) return null;
  const { hostId, hostName } = record.binding;
  const index = await deps.placement.of(tenantId, record.siteId);
  const [entry, known] = [index.byId(hostId), index.bindingOf(id)];
  // A host that nobody knows is for the transaction to judge.
  if (entry === undefined || known?.hostId !== hostId) return null;
  const kept = index.nominatedOn(hostId, { microvmId: id, priority: known.priority });
  const refusal = decideGrowth({ hostName, free: { cpus: entry.freeCpus - kept.cpus, memoryBytes: entry.freeMemoryBytes - kept.memoryBytes }, before, asked });
  if (refusal === null) index.bind({ ...known, ...asked });
  return refusal;
}

export const placeOnHost: MicroVMStep = async (scope, deps) => {
  const { desired, record } = scope;
  // A host has it already.
  if (scope.chosenHost !== null) return null;
  if (record?.binding != null || scope.site === null || desired === null) return null;
  const index = await indexOf(scope, deps, siteId(scope.site.metadata.uid));
  const decision = place(scope, deps, { index, desired, without: new Set() });
  switch (decision.outcome) {
    case 'placed':
      assume(scope, index, { desired, hostId: decision.hostId });
      scope.chosenHost = decision;
      return null;
    case 'unplaced':
      index.dropNomination(scope.id);
      return blocked(scope, { condition: 'Scheduled', reason: decision.code === 'HOST_NOT_FOUND' ? 'HostNotFound' : 'NoHostFits', message: decision.message });
    case 'preempting':
      if (scope.site.spec.hold === true && decision.victims.length > 0) {
        return blocked(scope, { condition: 'Scheduled', reason: 'NoHostFits', message: `${decision.message}, once hold of the Site is false` });
      }
      await makeRoom(scope, deps, { index, desired, decision });
      return blocked(scope, { condition: 'Scheduled', reason: 'Preempting', message: decision.message });
  }
};

/** Orders the victims off the host, and keeps what they leave from others. Their own reconciles go on from there. */
async function makeRoom(scope: MicroVMScope, deps: MicroVMDeps, { index, desired, decision }: { readonly index: SiteIndex; readonly desired: DesiredMicroVM; readonly decision: Extract<Placement, { readonly outcome: 'preempting' }> }): Promise<void> {
  const { tenantId } = scope;
  index.nominate(scope.id, { hostId: decision.hostId, ...required(desired), priority: scope.object.spec.placement?.priority ?? 0 });
  // All at once in the index, so that nobody else counts on them.
  for (const victim of decision.victims) {
    const known = index.bindingOf(victim);
    if (known !== undefined) index.bind({ ...known, isLeaving: true });
  }
  for (const microvmId of decision.victims) {
    await deps.stores.evictions.evict({ tenantId, microvmId, reason: 'Preemption', tryNumber: 1 }, deps.epoch, deps.actor);
    deps.hints.publish({ kind: 'microvm', tenantId, microvmId });
  }
  if (decision.victims.length > 0) deps.hints.publish({ kind: 'operations', hostId: decision.hostId });
}

/** The index; a choice of before that was not committed is undone first, and its host read again. */
async function indexOf(scope: MicroVMScope, deps: MicroVMDeps, site: SiteId): Promise<SiteIndex> {
  const index = await deps.placement.of(scope.tenantId, site);
  const assumed = index.bindingOf(scope.id);
  if (assumed !== undefined && scope.record?.binding == null) {
    index.unbind(scope.id);
    await deps.placement.reloadHost(scope.tenantId, site, assumed.hostId);
  }
  return index;
}

function place(scope: MicroVMScope, deps: MicroVMDeps, { index, desired, without }: { readonly index: SiteIndex; readonly desired: DesiredMicroVM; readonly without: ReadonlySet<HostId> }): Placement {
  return placeMicroVM(toRequest(scope, desired, without), index, (hostId) => deps.silence.of(hostId).reachability === 'online');
}

function assume(scope: MicroVMScope, index: SiteIndex, { desired, hostId }: { readonly desired: DesiredMicroVM; readonly hostId: HostId }): void {
  const { placement } = scope.object.spec;
  index.bind({
    microvmId: scope.id, hostId, labels: scope.object.metadata.labels ?? {}, ...required(desired), priority: placement?.priority ?? 0,
    // Nobody moves what is not there yet.
    isMovable: false, isLeaving: false, apart: toTerms(placement?.affinity?.apart).filter(({ isRequired }) => isRequired),
  });
  index.dropNomination(scope.id);
}

function toRequest(scope: MicroVMScope, desired: DesiredMicroVM, without: ReadonlySet<HostId>): PlacementRequest {
  const { placement } = scope.object.spec;
  return {
    microvmId: scope.id,
    cpuCount: desired.cpuCount,
    memoryBytes: desired.memoryBytes,
    labels: scope.object.metadata.labels ?? {},
    hostName: placement?.hostName ?? null,
    matchLabels: placement?.hostSelector?.matchLabels ?? {},
    tolerations: tolerationsOf(scope),
    together: toTerms(placement?.affinity?.together),
    apart: toTerms(placement?.affinity?.apart),
    spread: (placement?.topologySpread ?? []).map(({ topologyKey, maxSkew, labelSelector, whenUnsatisfiable }) => ({
      topologyKey, maxSkew, matchLabels: labelSelector.matchLabels ?? {}, isRequired: whenUnsatisfiable !== 'ScheduleAnyway',
    })),
    priority: placement?.priority ?? 0,
    features: featuresNeededBy(desired),
    excludedHosts: without,
  };
}

export function tolerationsOf({ object }: Pick<MicroVMScope, 'object'>): readonly Toleration[] {
  return (object.spec.placement?.tolerations ?? []).map(({ key, operator = 'Equal', value = '', effect }) => ({
    operator, value, ...(key === undefined || key === '' ? {} : { key }), ...(effect === undefined ? {} : { effect }),
  }));
}

function blocked(scope: MicroVMScope, obstacle: Obstacle) {
  scope.obstacle = obstacle;
  return waiting(obstacle.reason, obstacle.message, unplacedRetryMs);
}
