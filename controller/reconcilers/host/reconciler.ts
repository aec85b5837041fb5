/**
 * Reconciles one Host: makes the object of an enrolled machine, hands what it says to the database, shows what
 * the machine reports, carries out what a person decided about its identity, and revokes it before the object goes.
 * Level-based.
 *
 * Enrollment and beats are the gateway's; this only reads them. A Host whose object vanished without its
 * finalizer is made again: only an object seen with a deletionTimestamp is an order to revoke.
 */
import { isAppError } from '#api/model/error-codes.ts';
import type { Host } from '#crds/gen/host.ts';
import type { MicroVM } from '#crds/gen/microvm.ts';
import { parseWholeQuantity } from '#crds/scalar-values.ts';
import type { HostId, TenantId } from '#api/model/ids.ts';
import type { HostRecord } from '#controller/ports/host-store.ts';
import type { Displacement } from '#controller/ports/lease-store.ts';
import type { MeshHostRecord, MeshStore } from '#controller/ports/mesh-store.ts';
import { done, runSteps, waiting, type Outcome, type Step } from '#controller/runtime/outcome.ts';
import { isAlreadyExists, isNotFound, keyOf, type ObjectKey } from '#controller/runtime/kubernetes-api.ts';
import { patchStatus, writeFinalizers } from '#controller/runtime/status-patch.ts';
import { durably, findSite, writerFor, type ReconcilerDeps } from '../deps.ts';
import { acceptClaimAnnotation, forceDeleteAnnotation, hostFinalizer, hostResource, isForced, microvmResource, parseHost, revokeAnnotation } from '../kinds.ts';
import { isMeshed } from '../mesh/desired.ts';
import { definitionRetryMs, describeDefinitionHold } from '../recovery/definition-guard.ts';
import { confirmAnnotation } from '../recovery/hold.ts';
import { deriveAgentOrder } from './agent-version.ts';
import { emptyingPhase, gatherEmptying } from './emptying.ts';
import { projectHostStatus } from './status.ts';

/** Their deletions wake the host; this covers one that nobody told. */
const giveUpRetryMs = 5_000;
/** Facts that people read and no decision needs: one write in this time is enough. */
const factsIntervalMs = 300_000;

export interface HostDeps extends ReconcilerDeps {
  readonly aggregateIntervalMs: number;
  /** Called when the host is heard again or fell silent since the last look. */
  readonly onReachabilityChanged: (hostId: HostId) => void;
  /** Called when the host may take something else than before. */
  readonly onRoomChanged: (namespace: string, site: string) => void;
  /** Null where no mesh is run. */
  readonly mesh: Pick<MeshStore, 'load'> | null;
  /** URL of the manifests of the agent's releases, with `{version}` in it; null: none is known. */
  readonly agentReleases: string | null;
}

interface HostScope {
  readonly key: ObjectKey;
  /** Null until the object of an enrolled machine was made. */
  object: Host | null;
  readonly tenantId: TenantId;
  /** Null while no machine is enrolled under this name at this site. */
  record: HostRecord | null;
  /** Null when the site of the host has no mesh. */
  readonly mesh: MeshHostRecord | null;
  /** What was replaced elsewhere while it was silent. */
  readonly displaced: readonly Displacement[];
  isReleased: boolean;
}

type HostStep = Step<HostScope, HostDeps>;

const kindOf = (deps: HostDeps) => ({ resource: hostResource, parse: parseHost, cache: deps.caches.hosts });

export async function reconcileHost(key: ObjectKey, deps: HostDeps): Promise<Outcome> {
  const scope = await loadScope(key, deps);
  if (scope === null) return done();
  const isDeleting = scope.object?.metadata.deletionTimestamp !== undefined;
  const outcome = await runSteps(isDeleting ? deletionSteps : convergenceSteps, scope, deps);
  if (outcome.kind === 'failed' || scope.isReleased || scope.object === null) return outcome;
  const delayMs = await writeStatus(scope.object, scope, deps);
  return delayMs > 0 ? done(delayMs) : outcome;
}

