/**
 * Reconciles one MicroVMSet: makes, changes and deletes its microVMs as the plan of controller/domain/microvm-set says,
 * then the status. Level-based; a crash between two writes leaves a set that goes on with the next one.
 *
 * It owns the objects, not what runs: placement, restarts and teardown are those of each MicroVM, and so is the brake on
 * mass deletions, which counts what a set deletes as it counts everybody's.
 */
import type { MicroVM } from '#crds/gen/microvm.ts';
import type { MicroVMSet } from '#crds/gen/microvmset.ts';
import { asObject, diffPatch, planSet, type Json, type SetMember, type SetPlan, type SetSpec, type Slot } from '#controller/domain/microvm-set/plan-set.ts';
import { isAlreadyExists, isConflict, isNotFound, isRefusal, keyOf, sentenceOf, type ObjectKey } from '#controller/runtime/kubernetes-api.ts';
import { done, runSteps, stalled, waiting, type Outcome, type Step } from '#controller/runtime/outcome.ts';
import { patchStatus, writeFinalizers } from '#controller/runtime/status-patch.ts';
import { findSite, writerFor, type ReconcilerDeps } from '../deps.ts';
import { microvmResource, microvmSetFinalizer, microvmSetResource, parseMicroVM, parseMicroVMSet } from '../kinds.ts';
import { projectSetStatus, type SetObstacle } from './status.ts';

/** Label that a set gives to its microVMs, and by which autoscalers find them; the owner reference is what decides. */
export const setLabel = 'nkudo.dev/microvmset';
/** Digest of the spec that a microVM was made or last changed from. */
export const digestAnnotation = 'nkudo.dev/template-digest';

/** So that a large set shares the workers with others; the rest follows at once. */
const writesPerPass = 50;
/** Of the garbage collector: microVMs are to be let go, not deleted. Source: Kubernetes, metav1.FinalizerOrphanDependents. */
const orphanFinalizer = 'orphan';

export interface SetDeps extends ReconcilerDeps {
  /** A digest in hexadecimal digits; equal texts, equal digests. */
  readonly digest: (text: string) => string;
}

interface SetScope {
  object: MicroVMSet;
  members: readonly MicroVM[];
  plan: SetPlan | null;
  obstacle: SetObstacle | null;
  isReleased: boolean;
}

type SetStep = Step<SetScope, SetDeps>;

const kindOf = (deps: SetDeps) => ({ resource: microvmSetResource, parse: parseMicroVMSet, cache: deps.caches.sets });

export async function reconcileMicroVMSet(key: ObjectKey, deps: SetDeps): Promise<Outcome> {
  const object = deps.caches.sets.get(key);
  if (object === undefined) return done();
  const scope: SetScope = { object, members: membersOf(object, deps), plan: null, obstacle: null, isReleased: false };
  const isDeleting = object.metadata.deletionTimestamp !== undefined;
  const outcome = await runSteps(isDeleting ? deletionSteps : convergenceSteps, scope, deps);
  if (scope.isReleased) return outcome;
  // After a fault too: what there is now is known.
  await writeStatus(scope, deps);
  return outcome;
}

export function isMemberOf(microvm: MicroVM, setUid: string): boolean {
  return (microvm.metadata.ownerReferences ?? []).some(({ uid, controller }) => controller === true && uid === setUid);
}

function membersOf(set: MicroVMSet, deps: SetDeps): readonly MicroVM[] {
  return deps.caches.microvms.list(set.metadata.namespace).filter((microvm) => isMemberOf(microvm, set.metadata.uid));
}

function specOf({ metadata, spec }: MicroVMSet): SetSpec {
  return {
    name: metadata.name,
    mode: spec.mode ?? 'Replicas',
    replicas: spec.replicas ?? 0,
    siteName: spec.siteRef?.name ?? '',
    siteLabels: spec.siteSelector?.matchLabels ?? {},
    template: spec.template.spec,
    overrides: new Map((spec.overrides ?? []).map(({ name, spec: patch }) => [name, patch])),
    updates: spec.updateStrategy?.type ?? 'RollingUpdate',
    maxUnavailable: spec.updateStrategy?.maxUnavailable ?? 1,
  };
}

function memberOf(microvm: MicroVM): SetMember {
  const { metadata, spec, status } = microvm;
  const isTrue = (type: string): boolean => status?.conditions?.some((condition) => condition.type === type && condition.status === 'True') === true;
  const isSettled = status?.observedGeneration === metadata.generation && !(spec.updateStrategy === 'Recreate' && isTrue('RestartRequired'));
  return {
    name: metadata.name,
    siteName: spec.siteRef.name,
    hostName: spec.placement?.hostName ?? '',
    digest: metadata.annotations?.[digestAnnotation] ?? '',
    isReady: isSettled && isTrue('Ready'),
    isDeleting: metadata.deletionTimestamp !== undefined,
  };
}

