/**
 * The controller killed at every step of a caller's plan: before and after the commit that acknowledges it, its intent,
 * the write to Kubernetes and the record of it. The caller repeats with his key; there is one plan and one effect.
 */
import { PlanStatus, type ApplyPlanRequest, type Plan } from '#api/gen/nkudo/v1/fleet.pb.ts';
import { beforeAll, describe, expect, it } from 'vitest';
import { planFaultPoints } from '#controller/fault-points.ts';
import { createWorld, type World } from '#test/e2e/world.ts';
import { useFaultServer, type FaultServer } from '#test/harness/fault-server.ts';
import { until } from '#test/harness/until.ts';
import { create, openTenant, remove, start, stop, type Tenant } from './plan-client.ts';

let world: World;
let faults: FaultServer;
let tenant: Tenant;

beforeAll(async () => {
  faults = await useFaultServer();
  world = await createWorld({ faults });
  await world.startController();
  await world.createSite();
  await world.addHost();
  tenant = await openTenant(world, 'operator', ['create', 'get', 'patch', 'delete']);
});

/** Sends it until there is an answer, as a careful caller does. */
async function applyAgain(request: ApplyPlanRequest): Promise<Plan> {
  let plan: Plan | null = null;
  await until(async () => {
    plan = await tenant.apply(request);
    return true;
  }, 'an answer to the plan');
  if (plan === null) throw new Error('no plan');
  return plan;
}

/** The controller dies at the point while the request is on its way, and comes back. */
async function applyOverCrash(request: ApplyPlanRequest, point: string): Promise<{ readonly first: Plan | null; readonly again: Plan }> {
  const killed = faults.killAt({ process: 'controller', point });
  const first = await tenant.apply(request).catch(() => null);
  await killed;
  await world.controller().exited;
  await world.startController();
  return { first, again: await applyAgain(request) };
}

const uidOf = async (name: string): Promise<string> => (await world.get('microvms', name)).metadata.uid ?? '';
const writes = (mark: number, verb: string) =>
  world.kubernetes.audit.writesSince(mark).filter(({ verb: seen, objectRef, responseStatus }) => seen === verb && objectRef?.resource === 'microvms' && objectRef.subresource === undefined && (responseStatus?.code ?? 0) < 300);

describe('a controller that is killed', () => {
  it.each(planFaultPoints)('[C2] at %s leaves one plan and one effect, and a response that was lost is given again', async (point) => {
    const name = point.replaceAll(/[.:]/g, '-').toLowerCase();
    const request = tenant.request([create(world, name)]);
    const mark = world.kubernetes.audit.mark();
    const { first, again } = await applyOverCrash(request, point);
    if (point.startsWith('db.plan.accept')) expect(first).toBeNull();
    if (first !== null) expect(again.id).toBe(first.id);
    const done = await tenant.waitFor(again.id, PlanStatus.SUCCEEDED);
    expect(done.operations).toHaveLength(1);
    expect(writes(mark, 'create')).toHaveLength(1);
    const object = await world.get('microvms', name);
    expect(object.metadata).toMatchObject({ generation: 1, annotations: { 'nkudo.dev/plan': done.id } });
    const rows = await world.database.query(
      `select (select count(*)::int from nkudo.plans where origin = 'caller' and idempotency_key = $1) as plans,
        (select count(*)::int from nkudo.operations where microvm_id = $2) as operations,
        (select count(*)::int from nkudo.audit_events where subject_kind = 'plan' and action = 'accepted' and subject_id = $3) as accepted`,
      [request.idempotencyKey, object.metadata.uid, done.id],
    );
    expect(rows).toEqual([{ plans: 1, operations: 1, accepted: 1 }]);
  });

  it('after the write of a stop, a start or a delete, finds by the object that it was made', async () => {
    const made = await tenant.apply(tenant.request([create(world, 'power')]));
    await tenant.waitFor(made.id, PlanStatus.SUCCEEDED);
    const uid = await uidOf('power');
    for (const [index, action] of [stop('power', uid), start('power', uid)].entries()) {
      const { again } = await applyOverCrash(tenant.request([action]), 'k8s.plan.write:after');
      const done = await tenant.waitFor(again.id, PlanStatus.SUCCEEDED);
      expect(done.operations).toHaveLength(1);
      expect((await world.get('microvms', 'power')).metadata.generation).toBe(index + 2);
    }
    const mark = world.kubernetes.audit.mark();
    const { again } = await applyOverCrash(tenant.request([remove('power', uid)]), 'k8s.plan.write:after');
    const done = await tenant.waitFor(again.id, PlanStatus.SUCCEEDED);
    expect(done.operations).toMatchObject([{ kind: 'Delete' }]);
    expect(writes(mark, 'delete')).toHaveLength(1);
  });

  it('was at every point of the list', () => {
    const reached = new Set(faults.hits().filter((hit) => hit.process === 'controller').map((hit) => hit.point));
    expect(planFaultPoints.filter((point) => !reached.has(point))).toEqual([]);
  });
});
