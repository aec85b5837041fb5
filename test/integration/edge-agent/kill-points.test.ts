/**
 * The agent is killed with SIGKILL before and after each of its durable writes and effects, once on
 * the way to a running microVM and once on the way to nothing. Its side only; the same with a real
 * control plane is shown end to end.
 */
import { randomUUID } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { makeEpoch } from '#api/model/epoch.ts';
import { hostId, operationId, planId, type MicroVMId } from '#api/model/ids.ts';
import type { DesiredMicroVM, DiskSpec, SecretValue } from '#api/model/microvm.ts';
import type { Operation } from '#api/model/plan.ts';
import { edgeFaultPoints, type EdgeFaultPoint } from '#edge-agent/fault-points.ts';
import { controlGroupsOf } from '#test/harness/control-groups.ts';
import { fakeHostId, startFakeControlPlane, type FakeControlPlane } from '#test/fakes/control-plane.ts';
import { createAgentFixture, newMicroVM, type AgentFixture, type RunningAgent } from './agent-fixture.ts';

let fixture: AgentFixture;
let plane: FakeControlPlane;
let faults: Server;
let socketPath: string;
let armed: EdgeFaultPoint | null = null;
let agent: RunningAgent;
const reached = new Set<string>();

beforeAll(async () => {
  fixture = await createAgentFixture();
  plane = await startFakeControlPlane();
  socketPath = join(fixture.stateDirectory, '..', 'faults');
  faults = createServer((socket) => {
    socket.on('error', () => socket.destroy());
    const lines = createInterface({ input: socket });
    // The agent was killed at a point; readline repeats its input's errors as its own.
    lines.on('error', () => socket.destroy());
    lines.on('line', (line) => {
      const { pid, point } = JSON.parse(line) as { pid: number; point: EdgeFaultPoint }; // The protocol of api/fault-points.
      if (point !== armed) return void socket.write('go\n');
      armed = null;
      reached.add(point);
      process.kill(pid, 'SIGKILL');
    });
  });
  await new Promise<void>((resolve) => faults.listen(socketPath, resolve));
  const tokenFile = join(fixture.stateDirectory, '..', 'token');
  writeFileSync(tokenFile, plane.token());
  await fixture.run('enroll', '--state-dir', fixture.stateDirectory, '--token-file', tokenFile);
  agent = await fixture.start({ NKUDO_FAULT_SOCKET: socketPath });
});

afterAll(async () => {
  await fixture.close();
  plane.stop();
  faults.close();
});

/** So that the steps for disks have something to do. */
const blankDisk: DiskSpec = { name: 'data', path: '', readOnly: false, sizeBytes: 2 ** 20, managed: { persistence: 'Persistent', isRetained: false } };

function operation(microvmId: MicroVMId, desired: DesiredMicroVM | null, revision: number): Operation {
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

/** Sends the operation; where a point is armed the agent dies there, is started again, and gets the operation once more. */
async function carryOut(sent: Operation, point: EdgeFaultPoint | null, secrets: readonly SecretValue[] = []): Promise<void> {
  armed = point;
  plane.push(sent, secrets);
  if (point !== null) {
    await agent.exited;
    const sessions = plane.hellos.length;
    agent = await fixture.start({ NKUDO_FAULT_SOCKET: socketPath });
    await fixture.until('a new session', () => plane.hellos.length > sessions);
    plane.push(sent, secrets);
  }
  await fixture.until(`${sent.kind} to be reported`, () => plane.reports.some((report) => report.operationId === sent.id && report.isFinal && report.status === 'Succeeded'));
}

/** So that the step for Secrets has something to do, also when the first operation is repeated. */
const secretsOf = (id: MicroVMId) => ({ secrets: [{ name: 'guest', key: 'user-data', resourceVersion: '1' }], values: [{ name: 'guest', key: 'user-data', reveal: () => Buffer.from(`value of ${id}`) }] });
const onCreate = ['secrets.keep', 'journal.accept', 'receipt.send', 'journal.intent', 'vmdir.prepare', 'vmdir.identity', 'disk.ensure', 'seed.ensure', 'net.ensure', 'vmm.confine', 'vmm.spawn', 'vmm.create', 'vmm.boot', 'journal.result', 'report.send'];
const onDelete = ['journal.accept', 'receipt.send', 'journal.intent', 'vmm.powerButton', 'vmm.shutdown', 'net.remove', 'vmdir.remove', 'secrets.remove', 'journal.forget', 'report.send'];
const on = (steps: readonly string[]): EdgeFaultPoint[] => edgeFaultPoints.filter((point) => steps.includes(point.slice(0, point.lastIndexOf(':'))));

/** Empty when there is none. */
function keptText(id: MicroVMId): string {
  const path = join(fixture.stateDirectory, 'secrets', `${id}.json`);
  return existsSync(path) ? readFileSync(path, 'utf8') : '';
}

describe('the agent, killed', () => {
  test.each(on(onCreate))('at %s of a create, converges to one VMM', async (point) => {
    const id = newMicroVM();
    const { secrets, values } = secretsOf(id);
    await carryOut(operation(id, fixture.desired({ disks: [blankDisk], secrets, cloudInit: { hostName: 'guest', userDataSecret: { name: 'guest', key: 'user-data' }, sshAuthorizedKeys: [] } }), 1), point, values);
    expect(keptText(id)).toContain(Buffer.from(`value of ${id}`).toString('base64'));
    const pids = fixture.vmmPids(id);
    expect(pids).toHaveLength(1);
    expect(fixture.record(id).run).toMatchObject({ phase: 'started', restarts: 0 });
    const serial = plane.logs;
    await fixture.until('the first line of the guest', () => [...serial].some(([key, text]) => key.startsWith(id) && text.includes('NKUDO-GUEST-READY')));
    await carryOut(operation(id, null, 2), null);
    expect([fixture.vmmPids(id), existsSync(fixture.directory(id)), keptText(id), controlGroupsOf(id)]).toEqual([[], false, '', []]);
  });

  test.each(on(onDelete))('at %s of a delete, leaves nothing', async (point) => {
    const id = newMicroVM();
    const ignoresButton = point.startsWith('vmm.shutdown');
    const desired = ignoresButton
      ? fixture.desired({ boot: { kind: 'kernel', path: fixture.guestPath, cmdline: 'nobutton' }, terminationGracePeriodMs: 200 })
      : fixture.desired();
    const { secrets, values } = secretsOf(id);
    await carryOut(operation(id, { ...desired, secrets }, 1), null, values);
    await carryOut(operation(id, null, 2), point);
    expect([fixture.vmmPids(id), existsSync(fixture.directory(id)), keptText(id), controlGroupsOf(id)]).toEqual([[], false, '', []]);
    expect(fixture.record(id).isTombstone).toBe(true);
  });

  test('was killed at every point that the agent lists', () => {
    expect(edgeFaultPoints.filter((point) => !reached.has(point))).toEqual([]);
  });
});