const ensureFinalizer: SetStep = async (scope, deps) => {
  const finalizers = scope.object.metadata.finalizers ?? [];
  if (finalizers.includes(microvmSetFinalizer)) return null;
  const written = await writeFinalizers(writerFor(deps, kindOf(deps), 'k8s.finalizer.add'), scope.object, [...finalizers, microvmSetFinalizer]);
  if (written === null) {
    scope.isReleased = true;
    return done();
  }
  scope.object = written;
  return null;
};

const plan: SetStep = async (scope, deps) => {
  const { namespace } = scope.object.metadata;
  const set = specOf(scope.object);
  if (set.mode !== 'PerSite' && findSite(deps, namespace, set.siteName) === undefined) {
    const message = `there is no Site ${set.siteName} in this namespace: create it, or make the set anew with another siteRef`;
    scope.obstacle = { reason: 'SiteNotFound', message };
    return stalled('SiteNotFound', message);
  }
  const sites = deps.caches.sites.list(namespace).map(({ metadata, spec }) => ({ name: metadata.name, labels: metadata.labels ?? {}, isDeleting: metadata.deletionTimestamp !== undefined, isHeld: spec.hold === true }));
  const hosts = deps.caches.hosts.list(namespace).map(({ metadata, spec }) => ({
    name: metadata.name,
    siteName: spec.siteRef.name,
    labels: metadata.labels ?? {},
    taints: (spec.taints ?? []).map(({ key, value, effect }) => ({ key, value: value ?? '', effect })),
    isDeleting: metadata.deletionTimestamp !== undefined,
  }));
  scope.plan = planSet(set, { sites, hosts, members: scope.members.map(memberOf) }, deps.digest);
  return null;
};

/** A namesake that this set let go earlier, or an earlier set of this name did, is taken back; a stranger's is not. */
const createMissing: SetStep = async (scope, deps) => {
  const missing = scope.plan?.create ?? [];
  const taken: string[] = [];
  for (const slot of missing.slice(0, writesPerPass)) {
    const at = { namespace: scope.object.metadata.namespace, name: slot.name };
    const known = deps.caches.microvms.get(at);
    if (known !== undefined) {
      if (await adopt(known, scope.object, deps)) continue;
      taken.push(slot.name);
      continue;
    }
    try {
      assume(await deps.kube.create(microvmResource, at, bodyOf(slot, scope.object)), deps);
    } catch (error) {
      // The watch will show whose it is.
      if (isAlreadyExists(error)) return waiting('NotSeenYet', `MicroVM ${slot.name} exists and is not known here yet`, 1_000);
      if (!isRefusal(error)) throw error;
      scope.obstacle = { reason: 'TemplateRefused', message: `MicroVM ${slot.name} can not be made: ${sentenceOf(error)}` };
      return stalled(scope.obstacle.reason, scope.obstacle.message);
    }
  }
  if (missing.length > writesPerPass) return done(1);
  if (taken.length > 0) scope.obstacle = { reason: 'NameTaken', message: `MicroVM ${taken.join(', ')} exists and is not of this set: delete or rename it, or make the set under another name` };
  return null;
};

async function adopt(microvm: MicroVM, set: MicroVMSet, deps: SetDeps): Promise<boolean> {
  const { metadata } = microvm;
  const owners = metadata.ownerReferences ?? [];
  if (metadata.labels?.[setLabel] !== set.metadata.name || metadata.deletionTimestamp !== undefined || owners.some(({ controller }) => controller === true)) return false;
  const body = { metadata: { uid: metadata.uid, resourceVersion: metadata.resourceVersion, ownerReferences: [...owners, ownerOf(set)] } };
  assume(await deps.kube.patch(microvmResource, keyOf(microvm), body, { type: 'merge' }), deps);
  return true;
}

const ownerOf = ({ metadata: { name, uid } }: MicroVMSet) => ({ apiVersion: 'nkudo.dev/v1alpha1', kind: 'MicroVMSet', name, uid, controller: true, blockOwnerDeletion: true });

