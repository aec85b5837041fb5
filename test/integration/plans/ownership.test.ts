/**
 * Which generation is a plan's, and what else ends one: another manager's change, a cancel, a missing host. The
 * reconcilers on a real API server and Postgres; resync and polling are an hour apart, so only events move anything.
 */
import { randomUUID } from 'node:crypto';
import { beforeAll, describe, expect, it } from 'vitest';
import { microVMId, type PlanId } from '#api/model/ids.ts';
import type { PlanView } from '#controller/ports/fleet-store.ts';
import type { RequestedAction } from '#controller/ports/plan-store.ts';
import { hashSpec } from '#controller/reconcilers/plan/spec-hash.ts';
import { until } from '#test/harness/until.ts';
import { describeConditions, microvmSpec, siteName, startLeader, statusOf, type Leader } from '#test/integration/reconcilers/leader.ts';
import { enrollMachine, type Machine } from '#test/integration/reconcilers/machine.ts';

const user = { kind: 'user', name: 'ann', from: '' } as const;
let leader: Leader;
let machine: Machine;

beforeAll(async () => {
  leader = await startLeader();
  await leader.apply('sites', siteName, {});
  await leader.waitForCondition('sites', siteName, 'Accepted=True');
  machine = await enrollMachine(leader, 'edge-1');
  await machine.connect();
  await leader.waitForCondition('hosts', 'edge-1', 'Ready=True');
});

const create = (name: string, spec: object = {}): RequestedAction => ({ kind: 'Create', name, uid: null, object: { apiVersion: 'nkudo.dev/v1alpha1', kind: 'MicroVM', metadata: { name }, spec: microvmSpec(spec) } });
const act = (kind: 'Start' | 'Stop' | 'Delete', name: string, uid: string): RequestedAction => ({ kind, name, uid: microVMId(uid), object: null });

async function accept(...actions: readonly RequestedAction[]): Promise<PlanId> {
  const { planId } = await leader.database.plans.accept({ tenantId: machine.tenantId, key: randomUUID(), content: { site: siteName, isForced: true, actions } }, user);
  leader.hint({ kind: 'plan', tenantId: machine.tenantId, planId });
  return planId;
}

async function planOf(id: PlanId): Promise<PlanView> {
  const plan = await leader.database.fleet.loadPlan(machine.tenantId, id);
  if (plan === null) throw new Error('the plan is gone');
  return plan;
}

async function reaches(id: PlanId, what: (plan: PlanView) => boolean): Promise<PlanView> {
  await until(async () => {
    const plan = await planOf(id);
    if (!what(plan)) throw new Error(JSON.stringify(plan));
    return true;
  }, 'the plan');
  return planOf(id);
}

const ends = (id: PlanId): Promise<PlanView> => reaches(id, (plan) => plan.finishedAtMs !== null);
const isPublished = (plan: PlanView): boolean => plan.actions.every((action) => action.status === 'Published');
const uidOf = async (name: string): Promise<string> => (await leader.kubernetes.client.get(leader.path('microvms', name))).metadata.uid ?? '';
const hasNoPlace = { placement: { hostName: 'nowhere' } };

async function obeyOnce(): Promise<void> {
  for (const operation of await machine.claim()) await machine.report(operation, { state: operation.desired?.runPolicy === 'Halted' ? 'stopped' : operation.kind === 'Delete' ? 'absent' : 'running' });
}

describe('a plan of several microVMs', () => {
  it('has succeeded when all of its operations have, and failed when one has failed and none is open', async () => {
    const id = await accept(create('one'), create('two'));
    const open = await reaches(id, isPublished);
    expect(open.status).toBe('Pending');
    expect(open.operations.map((operation) => operation.kind)).toEqual(['Create', 'Create']);
    const [first, second] = await machine.claim();
    if (first === undefined || second === undefined) throw new Error('two operations were expected');
    await machine.report(first, { state: 'running' });
    expect((await planOf(id)).status).toBe('Running');
    await machine.report(second, { state: 'running' });
    expect((await planOf(id)).status).toBe('Succeeded');

    // Of the same plan one is refused by the API server; the other is carried out all the same.
    const mixed = await accept(create('one'), create('three'));
    await reaches(mixed, (plan) => plan.actions.some((action) => action.status === 'Published'));
    expect((await planOf(mixed)).status).toBe('Running');
    await obeyOnce();
    expect(await ends(mixed)).toMatchObject({ status: 'Failed', actions: [{ status: 'Failed', error: { code: 'ALREADY_EXISTS' } }, { status: 'Published' }] });
  });
});

describe('the largest plan', () => {
  it('has 256 microVMs, each written once', async () => {
    const names = Array.from({ length: 256 }, (_unused, index) => `many-${index}`);
    const id = await accept(...names.map((name) => create(name, hasNoPlace)));
    const written = await reaches(id, (plan) => plan.actions.every((action) => action.status === 'Written'));
    expect(new Set(written.actions.map((action) => action.microvmId)).size).toBe(names.length);
    const cancelled = await leader.database.plans.cancel(machine.tenantId, id, user);
    expect(cancelled).toEqual({ hosts: [], microvms: [] });
    expect((await planOf(id)).status).toBe('Cancelled');
    await Promise.all(names.map((name) => leader.remove('microvms', name)));
  });
});

