/**
 * The agent as it is shipped: one executable file on a machine without Node, started by its launcher. Enrollment, a
 * microVM, restarts, and updates of itself to versions that are good, that end at once and that hang. The versions are
 * this source tree with another number.
 */
import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { copyFileSync, existsSync, linkSync, mkdirSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { machine } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { makeEpoch } from '#api/model/epoch.ts';
import { hostId, operationId, planId, type MicroVMId } from '#api/model/ids.ts';
import type { Operation } from '#api/model/plan.ts';
import type { ReleaseArchitecture } from '#api/model/release.ts';
import { buildEdge, type BuiltEdge } from '#hack/build-edge.ts';
import { buildGuest } from '#hack/build-guest.ts';
import { buildSimulator } from '#hack/build-simulator.ts';
import { makeManifest } from '#hack/release/manifest.ts';
import { makeReleaseKey, readReleaseKey, signFile } from '#hack/release/sign.ts';
import { fakeHostId, startFakeControlPlane, type FakeControlPlane } from '#test/fakes/control-plane.ts';
import { newMicroVM } from './agent-fixture.ts';
import { copyLibraries, makeBareRoot, untilTrue, type BareRoot } from './bare-root.ts';

const isRoot = process.getuid?.() === 0;
if (!isRoot) process.stdout.write('[E9] skipped: chroot and mount namespaces need root\n');

const packaged = '0.2.0';
const versions = {
  good: { version: '0.3.0' },
  endsAtOnce: { version: '0.4.0', preamble: "if (process.argv.includes('run')) process.exit(1);" },
  hangs: { version: '0.5.0', preamble: "if (process.argv.includes('run')) for (;;);" },
} as const;
const ticksPerSecond = 100;
const idleAfterSeconds = 8;
const longSeconds = 300;
const hangSeconds = 6;

let root: BareRoot;
let plane: FakeControlPlane;
let files: Server;
let url = '';
let built: BuiltEdge;
let launcher: ReturnType<BareRoot['start']> | undefined;
const microvm: MicroVMId = newMicroVM();
let vmm: number | undefined;

const log = (): string => launcher?.log() ?? '';
const until = (what: string, condition: () => boolean): Promise<void> => untilTrue(what, condition, log);
const environment = (deadlineSeconds: number): Record<string, string> => ({ NKUDO_EDGE_UPDATE_DEADLINE_MS: String(deadlineSeconds * 1_000), NKUDO_EDGE_HYPERVISOR: '/usr/bin/cloud-hypervisor', NKUDO_EDGE_ALLOW_PATHS: '/var/lib/nkudo/images', NKUDO_EDGE_VMM_USERS: 'agent' });
const edge = (...command: string[]) => root.run(environment(longSeconds), '/usr/bin/nkudo-edge', ...command);
const agents = (): readonly number[] => root.pidsOf('nkudo-edge');
const vmms = (): readonly number[] => root.pidsOf('cloud-hypervisor');
const lastVersion = (): string | undefined => plane.hellos.at(-1)?.facts?.agentVersion;

async function startAgent(deadlineSeconds = longSeconds): Promise<void> {
  const sessions = plane.hellos.length;
  launcher = root.start(environment(deadlineSeconds), '/usr/bin/nkudo-edge', 'run');
  await until('a session', () => plane.hellos.length > sessions);
}

async function stopAgent(): Promise<void> {
  const child = launcher?.child;
  const ended = new Promise((resolve) => child?.once('exit', resolve));
  child?.kill('SIGTERM');
  expect(await ended).toBe(0);
  expect(agents()).toEqual([]);
}

function order(version: string): number {
  const revision = (plane.agentReports.at(-1)?.orderRevision ?? 0) + 1;
  plane.orderAgent({ version, manifestUrl: `${url}/${version}.json`, revision });
  return revision;
}

const reported = (revision: number, phase: string) => plane.agentReports.find((report) => report.orderRevision === revision && report.phase === phase);

describe.skipIf(!isRoot)('the single executable on a machine without Node', () => {
  beforeAll(async () => {
    root = makeBareRoot();
    plane = await startFakeControlPlane({ heartbeatIntervalMs: 1_000 });
    const releases = join(root.path, 'root', 'releases');
    mkdirSync(releases);
    const key = makeReleaseKey();
    mkdirSync(join(root.path, 'etc/nkudo-edge/release-keys.d'), { recursive: true });
    writeFileSync(join(root.path, 'etc/nkudo-edge/release-keys.d/test.pub'), key.publicKeyPem);
    built = await buildEdge({ version: packaged });
    for (const each of Object.values(versions)) {
      const { path } = await buildEdge(each);
      const file = join(releases, `nkudo-edge-${each.version}`);
      try {
        linkSync(path, file);
      } catch {
        copyFileSync(path, file); // The cache is on another file system.
      }
      const manifest = join(releases, `${each.version}.json`);
      writeFileSync(manifest, await makeManifest({ version: each.version, createdAtMs: Date.now(), expiresAtMs: Date.now() + 86_400_000, files: [{ path: file, name: 'nkudo-edge', architecture: machine() as ReleaseArchitecture }] })); // Any other one has no file in the release.
      await signFile(manifest, readReleaseKey(key.privateKeyPem));
    }
    files = createServer((request, response) => {
      const path = join(releases, (request.url ?? '').replaceAll('/', ''));
      if (!existsSync(path)) return void response.writeHead(404).end();
      response.end(readFileSync(path));
    });
    await new Promise<void>((resolve) => files.listen(0, '127.0.0.1', resolve));
    url = `http://127.0.0.1:${(files.address() as AddressInfo).port}`; // It listens on TCP.
    copyFileSync(await buildSimulator(), join(root.path, 'usr/bin/cloud-hypervisor'));
    mkdirSync(join(root.path, 'var/lib/nkudo/images'), { recursive: true });
    copyFileSync((await buildGuest()).guest64, join(root.path, 'var/lib/nkudo/images/guest'));
    copyFileSync(built.path, join(root.path, 'root/nkudo-edge'));
    copyLibraries(root.path, built.path);
  });

  afterAll(() => {
    root.close();
    plane.stop();
    files.close();
  });

  test('[E9] one file installs itself, enrolls the host and runs a microVM', async () => {
    const everyFile = readdirSync(root.path, { recursive: true, encoding: 'utf8' });
    expect(everyFile.filter((path) => /(^|\/)(node|npm|bash|python3?)$|\.m?js$/.test(path))).toEqual([]);
    expect(await root.run({}, '/root/nkudo-edge', 'install')).toMatchObject({ code: 0, err: '' });
    writeFileSync(join(root.path, 'root/token'), plane.token(), { mode: 0o600 });
    expect(await edge('enroll', '--token-file', '/root/token', '--name', 'bare-1')).toMatchObject({ code: 0, err: '' });
    // As after a boot: what was written just now lies in memory in larger pieces than what is read, and would count in full.
    execFileSync('dd', [`of=${join(root.path, 'usr/lib/nkudo-edge/nkudo-edge')}`, 'oflag=nocache', 'conv=notrunc,fdatasync', 'count=0', 'status=none']);
    await startAgent();
    expect(lastVersion()).toBe(packaged);
    const create: Operation = {
      id: operationId(randomUUID()), planId: planId(randomUUID()), microvmId: microvm, hostId: hostId(fakeHostId), kind: 'Create', epoch: makeEpoch(1, 1), revision: 1, generation: 1,
      desired: {
        name: 'guest', namespace: 'shop', runPolicy: 'Always', paused: false, restartNonce: 0, restart: { initialBackoffMs: 50, maxBackoffMs: 400, maxRetries: 5, windowMs: 60_000 }, cpuCount: 1, memoryBytes: 64 * 2 ** 20,
        boot: { kind: 'kernel', path: '/var/lib/nkudo/images/guest', cmdline: 'idle' }, disks: [], serialLog: true, terminationGracePeriodMs: 2_000,
      },
    };
    plane.push(create);
    await until('the microVM to run', () => plane.observations.some((seen) => seen.microvmId === microvm && seen.state === 'running'));
    [vmm] = vmms();
    expect(vmm).toBeGreaterThan(0);
    const [agent] = agents();
    expect(readlinkSync(`/proc/${String(agent)}/exe`)).toContain('/usr/lib/nkudo-edge/nkudo-edge');
    // It gives back what its start needed once it idles.
    await until('the agent to have run for a while', () => secondsSinceStart(Number(agent)) > idleAfterSeconds);
    await measure(Number(agent));
  });

  test('[E9] the microVM outlives a restart and kill -9 of launcher and agent', async () => {
    await stopAgent();
    expect(vmms()).toEqual([vmm]);
    await startAgent();
    // Its agent is left over, holds the state directory, and makes room for the next.
    launcher?.child.kill('SIGKILL');
    await startAgent();
    expect(agents()).toHaveLength(1);
    const [agent] = agents();
    process.kill(Number(agent), 'SIGKILL');
    await until('the launcher to end with its agent', () => launcher?.child.exitCode === 137);
    await startAgent();
    expect(vmms()).toEqual([vmm]);
  });

  test('[E9] it changes to a good version by order, and keeps the one before', async () => {
    const sessions = plane.hellos.length;
    const revision = order(versions.good.version);
    await until('the good version to be reported', () => reported(revision, 'Current') !== undefined);
    expect(reported(revision, 'Current')).toMatchObject({ runningVersion: versions.good.version, errorCode: '' });
    expect(plane.hellos.slice(sessions).every((hello) => hello.facts?.agentVersion === versions.good.version)).toBe(true);
    await until('the launcher to keep it', () => log().includes('is ready'));
    expect(JSON.parse((await edge('update', '--output', 'json')).out)).toMatchObject({ version: versions.good.version, previousVersion: packaged, trialVersion: null, failed: null });
    expect(vmms()).toEqual([vmm]);
  });

  test('[E9] a version that ends at once is given up by itself, and is not tried again', async () => {
    const revision = order(versions.endsAtOnce.version);
    await until('the roll-back to be reported', () => reported(revision, 'RolledBack') !== undefined);
    expect(reported(revision, 'RolledBack')).toMatchObject({ runningVersion: versions.good.version, errorCode: 'UPDATE_FAILED', problem: `${versions.endsAtOnce.version} ended 3 times before it was ready` });
    await stopAgent();
    await startAgent(hangSeconds);
    await until('the same report to the next session', () => plane.agentReports.filter((report) => report.phase === 'RolledBack').length > 1);
    expect(lastVersion()).toBe(versions.good.version);
    expect(vmms()).toEqual([vmm]);
  });

  test('[E9] a version that hangs is given up at its deadline', async () => {
    const revision = order(versions.hangs.version);
    await until('the roll-back to be reported', () => reported(revision, 'RolledBack') !== undefined);
    expect(reported(revision, 'RolledBack')).toMatchObject({ runningVersion: versions.good.version, problem: `${versions.hangs.version} was not ready within ${hangSeconds} s` });
    expect(vmms()).toEqual([vmm]);
    await stopAgent();
  });

  test('[E9] the site goes back to the version before without a control plane; an older release is refused', async () => {
    await startAgent();
    plane.stop();
    const back = await edge('update', '--rollback');
    expect(back).toMatchObject({ code: 0, out: `${packaged} runs; the microVMs went on\n` });
    expect((await edge('--version')).out).toBe(`${packaged}\n`);
    // Forth again, from a medium: it is newer.
    expect(await edge('update', '--from', `/root/releases/${versions.good.version}.json`)).toMatchObject({ code: 0, out: `${versions.good.version} runs; the microVMs went on\n` });
    expect(vmms()).toEqual([vmm]);
    await plane.restart();
    await stopAgent();
    expect(vmms()).toEqual([vmm]);
  });
});

function secondsSinceStart(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const startTicks = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]);
  return Number(readFileSync('/proc/uptime', 'utf8').split(' ')[0]) - startTicks / ticksPerSecond;
}

async function measure(agent: number): Promise<void> {
  const starts: number[] = [];
  for (let turn = 0; turn < 5; turn += 1) {
    const from = performance.now();
    await root.run({}, '/usr/lib/nkudo-edge/nkudo-edge', '--version');
    starts.push(performance.now() - from);
  }
  const kib = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(readFileSync(`/proc/${agent}/smaps_rollup`, 'utf8'))?.[1] ?? 0);
  const mb = (name: string): string => (kib(name) / 1_024).toFixed(1);
  const median = starts.toSorted((left, right) => left - right)[2] ?? 0;
  process.stdout.write(`[E9] ${(built.bytes / 1e6).toFixed(1)} MB; --version in ${median.toFixed(0)} ms, with entering the root; the agent with one microVM: ${mb('Rss')} MiB resident, ${mb('Pss')} of them its share, ${mb('Private_Dirty')} private\n`);
}
