/**
 * The steps that bring a MicroVM to its host. Each is safe to repeat: the finalizer stands before the first
 * row, and the row with binding, plan and operation is one commit. What the host makes of it comes back as
 * rows, which the projection of the status shows.
 */
import { siteId } from '#api/model/ids.ts';
import { AppError } from '#api/model/error-codes.ts';
import { deriveDesired, type ClassSizes } from '#controller/domain/derive-desired.ts';
import { decideOperation, retryDelayMs, withSizesOf } from '#controller/domain/planning/decide-operation.ts';
import { done, failed, stalled, waiting, type Outcome } from '#controller/runtime/outcome.ts';
import { writeFinalizers } from '#controller/runtime/status-patch.ts';
import { durably, writerFor } from '../deps.ts';
import { microvmFinalizer, microvmResource, parseMicroVM } from '../kinds.ts';
import { sourceOf } from '../plan/spec-hash.ts';
import { awaitReports } from '../recovery/hold.ts';
import { createReplaceLost, deriveLeaseTerms } from '../replacement/replace-lost.ts';
import { resolveAdoption } from './adoption.ts';
import { followHost } from './leaving.ts';
import { obstacleOf, publishWithNetworks } from './networks.ts';
import { chooseHost, findNoRoomToGrow, placeOnHost, unplacedRetryMs } from './placing.ts';
import { resolveSecrets } from './secrets.ts';
import { followSite } from './site-override.ts';
import { bringIntoEffect } from './updating.ts';
import { hasFinalizer, type MicroVMDeps, type MicroVMScope, type MicroVMStep, type Obstacle } from './scope.ts';

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

/** Of the class; one that is gone meanwhile takes nothing from those that it gave their size. */
function sizesOf({ object, record }: MicroVMScope, deps: MicroVMDeps): ClassSizes | null {
  const { className } = object.spec;
  if (className === undefined) return null;
  const found = deps.caches.classes.get({ namespace: object.metadata.namespace, name: className });
  if (found !== undefined) return found.spec;
  const published = record?.desired ?? null;
  return published === null ? null : { cpu: { count: published.cpuCount }, memory: { size: published.memoryBytes } };
}

const deriveDesiredState: MicroVMStep = async (scope, deps) => {
  const derived = deriveDesired(scope.object, sizesOf(scope, deps), scope.site?.spec?.images);
  if (!derived.ok) {
    const { code, message } = derived.problem;
    const reason = code === 'CLASS_NOT_FOUND' ? 'ClassNotFound' : 'SpecRefused';
    scope.obstacle = { condition: 'Accepted', reason, message };
    return stalled(reason, message);
  }
  const restarts = scope.record?.updateRestarts ?? 0;
  scope.desired = restarts === 0 ? derived.desired : { ...derived.desired, restartNonce: derived.desired.restartNonce + restarts };
  scope.networks = derived.networks;
  return null;
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
  const { desired: wanted, object, record, tenantId, id } = scope;
  const site = record?.siteId ?? (scope.site === null ? null : siteId(scope.site.metadata.uid));
  if (wanted === null || site === null) return null;
  const { generation, name } = object.metadata;
  const noRoom = await findNoRoomToGrow(scope, deps, wanted);
  if (noRoom !== null) {
    scope.obstacle = { condition: 'UpdateHeld', reason: 'HostFull', message: `${noRoom}: it goes on with its old spec until there is room, it asks for less, or it moves to another host` };
    scope.lookAgainMs = Math.min(scope.lookAgainMs ?? Infinity, unplacedRetryMs);
  }
  // What is to stand still needs no room.
  if (noRoom !== null && wanted.runPolicy !== 'Halted') return null;
  const desired = noRoom === null || record?.desired == null ? wanted : withSizesOf(record.desired, wanted);
  const decision = decideOperation(desired, generation, record);
  if (decision.action === 'none') return null;
  const { kind, tryNumber, isFresh } = decision;
  const delayMs = deps.retryGate.delayMs(`${id}/${generation}/${tryNumber}`, isFresh === true ? 0 : retryDelayMs(tryNumber));
  if (delayMs > 0) return done(delayMs);
  const result = await publishWithNetworks(scope, deps, {
    publish: ({ placeOn, networks }) =>
      durably(deps.faults, 'db.publish', () =>
        deps.stores.microvms.publish(
          { tenantId, siteId: site, microvmId: id, name, generation, desired, kind, placeOn, tryNumber, source: sourceOf(object), ...(networks === undefined ? {} : { networks }), ...(scope.overruled === null ? {} : { overruled: scope.overruled }) },
          deps.epoch, deps.actor,
        ),
      ),
    next: async (without) => {
      const decision = await chooseHost(scope, deps, site, desired, without);
      return decision.outcome === 'placed' ? decision : null;
    },
  });
  if (result.outcome === 'networkRefused') return blocked(scope, obstacleOf(scope, result.problem), unplacedRetryMs);
  // A change of the Site, or the end of another of its microVMs, wakes it.
  if (result.outcome === 'quotaDenied') return blocked(scope, { condition: 'QuotaDenied', reason: 'QuotaExceeded', message: result.message });
  if (result.outcome === 'growthRefused') {
    if (record?.binding != null) await deps.placement.reloadHost(tenantId, site, record.binding.hostId);
    return failed(new AppError('HOST_FULL', 'the host has no room left for what the microVM grows to'));
  }
  // Somebody took the room between the choice and the commit; the next look chooses anew.
  if (result.outcome === 'hostUnavailable') return failed(new AppError('HOST_FULL'));
  scope.record = result.record;
  deps.placement.bound(object, result.record);
  if (result.record.binding !== null) deps.hints.publish({ kind: 'operations', hostId: result.record.binding.hostId });
  return null;
};

const replaceLost = createReplaceLost(async (scope, deps, without) => {
  if (scope.desired === null || scope.record === null) return { outcome: 'unplaced', message: 'it was not published yet' };
  return chooseHost(scope, deps, scope.record.siteId, scope.desired, new Set([without]));
});

export const convergenceSteps: readonly MicroVMStep[] = [resolveSite, resolveAdoption, deriveDesiredState, deriveLeaseTerms, followSite, awaitReports, followHost, bringIntoEffect, resolveSecrets, placeOnHost, ensureFinalizer, publishPlan, replaceLost];

function blocked(scope: MicroVMScope, obstacle: Obstacle, retryAfterMs?: number): Outcome {
  scope.obstacle = obstacle;
  return waiting(obstacle.reason, obstacle.message, retryAfterMs);
}