function bodyOf(slot: Slot, set: MicroVMSet): object {
  const { labels, annotations } = set.spec.template.metadata ?? {};
  return {
    apiVersion: 'nkudo.dev/v1alpha1',
    kind: 'MicroVM',
    metadata: {
      name: slot.name,
      namespace: set.metadata.namespace,
      labels: { ...labels, [setLabel]: set.metadata.name },
      annotations: { ...annotations, [digestAnnotation]: slot.digest },
      ownerReferences: [ownerOf(set)],
    },
    spec: slot.spec,
  };
}

function assume(object: Parameters<typeof parseMicroVM>[0], deps: SetDeps): void {
  const parsed = parseMicroVM(object);
  if (parsed !== null) deps.caches.microvms.assume(parsed);
}

const removeSurplus: SetStep = async (scope, deps) => {
  const names = scope.plan?.remove ?? [];
  for (const name of names.slice(0, writesPerPass)) {
    const member = scope.members.find(({ metadata }) => metadata.name === name);
    if (member !== undefined) await deps.kube.delete(microvmResource, keyOf(member), member.metadata.uid);
  }
  return names.length > writesPerPass ? done(1) : null;
};

const updateOutdated: SetStep = async (scope, deps) => {
  for (const slot of scope.plan?.update ?? []) {
    const member = scope.members.find(({ metadata }) => metadata.name === slot.name);
    if (member === undefined) continue;
    const { uid, resourceVersion } = member.metadata;
    const { labels, annotations } = scope.object.spec.template.metadata ?? {};
    const body = {
      metadata: { uid, resourceVersion, labels: { ...labels, [setLabel]: scope.object.metadata.name }, annotations: { ...annotations, [digestAnnotation]: slot.digest } },
      spec: specPatch(member, slot),
    };
    try {
      assume(await deps.kube.patch(microvmResource, keyOf(member), body, { type: 'merge' }), deps);
    } catch (error) {
      if (isNotFound(error)) continue;
      if (isConflict(error)) return waiting('Changed', `MicroVM ${slot.name} was changed meanwhile`, 100);
      if (!isRefusal(error)) throw error;
      scope.obstacle = { reason: 'TemplateRefused', message: `MicroVM ${slot.name} can not be changed: ${sentenceOf(error)}` };
      return stalled(scope.obstacle.reason, scope.obstacle.message);
    }
  }
  return null;
};

/** A restart or a pause that somebody asked of this one microVM stays asked. */
function specPatch(member: MicroVM, slot: Slot): Json {
  const { restartNonce, paused } = member.spec;
  const live = asObject(member.spec);
  const wanted = { ...slot.spec, ...(restartNonce === undefined ? {} : { restartNonce }), ...(paused === undefined || 'paused' in slot.spec ? {} : { paused }) };
  return diffPatch(live, wanted);
}

const convergenceSteps: readonly SetStep[] = [ensureFinalizer, plan, removeSurplus, createMissing, updateOutdated];

const releaseForeign: SetStep = async (scope) => {
  if ((scope.object.metadata.finalizers ?? []).includes(microvmSetFinalizer)) return null;
  scope.isReleased = true;
  return done();
};

/** The garbage collector would do it too, where one runs; with `--cascade=orphan` they stay. */
const deleteMembers: SetStep = async (scope, deps) => {
  if ((scope.object.metadata.finalizers ?? []).includes(orphanFinalizer)) return null;
  const left = scope.members.filter(({ metadata }) => metadata.deletionTimestamp === undefined);
  for (const member of left.slice(0, writesPerPass)) await deps.kube.delete(microvmResource, keyOf(member), member.metadata.uid);
  if (left.length > writesPerPass) return done(1);
  if (scope.members.length === 0) return null;
  return waiting('Deleting', `${scope.members.length} microVMs are being torn down`);
};

const removeFinalizer: SetStep = async (scope, deps) => {
  const rest = (scope.object.metadata.finalizers ?? []).filter((name) => name !== microvmSetFinalizer);
  await writeFinalizers(writerFor(deps, kindOf(deps), 'k8s.finalizer.remove'), scope.object, rest);
  scope.isReleased = true;
  return done();
};

const deletionSteps: readonly SetStep[] = [releaseForeign, deleteMembers, removeFinalizer];

async function writeStatus(scope: SetScope, deps: SetDeps): Promise<void> {
  const members = membersOf(scope.object, deps).map(memberOf);
  await patchStatus(writerFor(deps, kindOf(deps), 'k8s.status'), scope.object, (object) =>
    projectSetStatus(object, { plan: scope.plan, members, obstacle: scope.obstacle, isManual: object.spec.updateStrategy?.type === 'OnDelete', nowMs: deps.time.nowMs() }),
  );
}
