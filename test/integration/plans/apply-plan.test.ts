/**
 * Plans of callers on the whole product: a controller process, an API server, Postgres, an agent with its VMM. What is
 * compared is what others see: objects, rows, requests at the API server.
 */
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, it } from 'vitest';
import { PlanStatus, type WatchStatusResponse } from '#api/gen/nkudo/v1/fleet.pb.ts';
import { ensureGoTool } from '#hack/build-go-tools.ts';
import { serverName } from '#controller/pki/certificates.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { until } from '#test/harness/until.ts';
import { createWorld, microVMSpec, siteName, type World } from '#test/e2e/world.ts';
import { countRows, create, openTenant, refusalOf, remove, start, stop, type Tenant } from './plan-client.ts';

const callers = 100;

let world: World;
let tenant: Tenant;

beforeAll(async () => {
  world = await createWorld();
  await world.startController();
  await world.createSite();
  await world.addHost();
  tenant = await openTenant(world, 'operator', ['create', 'get', 'list', 'watch', 'patch', 'delete']);
});

const specOf = async (name: string): Promise<unknown> => (await world.get('microvms', name))['spec'];
const uidOf = async (name: string): Promise<string> => (await world.get('microvms', name)).metadata.uid ?? '';

describe('one key', () => {
  it('[C2] 100 concurrent ApplyPlan with one key are one plan with one effect, and other content is a conflict', async () => {
    const request = tenant.request([create(world, 'race')]);
    const mark = world.kubernetes.audit.mark();
    const plans = await Promise.all(Array.from({ length: callers }, () => tenant.apply(request)));
    expect(plans).toHaveLength(callers);
    expect(new Set(plans.map((plan) => plan.id)).size).toBe(1);
    const done = await tenant.waitFor(plans[0]?.id ?? '', PlanStatus.SUCCEEDED);
    expect(done.operations).toMatchObject([{ kind: 'Create', status: PlanStatus.SUCCEEDED }]);
    expect(done.actions).toMatchObject([{ name: 'race', state: 'Published', generation: 1, uid: await uidOf('race') }]);
    const creates = world.kubernetes.audit.writesSince(mark).filter((event) => event.verb === 'create' && event.objectRef?.resource === 'microvms');
    expect(creates).toHaveLength(1);
    expect(await world.database.query(`select count(*)::int as n from nkudo.plans where origin = 'caller' and idempotency_key = $1`, [request.idempotencyKey])).toEqual([{ n: 1 }]);
    expect(await world.database.query('select count(*)::int as n from nkudo.operations where microvm_id = $1', [await uidOf('race')])).toEqual([{ n: 1 }]);

    // The same intent with its keys in another order is the same content; another intent is not.
    const reordered = JSON.stringify(Object.fromEntries(Object.entries(JSON.parse(request.actions[0]?.objectJson ?? '') as object).toReversed()));
    const again = await tenant.apply({ ...request, actions: request.actions.map((action) => ({ ...action, objectJson: reordered })) });
    expect(again.id).toBe(done.id);
    const refusal = await refusalOf(tenant.apply({ ...request, actions: [create(world, 'race', { memory: { size: '96Mi' } })] }));
    expect(refusal).toMatchObject({ errorCode: 'IDEMPOTENCY_KEY_REUSED', code: 6 });
    expect(refusal.message).toContain(`stored ${done.contentHash}`);
    expect(refusal.message).toMatch(/sent [0-9a-f]{64}/);
  });
});

