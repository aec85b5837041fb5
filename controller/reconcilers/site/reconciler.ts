/**
 * Reconciles one Site: its row, its figures, and a deletion that waits until nothing is left at it.
 * Level-based. Figures are coalesced to one write in the aggregate interval; transitions are written at once.
 */
import { siteId, type TenantId } from '#api/model/ids.ts';
import { isAppError } from '#api/model/error-codes.ts';
import type { SiteQuota } from '#api/model/quota.ts';
import type { Site } from '#crds/gen/site.ts';
import { parseWholeQuantity } from '#crds/scalar-values.ts';
import { done, runSteps, waiting, type Outcome, type Step } from '#controller/runtime/outcome.ts';
import { keyOf, type ObjectKey } from '#controller/runtime/kubernetes-api.ts';
import { patchStatus, writeFinalizers } from '#controller/runtime/status-patch.ts';
import { writerFor, type ReconcilerDeps } from '../deps.ts';
import type { MassDisconnect } from '#controller/domain/leases/mass-disconnect.ts';
import type { MeshFinding } from '../mesh/board.ts';
import { hostResource, isForced, microvmResource, parseSite, siteFinalizer, siteResource } from '../kinds.ts';
import { confirmDeleteAnnotation } from './deletion-guard.ts';
import { projectSiteStatus, type SiteFacts } from './status.ts';

export interface SiteDeps extends ReconcilerDeps {
  readonly aggregateIntervalMs: number;
  /** Called when the row of a site was first found or made: microVMs, hosts and tokens may wait for it. */
  readonly onSaved: (site: Site) => void;
  /** What was found in mesh accounts, by UID of the site. */
  readonly meshOf: (siteUid: string) => MeshFinding | null;
  /** What holds the replacements of a site, by its UID. */
  readonly massOf: (siteUid: string) => MassDisconnect | null;
}

interface SiteScope {
  object: Site;
  readonly tenantId: TenantId;
  /** The finalizer is off: there is nothing to write to any more. */
  isReleased: boolean;
}

type SiteStep = Step<SiteScope, SiteDeps>;

const kindOf = (deps: SiteDeps) => ({ resource: siteResource, parse: parseSite, cache: deps.caches.sites });

export async function reconcileSite(key: ObjectKey, deps: SiteDeps): Promise<Outcome> {
  const object = deps.caches.sites.get(key);
  if (object === undefined) return done();
  const tenantId = await deps.tenants.of(key.namespace, object.metadata.uid);
  const scope: SiteScope = { object, tenantId, isReleased: false };
  const isDeleting = object.metadata.deletionTimestamp !== undefined;
  const outcome = await runSteps(isDeleting ? deletionSteps : convergenceSteps, scope, deps);
  if (outcome.kind === 'failed' || scope.isReleased) return outcome;
  const delayMs = await writeStatus(scope, deps);
  return delayMs > 0 ? done(delayMs) : outcome;
}

const ensureFinalizer: SiteStep = async (scope, deps) => {
  const finalizers = scope.object.metadata.finalizers ?? [];
  if (finalizers.includes(siteFinalizer)) return null;
  const written = await writeFinalizers(writerFor(deps, kindOf(deps), 'k8s.finalizer.add'), scope.object, [...finalizers, siteFinalizer]);
  if (written === null) return done();
  scope.object = written;
  return null;
};

const saveRow: SiteStep = async ({ object, tenantId }, deps) => {
  const { uid, generation, name, namespace } = object.metadata;
  if (deps.savedSites.generationOf(uid) === generation) return null;
  const requireApproval = object.spec.enrollment?.requireApproval ?? false;
  await deps.stores.sites.save({ tenantId, namespace, siteId: siteId(uid), name, generation, requireApproval, quota: quotaOf(object) }, deps.epoch, deps.actor);
  deps.savedSites.set(uid, generation);
  deps.onSaved(object);
  return null;
};

/** The API server checked the quantities. */
function quotaOf({ spec }: Site): SiteQuota | null {
  const { quota } = spec;
  if (quota === undefined) return null;
  const memoryBytes = quota.memory === undefined ? null : parseWholeQuantity(quota.memory);
  const diskBytes = quota.disk === undefined ? null : parseWholeQuantity(quota.disk);
  return {
    ...(quota.microvms === undefined ? {} : { microvms: quota.microvms }),
    ...(quota.vcpus === undefined ? {} : { vcpus: quota.vcpus }),
    ...(memoryBytes === null ? {} : { memoryBytes }),
    ...(diskBytes === null ? {} : { diskBytes }),
  };
}

