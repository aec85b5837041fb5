/**
 * Drives one plan of a caller from its rows: intent, the write to Kubernetes, its outcome; then waits until the
 * generation that it made was published, or finds that somebody else's took its place. Whoever accepted the plan may be
 * long gone. Runs on the leader; which host does what is the MicroVM reconciler's.
 *
 * Invariant: no write without a committed intent; after an unknown outcome the object is read before anything is done.
 */
import { microVMId, type PlanId, type TenantId } from '#api/model/ids.ts';
import { AppError } from '#api/model/error-codes.ts';
import { isTerminal } from '#api/model/plan.ts';
import type { MicroVM } from '#crds/gen/microvm.ts';
import type { PlanFaultPoints, PlanStep } from '#controller/fault-points.ts';
import type { Actor } from '#controller/ports/audit.ts';
import type { HintBus } from '#controller/ports/hints.ts';
import type { MicroVMStore } from '#controller/ports/microvm-store.ts';
import type { ActionKey, DrivenAction, DrivenPlan, PlanError, PlanStore } from '#controller/ports/plan-store.ts';
import { done, failed, type Outcome } from '#controller/runtime/outcome.ts';
import type { KubernetesApi, ObjectKey } from '#controller/runtime/kubernetes-api.ts';
import { microvmResource, parseMicroVM } from '../kinds.ts';
import type { Tenants } from '../tenants.ts';
import { decideWrite, describeWinner, expectedSpec, planError, type WriteDecision } from './decide-write.ts';
import { performWrite, type Write } from './perform-write.ts';
import { hashSpec } from './spec-hash.ts';

/** Of one plan; each is a few calls to two servers. */
const actionsAtOnce = 8;
/** Status writes move an object's version all the time; more than so many at once are a reason to back off. */
const writeAttempts = 6;

export interface PlanDeps {
  readonly kube: KubernetesApi;
  readonly plans: PlanStore;
  readonly microvms: Pick<MicroVMStore, 'load'>;
  readonly tenants: Tenants;
  readonly hints: Pick<HintBus, 'publish'>;
  readonly faults: PlanFaultPoints;
  readonly epoch: number;
  readonly actor: Actor;
  /** The plan waits for what happens to these objects. */
  readonly onWaiting: (keys: readonly ObjectKey[]) => void;
}

export async function reconcilePlan(tenantId: TenantId, planId: PlanId, deps: PlanDeps): Promise<Outcome> {
  const plan = await deps.plans.load(tenantId, planId);
  if (plan === null || isTerminal(plan.status)) return done();
  const open = plan.actions.filter((action) => action.status === 'Pending' || action.status === 'Writing' || action.status === 'Written');
  if (open.length === 0) return done();
  // Before anything is read, so that no change of an object falls between.
  deps.onWaiting(open.map((action) => ({ namespace: plan.namespace, name: action.name })));
  const isSameNamespace = await isStillTenant(plan, deps);
  const results: PromiseSettledResult<boolean>[] = [];
  for (let start = 0; start < open.length; start += actionsAtOnce) {
    results.push(...(await Promise.allSettled(open.slice(start, start + actionsAtOnce).map((action) => step(plan, action, { deps, isSameNamespace })))));
  }
  if (results.some((result) => result.status === 'fulfilled' && result.value)) deps.hints.publish({ kind: 'plan', tenantId, planId });
  // One that could not be driven is tried again; the others of its plan do not wait for it.
  const failure = results.find((result) => result.status === 'rejected');
  return failure === undefined ? done() : failed(failure.reason);
}

/** True when it moved. */
async function step(plan: DrivenPlan, action: DrivenAction, { deps, isSameNamespace }: { readonly deps: PlanDeps; readonly isSameNamespace: boolean }): Promise<boolean> {
  if (!isSameNamespace) {
    await end(plan, action, deps, { status: 'Failed', error: planError('NOT_FOUND', `the namespace ${plan.namespace} of this plan was deleted`) });
    return true;
  }
  if (action.status === 'Written') return checkWritten(plan, action, deps);
  await drive(plan, action, deps);
  return true;
}

/** A namespace that was made again under the name is another tenant, and nothing is written into it. */
async function isStillTenant(plan: DrivenPlan, deps: PlanDeps): Promise<boolean> {
  try {
    return (await deps.tenants.of(plan.namespace, null)) === plan.tenantId;
  } catch (error) {
    if (error instanceof AppError && error.code === 'NOT_FOUND') return false;
    throw error;
  }
}

const keyOfAction = (plan: DrivenPlan, action: DrivenAction): ActionKey => ({ tenantId: plan.tenantId, planId: plan.planId, actionId: action.id });

async function readLive(plan: DrivenPlan, action: DrivenAction, deps: PlanDeps): Promise<MicroVM | null> {
  const object = await deps.kube.get(microvmResource, { namespace: plan.namespace, name: action.name });
  return object === null ? null : parseMicroVM(object);
}