async function loadScope(key: ObjectKey, deps: HostDeps): Promise<HostScope | null> {
  const object = deps.caches.hosts.get(key) ?? null;
  const site = object === null ? undefined : findSite(deps, key.namespace, object.spec.siteRef.name);
  let tenantId: TenantId;
  try {
    tenantId = await deps.tenants.of(key.namespace, site?.metadata.uid ?? null);
  } catch (error) {
    // The namespace is gone, and its objects with it.
    if (isAppError(error) && error.code === 'NOT_FOUND') return null;
    throw error;
  }
  const found = await deps.stores.hosts.loadByName(tenantId, key.name);
  // A declared Host of one Site is not the machine of that name at another.
  const enrolled = found !== null && (object === null || found.siteName === object.spec.siteRef.name) ? found : null;
  const record = enrolled === null ? null : await withForsaken(enrolled, deps);
  if (record !== null && deps.silence.note(record.hostId, record.lastBeatAtMs)) deps.onReachabilityChanged(record.hostId);
  if (record !== null) deps.placement.hostChanged(record);
  const mesh = record === null || site === undefined || !isMeshed(site) ? null : ((await deps.mesh?.load(tenantId, record.hostId)) ?? null);
  const displaced = record === null ? [] : await deps.stores.replacements.listByHost(tenantId, record.hostId);
  return { key, object, tenantId, record, mesh, displaced, isReleased: false };
}

/** With the microVMs that are bound here and have no object any more, as after the loss of a cluster: orphans like others. */
async function withForsaken(record: HostRecord, deps: HostDeps): Promise<HostRecord> {
  const shown = deps.caches.microvms.list(record.namespace).filter(({ status }) => status?.binding?.hostID === record.hostId).length;
  if (record.allocated.microvms <= shown) return record;
  const bindings = await deps.stores.evictions.listBindings(record.tenantId, { hostId: record.hostId });
  const forsaken = bindings.filter(({ microvmId, isLeaving }) => !isLeaving && deps.caches.microvms.findByUid(microvmId) === undefined).map(({ microvmId }) => microvmId);
  return forsaken.length === 0 ? record : { ...record, orphanIds: [...new Set([...record.orphanIds, ...forsaken])].toSorted() };
}

const ensureObject: HostStep = async (scope, deps) => {
  if (scope.object !== null) return null;
  if (scope.record === null || scope.record.isRevoked) return done();
  const { namespace, name } = scope.key;
  const body = {
    apiVersion: 'nkudo.dev/v1alpha1',
    kind: 'Host',
    metadata: { namespace, name, finalizers: [hostFinalizer] },
    spec: { siteRef: { name: scope.record.siteName } },
  };
  try {
    const made = await durably(deps.faults, 'k8s.host.create', () => deps.kube.create(hostResource, scope.key, body));
    scope.object = parseHost(made);
    if (scope.object !== null) deps.caches.hosts.assume(scope.object);
    return null;
  } catch (error) {
    // Declared a moment ago: the watch brings it, and this key with it.
    if (isAlreadyExists(error)) return waiting('Declared', 'the Host object was made by somebody else', 1000);
    throw error;
  }
};

const ensureFinalizer: HostStep = async (scope, deps) => {
  if (scope.object === null) return done();
  const finalizers = scope.object.metadata.finalizers ?? [];
  if (finalizers.includes(hostFinalizer)) return null;
  scope.object = await writeFinalizers(writerFor(deps, kindOf(deps), 'k8s.finalizer.add'), scope.object, [...finalizers, hostFinalizer]);
  return scope.object === null ? done() : null;
};

const saveObject: HostStep = async (scope, deps) => {
  const { object, record, tenantId } = scope;
  if (object === null || record === null || record.isRevoked) return null;
  const said = {
    objectUid: object.metadata.uid,
    isApproved: object.spec.approved ?? false,
    // A host that is emptied takes nothing either; the binding transaction holds to it.
    isUnschedulable: object.spec.unschedulable === true || object.spec.drain !== undefined,
    reservedCpus: object.spec.reserved?.cpus ?? 0,
    reservedMemoryBytes: parseWholeQuantity(object.spec.reserved?.memory ?? 0) ?? 0,
    overcommitCpuPercent: object.spec.overcommit?.cpuPercent ?? null,
    overcommitMemoryPercent: object.spec.overcommit?.memoryPercent ?? null,
    emptying: emptyingPhase(object, gatherEmptying(object, record, deps.caches.microvms.list(object.metadata.namespace))),
  };
  const agent = deriveAgentOrder(object, deps.agentReleases, record.rolloutOrder ?? null);
  const isAgentEqual = record.agentOrder?.version === agent?.version && record.agentOrder?.manifestUrl === agent?.manifestUrl;
  const isEqual = isAgentEqual && Object.entries(said).every(([field, value]) => record[field as keyof typeof said] === value); // Keys of the literal above.
  if (isEqual) return null;
  await durably(deps.faults, 'db.saveHost', () =>
    deps.stores.hosts.saveObject({ tenantId, hostId: record.hostId, ...said, agent }, deps.epoch, deps.actor),
  );
  // Its revision is the database's to give.
  scope.record = { ...(isAgentEqual ? record : ((await deps.stores.hosts.load(tenantId, record.hostId)) ?? record)), ...said };
  deps.placement.hostChanged(scope.record);
  deps.onRoomChanged(object.metadata.namespace, object.spec.siteRef.name);
  // An approval may be what the host's stream waits for, and one that was withdrawn ends it.
  deps.hints.publish({ kind: 'host', tenantId, hostId: record.hostId });
  deps.hints.publish({ kind: 'operations', hostId: record.hostId });
  return null;
};

