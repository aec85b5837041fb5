/**
 * The steps that bring a MicroVM to its host. Each is safe to repeat: the finalizer stands before the first
 * row, and the row with binding, plan and operation is one commit. What the host makes of it comes back as
 * rows, which the projection of the status shows.
 */
import { siteId, type HostId, type SiteId } from '#api/model/ids.ts';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import { AppError } from '#api/model/error-codes.ts';
import { deriveDesired } from '#controller/domain/derive-desired.ts';
import { placeMicroVM, type CandidateHost, type Placement } from '#controller/domain/placement/place-microvm.ts';
import { decideOperation, retryDelayMs } from '#controller/domain/planning/decide-operation.ts';
import type { HostRecord } from '#controller/ports/host-store.ts';
import { done, failed, stalled, waiting, type Outcome } from '#controller/runtime/outcome.ts';
import { writeFinalizers } from '#controller/runtime/status-patch.ts';
import { durably, writerFor } from '../deps.ts';
import { hasHypervisor } from '../host/status.ts';
import { microvmFinalizer, microvmResource, parseMicroVM } from '../kinds.ts';
import { sourceOf } from '../plan/spec-hash.ts';
import { createReplaceLost, deriveLeaseTerms } from '../replacement/replace-lost.ts';
import { obstacleOf, publishWithNetworks } from './networks.ts';
import { hasFinalizer, type MicroVMDeps, type MicroVMScope, type MicroVMStep, type Obstacle } from './scope.ts';

/** Changes of hosts wake what waits for room; this covers a change that nobody told. */
const unplacedRetryMs = 60_000;

const resolveSite: MicroVMStep = async (scope, deps) => {
  // What is bound stays where it is, whatever became of its Site.
  if (scope.record?.binding != null) return null;
  const name = scope.object.spec.siteRef.name;
  const problem =
    scope.site === null
      ? `there is no Site ${name} in this namespace`
      : scope.site.metadata.deletionTimestamp !== undefined
        ? `the Site ${name} is being deleted`
        : null;
  if (problem !== null) return blocked(scope, { condition: 'Accepted', reason: 'SiteNotFound', message: problem });
  if (!deps.savedSites.has(scope.site?.metadata.uid ?? '')) {
    return blocked(scope, { condition: 'Scheduled', reason: 'SiteNotFound', message: `the Site ${name} is being taken over` });
  }
  return null;
};

const deriveDesiredState: MicroVMStep = async (scope) => {
  const derived = deriveDesired(scope.object);
  if (!derived.ok) {
    const { code, message } = derived.problem;
    const reason = code === 'CLASS_NOT_FOUND' ? 'ClassNotFound' : 'SpecRefused';
    scope.obstacle = { condition: 'Accepted', reason, message };
    return stalled(reason, message);
  }
  scope.desired = derived.desired;
  scope.networks = derived.networks;
  return null;
};

/** A host of the site; `without` those that it is to leave or that can't give it its networks. */
async function chooseHost(scope: MicroVMScope, deps: MicroVMDeps, site: SiteId, desired: DesiredMicroVM, without: ReadonlySet<HostId>): Promise<Placement> {
  const hosts = await deps.stores.hosts.listBySite(scope.tenantId, site);
  const { placement } = scope.object.spec;
  return placeMicroVM(
    {
      cpuCount: desired.cpuCount,
      memoryBytes: desired.memoryBytes,
      hostName: placement?.hostName ?? null,
      matchLabels: placement?.hostSelector?.matchLabels ?? {},
    },
    hosts.filter((host) => !without.has(host.hostId)).map((host) => candidate(host, deps)),
  );
}

const placeOnHost: MicroVMStep = async (scope, deps) => {
  if (scope.record?.binding != null || scope.site === null || scope.desired === null) return null;
  const decision = await chooseHost(scope, deps, siteId(scope.site.metadata.uid), scope.desired, new Set());
  if (decision.outcome === 'placed') {
    scope.chosenHost = decision;
    return null;
  }
  const reason = decision.code === 'HOST_NOT_FOUND' ? 'HostNotFound' : 'NoHostFits';
  return blocked(scope, { condition: 'Scheduled', reason, message: decision.message }, unplacedRetryMs);
};

