/** What the agent does for its microVMs without any control plane, on the simulated Cloud Hypervisor. */
import { copyFileSync, existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import type { MicroVMId } from '#api/model/ids.ts';
import { createAgentFixture, newMicroVM, type AgentFixture } from './agent-fixture.ts';

let fixture: AgentFixture;

beforeEach(async () => {
  fixture = await createAgentFixture();
});

afterEach(() => fixture.close());

const isRunning = (id: MicroVMId): boolean => fixture.record(id).run.phase === 'started' && fixture.vmmPids(id).length === 1;

async function runOne(change: Partial<DesiredMicroVM> = {}) {
  const id = newMicroVM();
  fixture.seed(id, fixture.desired(change));
  const agent = await fixture.start();
  await fixture.until('the guest to run', () => isRunning(id));
  return { id, agent, pid: fixture.vmmPids(id)[0] ?? 0 };
}

test('a microVM keeps its process when the agent is killed, and the next agent adopts it', async () => {
  const { id, agent, pid } = await runOne();
  await agent.kill('SIGKILL');
  const next = await fixture.start();
  const listed = await fixture.run('vm', 'ls', '--state-dir', fixture.stateDirectory, '--output', 'json');
  expect(JSON.parse(listed.out)).toMatchObject([{ state: 'running', pid, restarts: 0, runPolicy: 'Always' }]);
  expect(fixture.vmmPids(id)).toEqual([pid]);
  await next.kill('SIGTERM');
  expect(fixture.vmmPids(id)).toEqual([pid]);
});

test('a killed VMM is started again and the restart is counted with its reason', async () => {
  const { id, pid } = await runOne();
  process.kill(pid, 'SIGKILL');
  await fixture.until('the restart', () => fixture.record(id).run.restarts === 1 && isRunning(id));
  expect(fixture.record(id).run.lastExit).toMatchObject({ reason: 'VMMCrash', signal: 'SIGKILL' });
  expect(fixture.vmmPids(id)).not.toContain(pid);
});

test('a VMM that was killed while no agent ran is started again by the next agent, once', async () => {
  const { id, agent, pid } = await runOne();
  await agent.kill('SIGKILL');
  process.kill(pid, 'SIGKILL');
  await fixture.start();
  await fixture.until('the restart', () => fixture.record(id).run.restarts === 1 && isRunning(id));
});

async function startWith(change: Partial<DesiredMicroVM>): Promise<MicroVMId> {
  const id = newMicroVM();
  fixture.seed(id, fixture.desired(change));
  await fixture.start();
  return id;
}

const booting = (cmdline: string): Pick<DesiredMicroVM, 'boot'> => ({ boot: { kind: 'kernel', path: fixture.guestPath, cmdline } });

test.each([
  ['Always', true],
  ['RerunOnFailure', false],
  ['Once', false],
  ['Manual', false],
] as const)('after the guest powered itself off, a microVM under %s runs again: %s', async (runPolicy, runsAgain) => {
  const id = await startWith({ runPolicy, ...(runPolicy === 'Manual' ? { restartNonce: 1 } : {}), ...booting('poweroff 50') });
  await fixture.until('the end to be counted', () => fixture.record(id).run.lastExit !== undefined);
  expect(fixture.record(id).run.lastExit).toMatchObject({ reason: 'GuestShutdown' });
  if (runsAgain) await fixture.until('the restart', () => fixture.record(id).run.restarts > 0);
  else expect(fixture.record(id).run).toMatchObject({ restarts: 0, phase: 'ended' });
});

test('an emulation failure counts as a crash under RerunOnFailure, although the VMM exits with 0', async () => {
  const id = await startWith({ runPolicy: 'RerunOnFailure', ...booting('crash 50') });
  await fixture.until('the restart', () => fixture.record(id).run.restarts > 0);
  expect(fixture.record(id).run.lastExit).toMatchObject({ reason: 'VMMCrash' });
});

test('a guest that reboots again and again is counted, stopped and backed off', async () => {
  const id = await startWith({ restart: { initialBackoffMs: 50, maxBackoffMs: 600_000, maxRetries: 3, windowMs: 600_000 }, ...booting('reboot 20') });
  await fixture.until('the stop', () => fixture.record(id).run.phase === 'ended');
  const { run } = fixture.record(id);
  expect(run.restarts).toBeGreaterThan(3);
  expect(run.lastExit).toMatchObject({ reason: 'GuestReboot' });
  expect(fixture.vmmPids(id)).toEqual([]);
  const listed = await fixture.run('vm', 'ls', '--state-dir', fixture.stateDirectory, '--output', 'json');
  expect(JSON.parse(listed.out)).toMatchObject([{ state: 'backoff', isCrashLooping: true }]);
});

test('under Once a reboot of the guest is its end', async () => {
  const id = await startWith({ runPolicy: 'Once', ...booting('reboot 50') });
  await fixture.until('the stop', () => fixture.record(id).run.phase === 'ended');
  await fixture.until('the VMM to be gone', () => fixture.vmmPids(id).length === 0);
  expect(fixture.record(id).run.lastExit).toMatchObject({ reason: 'GuestReboot' });
});

test('a guest that ignores its power button is ended when its grace period is over', async () => {
  const { id, agent } = await runOne({ ...booting('nobutton'), terminationGracePeriodMs: 300 });
  await agent.kill('SIGTERM');
  fixture.seed(id, fixture.desired({ runPolicy: 'Halted', terminationGracePeriodMs: 300, ...booting('nobutton') }), 2);
  await fixture.start();
  await fixture.until('the stop', () => fixture.record(id).operation?.state === 'done');
  expect(fixture.record(id).run.lastExit).toMatchObject({ reason: 'Operator' });
});

test('Halted stops a running guest and keeps its directory; Always starts it again', async () => {
  const { id, agent } = await runOne();
  await agent.kill('SIGTERM');
  fixture.seed(id, fixture.desired({ runPolicy: 'Halted' }), 2);
  const second = await fixture.start();
  await fixture.until('the stop', () => fixture.record(id).operation?.state === 'done' && fixture.vmmPids(id).length === 0);
  expect(fixture.record(id).run).toMatchObject({ phase: 'idle', lastExit: { reason: 'Operator' }, restarts: 0 });
  expect(existsSync(fixture.directory(id))).toBe(true);
  await second.kill('SIGTERM');
  fixture.seed(id, fixture.desired(), 3);
  await fixture.start();
  await fixture.until('the start', () => isRunning(id));
  expect(fixture.record(id).run.restarts).toBe(0);
});

test('pauses and resumes as desired', async () => {
  const { id, agent, pid } = await runOne({ paused: true });
  await fixture.until('the operation to end', () => fixture.record(id).operation?.state === 'done');
  const listed = await fixture.run('vm', 'ls', '--state-dir', fixture.stateDirectory, '--output', 'json');
  expect(JSON.parse(listed.out)).toMatchObject([{ state: 'paused', pid }]);
  await agent.kill('SIGTERM');
  fixture.seed(id, fixture.desired(), 2);
  await fixture.start();
  await fixture.until('the operation to end', () => fixture.record(id).operation?.state === 'done' && fixture.record(id).revision === 2);
  expect(JSON.parse((await fixture.run('vm', 'ls', '--state-dir', fixture.stateDirectory, '--output', 'json')).out)).toMatchObject([{ state: 'running', pid }]);
});

test('a deletion leaves no process, no directory and a tombstone', async () => {
  const { id, agent } = await runOne();
  await agent.kill('SIGTERM');
  fixture.seed(id, null, 2);
  await fixture.start();
  await fixture.until('the teardown', () => fixture.record(id).isTombstone);
  expect(fixture.vmmPids(id)).toEqual([]);
  expect(existsSync(fixture.directory(id))).toBe(false);
});

test('a VMM that hangs is deleted all the same, after its grace period', async () => {
  const { id, pid } = await runOne({ terminationGracePeriodMs: 300 }).then(async ({ agent, ...rest }) => (await agent.kill('SIGTERM'), rest));
  process.kill(pid, 'SIGSTOP');
  fixture.seed(id, null, 2);
  await fixture.start();
  await fixture.until('the teardown', () => fixture.record(id).isTombstone);
  expect(fixture.vmmPids(id)).toEqual([]);
  expect(existsSync(fixture.directory(id))).toBe(false);
});

test('neither a busy directory nor a kernel that is being written makes a start that failed busy', async () => {
  const id = newMicroVM();
  const directory = join(fixture.stateDirectory, '..', 'images');
  mkdirSync(directory);
  const path = join(directory, 'kernel');
  fixture.seed(id, fixture.desired({ boot: { kind: 'kernel', path, cmdline: 'idle' } }));
  const agent = await fixture.start();
  const failures = (): number => agent.log().split('"msg":"a step failed"').length - 1;
  await fixture.until('the first failure', () => failures() > 0);
  for (let count = 0; count < 150; count += 1) {
    writeFileSync(join(directory, `other-${count}`), '');
    writeFileSync(path, 'not yet a kernel', { flag: 'a' });
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  // Each retry comes later than the one before.
  expect(failures()).toBeLessThan(8);
  copyFileSync(fixture.guestPath, path);
  await fixture.until('the guest to run', () => isRunning(id));
});

test('the directory says whose it is before its VMM starts', async () => {
  const { id } = await runOne();
  expect(JSON.parse(readFileSync(join(fixture.directory(id), 'vm.json'), 'utf8'))).toMatchObject({ microvmId: id, revision: 1, incarnation: 1 });
});

test.each([
  ['a kernel that does not exist', () => ({ boot: { kind: 'kernel', path: '/no/such/kernel', cmdline: '' } }) as const, 'KERNEL_NOT_FOUND'],
  ['a kernel that is a directory', () => ({ boot: { kind: 'kernel', path: '/tmp', cmdline: '' } }) as const, 'KERNEL_NOT_FOUND'],
  ['a path that climbs', () => ({ boot: { kind: 'kernel', path: '/tmp/../etc/passwd', cmdline: '' } }) as const, 'PATH_NOT_ALLOWED'],
  ['a link into the state of the agent', () => ({ boot: { kind: 'kernel', path: join(fixture.stateDirectory, '..', 'link'), cmdline: '' } }) as const, 'PATH_NOT_ALLOWED'],
  ['a file that is no kernel', () => ({ boot: { kind: 'kernel', path: join(fixture.stateDirectory, '..', 'text'), cmdline: '' } }) as const, 'KERNEL_NOT_BOOTABLE'],
  ['a disk that does not exist', () => ({ disks: [{ name: 'data', path: '/no/such/disk', readOnly: false }] }), 'DISK_NOT_FOUND'],
  ['more memory than the host has', () => ({ memoryBytes: 2 ** 50 }), 'NOT_ENOUGH_MEMORY'],
] as const)('%s is a final failure and leaves no VMM', async (_what, change, code) => {
  symlinkSync(join(fixture.stateDirectory, 'journal.db'), join(fixture.stateDirectory, '..', 'link'));
  writeFileSync(join(fixture.stateDirectory, '..', 'text'), 'just a text');
  const id = newMicroVM();
  fixture.seed(id, fixture.desired(change() as Partial<DesiredMicroVM>));
  await fixture.start();
  await fixture.until('the failure', () => fixture.record(id).operation?.state === 'done');
  expect(fixture.record(id)).toMatchObject({ problem: { code }, operation: { result: { status: 'Failed', error: { code } } } });
  await fixture.until('nothing half-made', () => fixture.vmmPids(id).length === 0);
});

test('nothing that the agent and its VMMs write can be read by others, whatever the umask', async () => {
  // The agent makes its journal itself here.
  await (await fixture.start()).kill('SIGTERM');
  const { id } = await runOne();
  const names = readdirSync(fixture.stateDirectory, { recursive: true, encoding: 'utf8' });
  expect(names).toEqual(expect.arrayContaining(['journal.db', 'agent.lock', join('vms', id, 'vm.json')]));
  // The group of a microVM's directory is that of its own VMM, which passes through and sees nothing of it.
  const directory = join('vms', id);
  // A link has no rights of its own.
  const rights = (name: string): number => {
    const entry = lstatSync(join(fixture.stateDirectory, name));
    return entry.isSymbolicLink() ? 0 : entry.mode & 0o077;
  };
  expect(names.filter((name) => name !== directory && rights(name) !== 0)).toEqual([]);
  expect(rights(directory) & ~0o010).toBe(0);
});

test('a second agent on the same state directory is refused', async () => {
  await runOne();
  const second = await fixture.run('run', '--state-dir', fixture.stateDirectory);
  expect(second).toMatchObject({ code: 1 });
  expect(second.err).toContain('STATE_DIR_LOCKED');
});

test('status tells of the host without an agent and without an enrollment', async () => {
  const { agent } = await runOne();
  await agent.kill('SIGKILL');
  const status = await fixture.run('status', '--state-dir', fixture.stateDirectory, '--output', 'json');
  expect(JSON.parse(status.out)).toMatchObject({ enrolled: false, agentRunning: false, microvms: 1, microvmsRunning: 1 });
  const table = await fixture.run('status', '--state-dir', fixture.stateDirectory);
  expect(table.out).toMatch(/agent +not running/);
});
