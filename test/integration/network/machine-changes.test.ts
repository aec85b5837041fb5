/**
 * Live changes through the agent: processors, memory, disks and cards of a guest that runs, with taps of the
 * host's own, on the simulated Cloud Hypervisor and on a real one. The agent is killed before and after each
 * effect; what the guest has is asked of its VMM, beside the agent.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { deriveMac } from '#api/model/mac.ts';
import type { MicroVMId } from '#api/model/ids.ts';
import type { DesiredMicroVM, DiskSpec, NetworkSpec } from '#api/model/microvm.ts';
import { createCloudHypervisor } from '#edge-agent/adapters/cloud-hypervisor/cloud-hypervisor.ts';
import { machineFaultPoints } from '#edge-agent/fault-points.ts';
import type { VmMachine } from '#edge-agent/ports/hypervisor.ts';
import { describeOnTargets, type Target } from '#test/conformance/hypervisor/targets.ts';
import { createAgentFixture, newMicroVM, type AgentFixture, type RunningAgent } from '../edge-agent/agent-fixture.ts';
import { findObstacle, openLab, type Lab } from './lab.ts';

const obstacle = await findObstacle();
if (obstacle !== null) process.stdout.write(`skipped: live changes through the agent: ${obstacle}\n`);

const mebibyte = 2 ** 20;
const never = new AbortController().signal;

let lab: Lab;
let fixture: AgentFixture;
let faults: Server;
let faultSocket: string;
let armed: string | null = null;
let agent: RunningAgent | undefined;
let revision = 0;

async function open(target: Target): Promise<void> {
  lab = await openLab();
  fixture = await createAgentFixture({ hypervisor: target.binary, guest: target.guest });
  faultSocket = join(fixture.stateDirectory, '..', 'faults');
  faults = createServer((socket) => {
    const lines = createInterface({ input: socket });
    // The agent was killed at a point; readline repeats its input's errors as its own.
    for (const source of [socket, lines]) source.on('error', () => socket.destroy());
    lines.on('line', (line) => {
      const { pid, point } = JSON.parse(line) as { pid: number; point: string }; // The protocol of api/fault-points.
      if (point !== armed) return void socket.write('go\n');
      armed = null;
      process.kill(pid, 'SIGKILL');
    });
  });
  await new Promise<void>((resolve) => faults.listen(faultSocket, resolve));
}

async function close(): Promise<void> {
  await fixture?.close();
  faults?.close();
  await lab?.close();
}

const start = (): Promise<RunningAgent> => fixture.start({ NKUDO_RUNTIME_DIR: lab.runtimeDirectory, NKUDO_FAULT_SOCKET: faultSocket }, ['ip', 'netns', 'exec', lab.namespaces.host]);

/** Orders it, and waits until it is done; with a point the agent dies there first. */
async function bring(id: MicroVMId, desired: DesiredMicroVM | null, point: string | null = null): Promise<void> {
  await agent?.kill('SIGTERM');
  fixture.seed(id, desired, (revision += 1));
  armed = point;
  if (point !== null) {
    // It may die before it says that it runs.
    await start().then((doomed) => doomed.exited, () => undefined);
    expect(armed, `${point} was reached`).toBe(null);
  }
  agent = await start();
  await fixture.until('the operation is done', () => (desired === null ? fixture.record(id).isTombstone : fixture.record(id).operation?.state === 'done' && fixture.record(id).run.changingTo === undefined));
  if (desired !== null) expect(fixture.record(id).operation?.result, fixture.record(id).problem?.message).toMatchObject({ status: 'Succeeded' });
}

function machineOf(target: Target, id: MicroVMId): Promise<VmMachine | undefined> {
  const hypervisor = createCloudHypervisor({ binaryPath: target.binary, environment: { PATH: process.env['PATH'] ?? '' } });
  return hypervisor.observe(fixture.directory(id), never).then((seen) => (seen.kind === 'live' ? seen.machine : undefined));
}

const names = (devices: readonly { readonly name: string; readonly isLeaving: boolean }[] = []): readonly string[] => devices.map(({ name, isLeaving }) => `${name}${isLeaving ? ' leaving' : ''}`).sort();
const taps = (): readonly string[] => execFileSync('ip', ['netns', 'exec', lab.namespaces.host, 'ip', '-brief', 'link', 'show'], { encoding: 'utf8' }).split('\n').filter((line) => line.startsWith('nkt'));
const card = (id: MicroVMId, name: string, address: string): NetworkSpec => ({ name, kind: 'nat', mac: deriveMac(id, name), address: `${address}/24`, gateway: '10.87.0.1', ports: [] });
const made = (name: string, mebibytes: number): DiskSpec => ({ name, path: '', readOnly: false, sizeBytes: mebibytes * mebibyte, managed: { persistence: 'Persistent', isRetained: false } });