describe('a generation', () => {
  it('that somebody else wrote before a host had it takes the place of the plan, which names him', async () => {
    const id = await accept(create('rival', hasNoPlace));
    await reaches(id, (plan) => plan.actions[0]?.status === 'Written');
    await leader.kubernetes.kubectl(['patch', 'mvm', 'rival', '--type=merge', '--field-manager=flux', '-p', JSON.stringify({ spec: { memory: { size: '96Mi' } } })], { namespace: leader.namespace });
    const plan = await ends(id);
    expect(plan).toMatchObject({ status: 'Superseded', operations: [], actions: [{ status: 'Superseded', error: { code: 'SPEC_CHANGED_ELSEWHERE' } }] });
    expect(plan.actions[0]?.error?.message).toBe('generation 2 of the spec, written by the field manager flux, took its place');
  });

  it('belongs to the plan that wrote it, and later ones to the reconciler', async () => {
    const id = await accept(create('mine'));
    await reaches(id, isPublished);
    await obeyOnce();
    expect((await ends(id)).status).toBe('Succeeded');
    await leader.kubernetes.kubectl(['patch', 'mvm', 'mine', '--type=merge', '-p', JSON.stringify({ spec: { restartNonce: 1 } })], { namespace: leader.namespace });
    const uid = await uidOf('mine');
    await until(async () => (await leader.rows.query('select 1 from nkudo.operations where microvm_id = $1', [uid])).length === 2, 'the second operation');
    await obeyOnce();
    const plans = await leader.rows.query(
      `select p.origin, p.idempotency_key like 'cr/%' as of_reconciler, o.generation from nkudo.operations o join nkudo.plans p on p.id = o.plan_id where o.microvm_id = $1 order by o.revision`,
      [uid],
    );
    expect(plans).toMatchObject([{ origin: 'caller', of_reconciler: false }, { origin: 'controller', of_reconciler: true }]);
    expect((await planOf(id)).operations).toHaveLength(1);
  });

  it('that a newer plan made supersedes the older plan, whose operation no host had', async () => {
    const uid = await uidOf('mine');
    const stop = await accept(act('Stop', 'mine', uid));
    await reaches(stop, isPublished);
    const start = await accept(act('Start', 'mine', uid));
    await reaches(start, isPublished);
    expect(await planOf(stop)).toMatchObject({ status: 'Superseded', operations: [{ error: { code: 'SPEC_CHANGED_ELSEWHERE', message: `generation 4 of the spec, written by plan ${start}, took its place` } }] });
    await obeyOnce();
    expect((await ends(start)).status).toBe('Succeeded');
  });
});

describe('a spec that the API server changed as it was written', () => {
  it('and that was published before the outcome was known ends the plan, which says by whom it is carried out', async () => {
    await leader.apply('microvms', 'mutated', microvmSpec());
    await leader.waitForCondition('microvms', 'mutated', 'Scheduled=True');
    await obeyOnce();
    const uid = await uidOf('mutated');
    // The driver, step by step: its intent expects another spec than the one that comes about.
    const content = { site: siteName, isForced: false, actions: [act('Stop', 'mutated', uid)] };
    const { planId } = await leader.database.plans.accept({ tenantId: machine.tenantId, key: randomUUID(), content }, user);
    const key = { tenantId: machine.tenantId, planId, actionId: (await leader.database.plans.load(machine.tenantId, planId))?.actions[0]?.id ?? '' };
    expect(await leader.database.plans.recordIntent(key, { specHash: 'ab'.repeat(32), previousRunPolicy: null }, leader.epoch, user)).toBe(true);
    await leader.kubernetes.kubectl(['patch', 'mvm', 'mutated', '--type=merge', '-p', JSON.stringify({ spec: { runPolicy: 'Halted' } })], { namespace: leader.namespace });
    await until(async () => (await leader.rows.query('select 1 from nkudo.operations where microvm_id = $1', [uid])).length === 2, 'the second operation');
    const object = await leader.kubernetes.client.get(leader.path('microvms', 'mutated'));
    const written = { microvmId: microVMId(uid), generation: 2, specHash: hashSpec(object['spec'] as object) }; // JSON of the API server.
    await leader.database.plans.recordWritten(key, written, leader.epoch, user);
    leader.hint({ kind: 'plan', tenantId: machine.tenantId, planId });
    const plan = await ends(planId);
    expect(plan).toMatchObject({ status: 'Superseded', operations: [], actions: [{ error: { message: expect.stringMatching(/generation 2 is carried out by plan [0-9a-f-]{36}/) } }] });
    await obeyOnce();
  });
});

