/**
 * The step that follows what somebody at the site ordered: notes an order that it first hears of, and ends one when the
 * spec asks anew or the object's annotation overrules it. The end is part of the desired state, so that the host lifts
 * exactly that order; it is audited with the publication.
 */
import { decideOverride } from '#controller/domain/site-overrides.ts';
import { overruledNumber } from '../kinds.ts';
import type { MicroVMScope, MicroVMStep } from './scope.ts';

export const followSite: MicroVMStep = async (scope, deps) => {
  const { desired, object, record } = scope;
  if (desired === null || record === null) return null;
  const earlier = record.desired?.overruledSiteOrder;
  const override = standingOverride(record);
  if (override === undefined || override.number === earlier) {
    if (earlier !== undefined) scope.desired = { ...desired, overruledSiteOrder: earlier };
    return null;
  }
  const { runPolicy = 'Always', restartNonce = 0 } = object.spec;
  const decision = decideOverride(override, record.siteOrderNoted ?? null, { generation: object.metadata.generation, runPolicy, restartNonce }, overruledNumber(object));
  switch (decision.action) {
    case 'note':
      await deps.stores.microvms.noteSiteOrder({ tenantId: scope.tenantId, microvmId: scope.id, note: decision.note }, deps.epoch);
      scope.record = { ...record, siteOrderNoted: decision.note };
      break;
    case 'keep':
      break;
    case 'end':
      scope.desired = { ...desired, overruledSiteOrder: override.number };
      scope.overruled = { override, by: decision.by };
      return null;
  }
  if (earlier !== undefined) scope.desired = { ...desired, overruledSiteOrder: earlier };
  return null;
};

/** On the host that has it; what stands on one that was left says nothing here. */
function standingOverride(record: NonNullable<MicroVMScope['record']>) {
  const { observation, binding } = record;
  return observation !== null && binding !== null && observation.epoch === binding.epoch ? observation.siteOverride : undefined;
}
