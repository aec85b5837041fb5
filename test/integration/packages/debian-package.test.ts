/**
 * [R4] The agent's package in a clean Debian with systemd running: installed, started, upgraded, removed, installed again
 * and purged, around a microVM that has to go on through all of it. With a real Cloud Hypervisor where there is one.
 */
import { randomUUID } from 'node:crypto';
import { copyFileSync, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { makeEpoch } from '#api/model/epoch.ts';
import { hostId, microVMId, operationId, planId } from '#api/model/ids.ts';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import { memoryLimitBytes } from '#edge-agent/adapters/isolation/cgroups.ts';
import { unitOf } from '#edge-agent/adapters/isolation/units.ts';
import { buildEdge } from '#hack/build-edge.ts';
import { processStartTime } from '#hack/build-cache.ts';
import { buildGuest } from '#hack/build-guest.ts';
import { chooseHypervisor } from '#hack/demo/hypervisor.ts';
import { agentFiles } from '#hack/release/package-files.ts';
import { buildPackage } from '#hack/release/packages.ts';
import { fakeHostId, startFakeControlPlane, type FakeControlPlane } from '#test/fakes/control-plane.ts';
import { copyLibraries } from '../edge-agent/bare-root.ts';
import { findDebianObstacle, startDebian, type Debian } from './debian.ts';

const obstacle = await findDebianObstacle();
if (obstacle !== null) process.stdout.write(`[R4] skipped: no clean Debian with systemd here: ${obstacle}\n`);

const [older, newer] = ['0.2.0', '0.3.0'];
const stateDirectory = '/var/lib/nkudo-edge';
const uid = microVMId(randomUUID());
const size = { cpuCount: 1, memoryBytes: 64 * 2 ** 20 };
const unit = unitOf(uid, size);
const leaseMs = 3_600_000;
const pageBytes = 4_096;
const pollMs = 20;
const sourceDateEpoch = 1_750_000_000;

let debian: Debian;
let plane: FakeControlPlane;
let vmm = { pid: 0, startTime: '' };

const systemctl = (...args: string[]): Promise<string> => debian.ask('systemctl', ...args);
const state = async (name: string): Promise<string> => (await debian.run('systemctl', 'is-active', name)).out.trim();
const propertiesOf = async (name: string, ...names: string[]): Promise<Readonly<Record<string, string>>> => Object.fromEntries((await systemctl('show', name, `--property=${names.join()}`)).split('\n').map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]));
const installPackage = (version: string): Promise<string> => debian.ask('dpkg', '--force-confdef', '--force-confold', '--install', `/root/nkudo-edge_${version}.deb`);
const journal = async (): Promise<string> => (await debian.run('journalctl', '--no-pager', '--unit=nkudo-edge', '--lines=60')).out;

/** Pids and command lines. */
const guardsOf = async (): Promise<readonly string[]> => (await debian.ask('ps', '-eo', 'pid,args')).split('\n').filter((line) => line.includes(`nkudo-guard ${stateDirectory}/guard`));

/** The very process that was seen first. */
function expectVmmWentOn(): void {
  expect(debian.pidsOf('cloud-hypervisor')).toEqual([vmm.pid]);
  expect(processStartTime(vmm.pid)).toBe(vmm.startTime);
}

async function session(what: string, cause: () => Promise<unknown>): Promise<void> {
  const sessions = plane.hellos.length;
  await cause();
  await plane.when(what, () => plane.hellos.length > sessions).catch(async (error: unknown) => {
    throw new Error(`${String(error)}\n${await journal()}`);
  });
}

function push(kind: 'Create' | 'Delete', revision: number): void {
  const desired: DesiredMicroVM = {
    name: 'till', namespace: 'shop', runPolicy: 'Always', paused: false, restartNonce: 0, restart: { initialBackoffMs: 50, maxBackoffMs: 400, maxRetries: 5, windowMs: 60_000 }, ...size,
    boot: { kind: 'kernel', path: '/var/lib/nkudo/images/guest', cmdline: 'idle' }, disks: [], serialLog: true, terminationGracePeriodMs: 2_000,
    // So that it has a guard; far longer than a test lives.
    lease: { stopOnHostAfterMs: leaseMs },
  };
  plane.push({ id: operationId(randomUUID()), planId: planId(randomUUID()), microvmId: uid, hostId: hostId(fakeHostId), kind, epoch: makeEpoch(1, 1), revision, generation: revision, ...(kind === 'Delete' ? {} : { desired }) });
}