describe('create, stop and start', () => {
  it('[C2] leave the whole spec as it was created', async () => {
    const spec = { runPolicy: 'RerunOnFailure', cpu: { count: 1 }, memory: { size: '80Mi' }, restart: { initialBackoff: '200ms', maxBackoff: '3s', maxRetries: 7, window: '9m' } };
    const made = await tenant.apply(tenant.request([create(world, 'whole', spec)]));
    await tenant.waitFor(made.id, PlanStatus.SUCCEEDED);
    const before = await specOf('whole');
    const uid = await uidOf('whole');

    const stopped = await tenant.waitFor((await tenant.apply(tenant.request([stop('whole', uid)]))).id, PlanStatus.SUCCEEDED);
    expect(stopped.operations).toMatchObject([{ kind: 'Stop', status: PlanStatus.SUCCEEDED }]);
    expect(await specOf('whole')).toEqual({ ...(before as object), runPolicy: 'Halted' });
    await world.waitForCondition('microvms', 'whole', { type: 'Running', status: 'False', reason: 'Halted' });

    const started = await tenant.waitFor((await tenant.apply(tenant.request([start('whole', uid)]))).id, PlanStatus.SUCCEEDED);
    expect(started.operations).toMatchObject([{ kind: 'Start', status: PlanStatus.SUCCEEDED }]);
    expect(await specOf('whole')).toEqual(before);
    await world.waitForCondition('microvms', 'whole', { type: 'Running', status: 'True' });
    const object = await world.get('microvms', 'whole');
    expect(object.metadata).toMatchObject({ uid, generation: 3, labels: { tier: 'front' }, annotations: { 'nkudo.dev/plan': made.id } });
  });

  it('owns the run policy alone, under a manager of its own', async () => {
    const managed = (await world.kubernetes.kubectl(['get', 'mvm', 'whole', '-o', 'json', '--show-managed-fields'], { namespace: world.namespace })).stdout;
    const fields = (JSON.parse(managed) as { metadata: { managedFields: { manager: string; operation: string; fieldsV1: object }[] } }).metadata.managedFields;
    expect(fields.find((entry) => entry.manager === 'nkudo-plan-power')).toMatchObject({ operation: 'Apply', fieldsV1: { 'f:spec': { 'f:runPolicy': {} } } });
  });

  it('a write that changes nothing has succeeded at once, without an operation', async () => {
    const uid = await uidOf('whole');
    const generation = (await world.get('microvms', 'whole')).metadata.generation;
    const plan = await tenant.waitFor((await tenant.apply(tenant.request([start('whole', uid)]))).id, PlanStatus.SUCCEEDED);
    expect(plan.operations).toEqual([]);
    expect(plan.actions).toMatchObject([{ state: 'Succeeded', operationId: '' }]);
    expect((await world.get('microvms', 'whole')).metadata.generation).toBe(generation);
  });

  it('deletes by UID: another object of the name is not touched', async () => {
    const foreign = await tenant.waitFor((await tenant.apply(tenant.request([remove('whole', randomUUID())]))).id, PlanStatus.FAILED);
    expect(foreign).toMatchObject({ errorCode: 'NOT_FOUND' });
    const uid = await uidOf('whole');
    const plan = await tenant.waitFor((await tenant.apply(tenant.request([remove('whole', uid)]))).id, PlanStatus.SUCCEEDED);
    expect(plan.operations).toMatchObject([{ kind: 'Delete', microvmUid: uid, status: PlanStatus.SUCCEEDED }]);
    await world.waitUntilGone('microvms', 'whole');
    // A start does not make it anew.
    const late = await tenant.waitFor((await tenant.apply(tenant.request([start('whole', uid)]))).id, PlanStatus.FAILED);
    expect(late).toMatchObject({ errorCode: 'NOT_FOUND' });
    expect((await world.kubernetes.kubectl(['get', 'mvm', 'whole', '-o', 'name'], { namespace: world.namespace, mayFail: true })).code).not.toBe(0);
  });
});

