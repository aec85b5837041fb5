/**
 * Reconciles one EnrollmentToken: the Secret first, then its hash in the database, then the status; the Secret
 * goes when the token was used or has expired, and the hash when the object goes. Level-based.
 *
 * A crash between Secret and hash leaves a Secret whose hash is registered at the next look. A Secret that
 * somebody deleted is made again with another secret: the old text is worthless from then on.
 */
import { enrollmentTokenId, siteId, type EnrollmentTokenId, type TenantId } from '#api/model/ids.ts';
import type { EnrollmentToken } from '#crds/gen/enrollmenttoken.ts';
import type { Site } from '#crds/gen/site.ts';
import { parseDurationMs } from '#crds/scalar-values.ts';
import type { TokenState } from '#controller/ports/enrollment-store.ts';
import { done, runSteps, stalled, waiting, type Outcome, type Step } from '#controller/runtime/outcome.ts';
import type { ObjectKey } from '#controller/runtime/kubernetes-api.ts';
import { patchStatus, writeFinalizers } from '#controller/runtime/status-patch.ts';
import { findSite, writerFor, type ReconcilerDeps } from '../deps.ts';
import { parseToken, secretResource, tokenFinalizer, tokenResource } from '../kinds.ts';
import { projectTokenStatus, type TokenFacts } from './status.ts';
import { ensureTokenSecret, loadTokenSecret, secretKeyOf, type TokenSecret } from './token-secret.ts';

const defaultTtlMs = 3_600_000;

export interface TokenDeps extends ReconcilerDeps {
  /** Addresses `host:port` that agents dial. */
  readonly endpoints: () => readonly string[];
  /** Fingerprints of the trusted roots. */
  readonly pins: () => readonly string[];
  /** 32 random bytes in base64url. */
  readonly newSecret: () => string;
  readonly sha256: (bytes: Uint8Array) => Uint8Array;
  /** UIDs of Secrets whose hash this process has registered. */
  readonly registered: Set<string>;
}

interface TokenScope {
  object: EnrollmentToken;
  readonly id: EnrollmentTokenId;
  readonly tenantId: TenantId;
  readonly site: Site | null;
  state: TokenState | null;
  secret: TokenSecret | null;
  obstacle: TokenFacts['obstacle'];
  isReleased: boolean;
}

type TokenStep = Step<TokenScope, TokenDeps>;

const kindOf = (deps: TokenDeps) => ({ resource: tokenResource, parse: parseToken, cache: deps.caches.tokens });

export async function reconcileToken(key: ObjectKey, deps: TokenDeps): Promise<Outcome> {
  const object = deps.caches.tokens.get(key);
  if (object === undefined) return done();
  const site = findSite(deps, key.namespace, object.spec.siteRef.name) ?? null;
  const tenantId = await deps.tenants.of(key.namespace, site?.metadata.uid ?? null);
  const id = enrollmentTokenId(object.metadata.uid);
  const state = await deps.stores.enrollment.loadToken(tenantId, id);
  const scope: TokenScope = { object, id, tenantId, site, state, secret: null, obstacle: null, isReleased: false };
  const isDeleting = object.metadata.deletionTimestamp !== undefined;
  const outcome = await runSteps(isDeleting ? deletionSteps : convergenceSteps, scope, deps);
  if (outcome.kind === 'failed' || scope.isReleased) return outcome;
  await writeStatus(scope, deps);
  return outcome;
}

/** The row decides once there is one. */
function expiresAtMs({ object, state }: TokenScope): number {
  if (state !== null) return state.expiresAtMs;
  return Date.parse(object.metadata.creationTimestamp) + (parseDurationMs(object.spec.ttl ?? '') ?? defaultTtlMs);
}

const retireEnded: TokenStep = async (scope, deps) => {
  const isUsed = scope.state !== null && scope.state.usedAtMs !== null;
  if (!isUsed && expiresAtMs(scope) > deps.time.nowMs()) return null;
  scope.secret = await loadTokenSecret(deps.kube, scope.object);
  if (scope.secret?.isOurs === true) {
    await deps.kube.delete(secretResource, secretKeyOf(scope.object), scope.secret.uid);
    deps.registered.delete(scope.secret.uid);
  }
  scope.secret = null;
  return done();
};