describe('a deletion', () => {
  it('of what no host ever had succeeds without an operation', async () => {
    const id = await accept(create('nowhere', hasNoPlace));
    await reaches(id, (plan) => plan.actions[0]?.status === 'Written');
    const removal = await accept(act('Delete', 'nowhere', await uidOf('nowhere')));
    expect(await ends(removal)).toMatchObject({ status: 'Succeeded', operations: [] });
    expect(await ends(id)).toMatchObject({ status: 'Superseded', actions: [{ error: { message: 'the object was deleted before a host took it over' } }] });
    await leader.waitUntilGone('microvms', 'nowhere');
  });

  it('belongs to the plan that asked for it, and can not be cancelled once it was written', async () => {
    const removal = await accept(act('Delete', 'two', await uidOf('two')));
    await reaches(removal, isPublished);
    await leader.database.plans.cancel(machine.tenantId, removal, user);
    expect((await planOf(removal)).status).toBe('Pending');
    await obeyOnce();
    for (const { microvmId } of (await planOf(removal)).operations) leader.hint({ kind: 'microvm', tenantId: machine.tenantId, microvmId: microVMId(microvmId) });
    expect(await ends(removal)).toMatchObject({ status: 'Succeeded', operations: [{ kind: 'Delete' }] });
    await leader.waitUntilGone('microvms', 'two');
  });
});

describe('a cancel', () => {
  it('ends an operation that no host had; nothing is tried until the spec changes, and the object says so', async () => {
    const id = await accept(create('cancelled'));
    await reaches(id, isPublished);
    const cancelled = await leader.database.plans.cancel(machine.tenantId, id, user);
    expect(cancelled?.hosts).toEqual([]);
    expect(await planOf(id)).toMatchObject({ status: 'Cancelled', operations: [{ status: 'Cancelled' }] });
    const uid = await uidOf('cancelled');
    leader.hint({ kind: 'microvm', tenantId: machine.tenantId, microvmId: microVMId(uid) });
    const shown = await leader.waitForCondition('microvms', 'cancelled', 'Provisioned=False/OperationCancelled');
    expect(statusOf(shown)['plan']).toEqual({ id, status: 'Cancelled' });
    expect(await machine.claim()).toEqual([]);
    await leader.kubernetes.kubectl(['patch', 'mvm', 'cancelled', '--type=merge', '-p', JSON.stringify({ spec: { restartNonce: 1 } })], { namespace: leader.namespace });
    await until(async () => (await leader.rows.query(`select 1 from nkudo.operations where microvm_id = $1 and status = 'Pending'`, [uid])).length === 1, 'the operation of the next generation');
    await obeyOnce();
    expect(describeConditions(await leader.waitForCondition('microvms', 'cancelled', 'Running=True'))).toContain('Provisioned=True/Provisioned');
  });

  it('that the host answers by dropping the operation shows too, and the guest goes on as before', async () => {
    const made = await accept(create('stopped-not'));
    await reaches(made, isPublished);
    await obeyOnce();
    await leader.waitForCondition('microvms', 'stopped-not', 'Running=True');
    const id = await accept(act('Stop', 'stopped-not', await uidOf('stopped-not')));
    await reaches(id, isPublished);
    const [stop] = await machine.claim();
    if (stop === undefined) throw new Error('the host was given nothing');
    expect((await leader.database.plans.cancel(machine.tenantId, id, user))?.hosts).toEqual([machine.hostId]);
    // What it dropped has used up the revision; the guest is still that of the generation before.
    await machine.report(stop, { state: 'running', generation: 1 }, 'Dropped');
    const shown = await leader.waitForCondition('microvms', 'stopped-not', 'Provisioned=False/OperationCancelled');
    expect(describeConditions(shown)).toContain('Running=True/Running');
    expect(statusOf(shown)).toMatchObject({ hostObservedGeneration: 1, plan: { id, status: 'Cancelled' } });
  });

  it('of what was written and not placed keeps that generation from starting when there is a place', async () => {
    const id = await accept(create('unplaced', { placement: { hostName: 'edge-2' } }));
    await reaches(id, (plan) => plan.actions[0]?.status === 'Written');
    await leader.database.plans.cancel(machine.tenantId, id, user);
    expect((await planOf(id)).status).toBe('Cancelled');
    const other = await enrollMachine(leader, 'edge-2');
    await other.connect();
    await leader.waitForCondition('microvms', 'unplaced', 'Provisioned=False/OperationCancelled');
    expect(await other.claim()).toEqual([]);
    expect(await planOf(id)).toMatchObject({ status: 'Cancelled', operations: [{ status: 'Cancelled' }] });
  });

  it('of a plan that has ended changes nothing', async () => {
    const before = await leader.rows.query('select count(*) from nkudo.audit_events');
    const [plan] = await leader.rows.query(`select id from nkudo.plans where origin = 'caller' and status = 'Succeeded' limit 1`);
    expect(await leader.database.plans.cancel(machine.tenantId, String(plan?.['id']) as PlanId, user)).toEqual({ hosts: [], microvms: [] });
    expect(await leader.rows.query('select count(*) from nkudo.audit_events')).toEqual(before);
  });
});