describe('a dry run', () => {
  it('[C2] leaves rows and audit unchanged, and says what the API server would', async () => {
    const before = await countRows(world);
    const mark = world.kubernetes.audit.mark();
    const request = tenant.request([create(world, 'dry'), create(world, 'race'), create(world, 'wrong', { memory: { size: 'lots' } }), stop('gone', randomUUID())], { idempotencyKey: '', dryRun: true });
    const plan = await tenant.apply(request);
    expect(plan).toMatchObject({ id: '', idempotencyKey: '', status: PlanStatus.FAILED });
    expect(plan.actions.map((action) => [action.name, action.state, action.errorCode])).toEqual([['dry', 'Pending', ''], ['race', 'Failed', 'ALREADY_EXISTS'], ['wrong', 'Failed', 'INVALID_REQUEST'], ['gone', 'Failed', 'NOT_FOUND']]);
    const fine = await tenant.apply(tenant.request([create(world, 'dry'), stop('race', await uidOf('race'))], { idempotencyKey: '', dryRun: true }));
    expect(fine).toMatchObject({ id: '', status: PlanStatus.PENDING, actions: [{ state: 'Pending' }, { state: 'Pending' }] });
    expect(await countRows(world)).toEqual(before);
    const stored = world.kubernetes.audit.writesSince(mark).filter((event) => event.objectRef?.resource === 'microvms' && !event.requestURI.includes('dryRun=All') && event.objectRef.subresource !== 'status');
    expect(stored).toEqual([]);
    expect((await world.kubernetes.kubectl(['get', 'mvm', 'dry'], { namespace: world.namespace, mayFail: true })).code).not.toBe(0);
  });
});

describe('what the API server and other managers say', () => {
  it('ends the plan with the sentence of the API server when it refuses the object', async () => {
    const plan = await tenant.waitFor((await tenant.apply(tenant.request([create(world, 'bad', { memory: { size: 'lots' } })]))).id, PlanStatus.FAILED);
    expect(plan).toMatchObject({ errorCode: 'INVALID_REQUEST', operations: [] });
    expect(plan.errorMessage).toContain('MicroVM.nkudo.dev "bad" is invalid');
    const unknown = await tenant.waitFor((await tenant.apply(tenant.request([create(world, 'bad', { colour: 'red' })]))).id, PlanStatus.FAILED);
    expect(unknown.errorMessage).toContain('unknown field "spec.colour"');
  });

  it('never updates with a create', async () => {
    const plan = await tenant.waitFor((await tenant.apply(tenant.request([create(world, 'race')]))).id, PlanStatus.FAILED);
    expect(plan).toMatchObject({ errorCode: 'ALREADY_EXISTS' });
  });

  it('leaves a field of another manager alone and names him, unless it is forced by one who may', async () => {
    await world.applyMicroVM('gitops', { runPolicy: 'Always' });
    await world.waitForCondition('microvms', 'gitops', { type: 'Running', status: 'True' });
    const uid = await uidOf('gitops');
    const plan = await tenant.waitFor((await tenant.apply(tenant.request([stop('gitops', uid)]))).id, PlanStatus.FAILED);
    expect(plan).toMatchObject({ errorCode: 'FIELD_OWNED_ELSEWHERE' });
    expect(plan.errorMessage).toBe('spec.runPolicy of the MicroVM gitops is owned by the field manager nkudo-test');
    expect(await specOf('gitops')).toMatchObject({ runPolicy: 'Always' });

    expect(await refusalOf(tenant.apply(tenant.request([stop('gitops', uid)], { force: true })))).toMatchObject({ errorCode: 'PERMISSION_DENIED' });
    const admin = await openTenant(world, 'admin', ['get', 'patch', 'force']);
    const forced = await admin.waitFor((await admin.apply(admin.request([stop('gitops', uid)], { force: true }))).id, PlanStatus.SUCCEEDED);
    expect(forced.warnings).toEqual([expect.stringContaining('GitOps')]);
    expect(await specOf('gitops')).toMatchObject({ runPolicy: 'Halted' });
    const audit = await world.database.query(`select actor_kind, actor_name from nkudo.audit_events where action = 'acceptedForced' and subject_id = $1`, [forced.id]);
    expect(audit).toEqual([{ actor_kind: 'user', actor_name: `system:serviceaccount:${world.namespace}:admin` }]);
  });
});

