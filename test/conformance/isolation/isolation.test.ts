/**
 * The isolation of VMMs as the kernel and the file system tell of it, on the simulated and, where there is one, on the
 * real Cloud Hypervisor: a real agent process starts two microVMs, and what is asserted is read from /proc, from the
 * files of control groups, from file modes, and by trying as the user of a VMM what it must not be able to do.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { vmmOverheadBytes } from '#api/model/capacity.ts';
import type { MicroVMId } from '#api/model/ids.ts';
import type { DiskSpec } from '#api/model/microvm.ts';
import { controlGroupsOf } from '#test/harness/control-groups.ts';
import { exchange, requestBytes } from '#test/conformance/hypervisor/raw-http.ts';
import { describeOnTargets, type Target } from '#test/conformance/hypervisor/targets.ts';
import { createAgentFixture, newMicroVM, type AgentFixture, type RunningAgent } from '#test/integration/edge-agent/agent-fixture.ts';

const isRoot = process.geteuid?.() === 0;
if (!isRoot) process.stdout.write('skipped: isolation of VMMs: only root can give them users of their own\n');

const userFirst = 1_900_000_000;
const userLast = 1_900_065_535;
const memoryBytes = 64 * 2 ** 20;
const cpuCount = 2;
const blankDisk: DiskSpec = { name: 'data', path: '', readOnly: false, sizeBytes: 2 ** 20, managed: { persistence: 'Persistent', isRetained: false } };

function statusOf(pid: number, task = pid): Readonly<Record<string, string>> {
  const lines = readFileSync(`/proc/${pid}/task/${task}/status`, 'utf8').trim().split('\n');
  return Object.fromEntries(lines.map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1).trim()]));
}

const modeOf = (path: string): number => lstatSync(path).mode & 0o777;
const numbers = (text: string | undefined): readonly number[] => (text ?? '').split(/\s+/).filter((word) => word !== '').map(Number);

/** Sets the limit of a group of version 1 just above what its processes hold, once all that the kernel can take back is gone. */
function shrinkBelow(group: string): void {
  const limit = join(group, 'memory.limit_in_bytes');
  try {
    writeFileSync(limit, String(2 ** 20));
  } catch {
    // As it should be: more than that is held. What could be given back has been.
  }
  const held = Number(readFileSync(join(group, 'memory.usage_in_bytes'), 'utf8'));
  writeFileSync(limit, String(held + 2 ** 19));
}

/** Runs a command as a VMM's user, without rights, and says how it ended. */
function asUser(userId: number, command: readonly string[], cwd = '/'): { readonly status: number | null; readonly err: string } {
  const { status, stderr } = spawnSync('setpriv', ['--reuid', String(userId), '--regid', String(userId), '--clear-groups', '--bounding-set=-all', '--no-new-privs', ...command], { cwd, encoding: 'utf8' });
  return { status, err: stderr };
}