/** A stolen machine is out at once, whatever is bound to it; what runs there runs on until somebody goes there. */
const revokeIfAsked: HostStep = async (scope, deps) => {
  const { object, record } = scope;
  if (object === null || record === null || record.isRevoked || object.metadata.annotations?.[revokeAnnotation] !== record.hostId) return null;
  await withdraw(scope, deps, true);
  await readAgain(scope, deps);
  return null;
};

const acceptClaim: HostStep = async (scope, deps) => {
  const { object, record, tenantId } = scope;
  const claimId = object?.metadata.annotations?.[acceptClaimAnnotation];
  if (record?.quarantine == null || claimId === undefined || record.isRevoked || record.quarantine.acceptedId === claimId) return null;
  // The id of an earlier quarantine decides nothing about this one.
  if (!(await deps.stores.hosts.acceptClaim({ tenantId, hostId: record.hostId, claimId }, deps.epoch, deps.actor))) return null;
  deps.hints.publish({ kind: 'host', tenantId, hostId: record.hostId });
  await readAgain(scope, deps);
  return null;
};

/** What was decided about the identity decides what may be placed here, too. */
async function readAgain(scope: HostScope, deps: HostDeps): Promise<void> {
  if (scope.record === null || scope.object === null) return;
  const record = await deps.stores.hosts.load(scope.tenantId, scope.record.hostId);
  scope.record = record === null ? null : await withForsaken(record, deps);
  if (scope.record !== null) deps.placement.hostChanged(scope.record);
  deps.onRoomChanged(scope.object.metadata.namespace, scope.object.spec.siteRef.name);
}

/** Commits the revocation, then has the stream cut at once, on whatever replica it is. */
async function withdraw({ record, tenantId }: HostScope, deps: HostDeps, force: boolean): Promise<void> {
  if (record === null) return;
  await deps.stores.hosts.revoke({ tenantId, hostId: record.hostId, force }, deps.epoch, deps.actor);
  deps.hints.publish({ kind: 'host', tenantId, hostId: record.hostId });
}

const confirmReport: HostStep = async (scope, deps) => {
  const { object, record, tenantId } = scope;
  const incarnation = deps.recoveryBoard.incarnation();
  if (record === null || !deps.recoveryBoard.isAwaited(record.hostId) || object?.metadata.annotations?.[confirmAnnotation] !== String(incarnation)) return null;
  await deps.stores.recovery.confirmHost({ tenantId, hostId: record.hostId, incarnation }, deps.epoch, deps.actor);
  await deps.recoveryBoard.read();
  return null;
};

const convergenceSteps: readonly HostStep[] = [ensureObject, ensureFinalizer, saveObject, revokeIfAsked, acceptClaim, confirmReport];

/**
 * Forced: the machine is given up with all that is on it. Each microVM goes by a forced deletion of its own, so that its
 * UID is a tombstone before the identity of the host ends.
 */
const giveUpMicroVMs: HostStep = async ({ object, record, tenantId }, deps) => {
  if (object === null || record === null || !isForced(object)) return null;
  const bindings = await deps.stores.evictions.listBindings(tenantId, { hostId: record.hostId });
  let left = 0;
  for (const { microvmId } of bindings) {
    const microvm = deps.caches.microvms.findByUid(microvmId);
    if (microvm === undefined) {
      await deps.stores.microvms.forceDelete(tenantId, microvmId, deps.epoch, deps.actor);
      continue;
    }
    left += 1;
    await forceDeletion(microvm, deps);
  }
  return left === 0 ? null : waiting('MicroVMsBound', `${left} microVMs are given up`, giveUpRetryMs);
};

