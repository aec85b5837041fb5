/**
 * The last step of a MicroVM's convergence: when its host is lost and its policy says so, it is given to another host.
 * While the host is silent and not lost yet it looks again when it could be; what holds it is shown as ReplaceDisabled.
 */
import { AppError } from '#api/model/error-codes.ts';
import type { HostId } from '#api/model/ids.ts';
import { decideReplacement } from '#controller/domain/leases/decide-replacement.ts';
import { deriveReplacePolicy, type ReplacePolicy } from '#controller/domain/leases/replace-policy.ts';
import type { MicroVMRecord } from '#controller/ports/microvm-store.ts';
import { done, failed } from '#controller/runtime/outcome.ts';
import { networksFor } from '../microvm/networks.ts';
import type { MicroVMDeps, MicroVMScope, MicroVMStep } from '../microvm/scope.ts';

/** What holds a replacement has no event of its own in every case. */
const heldRetryMs = 10_000;

export type ChooseHost = (scope: MicroVMScope, deps: MicroVMDeps, without: HostId) => Promise<{ readonly outcome: 'placed'; readonly hostId: HostId; readonly hostName: string } | { readonly outcome: 'unplaced'; readonly message: string }>;

/** Of the Site as it is now; without it, what was published last stays. */
export function policyOf(scope: MicroVMScope): ReplacePolicy {
  return deriveReplacePolicy(scope.object.spec, scope.site?.spec.disconnect);
}

/** Terms of the lease belong to the desired state that the host is told. */
export const deriveLeaseTerms: MicroVMStep = async (scope) => {
  if (scope.desired === null) return null;
  const policy = policyOf(scope);
  const published = scope.record?.desired?.lease;
  if (scope.site === null && published !== undefined) scope.desired = { ...scope.desired, lease: published };
  else if (policy.kind === 'on') scope.desired = { ...scope.desired, lease: { stopOnHostAfterMs: policy.stopOnHostAfterMs } };
  if (policy.kind === 'disabled') scope.replacement = policy;
  if (policy.kind === 'on') scope.replacement = { reason: 'NotDisabled', message: `it is replaced when its host is silent for ${policy.lostAfterMs / 1000} s` };
  return null;
};

/** The host has said that it took the newest intent over, or it was never told of any. */
function isConfirmed({ binding, newestOperation, observation }: MicroVMRecord): boolean {
  if (observation === null || observation.epoch !== binding?.epoch) return true;
  return newestOperation === null || observation.revision >= newestOperation.revision;
}

export function createReplaceLost(chooseHost: ChooseHost): MicroVMStep {
  return async (scope, deps) => {
    const { record, desired, tenantId, id } = scope;
    const binding = record?.binding ?? null;
    const policy = policyOf(scope);
    if (record === null || binding === null || desired === null || policy.kind !== 'on') return null;
    const watch = deps.leases.of(binding.hostId);
    const mass = deps.leases.mass(record.siteId);
    const termsKnownForMs = deps.terms.knownForMs(id, { epoch: binding.epoch, stopOnHostAfterMs: policy.stopOnHostAfterMs, isConfirmed: isConfirmed(record) });
    const isHeard = deps.silence.of(binding.hostId).reachability === 'online';
    const found = { policy, watch, termsKnownForMs, isHeard, mass };
    const hasLost = ['held', 'replace'].includes(decideReplacement({ ...found, isRecovering: false }).action);
    const decision = decideReplacement({ ...found, isRecovering: hasLost && (await deps.recovery.isReplacementHeld({ tenantId, siteId: record.siteId })) });
    switch (decision.action) {
      case 'none':
        return null;
      case 'wait':
        return done(Math.ceil(decision.forMs));
      case 'held':
        scope.replacement = decision;
        return done(heldRetryMs);
      case 'replace':
    }
    const placement = await chooseHost(scope, deps, binding.hostId);
    if (placement.outcome === 'unplaced') {
      scope.replacement = { reason: 'NoHostFits', message: `its host ${binding.hostName} is lost, and no other can take it: ${placement.message}` };
      return done(heldRetryMs);
    }
    const { generation } = scope.object.metadata;
    const result = await deps.stores.replacements.replace(
      {
        tenantId, siteId: record.siteId, microvmId: id, generation, desired, placeOn: placement.hostId, ...networksFor(scope, deps, placement),
        from: { hostId: binding.hostId, epoch: binding.epoch, lastBeatAtMs: watch?.lastBeatAtMs ?? null, leaseEpoch: watch?.leaseEpoch ?? null, lineage: watch?.lineage ?? '' },
        releasedBy: deps.leases.releaseOf(record.siteId),
      },
      deps.epoch, deps.actor,
    );
    switch (result.outcome) {
      case 'hostUnavailable':
        return failed(new AppError('HOST_FULL'));
      case 'networkRefused':
        scope.replacement = { reason: 'NoHostFits', message: result.problem.message };
        return done(heldRetryMs);
      case 'changed':
        // The host was heard or the row moved since the reading: the next one decides anew.
        return done(heldRetryMs);
      case 'unconfirmed':
        scope.replacement = { reason: 'HostUnconfirmed', message: `host ${binding.hostName} has not confirmed that it ends this microVM by itself, so it may still run there` };
        return done(heldRetryMs);
      case 'replaced':
        scope.record = result.record;
        deps.placement.bound(scope.object, result.record);
        deps.terms.forget(id);
        if (result.record.binding !== null) deps.hints.publish({ kind: 'operations', hostId: result.record.binding.hostId });
        deps.hints.publish({ kind: 'host', tenantId, hostId: binding.hostId });
        return null;
    }
  };
}
