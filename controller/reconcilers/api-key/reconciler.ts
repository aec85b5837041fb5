/**
 * Reconciles one APIKey: the Secret once, then its hash in the database, then the status. The hash is revoked, and the
 * Secret goes, when the object says so, when the key has expired, and when the object goes. Level-based.
 *
 * A crash between Secret and hash leaves a Secret whose hash is registered at the next look.
 */
import { apiKeyId, type ApiKeyId, type TenantId } from '#api/model/ids.ts';
import type { APIKey } from '#crds/gen/apikey.ts';
import { parseDurationMs } from '#crds/scalar-values.ts';
import type { ApiKeyState } from '#controller/ports/api-key-store.ts';
import { done, runSteps, stalled, type Outcome, type Step } from '#controller/runtime/outcome.ts';
import type { ObjectKey } from '#controller/runtime/kubernetes-api.ts';
import { patchStatus, writeFinalizers } from '#controller/runtime/status-patch.ts';
import { writerFor, type ReconcilerDeps } from '../deps.ts';
import { apiKeyFinalizer, apiKeyResource, parseApiKeyObject, secretResource } from '../kinds.ts';
import { ensureKeySecret, loadKeySecret, secretKeyOf, type KeySecret } from './key-secret.ts';
import { projectKeyStatus, type KeyFacts } from './status.ts';

/** Of objects from before the API server wrote the default into them. */
const defaultTtlMs = 90 * 86_400_000;
/** Node's timers hold no longer delay; a resync comes sooner anyway. */
const longestDelayMs = 86_400_000;

export interface KeyDeps extends ReconcilerDeps {
  /** 32 random bytes. */
  readonly newKeySecret: () => Uint8Array;
  readonly sha256: (bytes: Uint8Array) => Uint8Array;
}

interface KeyScope {
  object: APIKey;
  readonly id: ApiKeyId;
  readonly tenantId: TenantId;
  state: ApiKeyState | null;
  secret: KeySecret | null;
  obstacle: KeyFacts['obstacle'];
  isReleased: boolean;
}

type KeyStep = Step<KeyScope, KeyDeps>;

const kindOf = (deps: KeyDeps) => ({ resource: apiKeyResource, parse: parseApiKeyObject, cache: deps.caches.apiKeys });

export async function reconcileApiKey(key: ObjectKey, deps: KeyDeps): Promise<Outcome> {
  const object = deps.caches.apiKeys.get(key);
  if (object === undefined) return done();
  const tenantId = await deps.tenants.of(key.namespace, null);
  const id = apiKeyId(object.metadata.uid);
  const state = await deps.stores.apiKeys.load(tenantId, id);
  const scope: KeyScope = { object, id, tenantId, state, secret: null, obstacle: null, isReleased: false };
  const isDeleting = object.metadata.deletionTimestamp !== undefined;
  const outcome = await runSteps(isDeleting ? deletionSteps : convergenceSteps, scope, deps);
  if (outcome.kind === 'failed' || scope.isReleased) return outcome;
  await writeStatus(scope, deps);
  return outcome;
}

/** The row decides once there is one. */
function expiresAtMs({ object, state }: KeyScope): number {
  if (state !== null) return state.expiresAtMs;
  return Date.parse(object.metadata.creationTimestamp) + (parseDurationMs(object.spec.ttl ?? '') ?? defaultTtlMs);
}

const revokeKey: KeyStep = async (scope, deps) => {
  if (scope.state === null || scope.state.isRevoked) return null;
  await deps.stores.apiKeys.revoke(scope.tenantId, scope.id, deps.epoch, deps.actor);
  scope.state = { ...scope.state, isRevoked: true };
  return null;
};

const deleteSecret: KeyStep = async (scope, deps) => {
  // The owner reference would do it too, later, and only where a garbage collector runs.
  const secret = await loadKeySecret(deps.kube, scope.object);
  if (secret?.isOurs === true) await deps.kube.delete(secretResource, secretKeyOf(scope.object), secret.uid);
  return null;
};

/** Ends here when the key is of no use any more. */
const retireEnded: KeyStep = async (scope, deps) => {
  const isRevoked = scope.object.spec.revoked === true || scope.state?.isRevoked === true;
  if (!isRevoked && expiresAtMs(scope) > deps.time.nowMs()) return null;
  // The row first: it is what lets callers in.
  if (isRevoked) await revokeKey(scope, deps);
  await deleteSecret(scope, deps);
  return done();
};

const ensureFinalizer: KeyStep = async (scope, deps) => {
  const finalizers = scope.object.metadata.finalizers ?? [];
  if (finalizers.includes(apiKeyFinalizer)) return null;
  const written = await writeFinalizers(writerFor(deps, kindOf(deps), 'k8s.finalizer.add'), scope.object, [...finalizers, apiKeyFinalizer]);
  if (written === null) {
    scope.isReleased = true;
    return done();
  }
  scope.object = written;
  return null;
};

const ensureSecret: KeyStep = async (scope, deps) => {
  if (scope.state !== null) return null;
  scope.secret = (await loadKeySecret(deps.kube, scope.object)) ?? (await ensureKeySecret(deps.kube, scope.object, deps.newKeySecret()));
  if (scope.secret?.secretBytes != null) return null;
  const { name } = secretKeyOf(scope.object);
  scope.obstacle = { reason: 'SecretLost', message: `Secret ${name} exists and holds no key of this object: delete it, and this APIKey with it` };
  return stalled('SecretLost', scope.obstacle.message);
};

const registerHash: KeyStep = async (scope, deps) => {
  const { secret, tenantId, id, object } = scope;
  if (scope.state !== null || secret === null || secret.secretBytes === null) return null;
  const { name, namespace } = object.metadata;
  const { role, siteRef } = object.spec;
  const secretHash = deps.sha256(secret.secretBytes);
  await deps.stores.apiKeys.register(
    { tenantId, namespace, keyId: id, name, secretHash, role, siteName: siteRef?.name ?? null, expiresAtMs: expiresAtMs(scope) },
    deps.epoch,
    deps.actor,
  );
  scope.state = await deps.stores.apiKeys.load(tenantId, id);
  return null;
};

const awaitEnd: KeyStep = async (scope, deps) => done(Math.min(longestDelayMs, Math.max(0, expiresAtMs(scope) - deps.time.nowMs()) + 1));

const convergenceSteps: readonly KeyStep[] = [retireEnded, ensureFinalizer, ensureSecret, registerHash, awaitEnd];

const releaseForeign: KeyStep = async (scope) => {
  if ((scope.object.metadata.finalizers ?? []).includes(apiKeyFinalizer)) return null;
  scope.isReleased = true;
  return done();
};

const removeFinalizer: KeyStep = async (scope, deps) => {
  const rest = (scope.object.metadata.finalizers ?? []).filter((name) => name !== apiKeyFinalizer);
  await writeFinalizers(writerFor(deps, kindOf(deps), 'k8s.finalizer.remove'), scope.object, rest);
  scope.isReleased = true;
  return done();
};

const deletionSteps: readonly KeyStep[] = [releaseForeign, revokeKey, deleteSecret, removeFinalizer];

async function writeStatus(scope: KeyScope, deps: KeyDeps): Promise<void> {
  const facts: KeyFacts = {
    state: scope.state,
    secretName: secretKeyOf(scope.object).name,
    expiresAtMs: expiresAtMs(scope),
    obstacle: scope.obstacle,
    nowMs: deps.time.nowMs(),
  };
  await patchStatus(writerFor(deps, kindOf(deps), 'k8s.status'), scope.object, (object: APIKey) => projectKeyStatus(object, facts));
}