/** A forced deletion takes all that is at the site with it: microVMs first, then hosts, each by its own way. */
const deleteContents: SiteStep = async ({ object }, deps) => {
  if (!isForced(object)) return null;
  const { hosts, microvms } = await gather(object, deps);
  const [resource, rest] = microvms.length > 0 ? [microvmResource, microvms] : [hostResource, hosts];
  for (const { metadata } of rest.filter((one) => one.metadata.deletionTimestamp === undefined)) {
    await deps.kube.delete(resource, keyOf({ metadata }), metadata.uid);
  }
  return null;
};

/** What was confirmed is done: the next mass deletion asks again. */
const takeConfirmationOff: SiteStep = async ({ object }, deps) => {
  const { namespace, name, uid, resourceVersion, annotations } = object.metadata;
  if (annotations?.[confirmDeleteAnnotation] === undefined) return null;
  const { hold } = await gather(object, deps);
  if (hold.deleting > 0) return null;
  await deps.kube.patch(siteResource, { namespace, name }, { metadata: { uid, resourceVersion, annotations: { [confirmDeleteAnnotation]: null } } }, { type: 'merge' });
  return null;
};

const convergenceSteps: readonly SiteStep[] = [ensureFinalizer, saveRow, takeConfirmationOff];

const waitUntilEmpty: SiteStep = async ({ object }, deps) => {
  if (!(object.metadata.finalizers ?? []).includes(siteFinalizer)) return done();
  const { hosts, microvms } = await gather(object, deps);
  if (microvms.length > 0) return waiting('MicroVMsPresent', `${microvms.length} microVMs are still at the site`);
  if (hosts.length > 0) return waiting('HostsPresent', `${hosts.length} hosts are still at the site`);
  return null;
};

const removeRow: SiteStep = async ({ object, tenantId }, deps) => {
  try {
    await deps.stores.sites.remove(tenantId, siteId(object.metadata.uid), deps.epoch, deps.actor);
    return null;
  } catch (error) {
    // Objects are gone and rows are not yet: a host or a microVM is being released at this moment.
    if (isAppError(error) && error.code === 'CONFLICT') return waiting('HostsPresent', 'rows of the site are still in use', 1000);
    throw error;
  }
};

const removeFinalizer: SiteStep = async (scope, deps) => {
  const rest = (scope.object.metadata.finalizers ?? []).filter((name) => name !== siteFinalizer);
  await writeFinalizers(writerFor(deps, kindOf(deps), 'k8s.finalizer.remove'), scope.object, rest);
  scope.isReleased = true;
  deps.coalescer.forget(scope.object.metadata.uid);
  return done();
};

const deletionSteps: readonly SiteStep[] = [deleteContents, waitUntilEmpty, removeRow, removeFinalizer];

async function gather(site: Site, deps: SiteDeps): Promise<SiteFacts> {
  const { name, namespace } = site.metadata;
  return {
    hosts: deps.caches.hosts.list(namespace).filter((host) => host.spec.siteRef.name === name),
    microvms: deps.caches.microvms.list(namespace).filter((microvm) => microvm.spec.siteRef.name === name),
    sizesOf: (className) => deps.caches.classes.get({ namespace, name: className })?.spec,
    mesh: deps.meshOf(site.metadata.uid),
    mass: deps.massOf(site.metadata.uid),
    recovery: { awaited: deps.recoveryBoard.awaitedAt(site.metadata.uid), incarnation: deps.recoveryBoard.incarnation() },
    hold: await deps.deletionGuard.of(site),
    nowMs: deps.time.nowMs(),
  };
}

/** Returns how long figures are held back, 0 when nothing is. */
async function writeStatus({ object }: SiteScope, deps: SiteDeps): Promise<number> {
  const { uid } = object.metadata;
  const facts = await gather(object, deps);
  const project = (site: Site) => projectSiteStatus(site, facts);
  const figures = { hosts: deps.aggregateIntervalMs, microvms: deps.aggregateIntervalMs, usedQuota: deps.aggregateIntervalMs };
  const delayMs = deps.coalescer.delayMs(uid, object.status, project(object), figures);
  if (delayMs > 0) return delayMs;
  const written = await patchStatus(writerFor(deps, kindOf(deps), 'k8s.status'), object, project);
  if (!written.isWritten) return 0;
  deps.coalescer.wrote(uid);
  if (written.object !== null) await tellRecovery(object, written.object, deps);
  return 0;
}

/** The one transition of a Site that an operator has to act on. */
async function tellRecovery(before: Site, after: Site, deps: SiteDeps): Promise<void> {
  const [was, is] = [before, after].map((site) => site.status?.conditions?.find(({ type }) => type === 'RecoveryUnderWay'));
  if (is === undefined || is.status === was?.status) return;
  await deps.events.record(siteResource, after, { type: is.status === 'True' ? 'Warning' : 'Normal', reason: is.reason, action: 'Observed', note: is.message });
}
