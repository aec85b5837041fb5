/**
 * Takes a Site out of the mesh: hosts are told to leave, everything of the site in the account is removed, then the
 * finalizer. An account that does not answer holds up the deletion of a Site for a stated time only, or until a person
 * says that it may be abandoned; an event then says what was left there.
 */
import type { MeshCall } from '#controller/domain/mesh/model.ts';
import { namePrefix, siteMarker } from '#controller/domain/mesh/names.ts';
import { planMesh } from '#controller/domain/mesh/plan-mesh.ts';
import { done, waiting, type Outcome } from '#controller/runtime/outcome.ts';
import { writeFinalizers } from '#controller/runtime/status-patch.ts';
import { writerFor } from '../deps.ts';
import { siteResource } from '../kinds.ts';
import { listAccount, namesOf, performAll } from './account-calls.ts';
import { deriveLeaving, leaveOrder } from './desired.ts';
import { hostOf, saveOrder } from './notes.ts';
import { abandonAnnotation, accountFailed, meshFinalizer, siteKind, waitForGate, type MeshDeps, type MeshSiteScope, type MeshStep } from './scope.ts';
import { loadMeshToken } from './token.ts';

/** Removing has a verifying look; more means that somebody makes objects with our marker. */
const passesMax = 4;
const secretRetryMs = 10_000;

const endWithoutFinalizer: MeshStep = async ({ object, siteId }, deps) => {
  if ((object.metadata.finalizers ?? []).includes(meshFinalizer)) return null;
  deps.board.remove(siteId);
  return done();
};

const dismissAll: MeshStep = async (scope, deps) => {
  for (const record of await deps.mesh.listBySite(scope.tenantId, scope.siteId)) {
    if (record.order !== null) await saveOrder(record, leaveOrder, deps);
  }
  return null;
};

const removeObjects: MeshStep = async (scope, deps) => {
  // Nothing was ever made.
  if (scope.saved === null) return null;
  if (scope.object.metadata.annotations?.[abandonAnnotation] === 'true') return abandon(scope, deps, `the annotation ${abandonAnnotation} asks for it`);
  const outcome = await tryToRemove(scope, deps);
  if (outcome?.kind !== 'waiting') return outcome;
  const leftMs = abandonInMs(scope, deps);
  if (leftMs === 0) return abandon(scope, deps, outcome.message);
  const retryAfterMs = Math.min(outcome.retryAfterMs ?? secretRetryMs, leftMs ?? Number.MAX_SAFE_INTEGER);
  return { ...outcome, retryAfterMs };
};

async function tryToRemove(scope: MeshSiteScope, deps: MeshDeps): Promise<Outcome | null> {
  const { saved } = scope;
  if (saved === null) return null;
  const found = await loadMeshToken(deps.kube, { namespace: scope.object.metadata.namespace, name: saved.secretName });
  scope.token = found ?? deps.tokens.get(scope.siteId) ?? null;
  if (scope.token === null) {
    const message = `there is no Secret ${saved.secretName} with the API token in its key token, so that the objects of the site can not be removed from the mesh account`;
    deps.board.put(scope.siteId, { ready: { status: 'False', reason: 'SecretMissing', message }, isolated: null });
    return waiting('SecretMissing', message, Math.min(secretRetryMs, deps.times.meshRetryMaxMs));
  }
  const shut = waitForGate(scope, deps);
  if (shut !== null) return shut;
  try {
    const account = deps.openAccount({ managementUrl: saved.managementUrl, token: scope.token.reveal() });
    for (let pass = 1; pass <= passesMax; pass += 1) {
      const listing = await listAccount(deps, account, scope.names, deps.signal);
      const { calls } = planMesh(deriveLeaving(scope.names), listing);
      deps.board.put(scope.siteId, removing(calls));
      if (calls.length === 0) return null;
      await performAll(deps, account, { calls, names: namesOf(listing), signal: deps.signal });
    }
    return waiting('MeshRemoving', 'objects of the site come back in the mesh account', secretRetryMs);
  } catch (error) {
    return accountFailed(scope, deps, error);
  }
}

const removing = (calls: readonly MeshCall[]): Parameters<MeshDeps['board']['put']>[1] => ({
  ready: { status: 'False', reason: 'MeshRemoving', message: `${calls.length} calls are left to remove the objects of the site from the mesh account` },
  isolated: null,
});

/** Null when nothing is held up: the Site stays, only its mesh goes. */
function abandonInMs({ object }: MeshSiteScope, deps: MeshDeps): number | null {
  const { deletionTimestamp } = object.metadata;
  if (deletionTimestamp === undefined) return null;
  return Math.max(0, Date.parse(deletionTimestamp) + deps.times.meshAbandonAfterMs - deps.time.nowMs());
}

async function abandon(scope: MeshSiteScope, deps: MeshDeps, why: string): Promise<null> {
  const left = `groups, policies, networks and keys whose names begin with ${namePrefix(scope.names)} or ${siteMarker(scope.names)}, and their peers, may be left at ${scope.saved?.managementUrl ?? ''}`;
  deps.metrics.countAbandoned();
  await deps.events.record(siteResource, scope.object, { type: 'Warning', reason: 'MeshAbandoned', action: 'RemoveMesh', note: `${left}: ${why}` });
  return null;
}

const forgetHosts: MeshStep = async (scope, deps) => {
  for (const record of await deps.mesh.listBySite(scope.tenantId, scope.siteId)) {
    if (record.order !== null) await deps.mesh.saveHost({ ...hostOf(record), subnet: null, groupId: null, peerId: null }, deps.epoch, deps.actor);
  }
  return null;
};

const removeFinalizer: MeshStep = async (scope, deps) => {
  const rest = (scope.object.metadata.finalizers ?? []).filter((name) => name !== meshFinalizer);
  await writeFinalizers(writerFor(deps, siteKind(deps), 'k8s.finalizer.remove'), scope.object, rest);
  deps.settled.delete(scope.siteId);
  deps.tokens.delete(scope.siteId);
  deps.gate.open(scope.siteId);
  deps.board.remove(scope.siteId);
  return done();
};

export const leavingSteps: readonly MeshStep[] = [endWithoutFinalizer, dismissAll, removeObjects, forgetHosts, removeFinalizer];