async function forceDeletion(microvm: MicroVM, deps: HostDeps): Promise<void> {
  const { uid, deletionTimestamp } = microvm.metadata;
  try {
    if (!isForced(microvm)) await deps.kube.patch(microvmResource, keyOf(microvm), { metadata: { uid, annotations: { [forceDeleteAnnotation]: uid } } }, { type: 'merge' });
    if (deletionTimestamp === undefined) await deps.kube.delete(microvmResource, keyOf(microvm), uid);
  } catch (error) {
    // It went meanwhile.
    if (!isNotFound(error)) throw error;
  }
}

const revoke: HostStep = async (scope, deps) => {
  const { object, record } = scope;
  if (object === null || !(object.metadata.finalizers ?? []).includes(hostFinalizer)) return done();
  if (record === null) return null;
  const force = isForced(object);
  if (record.isRevoked) {
    // Withdrawn before, with what is bound to it: the object stays as long as that is so.
    return record.allocated.microvms > 0 && !force ? waiting('MicroVMsBound', 'microVMs are bound to the host', 30_000) : null;
  }
  try {
    await withdraw(scope, deps, force);
    return null;
  } catch (error) {
    if (isAppError(error) && error.code === 'CONFLICT') return waiting('MicroVMsBound', 'microVMs are bound to the host', 30_000);
    throw error;
  }
};

const removeFinalizer: HostStep = async (scope, deps) => {
  if (scope.object === null) return done();
  const rest = (scope.object.metadata.finalizers ?? []).filter((name) => name !== hostFinalizer);
  await writeFinalizers(writerFor(deps, kindOf(deps), 'k8s.finalizer.remove'), scope.object, rest);
  scope.isReleased = true;
  deps.coalescer.forget(scope.object.metadata.uid);
  return done();
};

/** Whoever uninstalls the CRD deletes every Host with it, and hardly means to put every machine out. */
const holdForDefinition: HostStep = async ({ object }, deps) => {
  const message = object === null || isForced(object) ? null : await describeDefinitionHold(deps.kube, hostResource);
  return message === null ? null : waiting('DeletionHeld', message, definitionRetryMs);
};

const deletionSteps: readonly HostStep[] = [saveObject, revokeIfAsked, holdForDefinition, giveUpMicroVMs, revoke, removeFinalizer];

/** Returns how long figures are held back, 0 when nothing is. */
async function writeStatus(object: Host, scope: HostScope, deps: HostDeps): Promise<number> {
  const { uid, namespace } = object.metadata;
  const { record } = scope;
  const facts = {
    site: findSite(deps, namespace, object.spec.siteRef.name) ?? null,
    record,
    silence: record === null ? ({ reachability: 'silent', lastBeatAtMs: null } as const) : deps.silence.of(record.hostId),
    mesh: scope.mesh,
    displaced: scope.displaced,
    recovery: { isAwaited: record !== null && deps.recoveryBoard.isAwaited(record.hostId), incarnation: deps.recoveryBoard.incarnation() },
    emptying: gatherEmptying(object, record, deps.caches.microvms.list(namespace)),
    nowMs: deps.time.nowMs(),
  };
  const project = (host: Host) => projectHostStatus(host, facts);
  const intervals = {
    allocated: deps.aggregateIntervalMs,
    facts: factsIntervalMs,
    capacity: factsIntervalMs,
    allocatable: factsIntervalMs,
    certificate: factsIntervalMs,
  };
  const next = project(object);
  // The first microVM and the last one decide whether the host may be deleted.
  const isTurn = (next.allocated?.microvms === 0) !== (object.status?.allocated?.microvms === 0);
  const delayMs = deps.coalescer.delayMs(uid, object.status, next, isTurn ? { ...intervals, allocated: 0 } : intervals);
  if (delayMs > 0) return delayMs;
  const before = readyOf(object);
  const written = await patchStatus(writerFor(deps, kindOf(deps), 'k8s.status'), object, project);
  if (!written.isWritten) return 0;
  deps.coalescer.wrote(uid);
  const after = written.object === null ? undefined : readyOf(written.object);
  if (after !== undefined && after.status !== before?.status && (before !== undefined || after.status === 'True')) {
    const content = { type: after.status === 'True' ? 'Normal' : 'Warning', reason: after.reason, action: 'Observed', note: after.message } as const;
    await deps.events.record(hostResource, object, content);
  }
  return 0;
}

function readyOf(host: Host): { readonly status: string; readonly reason: string; readonly message: string } | undefined {
  return host.status?.conditions?.find(({ type }) => type === 'Ready');
}

