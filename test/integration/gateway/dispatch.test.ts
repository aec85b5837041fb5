/** From a published intent to the stored report, over real TLS and a real Postgres, driven by hints alone. */
import { randomUUID } from 'node:crypto';
import { beforeAll, describe, expect, it } from 'vitest';
import { encodeExecution, encodeObservation } from '#api/codec/edge-codec.ts';
import { executionId, hostId, microVMId, operationId, type HostId } from '#api/model/ids.ts';
import { parseEpoch } from '#api/model/epoch.ts';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import { call, enroll, hello, makeHostKey, openHeartbeat, type EdgeClient } from './edge-client.ts';
import { startControlPlane, type ControlPlane } from './control-plane.ts';

const actor = { kind: 'controller', name: 'test', from: '' } as const;
let plane: ControlPlane;
beforeAll(async () => {
  plane = await startControlPlane();
});

async function enrolledHost(): Promise<{ readonly client: EdgeClient; readonly host: HostId }> {
  const { text } = await plane.issueToken();
  const key = await makeHostKey();
  const enrolled = await enroll(plane.dial(), { token: text, key, hostName: `h-${randomUUID().slice(0, 8)}` });
  const host = hostId(enrolled.hostId);
  // What the Host reconciler does once the object exists.
  await plane.database.hosts.saveObject({ tenantId: plane.tenant, hostId: host, objectUid: randomUUID(), isApproved: true, isUnschedulable: false, reservedCpus: 0, reservedMemoryBytes: 0 }, plane.epoch, actor);
  return { client: plane.dial({ keyPem: key.keyPem, chainPem: enrolled.certificateChainPem }), host };
}

function desired(name: string): DesiredMicroVM {
  return {
    name, namespace: 'n', runPolicy: 'Always', paused: false, restartNonce: 0,
    restart: { initialBackoffMs: 1000, maxBackoffMs: 60_000, maxRetries: 5, windowMs: 600_000 },
    cpuCount: 1, memoryBytes: 64 * 2 ** 20, boot: { kind: 'kernel', path: '/k', cmdline: '' }, disks: [], serialLog: true, terminationGracePeriodMs: 5_000,
  };
}

async function publish(host: HostId): Promise<ReturnType<typeof microVMId>> {
  const microvm = microVMId(randomUUID());
  const published = await plane.database.microvms.publish(
    { tenantId: plane.tenant, siteId: plane.site, microvmId: microvm, name: `vm-${microvm.slice(0, 8)}`, generation: 1, desired: desired(`vm-${microvm.slice(0, 8)}`), kind: 'Create', placeOn: host, tryNumber: 1 },
    plane.epoch,
    actor,
  );
  expect(published.outcome).toBe('published');
  plane.hint({ kind: 'operations', hostId: host });
  return microvm;
}