const resolveSite: TokenStep = async (scope, deps) => {
  const name = scope.object.spec.siteRef.name;
  if (scope.site === null || scope.site.metadata.deletionTimestamp !== undefined) {
    scope.obstacle = { reason: 'SiteNotFound', message: `there is no Site ${name} in this namespace, or it is being deleted` };
    return waiting('SiteNotFound', scope.obstacle.message);
  }
  if (!deps.savedSites.has(scope.site.metadata.uid)) {
    scope.obstacle = { reason: 'Pending', message: `the Site ${name} is being taken over` };
    return waiting('Pending', scope.obstacle.message);
  }
  return null;
};

const ensureFinalizer: TokenStep = async (scope, deps) => {
  const finalizers = scope.object.metadata.finalizers ?? [];
  if (finalizers.includes(tokenFinalizer)) return null;
  const written = await writeFinalizers(writerFor(deps, kindOf(deps), 'k8s.finalizer.add'), scope.object, [...finalizers, tokenFinalizer]);
  if (written === null) {
    scope.isReleased = true;
    return done();
  }
  scope.object = written;
  return null;
};

const ensureSecret: TokenStep = async (scope, deps) => {
  const content = { endpoints: deps.endpoints(), pins: deps.pins(), secret: deps.newSecret() };
  scope.secret = (await loadTokenSecret(deps.kube, scope.object)) ?? (await ensureTokenSecret(deps.kube, scope.object, content));
  if (scope.secret?.secretBytes != null) return null;
  const { name } = secretKeyOf(scope.object);
  scope.obstacle = { reason: 'SecretLost', message: `Secret ${name} exists and holds no token of this object: delete it` };
  return stalled('SecretLost', scope.obstacle.message);
};

const registerHash: TokenStep = async (scope, deps) => {
  const { secret, site, tenantId, id, object } = scope;
  if (secret === null || secret.secretBytes === null || site === null) return null;
  if (scope.state !== null && deps.registered.has(secret.uid)) return null;
  const registration = {
    tenantId,
    tokenId: id,
    siteId: siteId(site.metadata.uid),
    secretHash: deps.sha256(secret.secretBytes),
    hostName: object.spec.hostName ?? null,
    expiresAtMs: expiresAtMs(scope),
  };
  await deps.stores.enrollment.registerToken(registration, deps.epoch, deps.actor);
  deps.registered.add(secret.uid);
  scope.state = await deps.stores.enrollment.loadToken(tenantId, id);
  return null;
};

const awaitUse: TokenStep = async (scope, deps) => done(Math.max(0, expiresAtMs(scope) - deps.time.nowMs()) + 1);

const convergenceSteps: readonly TokenStep[] = [retireEnded, resolveSite, ensureFinalizer, ensureSecret, registerHash, awaitUse];

const revokeHash: TokenStep = async (scope, deps) => {
  if (!(scope.object.metadata.finalizers ?? []).includes(tokenFinalizer)) {
    scope.isReleased = true;
    return done();
  }
  if (scope.state !== null && scope.state.usedAtMs === null) {
    await deps.stores.enrollment.revokeToken(scope.tenantId, scope.id, deps.epoch, deps.actor);
  }
  return null;
};

const deleteSecret: TokenStep = async (scope, deps) => {
  // The owner reference would do it too, later, and only where a garbage collector runs.
  const secret = await loadTokenSecret(deps.kube, scope.object);
  if (secret?.isOurs === true) await deps.kube.delete(secretResource, secretKeyOf(scope.object), secret.uid);
  return null;
};

const removeFinalizer: TokenStep = async (scope, deps) => {
  const rest = (scope.object.metadata.finalizers ?? []).filter((name) => name !== tokenFinalizer);
  await writeFinalizers(writerFor(deps, kindOf(deps), 'k8s.finalizer.remove'), scope.object, rest);
  scope.isReleased = true;
  return done();
};

const deletionSteps: readonly TokenStep[] = [revokeHash, deleteSecret, removeFinalizer];

async function writeStatus(scope: TokenScope, deps: TokenDeps): Promise<void> {
  const facts: TokenFacts = {
    state: scope.state,
    secretName: secretKeyOf(scope.object).name,
    isSecretWritten: scope.secret?.secretBytes != null,
    expiresAtMs: expiresAtMs(scope),
    obstacle: scope.obstacle,
    nowMs: deps.time.nowMs(),
  };
  const writer = writerFor(deps, kindOf(deps), 'k8s.status');
  await patchStatus(writer, scope.object, (token: EnrollmentToken) => projectTokenStatus(token, facts));
}