async function drive(plan: DrivenPlan, action: DrivenAction, deps: PlanDeps): Promise<void> {
  const key = keyOfAction(plan, action);
  const restored = action.kind === 'Start' && action.uid !== null ? await deps.plans.lastRunPolicy(plan.tenantId, action.uid) : null;
  let attempted = action.status === 'Writing' ? { specHash: action.specHash } : null;
  for (let attempt = 1; attempt <= writeAttempts; attempt += 1) {
    const live = await readLive(plan, action, deps);
    const decision = decideWrite({ planId: plan.planId, namespace: plan.namespace, siteName: plan.siteName, action, live, attempted, hash: hashSpec, restoredRunPolicy: restored });
    if (decision.write === 'none') return 'written' in decision ? recordOutcome(plan, action, deps, decision.written) : end(plan, action, deps, endOf(decision.end));
    if (!(await recordIntent(key, decision, deps))) {
      // Published or cancelled meanwhile; of what was begun before a cancel, nothing was made.
      if (attempted !== null) await end(plan, action, deps, { status: 'Cancelled', error: null });
      return;
    }
    attempted = { specHash: hashOf(decision) };
    const result = await around(deps, 'k8s.plan.write', () => performWrite(deps.kube, { namespace: plan.namespace, name: action.name }, decision, { isForced: plan.isForced, isDryRun: false }));
    if (result.result === 'refused') return end(plan, action, deps, { status: 'Failed', error: result.error });
    if (result.result === 'written') return recordOutcome(plan, action, deps, result.object);
  }
  throw new AppError('CONFLICT', `the MicroVM ${action.name} changes faster than the plan can write`);
}

function hashOf(decision: WriteDecision): string | null {
  const spec = expectedSpec(decision);
  return spec === null ? null : hashSpec(spec);
}

function recordIntent(key: ActionKey, decision: Write, deps: PlanDeps): Promise<boolean> {
  const previousRunPolicy = decision.write === 'power' && decision.runPolicy === 'Halted' ? (decision.before.spec.runPolicy ?? null) : null;
  return around(deps, 'db.plan.intent', () => deps.plans.recordIntent(key, { specHash: hashOf(decision), previousRunPolicy }, deps.epoch, deps.actor));
}

const endOf = (error: PlanError | null) => (error === null ? ({ status: 'Succeeded', error } as const) : ({ status: 'Failed', error } as const));

async function end(plan: DrivenPlan, action: DrivenAction, deps: PlanDeps, how: Parameters<PlanStore['endAction']>[1]): Promise<void> {
  await deps.plans.endAction(keyOfAction(plan, action), how, deps.epoch, deps.actor);
}

/** `object` null: a delete that left nothing to tear down. */
async function recordOutcome(plan: DrivenPlan, action: DrivenAction, deps: PlanDeps, object: MicroVM | null): Promise<void> {
  if (object === null) return end(plan, action, deps, { status: 'Succeeded', error: null });
  const { uid, generation } = object.metadata;
  if (action.kind === 'Create' && generation !== 1) {
    // What the create made is history; what it was can't be told from the object any more.
    return end(plan, action, deps, superseded(object));
  }
  const written = { microvmId: microVMId(uid), generation, specHash: hashSpec(object.spec) };
  await around(deps, 'db.plan.written', () => deps.plans.recordWritten(keyOfAction(plan, action), written, deps.epoch, deps.actor));
}

function superseded(object: MicroVM | null): { readonly status: 'Superseded'; readonly error: PlanError } {
  if (object === null) return { status: 'Superseded', error: planError('SPEC_CHANGED_ELSEWHERE', 'the object was deleted before a host took it over') };
  return { status: 'Superseded', error: planError('SPEC_CHANGED_ELSEWHERE', describeWinner(object)) };
}

/** Waits for the publication, unless the live object is no longer what the plan made. True when it ended. */
async function checkWritten(plan: DrivenPlan, action: DrivenAction, deps: PlanDeps): Promise<boolean> {
  const live = await readLive(plan, action, deps);
  const isThere = live !== null && live.metadata.uid === action.uid;
  if (action.kind === 'Delete') {
    if (isThere) return false;
    await end(plan, action, deps, { status: 'Succeeded', error: null });
    return true;
  }
  const isDeleting = live?.metadata.deletionTimestamp !== undefined;
  if (isThere && !isDeleting && hashSpec(live.spec) === action.specHash) return endIfPublishedElsewhere(plan, action, deps);
  await end(plan, action, deps, superseded(isThere && !isDeleting ? live : null));
  return true;
}

/**
 * Something at the API server changed the spec while it was written, and the reconciler published what it saw before
 * the outcome was recorded. An action whose operation it linked has left `Written`, so that this does nothing to it.
 */
async function endIfPublishedElsewhere(plan: DrivenPlan, action: DrivenAction, deps: PlanDeps): Promise<boolean> {
  const record = action.uid === null ? null : await deps.microvms.load(plan.tenantId, action.uid);
  if (record === null || action.generation === null || record.generation < action.generation) return false;
  const message = `the API server changed the spec while it was written; generation ${action.generation} is carried out by plan ${record.newestOperation?.planId ?? 'of the controller'}`;
  await end(plan, action, deps, { status: 'Superseded', error: planError('SPEC_CHANGED_ELSEWHERE', message) });
  return true;
}

async function around<Result>(deps: PlanDeps, step: PlanStep, write: () => Promise<Result>): Promise<Result> {
  await deps.faults.reach(`${step}:before`);
  const result = await write();
  await deps.faults.reach(`${step}:after`);
  return result;
}

