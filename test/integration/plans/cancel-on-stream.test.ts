/** A cancel of what was handed to a stream: it is a request, and the host's answer is what counts. Real TLS, real Postgres. */
import { randomUUID } from 'node:crypto';
import { beforeAll, describe, expect, it } from 'vitest';
import { encodeExecution } from '#api/codec/edge-codec.ts';
import { OperationReceipt_Disposition } from '#api/gen/nkudo/edge/v1/edge.pb.ts';
import { executionId, hostId, microVMId, operationId, type HostId, type MicroVMId, type PlanId } from '#api/model/ids.ts';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import { startControlPlane, type ControlPlane } from '#test/integration/gateway/control-plane.ts';
import { call, enroll, hello, makeHostKey, openHeartbeat, type EdgeClient } from '#test/integration/gateway/edge-client.ts';

const actor = { kind: 'controller', name: 'test', from: '' } as const;
const user = { kind: 'user', name: 'ann', from: '' } as const;
const specHash = 'ab'.repeat(32);
let plane: ControlPlane;

beforeAll(async () => {
  plane = await startControlPlane();
});

async function enrolledHost(): Promise<{ readonly client: EdgeClient; readonly host: HostId }> {
  const { text } = await plane.issueToken();
  const key = await makeHostKey();
  const enrolled = await enroll(plane.dial(), { token: text, key, hostName: `h-${randomUUID().slice(0, 8)}` });
  const host = hostId(enrolled.hostId);
  await plane.database.hosts.saveObject({ tenantId: plane.tenant, hostId: host, objectUid: randomUUID(), isApproved: true, isUnschedulable: false, reservedCpus: 0, reservedMemoryBytes: 0 }, plane.epoch, actor);
  return { client: plane.dial({ keyPem: key.keyPem, chainPem: enrolled.certificateChainPem }), host };
}

const desired: DesiredMicroVM = {
  name: 'web', namespace: 'n', runPolicy: 'Halted', paused: false, restartNonce: 0, restart: { initialBackoffMs: 1000, maxBackoffMs: 60_000, maxRetries: 5, windowMs: 600_000 },
  cpuCount: 1, memoryBytes: 64 * 2 ** 20, boot: { kind: 'kernel', path: '/k', cmdline: '' }, disks: [], serialLog: true, terminationGracePeriodMs: 5_000,
};

/** A plan that wrote its spec, and the operation that was published for that generation. */
async function publishedPlan(host: HostId): Promise<{ readonly planId: PlanId; readonly microvm: MicroVMId }> {
  const { tenant, site, epoch, database } = plane;
  const microvm = microVMId(randomUUID());
  const { planId } = await database.plans.accept({ tenantId: tenant, key: randomUUID(), content: { site: 'shop', isForced: false, actions: [{ kind: 'Stop', name: 'web', uid: microvm, object: null }] } }, user);
  const action = (await database.plans.load(tenant, planId))?.actions[0];
  const key = { tenantId: tenant, planId, actionId: action?.id ?? '' };
  expect(await database.plans.recordIntent(key, { specHash, previousRunPolicy: 'Always' }, epoch, actor)).toBe(true);
  await database.plans.recordWritten(key, { microvmId: microvm, generation: 1, specHash }, epoch, actor);
  await database.microvms.publish(
    { tenantId: tenant, siteId: site, microvmId: microvm, name: 'web', generation: 1, desired, kind: 'Create', placeOn: host, tryNumber: 1, source: { specHash, createdBy: null } },
    epoch, actor,
  );
  plane.hint({ kind: 'operations', hostId: host });
  return { planId, microvm };
}

const planOf = async (id: PlanId) => plane.database.fleet.loadPlan(plane.tenant, id);

async function cancel(planId: PlanId): Promise<void> {
  const cancelled = await plane.database.plans.cancel(plane.tenant, planId, user);
  for (const host of cancelled?.hosts ?? []) plane.hint({ kind: 'cancels', hostId: host });
}

