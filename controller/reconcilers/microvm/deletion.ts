/**
 * The steps that take a MicroVM away: order the teardown, wait for the host's confirmation, release the row,
 * and only then let the object go. They run for an object that was seen with a deletionTimestamp, under the
 * UID that the row has; nothing else deletes anything.
 */
import { decideDeletion, retryDelayMs } from '#controller/domain/planning/decide-operation.ts';
import { done, waiting } from '#controller/runtime/outcome.ts';
import { writeFinalizers } from '#controller/runtime/status-patch.ts';
import { durably, writerFor } from '../deps.ts';
import { isForced, microvmFinalizer, microvmResource, parseMicroVM } from '../kinds.ts';
import { findBeforeDeletion } from '../recovery/hold.ts';
import { definitionRetryMs, describeDefinitionHold } from '../recovery/definition-guard.ts';
import { describeHold } from '../site/deletion-guard.ts';
import { hasFinalizer, type MicroVMStep } from './scope.ts';

const skipWithoutFinalizer: MicroVMStep = async (scope) => {
  if (hasFinalizer(scope.object)) return null;
  // Another program's finalizer holds it; nothing of ours is left.
  scope.isReleased = true;
  return done();
};

const forceIfAsked: MicroVMStep = async (scope, deps) => {
  if (scope.record === null || scope.record.isTornDown || !isForced(scope.object)) return null;
  await deps.stores.microvms.forceDelete(scope.tenantId, scope.id, deps.epoch, deps.actor);
  const { binding } = scope.record;
  // The host is told when it comes back.
  if (binding !== null) deps.hints.publish({ kind: 'operations', hostId: binding.hostId });
  scope.record = { ...scope.record, isDeleting: true, isTornDown: true, binding: null };
  return null;
};

/** Nothing is torn down while so much is deleted at once that it may be a mistake; what was ordered goes on. */
const awaitConfirmation: MicroVMStep = async (scope, deps) => {
  const { record, site } = scope;
  if (record === null || record.isDeleting || record.isTornDown || site === null) return null;
  const hold = await deps.deletionGuard.of(site);
  if (!hold.isHeld) return null;
  scope.hold = describeHold(hold);
  return waiting('DeletionHeld', scope.hold);
};

/** Whoever uninstalls the CRD deletes every object with it, and hardly means every microVM. */
const holdForDefinition: MicroVMStep = async (scope, deps) => {
  if (isForced(scope.object) || scope.record?.isTornDown === true) return null;
  const message = await describeDefinitionHold(deps.kube, microvmResource);
  if (message === null) return null;
  scope.obstacle = { condition: 'Scheduled', reason: 'DeletionHeld', message };
  return waiting('DeletionHeld', message, definitionRetryMs);
};

const publishTeardown: MicroVMStep = async (scope, deps) => {
  const { record, tenantId, id } = scope;
  if (record === null || record.isTornDown) return null;
  // A teardown of before, to leave the host, was no deletion.
  const decision = decideDeletion(record.isDeleting ? record : { ...record, newestOperation: null });
  if (decision.action === 'none') return null;
  const { tryNumber } = decision;
  const { generation } = scope.object.metadata;
  const delayMs = deps.retryGate.delayMs(`${id}/delete/${tryNumber}`, retryDelayMs(tryNumber));
  if (delayMs > 0) return waiting('TeardownRunning', 'the teardown is tried again', delayMs);
  scope.record = await durably(deps.faults, 'db.publishDeletion', () =>
    deps.stores.microvms.publishDeletion({ tenantId, microvmId: id, generation, tryNumber }, deps.epoch, deps.actor),
  );
  const hostId = scope.record?.binding?.hostId;
  if (hostId !== undefined) deps.hints.publish({ kind: 'operations', hostId });
  return null;
};

const awaitTeardown: MicroVMStep = async ({ record }) => {
  if (record === null || record.isTornDown) return null;
  return waiting('TeardownRunning', `waiting for host ${record.binding?.hostName ?? 'unknown'} to confirm the teardown`);
};

const releaseBinding: MicroVMStep = async (scope, deps) => {
  // A forced one was released with the force; one without row has nothing to release.
  if (scope.record === null || isForced(scope.object)) return null;
  await durably(deps.faults, 'db.completeDeletion', () =>
    deps.stores.microvms.completeDeletion(scope.tenantId, scope.id, deps.epoch, deps.actor),
  );
  return null;
};

const removeFinalizer: MicroVMStep = async (scope, deps) => {
  const kind = { resource: microvmResource, parse: parseMicroVM, cache: deps.caches.microvms };
  const rest = (scope.object.metadata.finalizers ?? []).filter((name) => name !== microvmFinalizer);
  await writeFinalizers(writerFor(deps, kind, 'k8s.finalizer.remove'), scope.object, rest);
  scope.isReleased = true;
  return done();
};

export const deletionSteps: readonly MicroVMStep[] = [
  skipWithoutFinalizer,
  forceIfAsked,
  holdForDefinition,
  awaitConfirmation,
  findBeforeDeletion,
  publishTeardown,
  awaitTeardown,
  releaseBinding,
  removeFinalizer,
];
