/**
 * Reconciles the mesh of one Site: what its account holds, the subnets of its hosts and the orders to them. Level-based:
 * it lists the account and repairs what differs; ids are notes. Nothing of it is on the path of a microVM.
 *
 * An account is looked at when what the site wants has changed, and after the resync interval for drift; hints alone cost
 * no request. The Site's own reconciler shows what is found.
 */
import { createHash } from 'node:crypto';
import { siteId } from '#api/model/ids.ts';
import type { DesiredMesh } from '#controller/domain/mesh/model.ts';
import { planMesh } from '#controller/domain/mesh/plan-mesh.ts';
import { done, runSteps, waiting, type Outcome } from '#controller/runtime/outcome.ts';
import type { ObjectKey } from '#controller/runtime/kubernetes-api.ts';
import { writeFinalizers } from '#controller/runtime/status-patch.ts';
import { writerFor } from '../deps.ts';
import { listAccount, namesOf, performAll } from './account-calls.ts';
import { deriveDesired, isMeshed, leaveOrder, meshScope, meshSettings } from './desired.ts';
import { findingOf } from './finding.ts';
import { leavingSteps } from './leaving.ts';
import { forgetLeft, hostOf, note, saveOrder, withoutKeysInTheMaking } from './notes.ts';
import { accountFailed, gateFingerprint, meshFinalizer, siteKind, waitForGate, type MeshDeps, type MeshSiteScope, type MeshStep } from './scope.ts';
import { loadMeshToken } from './token.ts';

/** Looks at one account in one reconcile: make, verify, and once more for what the first made possible. */
const passesMax = 5;
const secretRetryMs = 30_000;
const nextPassesMs = 5_000;

export async function reconcileMesh(key: ObjectKey, deps: MeshDeps): Promise<Outcome> {
  const object = deps.caches.sites.get(key);
  if (object === undefined) return done();
  const scope = await loadScope(object, deps);
  return runSteps(isLeaving(scope, deps) ? leavingSteps : convergenceSteps, scope, deps);
}

async function loadScope(object: MeshSiteScope['object'], deps: MeshDeps): Promise<MeshSiteScope> {
  const id = siteId(object.metadata.uid);
  const tenantId = await deps.tenants.of(object.metadata.namespace, object.metadata.uid);
  const [installationId, saved] = await Promise.all([deps.mesh.installationId(), deps.mesh.loadSite(tenantId, id)]);
  return { object, siteId: id, tenantId, names: meshScope(object, installationId), saved, token: null, isPoolFull: false };
}

/** A Site that is being deleted keeps its mesh as long as it has hosts. */
function isLeaving({ object }: MeshSiteScope, deps: MeshDeps): boolean {
  if (!isMeshed(object)) return true;
  if (object.metadata.deletionTimestamp === undefined) return false;
  const { name, namespace } = object.metadata;
  return !deps.caches.hosts.list(namespace).some((host) => host.spec.siteRef.name === name);
}

const awaitSite: MeshStep = async ({ object }, deps) =>
  deps.savedSites.has(object.metadata.uid) ? null : waiting('SiteNotSaved', 'the site is being taken over', 1_000);

const ensureFinalizer: MeshStep = async (scope, deps) => {
  const finalizers = scope.object.metadata.finalizers ?? [];
  if (finalizers.includes(meshFinalizer)) return null;
  // Too late to add one: nothing was made either.
  if (scope.object.metadata.deletionTimestamp !== undefined) return done();
  const written = await writeFinalizers(writerFor(deps, siteKind(deps), 'k8s.finalizer.add'), scope.object, [...finalizers, meshFinalizer]);
  if (written === null) return done();
  scope.object = written;
  return null;
};

const saveSettings: MeshStep = async (scope, deps) => {
  const { managementUrl, secretName } = meshSettings(scope.object);
  const groupIds = scope.saved?.managementUrl === managementUrl ? scope.saved.groupIds : {};
  scope.saved = { managementUrl, secretName, groupIds };
  await deps.mesh.saveSite(scope.tenantId, scope.siteId, scope.saved, deps.epoch, deps.actor);
  return null;
};

