/** What a MicroVMSet shows. Pure. */
import type { MicroVMSetConditionReason } from '#crds/conditions.ts';
import type { MicroVMSet, MicroVMSetStatus } from '#crds/gen/microvmset.ts';
import type { SetMember, SetPlan } from '#controller/domain/microvm-set/plan-set.ts';
import { stampConditions, type DerivedCondition } from '#controller/runtime/status-patch.ts';

export interface SetObstacle {
  readonly reason: MicroVMSetConditionReason;
  readonly message: string;
}

export interface SetFacts {
  /** Null when none could be made. */
  readonly plan: SetPlan | null;
  readonly members: readonly SetMember[];
  readonly obstacle: SetObstacle | null;
  /** Changes of the template wait for deletions. */
  readonly isManual: boolean;
  readonly nowMs: number;
}

export function projectSetStatus(set: MicroVMSet, facts: SetFacts): MicroVMSetStatus {
  const { plan, members } = facts;
  const wanted = new Map((plan?.slots ?? []).map((slot) => [slot.name, slot.digest]));
  const counts = {
    desired: plan === null ? (set.status?.desiredReplicas ?? 0) : plan.slots.length,
    current: members.length,
    updated: members.filter(({ name, digest }) => wanted.get(name) === digest).length,
    ready: members.filter(({ isReady, isDeleting }) => isReady && !isDeleting).length,
    surplus: plan === null ? 0 : members.filter(({ name }) => !wanted.has(name)).length,
    leaving: plan === null ? 0 : members.filter(({ name, isDeleting }) => !wanted.has(name) && (isDeleting || plan.remove.includes(name))).length,
  };
  return {
    observedGeneration: set.metadata.generation,
    desiredReplicas: counts.desired,
    replicas: counts.current,
    updatedReplicas: counts.updated,
    readyReplicas: counts.ready,
    selector: `nkudo.dev/microvmset=${set.metadata.name}`,
    conditions: stampConditions([deriveReady(set, facts, counts)], set.status?.conditions, { generation: set.metadata.generation, nowMs: facts.nowMs }),
  };
}

interface Counts {
  readonly desired: number;
  readonly current: number;
  readonly updated: number;
  readonly ready: number;
  readonly surplus: number;
  /** Of the surplus, those that are being deleted. */
  readonly leaving: number;
}

const ready = (status: DerivedCondition['status'], reason: MicroVMSetConditionReason, message: string): DerivedCondition => ({ type: 'Ready', status, reason, message });

function deriveReady(set: MicroVMSet, facts: SetFacts, counts: Counts): DerivedCondition {
  if (set.metadata.deletionTimestamp !== undefined) return ready('False', 'Deleting', `${counts.current} microVMs are still to be torn down`);
  if (facts.obstacle !== null) return ready('False', facts.obstacle.reason, facts.obstacle.message);
  const { desired, current, updated, surplus, leaving } = counts;
  if (surplus > leaving) return ready('False', 'SurplusKept', `${surplus - leaving} microVMs stay that the set would not make: their host or site is not listed, or the site is on hold`);
  if (surplus > 0) return ready('False', 'Progressing', `${surplus} microVMs are too many and are being deleted`);
  if (current < desired) return ready('False', 'Progressing', `${current} of ${desired} microVMs exist`);
  if (updated < desired && facts.isManual) return ready('False', 'WaitsForDelete', `${updated} of ${desired} microVMs are as the template says: delete the others, and they are made anew`);
  if (updated < desired) return ready('False', 'Progressing', `${updated} of ${desired} microVMs are as the template says`);
  if (counts.ready < desired) return ready('False', 'NotReady', `${counts.ready} of ${desired} microVMs are Ready`);
  return ready('True', 'AllReady', desired === 0 ? 'no microVM is asked for' : `all ${desired} microVMs are Ready`);
}
