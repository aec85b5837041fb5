/**
 * ApplyPlan and CancelPlan: form, rights, one commit. What the plan then does to objects and hosts is driven by the
 * leader from the rows, so the replica that answered is not needed any more.
 *
 * Invariant: the answer to ApplyPlan is given after the commit, and a dry run commits nothing.
 */
import type { ApplyPlanRequest, Plan } from '#api/gen/nkudo/v1/fleet.pb.ts';
import { PlanStatus } from '#api/gen/nkudo/v1/fleet.pb.ts';
import { AppError } from '#api/model/error-codes.ts';
import { microVMId, planId, type PlanId, type TenantId } from '#api/model/ids.ts';
import type { PlanFaultPoints } from '#controller/fault-points.ts';
import type { FleetStore } from '#controller/ports/fleet-store.ts';
import type { HintBus } from '#controller/ports/hints.ts';
import type { PlanContent, PlanStore, RequestedAction } from '#controller/ports/plan-store.ts';
import type { DryRunOutcome, PlanDryRun } from '#controller/ports/plan-writer.ts';
import { actorOf, type Authentication, type FleetCaller } from './authentication.ts';
import { actionKindMap, encodeAction, encodePlan, type ActionView } from './fleet-codec.ts';
import { forceRight, writeRights } from './rights.ts';
import { parseObject } from './validation.ts';

export interface PlanCallDeps {
  readonly fleet: Pick<FleetStore, 'findTenant' | 'loadPlan'>;
  readonly plans: Pick<PlanStore, 'accept' | 'cancel' | 'hashOf'>;
  readonly planDryRun: PlanDryRun;
  readonly authentication: Authentication;
  readonly hints: Pick<HintBus, 'publish'>;
  readonly faults: PlanFaultPoints;
}

export interface Caller {
  readonly caller: FleetCaller;
  /** Remote `ip:port`. */
  readonly peer: string;
}

/** Of a request whose form was checked. */
export function decodeContent(request: ApplyPlanRequest): PlanContent {
  return {
    site: request.site,
    isForced: request.force,
    actions: request.actions.map((action): RequestedAction => {
      const kind = actionKindMap.decode('kind', action.kind);
      return { kind, name: action.name, uid: kind === 'Create' ? null : microVMId(action.uid), object: kind === 'Create' ? parseObject(action.objectJson) : null };
    }),
  };
}

/** @throws PERMISSION_DENIED unless the caller may do every write of the plan himself */
export async function authorizeContent(authentication: Authentication, caller: FleetCaller, input: { readonly namespace: string; readonly content: PlanContent }): Promise<void> {
  const { namespace, content } = input;
  // Actions on microVMs of another site end when they are carried out.
  const target = { site: content.site };
  if (content.isForced) await authentication.authorize(caller, namespace, forceRight, target);
  for (const verb of new Set(content.actions.map((action) => writeRights[action.kind].verb))) {
    const names = content.actions.filter((action) => writeRights[action.kind].verb === verb).map((action) => action.name);
    try {
      await authentication.authorize(caller, namespace, { verb, resource: 'microvms' }, target);
    } catch (error) {
      // A role may name single objects; of a create the API server never knows the name.
      if (verb === 'create' || !(error instanceof AppError) || error.code !== 'PERMISSION_DENIED') throw error;
      for (const name of names) await authentication.authorize(caller, namespace, { verb, resource: 'microvms', name }, target);
    }
  }
}

/** @throws IDEMPOTENCY_KEY_REUSED, SITE_NOT_FOUND, NOT_FOUND, PERMISSION_DENIED, UNAVAILABLE, DATABASE_UNAVAILABLE */
export async function applyPlan(deps: PlanCallDeps, request: ApplyPlanRequest, from: Caller): Promise<Plan> {
  const { namespace } = request;
  const content = decodeContent(request);
  await authorizeContent(deps.authentication, from.caller, { namespace, content });
  const tenantId = await deps.fleet.findTenant(namespace);
  if (tenantId === null) throw new AppError('NOT_FOUND', `namespace ${namespace} has no site yet`);
  if (request.dryRun) return dryRun(deps, { tenantId, namespace }, content);
  await deps.faults.reach('db.plan.accept:before');
  const accepted = await deps.plans.accept({ tenantId, key: request.idempotencyKey, content }, actorOf(from.caller, from.peer));
  await deps.faults.reach('db.plan.accept:after');
  if (accepted.isNew) deps.hints.publish({ kind: 'plan', tenantId, planId: accepted.planId });
  return readPlan(deps, tenantId, accepted.planId);
}

async function readPlan(deps: PlanCallDeps, tenantId: TenantId, id: PlanId): Promise<Plan> {
  const view = await deps.fleet.loadPlan(tenantId, id);
  if (view === null) throw new AppError('NOT_FOUND', 'there is no such plan in this namespace');
  return encodePlan(view);
}

/** Actions that are checked at the API server at once. */
const dryRunsAtOnce = 8;

async function dryRun(deps: PlanCallDeps, place: { readonly tenantId: TenantId; readonly namespace: string }, content: PlanContent): Promise<Plan> {
  const outcomes: DryRunOutcome[] = [];
  const target = { ...place, siteName: content.site, isForced: content.isForced };
  for (let start = 0; start < content.actions.length; start += dryRunsAtOnce) {
    outcomes.push(...(await Promise.all(content.actions.slice(start, start + dryRunsAtOnce).map((action) => deps.planDryRun.dryRun(target, action)))));
  }
  const actions = content.actions.map((action, index) => toView(action, outcomes[index]));
  const failure = actions.find((action) => action.error !== null)?.error;
  const isSettled = actions.every((action) => action.status === 'Succeeded');
  return {
    id: '', site: content.site, idempotencyKey: '', contentHash: deps.plans.hashOf(content), createdAt: undefined, finishedAt: undefined, operations: [],
    status: failure != null ? PlanStatus.FAILED : isSettled ? PlanStatus.SUCCEEDED : PlanStatus.PENDING,
    actions: actions.map(encodeAction), errorCode: failure?.code ?? '', errorMessage: failure?.message ?? '', warnings: [],
  };
}

function toView(action: RequestedAction, outcome: DryRunOutcome | undefined): ActionView {
  const view = { kind: action.kind, name: action.name, microvmId: action.uid, generation: null, operationId: null };
  if (outcome?.outcome === 'refused') return { ...view, status: 'Failed', error: outcome.error };
  return { ...view, status: outcome?.outcome === 'wouldChangeNothing' ? 'Succeeded' : 'Pending', error: null };
}

/** @throws NOT_FOUND, DATABASE_UNAVAILABLE */
export async function cancelPlan(deps: PlanCallDeps, input: { readonly tenantId: TenantId; readonly planId: string }, from: Caller): Promise<Plan> {
  const id = planId(input.planId);
  const cancelled = await deps.plans.cancel(input.tenantId, id, actorOf(from.caller, from.peer));
  if (cancelled === null) throw new AppError('NOT_FOUND', 'there is no such plan of a caller in this namespace');
  deps.hints.publish({ kind: 'plan', tenantId: input.tenantId, planId: id });
  for (const hostId of cancelled.hosts) deps.hints.publish({ kind: 'cancels', hostId });
  for (const microvmId of cancelled.microvms) deps.hints.publish({ kind: 'microvm', tenantId: input.tenantId, microvmId });
  return readPlan(deps, input.tenantId, id);
}