describeOnTargets('live changes through the agent', (target) => {
  if (obstacle !== null) {
    test.skip(`live changes: ${obstacle}`, () => undefined);
    return;
  }
  let pristine = '';
  beforeAll(async () => {
    await open(target);
    pristine = await lab.snapshot();
  });
  afterEach(async () => {
    armed = null;
    await agent?.kill('SIGTERM');
    agent = undefined;
  });
  afterAll(close);

  const small = (id: MicroVMId): DesiredMicroVM => fixture.desired({ cpuCount: 1, cpuMax: 4, memoryBytes: 128 * mebibyte, memoryMaxBytes: 512 * mebibyte, disks: [made('root', 1)], networks: [card(id, 'lan', '10.87.0.5')] });
  const large = (id: MicroVMId, rootMebibytes: number): DesiredMicroVM => ({
    ...small(id), cpuCount: 4, memoryBytes: 384 * mebibyte,
    disks: [made('root', rootMebibytes), made('data', 2), { ...made('more', 1), rateLimit: { bytesPerSecond: mebibyte, opsPerSecond: 100 } }],
    networks: [card(id, 'lan', '10.87.0.5'), card(id, 'second', '10.87.0.6')],
  });

  async function expectMachine(id: MicroVMId, wanted: DesiredMicroVM, pid: number | undefined): Promise<void> {
    const machine = await machineOf(target, id);
    expect(machine).toMatchObject({ cpuCount: wanted.cpuCount, cpusPresent: wanted.cpuCount, memoryBytes: wanted.memoryBytes, memoryPresentBytes: wanted.memoryBytes });
    expect([names(machine?.disks), names(machine?.networks)]).toEqual([wanted.disks.map(({ name }) => name).sort(), (wanted.networks ?? []).map(({ name }) => name).sort()]);
    expect(taps()).toHaveLength(wanted.networks?.length ?? 0);
    expect([fixture.vmmPids(id), fixture.record(id).run.incarnation, fixture.record(id).run.restarts]).toEqual([[pid], 1, 0]);
  }

  async function leave(id: MicroVMId): Promise<void> {
    await bring(id, null);
    await agent?.kill('SIGTERM');
    agent = undefined;
    expect(await lab.snapshot()).toBe(pristine);
  }

  test('[E2] a guest gets and gives back processors, memory, disks and cards without a restart, also over a pause', async () => {
    const id = newMicroVM();
    await bring(id, small(id));
    const [pid] = fixture.vmmPids(id);
    await expectMachine(id, small(id), pid);
    await bring(id, large(id, 3));
    await expectMachine(id, large(id, 3), pid);
    expect(statSync(join(fixture.directory(id), 'disks', 'root.raw')).size).toBe(3 * mebibyte);
    await bring(id, { ...large(id, 3), cpuCount: 2 });
    await expectMachine(id, { ...large(id, 3), cpuCount: 2 }, pid);
    // A paused guest is given what it need not take part in.
    const fewer = { ...large(id, 3), cpuCount: 2, paused: true, networks: [card(id, 'lan', '10.87.0.5'), card(id, 'second', '10.87.0.6'), card(id, 'third', '10.87.0.7')] };
    await bring(id, fewer);
    expect(names((await machineOf(target, id))?.networks)).toEqual(['lan', 'second', 'third']);
    const back = { ...small(id), disks: [made('root', 3)] };
    await bring(id, back);
    await expectMachine(id, back, pid);
    await leave(id);
  });

  // What follows is the agent's side, for which one program is enough.
  if (target.name === 'real') return;

  test('a guest that clings to what it has makes the operation fail, and a restart takes the change over', async () => {
    const id = newMicroVM();
    const clinging = { ...large(id, 1), boot: { kind: 'kernel', path: target.guest, cmdline: 'clinging' } } as const;
    await bring(id, clinging);
    await agent?.kill('SIGTERM');
    fixture.seed(id, { ...clinging, disks: [made('root', 1)] }, (revision += 1));
    agent = await start();
    await fixture.until('the operation has failed', () => fixture.record(id).operation?.state === 'done');
    expect(fixture.record(id).operation?.result).toMatchObject({ status: 'Failed', error: { code: 'GUEST_IGNORES_CHANGE', message: expect.stringContaining('data') as string } });
    expect(names((await machineOf(target, id))?.disks)).toContain('data leaving');
    await agent.kill('SIGTERM');
    fixture.seed(id, { ...clinging, disks: [made('root', 1)], restartNonce: 1, terminationGracePeriodMs: 0 }, (revision += 1));
    agent = await start();
    await fixture.until('the operation is done', () => fixture.record(id).operation?.state === 'done');
    expect([names((await machineOf(target, id))?.disks), fixture.record(id).problem]).toEqual([['root'], undefined]);
    await leave(id);
  });

  test('an agent killed before and after each effect finishes the change, and the guest notices nothing but it', async () => {
    const id = newMicroVM();
    await bring(id, small(id));
    const [pid] = fixture.vmmPids(id);
    const removals = machineFaultPoints.filter((point) => point.includes('.unplug'));
    const additions = machineFaultPoints.filter((point) => !point.includes('.unplug'));
    let size = 1;
    for (const [index, point] of additions.entries()) {
      await bring(id, large(id, (size += 1)), point);
      await expectMachine(id, large(id, size), pid);
      const back = { ...small(id), disks: [made('root', size)] };
      await bring(id, back, removals[index] ?? null);
      await expectMachine(id, back, pid);
    }
    const serial = readFileSync(join(fixture.directory(id), 'run', 'serial.log'), 'utf8');
    expect(serial.match(/NKUDO-GUEST-READY/g)).toHaveLength(1);
    await leave(id);
  }, 240_000);
});