describe.skipIf(obstacle !== null)('the package in a clean Debian with systemd', () => {
  beforeAll(async () => {
    plane = await startFakeControlPlane({ heartbeatIntervalMs: 1_000, leaseMs });
    debian = await startDebian();
    for (const version of [older, newer]) {
      const packed = agentFiles(await buildEdge({ version }), version);
      // The newer one brings other settings, where somebody has changed those of the older.
      const files = packed.map((file) => (file.kind === 'setting' && version === newer ? { ...file, content: Buffer.concat([file.content, Buffer.from('# new here\n')]) } : file));
      await buildPackage({ format: 'deb', files, version, architecture: 'x64', sourceDateEpoch, isCompressed: false, target: debian.at(`root/nkudo-edge_${version}.deb`) });
    }
    const { path, description } = await chooseHypervisor({ isSimulatorForced: false, report: (line) => process.stdout.write(`${line}\n`) });
    copyFileSync(path, debian.at('usr/bin/cloud-hypervisor'));
    copyLibraries(debian.at(''), path);
    process.stdout.write(`[R4] Debian ${readFileSync(debian.at('etc/debian_version'), 'utf8').trim()}, ${(await debian.ask('systemctl', '--version')).split('\n')[0]}, ${description}\n`);
  });

  afterAll(async () => {
    await debian?.close();
    plane?.stop();
  });

  test('[R4] is installed: files, group and directories are there, and nothing is started before the enrollment', async () => {
    expect(await installPackage(older)).toContain('next, nkudo-edge enroll');
    expect(await debian.ask('nkudo-edge', '--version')).toBe(older);
    expect(await systemctl('is-enabled', 'nkudo-edge')).toBe('enabled');
    expect(await state('nkudo-edge')).toBe('inactive');
    await systemctl('start', 'nkudo-edge');
    expect(await state('nkudo-edge')).toBe('inactive');
    expect(await debian.ask('systemd-analyze', 'verify', '--man=no', '/usr/lib/systemd/system/nkudo-edge.service')).toBe('');
    expect(await debian.ask('stat', '--format=%n %a %U:%G', '/etc/nkudo-edge/config.yaml', '/var/lib/nkudo/images', '/usr/lib/nkudo-edge/nkudo-edge', '/usr/bin/nkudo-edge')).toBe(
      ['/etc/nkudo-edge/config.yaml 640 root:root', '/var/lib/nkudo/images 750 root:nkudo-images', '/usr/lib/nkudo-edge/nkudo-edge 755 root:root', '/usr/bin/nkudo-edge 777 root:root'].join('\n'),
    );
    // Whoever installs it by hand gets the same files, apart from documents and settings.
    expect(await debian.ask('dpkg', '--verify', 'nkudo-edge')).toBe('');
    expect(existsSync(debian.at(stateDirectory))).toBe(false);
    // Every setting of the packaged file is one that the program takes.
    expect(await debian.ask('nkudo-edge', 'config')).toContain('nkudo-images');
  });

  test('[R4] its unit starts after the enrollment, and a microVM gets a unit of its own with limits that the kernel holds', async () => {
    writeFileSync(debian.at('etc/nkudo-edge/config.yaml'), `${readFileSync(debian.at('etc/nkudo-edge/config.yaml'), 'utf8')}logLevel: debug\n`);
    copyFileSync((await buildGuest()).guest64, debian.at('var/lib/nkudo/images/guest'));
    await debian.ask('sh', '-c', 'chgrp -R nkudo-images /var/lib/nkudo/images && chmod 0640 /var/lib/nkudo/images/guest');
    writeFileSync(debian.at('root/token'), plane.token(), { mode: 0o600 });
    await debian.ask('nkudo-edge', 'enroll', '--token-file', '/root/token', '--name', 'debian-1');
    await session('the first session', () => systemctl('start', 'nkudo-edge'));
    expect(await state('nkudo-edge')).toBe('active');
    expect(plane.facts()).toMatchObject({ agentVersion: older });
    push('Create', 1);
    await plane.when('the microVM to run', () => plane.observations.some((seen) => seen.microvmId === uid && seen.state === 'running'));
    const [pid] = debian.pidsOf('cloud-hypervisor');
    vmm = { pid: Number(pid), startTime: processStartTime(Number(pid)) ?? '' };

    const properties = await propertiesOf(unit.name, 'ActiveState', 'Slice', 'ControlGroup', 'MemoryMax', 'TasksMax', 'CPUQuotaPerSecUSec');
    expect(properties).toMatchObject({ ActiveState: 'active', Slice: 'nkudo.slice', CPUQuotaPerSecUSec: '2s', TasksMax: '260' });
    expect(unit.properties).toContain(`MemoryMax=${properties['MemoryMax']}`);
    // What the kernel says of the process itself, in whatever version of control groups this machine has.
    const groups = readFileSync(`/proc/${vmm.pid}/cgroup`, 'utf8').trim().split('\n').map((line) => line.slice(line.lastIndexOf(':') + 1));
    expect(groups.filter((group) => group.endsWith(String(properties['ControlGroup']))).length).toBeGreaterThan(0);
    const limits = limitsOf(String(properties['ControlGroup']));
    process.stdout.write(`[R4] [E7] limits in the kernel of ${unit.name.slice(0, 18)}…: ${JSON.stringify(limits)}\n`);
    // The kernel counts whole pages.
    expect(limits).toEqual({ memory: String(Math.floor(Number(properties['MemoryMax']) / pageBytes) * pageBytes), pids: '260', cpu: '200000' });
    expect(Number(limits.memory)).toBeGreaterThan(memoryLimitBytes(size));
    // A user of its own, no capabilities, no way to new ones.
    const status = readFileSync(`/proc/${vmm.pid}/status`, 'utf8');
    expect(Number(/^Uid:\t(\d+)/m.exec(status)?.[1])).toBeGreaterThanOrEqual(1_900_000_001);
    expect(status).toMatch(/^CapEff:\t0{16}$/m);
    expect(status).toMatch(/^NoNewPrivs:\t1$/m);
  });

  test('[R4] the microVM goes on when the agent is killed, and when its unit is stopped and started', async () => {
    const [agent] = debian.pidsOf('nkudo-edge');
    await session('systemd to start it again', () => Promise.resolve(process.kill(Number(agent), 'SIGKILL')));
    expectVmmWentOn();
    await systemctl('stop', 'nkudo-edge');
    expect(debian.pidsOf('nkudo-edge')).toEqual([]);
    expectVmmWentOn();
    await session('a session', () => systemctl('start', 'nkudo-edge'));
    expectVmmWentOn();
  });

  test('[R4] is upgraded: the agent runs in its new version, the microVM goes on, the settings are kept', async () => {
    const settings = readFileSync(debian.at('etc/nkudo-edge/config.yaml'), 'utf8');
    await session('the new version', () => installPackage(newer));
    expect(plane.facts()).toMatchObject({ agentVersion: newer });
    expect(await debian.ask('nkudo-edge', '--version')).toBe(newer);
    expectVmmWentOn();
    expect(await state(unit.name)).toBe('active');
    expect(readFileSync(debian.at('etc/nkudo-edge/config.yaml'), 'utf8')).toBe(settings);
    expect(readdirSync(debian.at('etc/nkudo-edge')).sort()).toEqual(['config.yaml', 'config.yaml.dpkg-dist', 'release-keys.d']);
  });

  test('[R4] an upgrade of an agent that somebody stopped does not start it', async () => {
    await systemctl('stop', 'nkudo-edge');
    expect(await installPackage(newer)).toContain('to start its agent');
    expect(await state('nkudo-edge')).toBe('inactive');
    await session('a session', () => systemctl('start', 'nkudo-edge'));
    expectVmmWentOn();
  });

  test('[R4] is removed: the agent is gone, the microVM and its guard go on, state and settings are kept', async () => {
    const guards = await guardsOf();
    expect(guards).toHaveLength(1);
    await debian.ask('dpkg', '--remove', 'nkudo-edge');
    expect(debian.pidsOf('nkudo-edge')).toEqual([]);
    expect(await guardsOf()).toEqual(guards);
    expect((await debian.run('systemctl', 'cat', 'nkudo-edge')).code).not.toBe(0);
    expectVmmWentOn();
    expect(await state(unit.name)).toBe('active');
    for (const path of ['journal.db', 'identity/identity.json', `vms/${uid}`]) expect(existsSync(debian.at(join(stateDirectory, path)))).toBe(true);
    expect(readFileSync(debian.at('etc/nkudo-edge/config.yaml'), 'utf8')).toContain('logLevel: debug');
    expect(existsSync(debian.at('usr/lib/nkudo-edge'))).toBe(false);
  });

  test('[R4] is not purged while a microVM runs, and says how it can be', async () => {
    const { code, err } = await debian.run('dpkg', '--purge', 'nkudo-edge');
    expect(code).not.toBe(0);
    expect(err).toContain('still run');
    expect(err).toContain("systemctl stop 'nkudo-vmm-*.service'");
    expectVmmWentOn();
    expect(existsSync(debian.at(join(stateDirectory, 'journal.db')))).toBe(true);
  });

  test('[R4] is installed again: the host is the same, and its agent takes the microVM over and can end it', async () => {
    const hosts = plane.tokensSeen.length;
    expect(await installPackage(newer)).toContain('this host is enrolled');
    await session('a session', () => systemctl('start', 'nkudo-edge'));
    expect(plane.tokensSeen.length).toBe(hosts);
    expectVmmWentOn();
    push('Delete', 2);
    await plane.when('the microVM to be gone', () => plane.observations.some((seen) => seen.microvmId === uid && seen.state === 'absent'));
    expect(debian.pidsOf('cloud-hypervisor')).toEqual([]);
    // The reaper records the end first, and its unit is forgotten with it.
    while ((await state(unit.name)) !== 'inactive') await delay(pollMs);
  });

  test('[R4] is purged: no file, process or unit of it is left', async () => {
    await debian.ask('dpkg', '--purge', 'nkudo-edge');
    // The operator's images, which nobody but the operator removes.
    expect(await debian.ask('find', '/etc', '/usr', '/var', '/run', '-xdev', '-name', '*nkudo*', '-not', '-path', '/var/log/*')).toBe('/var/lib/nkudo');
    expect(statSync(debian.at('var/lib/nkudo/images/guest')).isFile()).toBe(true);
    expect((await debian.ask('ps', '-eo', 'args')).split('\n').filter((line) => line.includes('nkudo'))).toEqual([]);
  });
});

/** Of a group of the system in there, as this machine's kernel shows it; its path here ends with that in there. */
function limitsOf(group: string): { memory: string; pids: string; cpu: string } {
  const [own] = readFileSync(`/proc/${vmm.pid}/cgroup`, 'utf8').trim().split('\n').filter((line) => line.endsWith(group)).map((line) => line.slice(line.indexOf('/')));
  const mounts = readFileSync('/proc/mounts', 'utf8').split('\n').map((line) => line.split(' '));
  const read = (controller: string, v1: string, v2: string): string => {
    const mount = mounts.find(([, , type, options]) => type === 'cgroup' && options?.split(',').includes(controller));
    const point = mount?.[1] ?? mounts.find(([, , type]) => type === 'cgroup2')?.[1];
    return readFileSync(join(String(point), String(own), mount === undefined ? v2 : v1), 'utf8').trim().split(' ')[0] ?? '';
  };
  return { memory: read('memory', 'memory.limit_in_bytes', 'memory.max'), pids: read('pids', 'pids.max', 'pids.max'), cpu: read('cpu', 'cpu.cfs_quota_us', 'cpu.max') };
}
