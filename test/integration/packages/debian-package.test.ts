/**
 * [R4] The agent's package in a clean Debian with systemd running: installed, started, upgraded, removed, installed again
 * and purged, around a microVM that has to go on through all of it. With a real Cloud Hypervisor where there is one.
 */
import { randomUUID } from 'node:crypto';
import { copyFileSync, existsSync, linkSync, mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { gunzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { makeEpoch } from '#api/model/epoch.ts';
import { hostId, microVMId, operationId, planId } from '#api/model/ids.ts';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import { memoryLimitBytes } from '#edge-agent/adapters/isolation/cgroups.ts';
import { parseCgroupHost } from '#edge-agent/adapters/isolation/cgroup-host.ts';
import { unitOf, unitOomFiles } from '#edge-agent/adapters/isolation/units.ts';
import { buildEdge } from '#hack/build-edge.ts';
import { processStartTime, repositoryRoot } from '#hack/build-cache.ts';
import { buildGuest } from '#hack/build-guest.ts';
import { chooseHypervisor } from '#hack/demo/hypervisor.ts';
import { makeManifest } from '#hack/release/manifest.ts';
import { agentFiles } from '#hack/release/package-files.ts';
import { buildPackage } from '#hack/release/packages.ts';
import { makeReleaseKey, readReleaseKey, signFile } from '#hack/release/sign.ts';
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
const newPackage = `nkudo-edge_${newer}_amd64.deb`;
const dayMs = 86_400_000;
const leaseMs = 3_600_000;
const pageBytes = 4_096;
const pollMs = 20;
const patienceMs = 60_000;
const sourceDateEpoch = 1_750_000_000;

let debian: Debian;
let plane: FakeControlPlane;
let vmm = { pid: 0, startTime: '' };

const systemctl = (...args: string[]): Promise<string> => debian.ask('systemctl', ...args);
const state = async (name: string): Promise<string> => (await debian.run('systemctl', 'is-active', name)).out.trim();
const propertiesOf = async (name: string, ...names: string[]): Promise<Readonly<Record<string, string>>> => Object.fromEntries((await systemctl('show', name, `--property=${names.join()}`)).split('\n').map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]));
const installPackage = (version: string): Promise<string> => debian.ask('dpkg', '--install', `/root/nkudo-edge_${version}.deb`);
const journal = async (): Promise<string> => (await debian.run('journalctl', '--no-pager', '--unit=nkudo-edge', '--lines=60')).out;

/** Only a fault takes so long. */
async function until(what: string, condition: () => Promise<boolean>): Promise<void> {
  for (const giveUpAt = performance.now() + patienceMs; !(await condition()); await delay(pollMs)) if (performance.now() > giveUpAt) throw new Error(`gave up waiting for ${what}`);
}

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