const allocateSubnets: MeshStep = async (scope, deps) => {
  const { subnetPool } = meshSettings(scope.object);
  for (const record of await deps.mesh.listBySite(scope.tenantId, scope.siteId)) {
    if (!record.mayJoin || record.subnet !== null) continue;
    const subnet = await deps.mesh.findFreeSubnet(subnetPool);
    scope.isPoolFull = subnet === null;
    if (subnet === null) return null;
    await deps.mesh.saveHost({ ...hostOf(record), subnet }, deps.epoch, deps.actor);
  }
  return null;
};

/** Who was revoked, or lost its approval, is told before its peer goes. */
const dismissHosts: MeshStep = async (scope, deps) => {
  for (const record of await deps.mesh.listBySite(scope.tenantId, scope.siteId)) {
    if (!record.mayJoin && record.order?.join === true) await saveOrder(record, leaveOrder, deps);
  }
  return null;
};

const loadToken: MeshStep = async (scope, deps) => {
  const { secretName } = meshSettings(scope.object);
  scope.token = await loadMeshToken(deps.kube, { namespace: scope.object.metadata.namespace, name: secretName });
  if (scope.token !== null) {
    deps.tokens.set(scope.siteId, scope.token);
    return null;
  }
  const message = `there is no Secret ${secretName} with the API token in its key token`;
  deps.board.put(scope.siteId, { ready: { status: 'False', reason: 'SecretMissing', message }, isolated: null });
  return waiting('SecretMissing', message, Math.min(secretRetryMs, deps.times.meshRetryMaxMs));
};

const converge: MeshStep = async (scope, deps) => {
  try {
    for (let pass = 1; pass <= passesMax; pass += 1) {
      const leftMs = await settledForMs(scope, deps);
      if (leftMs > 0) return done(leftMs);
      const shut = waitForGate(scope, deps);
      if (shut !== null) return shut;
      await look(scope, deps);
      deps.gate.open(scope.siteId);
    }
    return waiting('MeshConverging', 'the account changes faster than it is looked at', nextPassesMs);
  } catch (error) {
    return accountFailed(scope, deps, error);
  }
};

const convergenceSteps: readonly MeshStep[] = [awaitSite, ensureFinalizer, saveSettings, allocateSubnets, dismissHosts, loadToken, converge];

/** Of everything that decides what the account should hold; a digest, as a large site's is long. */
function fingerprintOf(scope: MeshSiteScope, desired: DesiredMesh): string {
  return createHash('sha256').update(JSON.stringify([scope.saved?.managementUrl, gateFingerprint(scope), desired])).digest('hex');
}

/** Milliseconds until the account is to be looked at again; 0 when something that it should hold has changed. */
async function settledForMs(scope: MeshSiteScope, deps: MeshDeps): Promise<number> {
  const settled = deps.settled.get(scope.siteId);
  if (settled === undefined) return 0;
  const records = await deps.mesh.listBySite(scope.tenantId, scope.siteId);
  if (fingerprintOf(scope, deriveDesired(scope.object, scope.names, records)) !== settled.fingerprint) return 0;
  return Math.max(0, Math.ceil(settled.atMs + deps.times.meshResyncIntervalMs - deps.time.monotonicMs()));
}

/** Lists, repairs, and notes what was found. The look is settled when there was nothing to do and nothing new. */
async function look(scope: MeshSiteScope, deps: MeshDeps): Promise<void> {
  const account = deps.openAccount({ managementUrl: scope.saved?.managementUrl ?? '', token: scope.token?.reveal() ?? '' });
  const listing = await listAccount(deps, account, scope.names, deps.signal);
  // After the listing: a key in it whose making began before it is known to be claimed or held.
  const records = await deps.mesh.listBySite(scope.tenantId, scope.siteId);
  const desired = deriveDesired(scope.object, scope.names, records);
  const plan = planMesh(desired, listing);
  const calls = withoutKeysInTheMaking(plan.calls, scope.names, records);
  const names = namesOf(listing);
  if (calls.length > 0) deps.settled.delete(scope.siteId);
  await performAll(deps, account, { calls, names, signal: deps.signal });
  await note({ scope, deps }, { records, listing, names });
  deps.board.put(scope.siteId, findingOf({ desired, listing, missingGroups: plan.missingGroups, isPoolFull: scope.isPoolFull, isSettled: calls.length === 0 }));
  if (calls.length > 0) return;
  await forgetLeft(records, deps);
  const fingerprint = fingerprintOf(scope, desired);
  deps.settled.set(scope.siteId, { fingerprint, atMs: deps.time.monotonicMs() });
}