describe('a run policy that was left out', () => {
  const make = async (name: string, verb: readonly string[]): Promise<string> => {
    const object = { apiVersion: 'nkudo.dev/v1alpha1', kind: 'MicroVM', metadata: { name }, spec: { ...microVMSpec(world.guest), placement: { hostName: 'nowhere' } } };
    await world.kubernetes.kubectl([...verb, '-f', '-'], { namespace: world.namespace, input: JSON.stringify(object) });
    return uidOf(name);
  };

  it.each([['client-side', ['apply']], ['server-side', ['apply', '--server-side']]])('is free for a stop after a %s apply', async (name, verb) => {
    const uid = await make(`left-out-${name}`, verb);
    const plan = await tenant.apply(tenant.request([stop(`left-out-${name}`, uid)]));
    await until(async () => (await tenant.get(plan.id)).actions[0]?.state === 'Written', 'the write');
    expect(await specOf(`left-out-${name}`)).toMatchObject({ runPolicy: 'Halted' });
  });

  it('is owned by kubectl create all the same, since nothing tells that it did not write it', async () => {
    const uid = await make('left-out-create', ['create']);
    expect(await tenant.apply(tenant.request([stop('left-out-create', uid)], { idempotencyKey: '', dryRun: true }))).toMatchObject({ errorCode: 'FIELD_OWNED_ELSEWHERE' });
  });
});

describe('progress', () => {
  it('is watched from the acceptance to the end, and an unchanged grpcurl applies, reads and cancels', async () => {
    const watching = tenant.client.watchStatus({ namespace: world.namespace, site: '' }, tenant.metadata);
    fileScope().defer(() => watching.cancel());
    const seen: { readonly id: string; readonly status: PlanStatus }[] = [];
    const ended = Promise.withResolvers<void>();
    const synced = Promise.withResolvers<void>();
    const request = tenant.request([create(world, 'watched')]);
    watching.on('error', () => {});
    watching.on('data', ({ change }: WatchStatusResponse) => {
      if (change?.$case === 'isSynced') synced.resolve();
      if (change?.$case !== 'plan' || change.value.idempotencyKey !== request.idempotencyKey) return;
      seen.push({ id: change.value.id, status: change.value.status });
      if (change.value.status === PlanStatus.SUCCEEDED) ended.resolve();
    });
    await synced.promise;
    const caFile = join(fileScope().directory, 'ca.pem');
    writeFileSync(caFile, tenant.ca);
    const curl = async (method: string, data: object): Promise<{ readonly plan: { readonly id: string; readonly status: string; readonly actions: readonly { readonly state: string }[] } }> => {
      const flags = ['-cacert', caFile, '-authority', serverName, '-max-time', '20', '-H', `authorization: Bearer ${tenant.token}`, '-d', JSON.stringify(data)];
      const { stdout } = await promisify(execFile)(await ensureGoTool('grpcurl'), [...flags, world.endpoints().fleet, `nkudo.v1.FleetService/${method}`]);
      return JSON.parse(stdout) as Awaited<ReturnType<typeof curl>>; // grpcurl prints the message as JSON.
    };
    const { plan } = await curl('ApplyPlan', { namespace: request.namespace, site: siteName, idempotency_key: request.idempotencyKey, actions: [{ kind: 'KIND_CREATE', name: 'watched', object_json: request.actions[0]?.objectJson }] });
    await ended.promise;
    expect(new Set(seen.map(({ id }) => id))).toEqual(new Set([plan.id]));
    expect(await curl('GetPlan', { namespace: world.namespace, plan_id: plan.id })).toMatchObject({ plan: { status: 'PLAN_STATUS_SUCCEEDED', actions: [{ state: 'Published' }] } });
    // It has ended, so a cancel leaves it as it is.
    expect(await curl('CancelPlan', { namespace: world.namespace, plan_id: plan.id })).toMatchObject({ plan: { status: 'PLAN_STATUS_SUCCEEDED' } });
  });

  it('of a plan whose host is away waits, can be cancelled, and then nothing starts', async () => {
    const away = await world.addHost('edge-away');
    await away.stopAgent();
    const plan = await tenant.apply(tenant.request([create(world, 'waits', { placement: { hostName: 'edge-away' } })]));
    await until(async () => (await tenant.get(plan.id)).actions[0]?.state === 'Published', 'the operation');
    const cancelled = await tenant.cancel(plan.id);
    expect(cancelled).toMatchObject({ status: PlanStatus.CANCELLED, operations: [{ status: PlanStatus.CANCELLED }] });
    await away.startAgent();
    await world.waitForCondition('microvms', 'waits', { type: 'Provisioned', status: 'False', reason: 'OperationCancelled' });
    expect(away.vmms()).toEqual([]);
  });
});