/** The newer package as a release on a medium. */
async function makeRelease(): Promise<void> {
  const pair = makeReleaseKey();
  const path = debian.at(`root/release/${newPackage}`);
  mkdirSync(dirname(path));
  linkSync(debian.at(`root/nkudo-edge_${newer}.deb`), path);
  const manifest = debian.at('root/release/manifest.json');
  writeFileSync(manifest, await makeManifest({ version: newer, createdAtMs: Date.now(), expiresAtMs: Date.now() + dayMs, files: [{ path, name: 'nkudo-edge-deb', architecture: 'x86_64' }] }));
  await signFile(manifest, readReleaseKey(pair.privateKeyPem));
  writeFileSync(debian.at('root/release.pub'), pair.publicKeyPem);
  copyFileSync(join(repositoryRoot, 'hack/release/install.sh'), debian.at('root/release/install.sh'));
  // Whoever installs without being asked keeps what was changed.
  writeFileSync(debian.at('etc/dpkg/dpkg.cfg.d/keep-settings'), 'force-confdef\nforce-confold\n');
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
    await makeRelease();
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
    // The page for the site names every command.
    const commands = [...(await debian.ask('nkudo-edge', '--help')).split('Commands:')[1]?.matchAll(/^ {2}([a-z-]+)/gm) ?? []].map(([, name]) => String(name)).filter((name) => name !== 'help');
    const page = gunzipSync(readFileSync(debian.at('usr/share/man/man8/nkudo-edge.8.gz'))).toString();
    expect(commands.length).toBeGreaterThan(10);
    expect(commands.filter((name) => !new RegExp(`^\\.BR? .*\\b${name}\\b`, 'm').test(page))).toEqual([]);
    // Every setting of the packaged file is one that the program takes.
    expect(await debian.ask('nkudo-edge', 'config')).toContain('nkudo-images');
  });

  test('[R4] its unit starts after the enrollment, and runs a microVM', async () => {
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

    expect(await state(unit.name)).toBe('active');
  });

  test('[E7] with systemd each VMM has a unit of its own, outside of the agent, with limits that the kernel holds, a user and no rights', async () => {
    const properties = await propertiesOf(unit.name, 'ActiveState', 'Slice', 'ControlGroup', 'MemoryMax', 'TasksMax', 'CPUQuotaPerSecUSec');
    expect(properties).toMatchObject({ ActiveState: 'active', Slice: 'nkudo.slice', CPUQuotaPerSecUSec: '2s', TasksMax: '260' });
    expect(unit.properties).toContain(`MemoryMax=${properties['MemoryMax']}`);
    // What the kernel says of the process itself, in whatever version of control groups this machine has.
    const groups = readFileSync(`/proc/${vmm.pid}/cgroup`, 'utf8').trim().split('\n').map((line) => line.slice(line.lastIndexOf(':') + 1));
    expect(groups.filter((group) => group.endsWith(String(properties['ControlGroup']))).length).toBeGreaterThan(0);
    const limits = limitsOf(String(properties['ControlGroup']));
    process.stdout.write(`[E7] limits in the kernel of ${unit.name.slice(0, 18)}…: ${JSON.stringify(limits)}\n`);
    // The kernel counts whole pages.
    expect(limits).toEqual({ memory: String(Math.floor(Number(properties['MemoryMax']) / pageBytes) * pageBytes), pids: '260', cpu: '200000' });
    expect(Number(limits.memory)).toBeGreaterThan(memoryLimitBytes(size));
    // A user of its own, no capabilities, no way to new ones.
    const status = readFileSync(`/proc/${vmm.pid}/status`, 'utf8');
    expect(Number(/^Uid:\t(\d+)/m.exec(status)?.[1])).toBeGreaterThanOrEqual(1_900_000_001);
    expect(status).toMatch(/^CapEff:\t0{16}$/m);
    expect(status).toMatch(/^NoNewPrivs:\t1$/m);
  });

  test('[E7] with systemd what takes more memory than the unit may have is ended by the kernel, counted where the agent looks, and the VMM goes on when it was another', async () => {
    const [count = ''] = unitOomFiles(parseCgroupHost(await debian.ask('cat', '/proc/1/mountinfo'), await debian.ask('cat', '/proc/1/cgroup')), uid);
    const kills = async (): Promise<number> => Number(/^oom_kill (\d+)/m.exec(await debian.ask('cat', count))?.[1]);
    expect(await kills()).toBe(0);
    // Three times what the unit may have, as one process; nothing when it can't be moved there. systemd takes $$ for a $.
    await debian.run('systemd-run', '--quiet', '--wait', '--collect', 'sh', '-c', `echo $$$$ >${dirname(count)}/cgroup.procs && head -c 330000000 /dev/zero | tail`);
    await until('the kernel to end it', async () => (await kills()) > 0);
    expect(await state(unit.name)).toBe('active');
    expectVmmWentOn();
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
    // Without the key, and with another package in the place of the signed one, nothing happens.
    const install = (...args: string[]) => debian.run('sh', '/root/release/install.sh', ...args);
    expect((await install()).err).toContain('no key to check with');
    const file = debian.at(`root/release/${newPackage}`);
    renameSync(file, `${file}.signed`);
    copyFileSync(debian.at(`root/nkudo-edge_${older}.deb`), file);
    expect((await install('--key', '/root/release.pub')).err).toContain('is not the file that the manifest names');
    renameSync(`${file}.signed`, file);
    expect(await debian.ask('nkudo-edge', '--version')).toBe(older);
    await session('the new version', async () => expect(await install('--key', '/root/release.pub')).toMatchObject({ code: 0, out: expect.stringContaining('signed by a key that you trust') as string }));
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
    await until('the unit to be gone', async () => (await state(unit.name)) === 'inactive');
  });

  test('[R4] is purged: no file, process or unit of it is left', async () => {
    await debian.ask('dpkg', '--purge', 'nkudo-edge');
    // The operator's images, which nobody but the operator removes.
    const left = (): Promise<string> => debian.ask('find', '/etc', '/usr', '/var', '/run', '-xdev', '-name', '*nkudo*', '-not', '-path', '/var/log/*');
    // systemd takes away the unit of a VMM that has ended when it comes to that.
    await until('only the images to be left', async () => (await left()) === '/var/lib/nkudo').catch(async () => expect(await left()).toBe('/var/lib/nkudo'));
    expect(statSync(debian.at('var/lib/nkudo/images/guest')).isFile()).toBe(true);
    const running = async (): Promise<readonly string[]> => (await debian.ask('ps', '-eo', 'args')).split('\n').filter((line) => line.includes('nkudo'));
    // A process of systemd that takes care of such a unit bears its name for a moment.
    await until('no process to be left', async () => (await running()).length === 0).catch(async () => expect(await running()).toEqual([]));
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