const ensureFinalizer: MicroVMStep = async (scope, deps) => {
  if (hasFinalizer(scope.object)) return null;
  const kind = { resource: microvmResource, parse: parseMicroVM, cache: deps.caches.microvms };
  const finalizers = [...(scope.object.metadata.finalizers ?? []), microvmFinalizer];
  const written = await writeFinalizers(writerFor(deps, kind, 'k8s.finalizer.add'), scope.object, finalizers);
  if (written === null) {
    scope.isReleased = true;
    return done();
  }
  scope.object = written;
  return null;
};

const publishPlan: MicroVMStep = async (scope, deps) => {
  const { desired, object, record, tenantId, id } = scope;
  const site = record?.siteId ?? (scope.site === null ? null : siteId(scope.site.metadata.uid));
  if (desired === null || site === null) return null;
  const { generation, name } = object.metadata;
  const decision = decideOperation(desired, generation, record);
  if (decision.action === 'none') return null;
  const { kind, tryNumber } = decision;
  const delayMs = deps.retryGate.delayMs(`${id}/${generation}/${tryNumber}`, retryDelayMs(tryNumber));
  if (delayMs > 0) return done(delayMs);
  const result = await publishWithNetworks(scope, deps, {
    publish: ({ placeOn, networks }) =>
      durably(deps.faults, 'db.publish', () =>
        deps.stores.microvms.publish(
          { tenantId, siteId: site, microvmId: id, name, generation, desired, kind, placeOn, tryNumber, source: sourceOf(object), ...(networks === undefined ? {} : { networks }) },
          deps.epoch, deps.actor,
        ),
      ),
    next: async (without) => {
      const decision = await chooseHost(scope, deps, site, desired, without);
      return decision.outcome === 'placed' ? decision : null;
    },
  });
  if (result.outcome === 'networkRefused') return blocked(scope, obstacleOf(scope, result.problem), unplacedRetryMs);
  // Somebody took the room between the choice and the commit; the next look chooses anew.
  if (result.outcome === 'hostUnavailable') return failed(new AppError('HOST_FULL'));
  scope.record = result.record;
  if (result.record.binding !== null) deps.hints.publish({ kind: 'operations', hostId: result.record.binding.hostId });
  return null;
};

const replaceLost = createReplaceLost(async (scope, deps, without) => {
  if (scope.desired === null || scope.record === null) return { outcome: 'unplaced', message: 'it was not published yet' };
  return chooseHost(scope, deps, scope.record.siteId, scope.desired, new Set([without]));
});

export const convergenceSteps: readonly MicroVMStep[] = [resolveSite, deriveDesiredState, deriveLeaseTerms, placeOnHost, ensureFinalizer, publishPlan, replaceLost];

function blocked(scope: MicroVMScope, obstacle: Obstacle, retryAfterMs?: number): Outcome {
  scope.obstacle = obstacle;
  return waiting(obstacle.reason, obstacle.message, retryAfterMs);
}

function candidate(host: HostRecord, deps: MicroVMDeps): CandidateHost {
  const object = deps.caches.hosts.get({ namespace: host.namespace, name: host.name });
  deps.silence.note(host.hostId, host.lastBeatAtMs);
  return {
    hostId: host.hostId,
    name: host.name,
    labels: object?.metadata.labels ?? {},
    isRevoked: host.isRevoked,
    isDeleting: object?.metadata.deletionTimestamp !== undefined,
    isQuarantined: host.isQuarantined,
    isApproved: !host.requireApproval || host.isApproved,
    isUnschedulable: host.isUnschedulable,
    isOnline: deps.silence.of(host.hostId).reachability === 'online',
    hasHypervisor: hasHypervisor(host),
    capacity: {
      cpuCount: host.facts.cpuCount,
      memoryBytes: host.facts.memoryBytes,
      reservedCpus: host.reservedCpus,
      reservedMemoryBytes: host.reservedMemoryBytes,
    },
    allocated: host.allocated,
  };
}
