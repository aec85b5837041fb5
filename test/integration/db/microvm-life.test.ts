/** The life of a microVM through the stores, on a real Postgres. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Database } from '#db/database.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';
import { actor, everyExecution, execution, makeFleet, makeHost, observation, openTestDatabase, publish, publishAndClaim, publishInput, type Fleet, type TestHost } from './builders.ts';

let server: TestDatabase;
let db: Database;
let fleet: Fleet;
let host: TestHost;

beforeAll(async () => {
  server = await useDatabase();
  db = openTestDatabase(server);
  fleet = await makeFleet(db);
  host = await makeHost(fleet);
});
afterAll(() => db.close());

const load = (id: Parameters<Database['microvms']['load']>[1]) => db.microvms.load(fleet.tenantId, id);
const report = (input: Partial<Parameters<Database['dispatch']['recordReports']>[0]>) =>
  db.dispatch.recordReports({ tenantId: fleet.tenantId, hostId: host.hostId, executions: [], observations: [], ...input }, actor);

describe('a microVM', () => {
  it('goes from publication over dispatch and reports to a confirmed teardown, each step one commit', async () => {
    const input = publishInput(fleet, host);
    const published = await publish(fleet, input);
    expect(published).toMatchObject({ generation: 1, isDeleting: false, binding: { hostId: host.hostId, hostName: 'edge-1' }, newestOperation: { kind: 'Create', status: 'Pending', planStatus: 'Pending', revision: 1, tryNumber: 1 }, observation: null });
    expect(await db.dispatch.listHostsWithPending('replica-1')).toContainEqual({ tenantId: fleet.tenantId, hostId: host.hostId, hasCancels: false });
    const claim = { tenantId: fleet.tenantId, hostId: host.hostId, sessionId: host.sessionId, includeDispatched: false };
    const [operation] = await db.dispatch.claim(claim);
    expect(operation).toMatchObject({ microvmId: input.microvmId, kind: 'Create', revision: 1, epoch: published.binding?.epoch, desired: input.desired });
    expect(await db.dispatch.claim(claim)).toEqual([]);
    expect(await db.dispatch.claim({ ...claim, includeDispatched: true })).toHaveLength(1);
    expect(await load(input.microvmId)).toMatchObject({ newestOperation: { status: 'Dispatched', planStatus: 'Dispatched' } });
    if (operation === undefined) throw new Error('unreachable');
    const receipt = { tenantId: fleet.tenantId, hostId: host.hostId, operationId: operation.id, disposition: 'Accepted' as const, error: null };
    expect(await db.dispatch.recordReceipt(receipt, actor)).toEqual([input.microvmId]);
    expect(await db.dispatch.recordReceipt(receipt, actor)).toEqual([]);
    const succeeded = execution(operation.id, { status: 'Succeeded', finishedAtMs: Date.UTC(2026, 0, 3), isFinal: true });
    const outcome = await report({ executions: [succeeded], observations: [observation(published)] });
    expect(outcome).toEqual({ refused: [], changed: [input.microvmId] });
    expect(await load(input.microvmId)).toMatchObject({ newestOperation: { status: 'Succeeded', planStatus: 'Succeeded' }, observation: { state: 'running', sequence: 1 } });

    const deletion = { tenantId: fleet.tenantId, microvmId: input.microvmId, generation: 2, tryNumber: 1 };
    const deleting = await db.microvms.publishDeletion(deletion, fleet.epoch, actor);
    expect(deleting).toMatchObject({ isDeleting: true, isTornDown: false, desired: null, newestOperation: { kind: 'Delete', revision: 2 } });
    await expect(db.microvms.completeDeletion(fleet.tenantId, input.microvmId, fleet.epoch, actor)).rejects.toMatchObject({ code: 'CONFLICT' });
    const [removal] = await db.dispatch.claim(claim);
    if (removal === undefined) throw new Error('unreachable');
    expect(removal).not.toHaveProperty('desired');
    await report({ executions: [execution(removal.id, { status: 'Succeeded', isFinal: true })], observations: [observation(published, { state: 'absent', sequence: 2 })] });
    expect(await load(input.microvmId)).toMatchObject({ isTornDown: true, binding: { hostId: host.hostId } });
    await db.microvms.completeDeletion(fleet.tenantId, input.microvmId, fleet.epoch, actor);
    expect(await load(input.microvmId)).toMatchObject({ isTornDown: true, binding: null });
  });

  it('changes nothing when a report comes again, late or in another order', async () => {
    const { record, operationId, microvmId } = await publishAndClaim(fleet, host);
    const running = execution(operationId);
    const succeeded = { ...running, status: 'Succeeded' as const, isFinal: true };
    await report({ executions: [succeeded], observations: [observation(record, { sequence: 20 })] });
    const before = await load(microvmId);
    const audits = await server.query('select count(*)::int as n from nkudo.audit_events');
    for (const executions of [[running], [succeeded], [succeeded, running], [execution(operationId, { attempt: 2 })]]) {
      const outcome = await report({ executions, observations: [observation(record, { sequence: 19, state: 'booting' }), observation(record, { sequence: 20 })] });
      expect(outcome).toEqual({ refused: [], changed: [] });
    }
    expect(await load(microvmId)).toEqual(before);
    expect(await server.query('select count(*)::int as n from nkudo.audit_events')).toEqual(audits);
    const executions = await db.fleet.pageExecutions(fleet.tenantId, { ...everyExecution, microvmId }, { size: 10, cursor: null });
    expect(executions.rows).toMatchObject([{ id: running.executionId, status: 'Succeeded', attempt: 1 }]);
  });

  it('keeps what the running guest has for status and tenants, until a report no longer says so', async () => {
    const published = await publish(fleet, publishInput(fleet, host));
    const sizes = { cpuCount: 3, memoryBytes: 384 * 2 ** 20 };
    await report({ observations: [observation(published, sizes)] });
    expect((await load(published.microvmId))?.observation).toMatchObject(sizes);
    expect(await db.fleet.findMicroVM(fleet.tenantId, { id: published.microvmId })).toMatchObject({ cpus: 3, memoryBytes: sizes.memoryBytes });
    await report({ observations: [observation(published, { sequence: 2, state: 'stopped' })] });
    expect((await load(published.microvmId))?.observation).not.toHaveProperty('cpuCount');
    expect(await db.fleet.findMicroVM(fleet.tenantId, { id: published.microvmId })).toMatchObject({ cpus: null, memoryBytes: null });
  });

  it('keeps an operation running over failed attempts and ends it with the final one', async () => {
    const { operationId, microvmId } = await publishAndClaim(fleet, host);
    const error = { code: 'HYPERVISOR_FAILED', message: 'no' };
    await report({ executions: [execution(operationId, { status: 'Failed', error })] });
    expect(await load(microvmId)).toMatchObject({ newestOperation: { status: 'Running', error } });
    await report({ executions: [execution(operationId, { attempt: 2, status: 'Failed', isFinal: true, error: { code: 'KERNEL_NOT_FOUND', message: 'none' } })] });
    expect(await load(microvmId)).toMatchObject({ newestOperation: { status: 'Failed', planStatus: 'Failed', error: { code: 'KERNEL_NOT_FOUND' } } });
    const retried = await publish(fleet, publishInput(fleet, host, { microvmId, tryNumber: 2 }));
    expect(retried).toMatchObject({ newestOperation: { status: 'Pending', tryNumber: 2, revision: 2 } });
  });
});