describe('an operation', () => {
  it('reaches the host on a hint, and its receipt and reports reach the rows', async () => {
    const { client, host } = await enrolledHost();
    const stream = openHeartbeat(client);
    stream.send(hello(randomUUID()));
    await stream.next('welcome');
    const microvm = await publish(host);
    const operation = await stream.next('operation');
    expect(operation).toMatchObject({ microvmId: microvm, kind: 1, revision: 1 });
    const statusOf = async (): Promise<unknown> => (await plane.rows.query('select status from nkudo.operations where id = $1', [operation.operationId]))[0]?.['status'];
    expect(await statusOf()).toBe('Dispatched');

    const report = { executionId: executionId(randomUUID()), operationId: operationId(operation.operationId), attempt: 1, startedAtMs: 1_000 };
    const observation = { microvmId: microvm, epoch: parseEpoch(operation.epoch), revision: 1, generation: 1, sequence: 1, state: 'running', observedAtMs: 2_000, bootedAtMs: 1_500, restarts: 0, isCrashLooping: false, isRestartRequired: false } as const;
    const answer = await call(client.edge.reportExecutions.bind(client.edge), {
      executions: [encodeExecution({ ...report, status: 'Succeeded', finishedAtMs: 2_000, isFinal: true })],
      observations: [encodeObservation(observation)],
    });
    expect(answer.refused).toEqual([]);
    expect(await statusOf()).toBe('Succeeded');
    expect(plane.published).toContainEqual({ kind: 'microvm', tenantId: plane.tenant, microvmId: microvm });
    expect((await plane.database.microvms.load(plane.tenant, microvm))?.observation?.state).toBe('running');

    // A host that lost the answer sends the same again: nothing changes.
    const audit = async (): Promise<unknown> => (await plane.rows.query('select count(*) from nkudo.audit_events'))[0]?.['count'];
    const before = await audit();
    await call(client.edge.reportExecutions.bind(client.edge), { executions: [encodeExecution({ ...report, status: 'Succeeded', finishedAtMs: 2_000, isFinal: true })], observations: [encodeObservation(observation)] });
    expect(await audit()).toBe(before);
  });

  it('is sent again to the next stream until the host has reported, and never to another host', async () => {
    const { client, host } = await enrolledHost();
    const microvm = await publish(host);
    for (let attempt = 0; attempt < 2; attempt += 1) {
      const stream = openHeartbeat(client);
      stream.send(hello(randomUUID()));
      expect((await stream.next('operation')).microvmId).toBe(microvm);
      stream.cancel();
      await stream.ended;
    }
    const stranger = await enrolledHost();
    const stream = openHeartbeat(stranger.client);
    stream.send(hello(randomUUID()));
    await stream.next('welcome');
    const own = await publish(stranger.host);
    expect((await stream.next('operation')).microvmId).toBe(own);
  });

  it('takes no report of a host on the operation of another one', async () => {
    const { client, host } = await enrolledHost();
    const microvm = await publish(host);
    const stream = openHeartbeat(client);
    stream.send(hello(randomUUID()));
    const operation = await stream.next('operation');
    const stranger = await enrolledHost();
    const answer = await call(stranger.client.edge.reportExecutions.bind(stranger.client.edge), {
      executions: [encodeExecution({ executionId: executionId(randomUUID()), operationId: operationId(operation.operationId), attempt: 1, startedAtMs: 1_000, status: 'Succeeded', isFinal: true })],
      observations: [encodeObservation({ microvmId: microvm, epoch: parseEpoch(operation.epoch), revision: 1, generation: 1, sequence: 1, state: 'failed', observedAtMs: 1, restarts: 0, isCrashLooping: false, isRestartRequired: false })],
    });
    expect(answer.refused).toHaveLength(2);
    expect((await plane.database.microvms.load(plane.tenant, microvm))?.observation).toBeNull();
  });
});

describe('logs', () => {
  it('are stored once each by their offset, with gaps recorded', async () => {
    const { client, host } = await enrolledHost();
    const microvm = await publish(host);
    const stream = client.edge.streamLogs();
    const acknowledged: number[] = [];
    let wake = (): void => {};
    stream.on('error', () => {});
    stream.on('data', (answer: { nextOffset: number }) => {
      acknowledged.push(answer.nextOffset);
      wake();
    });
    const send = async (offset: number, text: string): Promise<void> => {
      const length = acknowledged.length + 1;
      stream.write({ stream: { microvmId: microvm, source: 1, incarnation: 1 }, offset, data: Buffer.from(text), gapBytes: 0, readAt: undefined });
      while (acknowledged.length < length) await new Promise<void>((resolve) => { wake = resolve; });
    };
    await send(0, 'hello');
    await send(3, 'lo world');
    await send(20, 'late');
    stream.end();
    expect(acknowledged).toEqual([5, 11, 24]);
    const chunks = await plane.database.logs.read(plane.tenant, microvm, 'serial', 0, 10);
    expect(chunks.map((each) => [each.offset, Buffer.from(each.data).toString(), each.gapBytes])).toEqual([[0, 'hello', 0], [5, ' world', 0], [20, 'late', 9]]);
  });
});