describe('a cancel of an operation that a stream has', () => {
  it('is asked of the host, and ends the plan when the host has dropped it', async () => {
    const { client, host } = await enrolledHost();
    const stream = openHeartbeat(client);
    stream.send(hello(randomUUID()));
    await stream.next('welcome');
    const { planId } = await publishedPlan(host);
    const operation = await stream.next('operation');
    expect(operation.planId).toBe(planId);
    await cancel(planId);
    expect(await stream.next('cancel')).toEqual({ operationId: operation.operationId });
    // Asked is not done: only the host's word ends it.
    expect((await planOf(planId))?.status).toBe('Dispatched');
    stream.send({ $case: 'receipt', value: { operationId: operation.operationId, disposition: OperationReceipt_Disposition.DROPPED, errorCode: '', errorMessage: '' } });
    await expect.poll(async () => (await planOf(planId))?.status).toBe('Cancelled');
    expect((await planOf(planId))?.operations).toMatchObject([{ status: 'Cancelled' }]);
  });

  it('ends the plan as cancelled also when the report of the dropped attempt comes before the answer on the stream', async () => {
    const { client, host } = await enrolledHost();
    const stream = openHeartbeat(client);
    stream.send(hello(randomUUID()));
    await stream.next('welcome');
    const { planId } = await publishedPlan(host);
    const operation = await stream.next('operation');
    await cancel(planId);
    await stream.next('cancel');
    const report = { executionId: executionId(randomUUID()), operationId: operationId(operation.operationId), attempt: 1, startedAtMs: 1_000, finishedAtMs: 1_000, status: 'Dropped', isFinal: true } as const;
    await call(client.edge.reportExecutions.bind(client.edge), { executions: [encodeExecution(report)], observations: [] });
    expect(await planOf(planId)).toMatchObject({ status: 'Cancelled', operations: [{ status: 'Cancelled' }] });
  });

  it('is asked again on the next stream, after the operation, until it is answered; too late is an answer', async () => {
    const { client, host } = await enrolledHost();
    const first = openHeartbeat(client);
    first.send(hello(randomUUID()));
    await first.next('welcome');
    const { planId } = await publishedPlan(host);
    const operation = await first.next('operation');
    await cancel(planId);
    await first.next('cancel');
    first.cancel();
    await first.ended;

    const second = openHeartbeat(client);
    second.send(hello(randomUUID()));
    expect((await second.next('operation')).operationId).toBe(operation.operationId);
    expect((await second.next('cancel')).operationId).toBe(operation.operationId);
    second.send({ $case: 'receipt', value: { operationId: operation.operationId, disposition: OperationReceipt_Disposition.TOO_LATE, errorCode: '', errorMessage: '' } });
    await expect.poll(async () => plane.database.dispatch.listCancels(plane.tenant, host)).toEqual([]);
    expect((await planOf(planId))?.status).toBe('Dispatched');
    const report = { executionId: executionId(randomUUID()), operationId: operationId(operation.operationId), attempt: 1, startedAtMs: 1_000, finishedAtMs: 2_000, status: 'Succeeded', isFinal: true } as const;
    await call(client.edge.reportExecutions.bind(client.edge), { executions: [encodeExecution(report)], observations: [] });
    expect((await planOf(planId))?.status).toBe('Succeeded');
  });

  it('is found by the safety read of the replica that has the host', async () => {
    const { client, host } = await enrolledHost();
    const stream = openHeartbeat(client);
    stream.send(hello(randomUUID()));
    await stream.next('welcome');
    const { planId } = await publishedPlan(host);
    await stream.next('operation');
    await plane.database.plans.cancel(plane.tenant, planId, user);
    expect(await plane.database.dispatch.listHostsWithPending('test')).toContainEqual({ tenantId: plane.tenant, hostId: host, hasCancels: true });
  });
});
