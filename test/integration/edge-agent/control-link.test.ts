/** The agent's side of enrollment and of the session, against a control plane in memory over real mutual TLS. */
import { randomUUID } from 'node:crypto';
import { copyFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { Goodbye_Reason } from '#api/gen/nkudo/edge/v1/edge.pb.ts';
import { makeEpoch } from '#api/model/epoch.ts';
import { hostId, operationId, planId, type MicroVMId } from '#api/model/ids.ts';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import type { Operation } from '#api/model/plan.ts';
import { fakeHostId, startFakeControlPlane, type FakeControlPlane } from '#test/fakes/control-plane.ts';
import { createAgentFixture, newMicroVM, type AgentFixture } from './agent-fixture.ts';

let fixture: AgentFixture;
let plane: FakeControlPlane;

async function setUp(options: { heartbeatIntervalMs?: number } = {}): Promise<void> {
  fixture = await createAgentFixture();
  plane = await startFakeControlPlane(options);
}

afterEach(async () => {
  await fixture.close();
  plane.stop();
});

async function enroll(token: string, ...more: string[]): Promise<{ code: number | null; out: string; err: string }> {
  const file = join(fixture.stateDirectory, '..', `token-${randomUUID()}`);
  writeFileSync(file, token, { mode: 0o600 });
  return fixture.run('enroll', '--state-dir', fixture.stateDirectory, '--token-file', file, ...more);
}

function operation(microvmId: MicroVMId, desired: DesiredMicroVM | null, revision = 1): Operation {
  return {
    id: operationId(randomUUID()),
    planId: planId(randomUUID()),
    microvmId,
    hostId: hostId(fakeHostId),
    kind: desired === null ? 'Delete' : 'Create',
    epoch: makeEpoch(1, 1),
    revision,
    generation: revision,
    ...(desired === null ? {} : { desired }),
  };
}

const reported = (id: string, status: string): boolean => plane.reports.some((report) => report.operationId === id && report.status === status && report.isFinal);
const lastState = (id: MicroVMId): string | undefined => plane.observations.filter((seen) => seen.microvmId === id).at(-1)?.state;

test('creates and deletes a microVM over the wire and answers each operation once', async () => {
  await setUp();
  expect(await enroll(plane.token(), '--name', 'host-1')).toMatchObject({ code: 0, err: '' });
  expect(statSync(join(fixture.stateDirectory, 'identity', 'host.key')).mode & 0o777).toBe(0o600);
  expect(statSync(join(fixture.stateDirectory, 'identity')).mode & 0o777).toBe(0o700);
  const agent = await fixture.start();
  const microvm = newMicroVM();
  const create = operation(microvm, fixture.desired());
  plane.push(create);
  await fixture.until('the create to be reported', () => reported(create.id, 'Succeeded'));
  await fixture.until('the state running', () => lastState(microvm) === 'running');
  expect(plane.receipts).toMatchObject([{ operationId: create.id, disposition: 1 }]);
  await fixture.until('the first line of the guest', () => (plane.logs.get(`${microvm} 1`) ?? '').includes('\n'));

  // The same operation again, and one that is older.
  plane.push(create);
  plane.push({ ...operation(microvm, fixture.desired()), revision: 1 });
  await fixture.until('both answers', () => plane.receipts.length === 3);
  expect(plane.receipts.slice(1)).toMatchObject([{ operationId: create.id, disposition: 1 }, { disposition: 2, errorCode: 'STALE_OPERATION' }]);
  expect(fixture.vmmPids(microvm)).toHaveLength(1);

  const remove = operation(microvm, null, 2);
  plane.push(remove);
  await fixture.until('the delete to be reported', () => reported(remove.id, 'Succeeded'));
  await fixture.until('the state absent', () => lastState(microvm) === 'absent');
  expect(fixture.vmmPids(microvm)).toEqual([]);
  plane.push(remove);
  await fixture.until('the replay to be answered', () => plane.receipts.length === 5);
  expect(plane.receipts.at(-1)).toMatchObject({ operationId: remove.id, disposition: 1 });
  await agent.kill('SIGTERM');
});

test('keeps its microVMs when the control plane goes away, and a reconnection restarts none', async () => {
  await setUp({ heartbeatIntervalMs: 100 });
  await enroll(plane.token());
  const agent = await fixture.start();
  const microvm = newMicroVM();
  const create = operation(microvm, fixture.desired());
  plane.push(create);
  await fixture.until('the create to be reported', () => reported(create.id, 'Succeeded'));
  await fixture.until('a heartbeat', () => plane.beats() > 1);
  const [pid] = fixture.vmmPids(microvm);
  plane.stop();
  await agent.kill('SIGKILL');
  const second = await fixture.start();
  expect(fixture.vmmPids(microvm)).toEqual([pid]);
  await plane.restart();
  await fixture.until('a second session', () => plane.hellos.length >= 2);
  expect(plane.hellos.at(-1)?.known).toMatchObject([{ microvmId: microvm, revision: 1, isOrphan: false }]);
  await fixture.until('the observation of the new session', () => plane.observations.filter((seen) => seen.microvmId === microvm && seen.state === 'running').length >= 2);
  expect(fixture.vmmPids(microvm)).toEqual([pid]);
  expect(plane.observations.at(-1)?.restarts).toBe(0);
  const sequences = plane.observations.map((seen) => seen.sequence);
  expect(sequences).toEqual([...sequences].sort((a, b) => a - b));
  await second.kill('SIGTERM');
});

test('sends no token to a server whose authority the token does not pin', async () => {
  await setUp();
  const refused = await enroll(plane.token({ pins: ['0'.repeat(64)] }));
  expect(refused.code).toBe(1);
  expect(refused.err).toContain('CA_PIN_MISMATCH');
  expect(plane.tokensSeen).toEqual([]);
});

test('enrolls once for a state directory, and repeats an enrollment whose answer was lost with the same key', async () => {
  await setUp();
  const token = plane.token();
  expect(await enroll(token)).toMatchObject({ code: 0 });
  expect((await enroll(token)).out).toContain('enrolled already');
  const identity = join(fixture.stateDirectory, 'identity', 'identity.json');
  rmSync(identity); // As after a kill between the answer and the write.
  expect(await enroll(token)).toMatchObject({ code: 0 });
  rmSync(identity);
  rmSync(join(fixture.stateDirectory, 'identity', 'host.key')); // Another machine has another key.
  expect((await enroll(token)).err).toContain('TOKEN_USED');
  expect(await enroll(plane.token())).toMatchObject({ code: 0 });
  expect(await enroll(plane.token(), '--replace')).toMatchObject({ code: 0 });
  expect((await enroll('nkudo1.nonsense')).err).toContain('TOKEN_MALFORMED');
});

test('renews its certificate at half of its life and goes on with the new one', async () => {
  await setUp();
  plane.hostValidityMs = 60_000; // Backdated by five minutes, so half of the life is over at once.
  await enroll(plane.token());
  plane.hostValidityMs = 86_400_000;
  const agent = await fixture.start();
  await fixture.until('the renewal', () => plane.renewals() === 1);
  await fixture.until('a session with the new certificate', () => plane.hellos.length === 2);
  await agent.kill('SIGTERM');
});

test('stops trying when the host was revoked, and its microVM goes on', async () => {
  await setUp();
  await enroll(plane.token());
  const agent = await fixture.start();
  const microvm = newMicroVM();
  const create = operation(microvm, fixture.desired());
  plane.push(create);
  await fixture.until('the create to be reported', () => reported(create.id, 'Succeeded'));
  plane.goodbye(Goodbye_Reason.REVOKED);
  await fixture.until('the agent to say so', () => agent.log().includes('revoked'));
  expect(fixture.vmmPids(microvm)).toHaveLength(1);
  expect(plane.hellos).toHaveLength(1);
  await agent.kill('SIGTERM');
});

test('reports a missing kernel as a final failure and converges by itself when the file appears', async () => {
  await setUp();
  await enroll(plane.token());
  const agent = await fixture.start();
  const microvm = newMicroVM();
  const path = join(fixture.stateDirectory, '..', 'late-kernel.elf');
  const create = operation(microvm, fixture.desired({ boot: { kind: 'kernel', path, cmdline: 'idle' } }));
  plane.push(create);
  await fixture.until('the failure', () => reported(create.id, 'Failed'));
  expect(plane.reports.at(-1)?.error).toMatchObject({ code: 'KERNEL_NOT_FOUND' });
  await fixture.until('the state failed', () => lastState(microvm) === 'failed');
  expect(fixture.vmmPids(microvm)).toEqual([]);
  copyFileSync(fixture.guestPath, path);
  await fixture.until('the state running', () => lastState(microvm) === 'running');
  expect(plane.observations.at(-1)).not.toHaveProperty('problem');
  await agent.kill('SIGTERM');
});
