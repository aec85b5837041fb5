/**
 * The step of a MicroVM whose host is being emptied: it is stopped there, moves, or says what it waits for. One that
 * was ordered off its host goes on only when the host confirmed that nothing is left of it there.
 */
import { decideEviction, type EvictionOrder } from '#controller/domain/placement/decide-eviction.ts';
import { hasLocalData } from '#controller/domain/placement/local-data.ts';
import { isTolerated } from '#controller/domain/placement/model.ts';
import { decideDeletion, retryDelayMs } from '#controller/domain/planning/decide-operation.ts';
import type { LeavingReason } from '#api/model/microvm.ts';
import type { MicroVMRecord } from '#controller/ports/microvm-store.ts';
import { waiting, type Outcome } from '#controller/runtime/outcome.ts';
import { findElsewhere, tolerationsOf } from './placing.ts';
import type { MicroVMDeps, MicroVMScope, MicroVMStep } from './scope.ts';

/** A wait that nothing wakes: a place that another host may have by then. */
const elsewhereRetryMs = 60_000;

type Binding = NonNullable<MicroVMRecord['binding']>;

export const followHost: MicroVMStep = async (scope, deps) => {
  const { record } = scope;
  if (record === null) return null;
  deps.placement.bound(scope.object, record);
  if (record.binding === null) return null;
  if (record.binding.leaving != null) return finishLeaving(scope, deps, { record, binding: record.binding });
  const order = orderFor(scope, deps, record.binding);
  return carryOut(order, scope, deps, record.binding);
};

async function carryOut(order: EvictionOrder, scope: MicroVMScope, deps: MicroVMDeps, binding: Binding): Promise<Outcome | null> {
  switch (order.action) {
    case 'stay':
      return null;
    case 'wait':
      scope.eviction = { isBlocked: true, reason: order.reason, message: order.message };
      return null;
    case 'stop':
      scope.eviction = { isBlocked: false, reason: 'NotBlocked', message: `it is stopped: ${order.message}` };
      if (scope.desired !== null) scope.desired = { ...scope.desired, runPolicy: 'Halted' };
      return null;
    case 'move':
      return move(scope, deps, { binding, reason: order.reason });
  }
}

/** Nothing is torn down before another host can take it, and nothing that its host can't confirm. */
async function move(scope: MicroVMScope, deps: MicroVMDeps, { binding, reason }: { readonly binding: Binding; readonly reason: LeavingReason }): Promise<Outcome | null> {
  const { desired, record } = scope;
  if (desired === null || record === null) return null;
  if (deps.silence.of(binding.hostId).reachability !== 'online') {
    scope.eviction = { isBlocked: true, reason: 'HostSilent', message: `host ${binding.hostName} is silent, so it can not confirm that the microVM has left it` };
    return null;
  }
  const elsewhere = await findElsewhere(scope, deps, { site: record.siteId, desired, from: binding.hostId });
  if (elsewhere.outcome !== 'placed') {
    scope.eviction = { isBlocked: true, reason: 'NoHostFits', message: `no other host can take it: ${elsewhere.message}` };
    scope.lookAgainMs = Math.min(scope.lookAgainMs ?? Infinity, elsewhereRetryMs);
    return null;
  }
  return order(scope, deps, { reason, tryNumber: 1, hostName: binding.hostName });
}

async function finishLeaving(scope: MicroVMScope, deps: MicroVMDeps, { record, binding }: { readonly record: MicroVMRecord; readonly binding: Binding }): Promise<Outcome | null> {
  const { tenantId, id } = scope;
  const newest = record.newestOperation;
  if (newest?.kind === 'Delete' && newest.status === 'Succeeded') {
    scope.record = await deps.stores.evictions.completeEviction(tenantId, id, deps.epoch, deps.actor);
    deps.placement.released(record.siteId, id);
    deps.hints.publish({ kind: 'host', tenantId, hostId: binding.hostId });
    return null;
  }
  const decision = decideDeletion(record);
  if (decision.action === 'publish') {
    const delayMs = deps.retryGate.delayMs(`${id}/leave/${binding.epoch}/${decision.tryNumber}`, retryDelayMs(decision.tryNumber));
    if (delayMs > 0) return waiting('Leaving', 'the teardown is tried again', delayMs);
    return order(scope, deps, { reason: binding.leaving ?? 'Drain', tryNumber: decision.tryNumber, hostName: binding.hostName });
  }
  return waiting('Leaving', leavingMessage(binding.hostName));
}

async function order(scope: MicroVMScope, deps: MicroVMDeps, { reason, tryNumber, hostName }: { readonly reason: LeavingReason; readonly tryNumber: number; readonly hostName: string }): Promise<Outcome> {
  const { tenantId, id } = scope;
  scope.record = await deps.stores.evictions.evict({ tenantId, microvmId: id, reason, tryNumber }, deps.epoch, deps.actor);
  const hostId = scope.record?.binding?.hostId;
  if (hostId !== undefined) deps.hints.publish({ kind: 'operations', hostId });
  if (scope.record !== null) deps.placement.bound(scope.object, scope.record);
  return waiting('Leaving', leavingMessage(hostName));
}

function leavingMessage(hostName: string): string {
  return `waiting for host ${hostName} to confirm that the microVM has left it`;
}

function orderFor(scope: MicroVMScope, deps: MicroVMDeps, binding: Binding): EvictionOrder {
  const { object, site } = scope;
  const host = deps.caches.hosts.get({ namespace: object.metadata.namespace, name: binding.hostName });
  if (host === undefined) return { action: 'stay' };
  const { drain, taints = [] } = host.spec;
  const deadlineMs = drain?.deadline === undefined ? null : Date.parse(drain.deadline);
  const nowMs = deps.time.nowMs();
  if (deadlineMs !== null && deadlineMs > nowMs) scope.lookAgainMs = Math.min(scope.lookAgainMs ?? Infinity, deadlineMs - nowMs);
  const tolerations = tolerationsOf(scope);
  return decideEviction({
    drain: drain === undefined ? null : { mode: drain.mode ?? 'Evict', deadlineMs },
    isHostDeleting: host.metadata.deletionTimestamp !== undefined,
    hasExpellingTaint: taints.some(({ key, value = '', effect }) => effect === 'NoExecute' && !isTolerated({ key, value, effect }, tolerations)),
    strategy: object.spec.evictionStrategy ?? 'Stop',
    hasLocalData: hasLocalData(object.spec),
    isPinned: object.spec.placement?.hostName === binding.hostName,
    isHeld: site?.spec.hold === true,
    nowMs,
  });
}
