/**
 * A guest that prints without end: the file of its console stays bounded on the disk, with its beginning and its newest
 * part, over kills of the agent at every point of it; and what is sent is each byte once, or a gap.
 */
import { randomUUID } from 'node:crypto';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { makeEpoch } from '#api/model/epoch.ts';
import { hostId, operationId, planId, type MicroVMId } from '#api/model/ids.ts';
import { backlogMax, serialLogBounds } from '#edge-agent/domain/log-bounds.ts';
import { logFaultPoints } from '#edge-agent/fault-points.ts';
import { fakeHostId, startFakeControlPlane, type FakeControlPlane } from '#test/fakes/control-plane.ts';
import { useFaultServer, type FaultServer } from '#test/harness/fault-server.ts';
import { createAgentFixture, newMicroVM, type AgentFixture } from './agent-fixture.ts';

/** 27 MiB in lines of 64 bytes, more than what is kept. */
const lines = 440_000;
const end = 'NKUDO-FLOOD-END';
const { headBytes, tailBytes, stepBytes } = serialLogBounds;
/** What is kept, and blocks that are only partly in a hole. */
const allocatedMax = headBytes + tailBytes + stepBytes + 65_536;

let fixture: AgentFixture;
let faults: FaultServer;
let plane: FakeControlPlane | undefined;

beforeEach(async () => {
  fixture = await createAgentFixture();
  faults = await useFaultServer();
});
afterEach(async () => {
  await fixture.close();
  plane?.stop();
  plane = undefined;
});

const start = () => fixture.start({ NKUDO_FAULT_SOCKET: faults.socketPath });
const flood = () => fixture.desired({ boot: { kind: 'kernel', path: fixture.guestPath, cmdline: `flood ${lines}` } });
const logOf = (id: MicroVMId): string => join(fixture.directory(id), 'run', 'serial.log');
const allocated = (id: MicroVMId): number => statSync(logOf(id)).blocks * 512;
const isOver = (id: MicroVMId): boolean => readFileSync(logOf(id)).subarray(-64).toString('latin1').includes(end);
const number = (line: string): number => Number(/NKUDO-FLOOD \.+ (\d+)$/.exec(line)?.[1]);

/** Numbers of the whole lines of a piece; the first and the last line of it may be cut. */
function numbersIn(piece: string): readonly number[] {
  return piece.split('\r\n').slice(1, -1).map(number).filter((found) => !Number.isNaN(found));
}

function expectInARow(numbers: readonly number[], last?: number): void {
  expect(numbers.length).toBeGreaterThan(1_000);
  expect(numbers.every((found, index) => found === (numbers[0] ?? 0) + index)).toBe(true);
  if (last !== undefined) expect(numbers.at(-1)).toBe(last);
}

test('a log keeps its beginning and its newest part, over kills of the agent at each point of freeing the rest', async () => {
  const id = newMicroVM();
  fixture.seed(id, flood());
  for (const point of logFaultPoints) {
    const killed = faults.killAt({ process: 'edge', point });
    const agent = await start();
    await killed;
    await agent.exited;
  }
  const [pid] = fixture.vmmPids(id);
  const agent = await start();
  await fixture.until('all to be printed, and the log to be bounded', () => isOver(id) && allocated(id) <= allocatedMax);
  expect(fixture.vmmPids(id)).toEqual([pid]);
  const log = readFileSync(logOf(id));
  expect(log.length).toBeGreaterThan(lines * 64);
  expectInARow(numbersIn(log.subarray(0, headBytes).toString('latin1')));
  expectInARow(numbersIn(log.subarray(-tailBytes).toString('latin1')), lines);
  expect(log.subarray(headBytes, headBytes + stepBytes).every((byte) => byte === 0)).toBe(true);

  const shown = await fixture.run('vm', 'logs', '--state-dir', fixture.stateDirectory, id);
  expect(shown.code, shown.err).toBe(0);
  expect(shown.out).not.toContain('\0');
  const [head = '', tail = '', ...more] = shown.out.split(/\[nkudo-edge: \d+ bytes are not kept on this host any more\]/);
  expect(more).toEqual([]);
  expectInARow(numbersIn(head));
  expectInARow(numbersIn(tail), lines);
  await agent.kill('SIGTERM');
});

test('what was printed while no agent ran is sent as far as it is kept, each byte once, also by an agent that is killed on the way', async () => {
  const control = await startFakeControlPlane();
  plane = control;
  const token = join(fixture.stateDirectory, '..', 'token');
  writeFileSync(token, control.token(), { mode: 0o600 });
  expect(await fixture.run('enroll', '--state-dir', fixture.stateDirectory, '--token-file', token)).toMatchObject({ code: 0 });
  const id = newMicroVM();
  const killedAtBoot = faults.killAt({ process: 'edge', point: 'vmm.boot:after' });
  const first = await start();
  control.push({ id: operationId(randomUUID()), planId: planId(randomUUID()), microvmId: id, hostId: hostId(fakeHostId), kind: 'Create', epoch: makeEpoch(1, 1), revision: 1, generation: 1, desired: flood() });
  await killedAtBoot;
  await first.exited;
  await fixture.until('all to be printed', () => isOver(id));
  const killedOnTheWay = faults.killAt({ process: 'edge', point: 'log.free:after' });
  const second = await start();
  await killedOnTheWay;
  await second.exited;
  const agent = await start();
  const sent = (): string => control.logs.get(`${id} 1`) ?? '';
  const { size } = statSync(logOf(id));
  await fixture.until('all to be sent', () => sent().length === size);
  expect(allocated(id)).toBeLessThanOrEqual(allocatedMax);
  const gap = sent().lastIndexOf('\0') + 1;
  expect(size - gap).toBeGreaterThanOrEqual(backlogMax);
  expect(sent().slice(gap) === readFileSync(logOf(id)).subarray(gap).toString('latin1')).toBe(true);
  expectInARow(numbersIn(sent().slice(gap)), lines);
  await agent.kill('SIGTERM');
});