describe.skipIf(!isRoot)('isolation', () => {
  describeOnTargets('isolation', (target: Target) => {
    let fixture: AgentFixture;
    let agent: RunningAgent;
    let one: MicroVMId;
    let other: MicroVMId;
    let pid: number;
    let userId: number;
    let directory: string;

    const pidOf = (id: MicroVMId): number => fixture.vmmPids(id)[0] ?? 0;

    beforeAll(async () => {
      fixture = await createAgentFixture({ hypervisor: target.binary, guest: target.guest });
      [one, other] = [newMicroVM(), newMicroVM()];
      for (const id of [one, other]) fixture.seed(id, fixture.desired({ cpuCount, memoryBytes, disks: [blankDisk] }));
      agent = await fixture.start();
      for (const id of [one, other]) await fixture.until('the guest to run', () => fixture.record(id).run.phase === 'started');
      pid = pidOf(one);
      userId = Number(statusOf(pid)['Uid']?.split('\t')[0]);
      directory = fixture.directory(one);
    });
    afterAll(() => fixture.close());

    test('[E7] each VMM has a user of its own without capabilities and without a way to new privileges', () => {
      const users = [one, other].map((id) => statusOf(pidOf(id))).map((status) => {
        expect(status).toMatchObject({ CapInh: '0000000000000000', CapPrm: '0000000000000000', CapEff: '0000000000000000', CapBnd: '0000000000000000', CapAmb: '0000000000000000', NoNewPrivs: '1' });
        const [uids, gids] = [numbers(status['Uid']), numbers(status['Gid'])];
        expect(new Set([...uids, ...gids]).size, 'real, effective, saved and file system ids').toBe(1);
        const devices = new Set(['/dev/kvm', '/dev/net/tun'].map((path) => statSync(path, { throwIfNoEntry: false })?.gid));
        for (const group of numbers(status['Groups'])) expect(devices, `supplementary group ${group}`).toContain(group);
        return uids[0] ?? 0;
      });
      expect(new Set(users).size).toBe(2);
      for (const user of users) expect(user >= userFirst && user <= userLast, String(user)).toBe(true);
    });

    test('[E7] seccomp filters every thread of the VMM but the one that only waits', () => {
      expect(readFileSync(`/proc/${pid}/cmdline`, 'utf8')).toContain('--seccomp\0true\0');
      if (target.name !== 'real') return void process.stdout.write('[E7] seccomp: the simulated VMM installs no filter; its command line is looked at\n');
      const threads = readdirSync(`/proc/${pid}/task`).map((task) => statusOf(pid, Number(task)));
      const unfiltered = threads.filter(({ Seccomp }) => Seccomp !== '2').map(({ Name }) => Name);
      expect(threads.length).toBeGreaterThan(4);
      // Measured on cloud-hypervisor v53: the main thread waits for the others, and signals have one of their own with a filter.
      expect(unfiltered).toEqual(['cloud-hyperviso']);
    });

    test('[E7] the VMM is in control groups with limits of memory, processor and processes', () => {
      const groups = controlGroupsOf(one);
      const own = readFileSync(`/proc/${pid}/cgroup`, 'utf8');
      expect(groups.length).toBeGreaterThan(0);
      for (const group of groups) expect(readFileSync(join(group, 'cgroup.procs'), 'utf8').trim().split('\n'), group).toEqual([String(pid)]);
      expect(own.split('\n').filter((line) => line.includes(one)).length).toBeGreaterThanOrEqual(groups.length);
      const limit = (...names: readonly string[]): number | undefined => {
        const found = groups.flatMap((group) => names.map((name) => join(group, name))).find((path) => statSync(path, { throwIfNoEntry: false }) !== undefined);
        return found === undefined ? undefined : Number(readFileSync(found, 'utf8').trim().split(' ')[0]);
      };
      const memory = limit('memory.max', 'memory.limit_in_bytes');
      expect(memory).toBeGreaterThanOrEqual(memoryBytes + vmmOverheadBytes);
      expect(memory).toBeLessThan(memoryBytes + 2 * vmmOverheadBytes);
      expect(limit('cpu.max', 'cpu.cfs_quota_us')).toBe((cpuCount + 1) * 100_000);
      expect(limit('cpu.weight', 'cpu.shares')).toBeGreaterThanOrEqual(100 * cpuCount);
      expect(limit('pids.max')).toBeLessThan(1_000);
    });

    test('[E7] the files of a microVM are the agent\'s, but for what its VMM writes; nothing is open to others', () => {
      expect([modeOf(fixture.stateDirectory), modeOf(directory), modeOf(join(directory, 'run'))]).toEqual([0o700, 0o710, 0o700]);
      expect(lstatSync(directory)).toMatchObject({ uid: 0, gid: userId });
      for (const name of ['vm.json', 'vmm.claim', 'vmm.process', 'vmm.cgroups']) {
        expect(lstatSync(join(directory, name)), name).toMatchObject({ uid: 0 });
        expect(modeOf(join(directory, name)), name).toBe(0o600);
      }
      expect(lstatSync(join(directory, 'disks'))).toMatchObject({ uid: 0, gid: userId });
      expect(modeOf(join(directory, 'disks'))).toBe(0o710);
      for (const name of ['run/api.sock', 'run/events', 'run/vmm.log', 'run/serial.log', 'disks/data.raw']) {
        expect(lstatSync(join(directory, name)), name).toMatchObject({ uid: userId });
        expect(modeOf(join(directory, name)) & 0o077, name).toBe(0);
      }
    });

    test("[E7] a VMM's user can read neither another microVM nor the journal nor the identity, nor write what the agent goes by", () => {
      const foreign = fixture.directory(other);
      mkdirSync(join(fixture.stateDirectory, 'identity'), { recursive: true, mode: 0o700 });
      writeFileSync(join(fixture.stateDirectory, 'identity', 'host.key'), 'a key', { mode: 0o600 });
      const refused = [
        ['ls', foreign], ['cat', join(foreign, 'vm.json')], ['cat', join(foreign, 'run', 'serial.log')], ['cat', join(foreign, 'disks', 'data.raw')],
        ['cat', join(fixture.stateDirectory, 'journal.db')], ['cat', join(fixture.stateDirectory, 'identity', 'host.key')], ['ls', fixture.stateDirectory],
        ['kill', '-0', String(pidOf(other))], ['kill', '-0', String(agent.pid)], ['cat', `/proc/${pidOf(other)}/environ`],
      ];
      for (const command of refused) expect(asUser(userId, command).status, command.join(' ')).not.toBe(0);
      // From its own directory, where it was started, which is the only way in that it has.
      const inside = [['cat', 'vm.json'], ['ls', '.'], ['touch', 'vmm.process'], ['touch', 'new'], ['rm', '-f', 'vm.json'], ['mv', 'run', 'gone'], ['rm', '-f', 'disks/data.raw'], ['touch', 'disks/new'], ['cat', '../../journal.db'], ['ls', '..'], ['ls', `../${other}`]];
      for (const command of inside) expect(asUser(userId, command, directory).status, `inside: ${command.join(' ')}`).not.toBe(0);
      // And what it has to be able to do, so that the refusals above are no accident.
      for (const command of [['head', '-c', '1', 'disks/data.raw'], ['cat', 'run/serial.log'], ['touch', 'run/mine']]) expect(asUser(userId, command, directory), command.join(' ')).toMatchObject({ status: 0 });
    });

    test('[E7] Landlock shuts the VMM out of what its user could read', async () => {
      const path = join(fixture.stateDirectory, '..', 'outside.raw');
      writeFileSync(path, '');
      truncateSync(path, 2 ** 20);
      chmodSync(path, 0o666);
      expect(asUser(userId, ['head', '-c', '1', path]).status, 'the user itself may read it').toBe(0);
      const socket = join(directory, 'run', 'api.sock');
      const put = (call: string, body: unknown) => exchange(socket, requestBytes('PUT', `/api/v1/${call}`, JSON.stringify(body)));
      const info = await exchange(socket, requestBytes('GET', '/api/v1/vm.info'));
      const { config } = JSON.parse(info.body) as { config: { landlock_enable: boolean; landlock_rules: readonly { path: string }[] } }; // As the VMM repeats what it was given.
      expect(config.landlock_enable).toBe(true);
      expect(config.landlock_rules.map((rule) => rule.path)).toEqual(['run', 'disks', ...['/dev/net/tun', '/sys/devices/virtual/net'].filter((path) => existsSync(path))]);
      if (target.name !== 'real') return void process.stdout.write('[E7] Landlock: the simulated VMM does not confine itself; what it was told is looked at\n');
      const refusal = await put('vm.add-disk', { id: 'outside', path });
      expect(refusal.status).toBe(500);
      expect(refusal.body).toContain('Permission denied');
      // A disk that the agent makes can be plugged in.
      const made = join(directory, 'disks', 'more.raw');
      writeFileSync(made, '', { mode: 0o600 });
      truncateSync(made, 2 ** 20);
      execFileSync('chown', [String(userId), made]);
      expect((await put('vm.add-disk', { id: 'more', path: 'disks/more.raw' })).status).toBe(200);
    });

    test('[E7] a kernel that VMMs may not read is refused before anything starts, with the file that is closed, and taken once it is open', async () => {
      const path = join(fixture.stateDirectory, '..', 'kernel');
      copyFileSync(target.guest, path);
      chmodSync(path, 0o600);
      const id = newMicroVM();
      await agent.kill('SIGTERM');
      fixture.seed(id, fixture.desired({ boot: { kind: 'kernel', path, cmdline: 'idle' } }));
      agent = await fixture.start();
      await fixture.until('the refusal', () => fixture.record(id).operation?.state === 'done');
      expect(fixture.record(id).problem).toMatchObject({ code: 'FILE_NOT_OPEN', message: expect.stringContaining(path) });
      expect(fixture.vmmPids(id)).toEqual([]);
      chmodSync(path, 0o644);
      await fixture.until('the guest to run', () => fixture.record(id).run.phase === 'started');
      await agent.kill('SIGTERM');
      fixture.seed(id, null, 2);
      agent = await fixture.start();
      await fixture.until('the microVM to be gone', () => fixture.record(id).isTombstone);
    });

    test('[E7] a VMM that takes more memory than its limit is ended by the kernel, told as OOM, and started again', async () => {
      const victim = pidOf(other);
      const group = controlGroupsOf(other).find((path) => readdirSync(path).some((name) => name === 'memory.max' || name === 'memory.limit_in_bytes'));
      if (group === undefined) throw new Error('no control group limits memory');
      const socket = join(fixture.directory(other), 'run', 'api.sock');
      const put = (call: string, body?: unknown) => exchange(socket, requestBytes('PUT', `/api/v1/${call}`, body === undefined ? undefined : JSON.stringify(body))).catch(() => undefined);
      // Nobody repairs meanwhile what is done to the VMM here; the next agent reads from files how it ended.
      await agent.kill('SIGKILL');
      // With version 2 the limit alone makes the kernel act.
      if (readdirSync(group).includes('memory.max')) writeFileSync(join(group, 'memory.max'), '1M');
      else shrinkBelow(group);
      if (target.name === 'real') {
        await put('vm.delete');
        await put('vm.create', { payload: { kernel: target.guest, cmdline: 'idle' }, memory: { size: memoryBytes, prefault: true }, serial: { mode: 'Null' }, console: { mode: 'Off' } });
        await put('vm.boot');
      } else {
        // The simulated one takes in the whole of a request before it looks at it.
        while (fixture.vmmPids(other).includes(victim)) await put('vm.create', { payload: { kernel: '/k' }, padding: 'x'.repeat(4_000_000) });
      }
      await fixture.until('the VMM to be gone', () => !fixture.vmmPids(other).includes(victim));
      agent = await fixture.start();
      await fixture.until('the end to be told', () => fixture.record(other).run.lastExit?.reason === 'OOM');
      await fixture.until('another VMM', () => fixture.record(other).run.phase === 'started' && pidOf(other) !== 0);
      expect(fixture.record(other).run.lastExit).toMatchObject({ reason: 'OOM', signal: 'SIGKILL' });
      expect(pidOf(other)).not.toBe(victim);
      expect(pidOf(one), 'the other microVM').toBe(pid);
    });

    test('[E7] a new agent adopts the VMM as it is; a deletion leaves no control group, directory or process', async () => {
      await agent.kill('SIGKILL');
      agent = await fixture.start();
      expect(pidOf(one)).toBe(pid);
      await agent.kill('SIGTERM');
      fixture.seed(one, null, 2);
      agent = await fixture.start();
      await fixture.until('the microVM to be gone', () => fixture.record(one).isTombstone);
      expect(controlGroupsOf(one)).toEqual([]);
      expect(fixture.vmmPids(one)).toEqual([]);
      expect(statSync(directory, { throwIfNoEntry: false })).toBeUndefined();
    });
  });
});
