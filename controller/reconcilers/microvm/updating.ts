/**
 * The step that brings a change into effect which needs a restart of the guest: at once or in a maintenance window, as
 * updateStrategy says. The restart is counted in the row first, and becomes part of the nonce that the host is told.
 */
import { decideUpdate } from '#controller/domain/maintenance/decide-update.ts';
import { formatTime } from '#controller/runtime/status-patch.ts';
import type { MicroVMScope, MicroVMStep } from './scope.ts';

/** Above what a timer can wait; windows further away are looked at again by then. */
const lookAgainMaxMs = 86_400_000;

export const bringIntoEffect: MicroVMStep = async (scope, deps) => {
  const { object, site, desired } = scope;
  if (desired === null || desired.runPolicy === 'Halted' || !isRestartDue(scope)) return null;
  const nowMs = deps.time.nowMs();
  const decision = decideUpdate(object.spec.updateStrategy ?? 'OnRestart', site?.spec ?? null, nowMs);
  switch (decision.action) {
    case 'leave':
      return null;
    case 'hold':
      if (decision.reason === 'SiteHold') {
        scope.update = { reason: 'SiteHold', message: `a change waits for a restart, and hold of the Site ${object.spec.siteRef.name} is true` };
      } else if (decision.untilMs === null) {
        scope.update = { reason: 'OutsideWindow', message: `a change waits for a restart, and the Site ${object.spec.siteRef.name} has no maintenance window` };
      } else {
        scope.update = { reason: 'OutsideWindow', message: `a change waits for a restart in window ${decision.windowName ?? ''}, which opens at ${formatTime(decision.untilMs)}` };
        scope.lookAgainMs = Math.min(scope.lookAgainMs ?? Infinity, decision.untilMs - nowMs, lookAgainMaxMs);
      }
      return null;
    case 'restart': {
      const seen = scope.record?.updateRestarts ?? 0;
      scope.record = await deps.stores.evictions.requestRestart({ tenantId: scope.tenantId, microvmId: scope.id, seen }, deps.epoch, deps.actor);
      scope.desired = { ...desired, restartNonce: desired.restartNonce + ((scope.record?.updateRestarts ?? 0) - seen) };
      return null;
    }
  }
};

/** The host has taken the newest intent over and says that the guest still runs with an older one; a restart that was made for it is not repeated. */
function isRestartDue({ record }: MicroVMScope): boolean {
  const [observation, newest, binding] = [record?.observation ?? null, record?.newestOperation ?? null, record?.binding ?? null];
  if (observation === null || newest === null || binding === null || observation.epoch !== binding.epoch) return false;
  return observation.isRestartRequired && observation.revision >= newest.revision && newest.status === 'Succeeded' && newest.kind !== 'Restart';
}
