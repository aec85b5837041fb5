/**
 * Reconciles one AgentRollout: reads what it asks for and how the hosts are, stores what each of them is to be told, and
 * shows how far it is. Level-based: the rows are all that is remembered, so that a crash between any two writes leaves
 * a rollout that goes on with the next one.
 *
 * The order itself is given by the Host reconciler, which alone decides between a rollout and the Host's own spec.agent.
 */
import type { AgentRollout } from '#crds/gen/agentrollout.ts';
import type { TenantId } from '#api/model/ids.ts';
import { decideRollout } from '#controller/domain/agent-rollout/decide-rollout.ts';
import type { RolloutDecision } from '#controller/domain/agent-rollout/model.ts';
import type { WindowState } from '#controller/domain/maintenance/windows.ts';
import { formatKey, type ObjectKey } from '#controller/runtime/kubernetes-api.ts';
import { done, runSteps, type Outcome, type Step } from '#controller/runtime/outcome.ts';
import { patchStatus, writeFinalizers } from '#controller/runtime/status-patch.ts';
import { durably, writerFor, type ReconcilerDeps } from '../deps.ts';
import { agentRolloutFinalizer, agentRolloutResource, parseAgentRollout } from '../kinds.ts';
import { deriveSituation, deriveSpec, rolloutWindow, siteWindows } from './situation.ts';
import { deriveEvent, projectRolloutStatus } from './status.ts';

/** So that a large rollout shares the workers with others; the rest follows at once. */
const writesPerPass = 200;
/** A look in the far future is one of the next resync as well. */
const lookMaxMs = 86_400_000;
/** A look at a limit of time comes a little after it, so that it is not a little before. */
const lookLateMs = 20;

export interface RolloutDeps extends ReconcilerDeps {
  /** URL of the manifests of the agent's releases, with `{version}` in it; null: none is known. */
  readonly agentReleases: string | null;
  /** Called with the keys of hosts that are told something else than before. */
  readonly onHostsTold: (keys: readonly string[]) => void;
}

interface RolloutScope {
  object: AgentRollout;
  readonly tenantId: TenantId;
  decision: RolloutDecision | null;
  window: WindowState | null;
  nextLookMs: number | null;
  isReleased: boolean;
}

type RolloutStep = Step<RolloutScope, RolloutDeps>;

const kindOf = (deps: RolloutDeps) => ({ resource: agentRolloutResource, parse: parseAgentRollout, cache: deps.caches.agentRollouts });

export async function reconcileAgentRollout(key: ObjectKey, deps: RolloutDeps): Promise<Outcome> {
  const object = deps.caches.agentRollouts.get(key);
  if (object === undefined) return done();
  const scope: RolloutScope = { object, tenantId: await deps.tenants.of(key.namespace, null), decision: null, window: null, nextLookMs: null, isReleased: false };
  const isDeleting = object.metadata.deletionTimestamp !== undefined;
  const outcome = await runSteps(isDeleting ? deletionSteps : convergenceSteps, scope, deps);
  if (outcome.kind === 'failed' || scope.isReleased) return outcome;
  await writeStatus(scope, deps);
  if (outcome.kind === 'done' && outcome.requeueAfterMs !== undefined) return outcome;
  return scope.nextLookMs === null ? outcome : done(Math.min(lookMaxMs, scope.nextLookMs + lookLateMs));
}

const ensureFinalizer: RolloutStep = async (scope, deps) => {
  const finalizers = scope.object.metadata.finalizers ?? [];
  if (finalizers.includes(agentRolloutFinalizer)) return null;
  const written = await writeFinalizers(writerFor(deps, kindOf(deps), 'k8s.finalizer.add'), scope.object, [...finalizers, agentRolloutFinalizer]);
  if (written === null) {
    scope.isReleased = true;
    return done();
  }
  scope.object = written;
  return null;
};

const decide: RolloutStep = async (scope, deps) => {
  const { object, tenantId } = scope;
  const nowMs = deps.time.nowMs();
  const hosts = await deps.stores.agentRollouts.listHosts(tenantId);
  const window = rolloutWindow(object, nowMs);
  const sites = siteWindows(object, deps.caches.sites.list(object.metadata.namespace), nowMs);
  const spec = deriveSpec(object);
  const decision = decideRollout(spec, deriveSituation({ object, hosts, window, sites, deps }));
  scope.decision = decision;
  scope.window = window;
  // When a window that is closed opens is a time to look again, as long as somebody waits.
  const opens = decision.rings.some(({ waiting }) => waiting > 0) ? [window, ...sites.values()].flatMap((state) => (state.kind === 'closed' && state.next !== null ? [state.next.opensAtMs - nowMs] : [])) : [];
  const looks = [...opens, ...(decision.nextLookMs === null ? [] : [decision.nextLookMs])];
  scope.nextLookMs = looks.length === 0 ? null : Math.max(1, Math.min(...looks));
  return null;
};

const saveRows: RolloutStep = async ({ object, tenantId, decision }, deps) => {
  const writes = decision?.writes ?? [];
  const batch = writes.slice(0, writesPerPass);
  if (batch.length === 0) return null;
  await durably(deps.faults, 'db.saveRollout', () => deps.stores.agentRollouts.saveRows(tenantId, batch, deps.epoch, deps.actor));
  deps.onHostsTold(batch.map(({ name }) => formatKey({ namespace: object.metadata.namespace, name })));
  return writes.length > batch.length ? done(1) : null;
};

const convergenceSteps: readonly RolloutStep[] = [ensureFinalizer, decide, saveRows];

const releaseForeign: RolloutStep = async (scope) => {
  if ((scope.object.metadata.finalizers ?? []).includes(agentRolloutFinalizer)) return null;
  scope.isReleased = true;
  return done();
};

/** What hosts run they go on to run; nobody tells them to any more. */
const withdraw: RolloutStep = async ({ object, tenantId }, deps) => {
  const { uid, namespace } = object.metadata;
  const names = await durably(deps.faults, 'db.withdrawRollout', () => deps.stores.agentRollouts.withdraw(tenantId, uid, deps.epoch, deps.actor));
  deps.onHostsTold(names.map((name) => formatKey({ namespace, name })));
  return null;
};

const removeFinalizer: RolloutStep = async (scope, deps) => {
  const rest = (scope.object.metadata.finalizers ?? []).filter((name) => name !== agentRolloutFinalizer);
  await writeFinalizers(writerFor(deps, kindOf(deps), 'k8s.finalizer.remove'), scope.object, rest);
  scope.isReleased = true;
  return done();
};

const deletionSteps: readonly RolloutStep[] = [releaseForeign, withdraw, removeFinalizer];

async function writeStatus({ object, decision, window }: RolloutScope, deps: RolloutDeps): Promise<void> {
  if (decision === null) return;
  const written = await patchStatus(writerFor(deps, kindOf(deps), 'k8s.status'), object, (seen) => projectRolloutStatus(seen, { decision, window, nowMs: deps.time.nowMs() }));
  if (!written.isWritten || written.object === null) return;
  const event = deriveEvent(object, written.object);
  if (event !== null) await deps.events.record(agentRolloutResource, written.object, event);
}