describe('rights and form', () => {
  it('asks for the right to each write that the plan makes', async () => {
    const starter = await openTenant(world, 'starter', ['get', 'patch']);
    const before = await countRows(world);
    expect(await refusalOf(starter.apply(starter.request([create(world, 'no')])))).toMatchObject({ errorCode: 'PERMISSION_DENIED', message: expect.stringContaining('may not create microvms') });
    expect(await refusalOf(starter.apply(starter.request([remove('race', await uidOf('race'))])))).toMatchObject({ errorCode: 'PERMISSION_DENIED', message: expect.stringContaining('may not delete microvms') });
    expect(await refusalOf(starter.apply(starter.request([create(world, 'no')], { dryRun: true, idempotencyKey: '' })))).toMatchObject({ errorCode: 'PERMISSION_DENIED' });
    expect(await countRows(world)).toEqual(before);
  });

  it('takes the right to single objects for what it is', async () => {
    const keeper = await openTenant(world, 'keeper', ['get', 'patch'], ['race']);
    const dry = { idempotencyKey: '', dryRun: true };
    expect(await keeper.apply(keeper.request([stop('race', await uidOf('race'))], dry))).toMatchObject({ status: PlanStatus.PENDING });
    expect(await refusalOf(keeper.apply(keeper.request([stop('race', await uidOf('race')), stop('gitops', await uidOf('gitops'))], dry)))).toMatchObject({
      errorCode: 'PERMISSION_DENIED', message: expect.stringContaining('may not patch microvms gitops'),
    });
  });

  it('names every refused field at once', async () => {
    const refusal = await refusalOf(
      tenant.apply({ namespace: 'Not A Name', site: '', idempotencyKey: 'cr/x', dryRun: false, force: false, actions: [{ kind: 0, name: 'UP', uid: 'x', objectJson: 'y' }, { ...create(world, 'fine'), uid: randomUUID() }] }),
    );
    expect(refusal).toMatchObject({ errorCode: 'INVALID_REQUEST', code: 3 });
    for (const name of ['namespace', 'site', 'idempotency_key', 'actions[0].kind', 'actions[0].name', 'actions[0].uid', 'actions[0].object_json', 'actions[1].uid', 'actions[1].object_json']) {
      expect(refusal.message).toContain(`${name} must`);
    }
  });

  it('knows no other site and no plan of another namespace', async () => {
    const action = create(world, 'else', { siteRef: { name: 'elsewhere' } });
    expect(await refusalOf(tenant.apply(tenant.request([action], { site: 'elsewhere' })))).toMatchObject({ errorCode: 'SITE_NOT_FOUND' });
    expect(await refusalOf(tenant.apply(tenant.request([action], { site: siteName })))).toMatchObject({ errorCode: 'INVALID_REQUEST' });
    expect(await refusalOf(tenant.get(randomUUID()))).toMatchObject({ errorCode: 'NOT_FOUND' });
  });
});
