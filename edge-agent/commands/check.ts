/**
 * `check`: looks at the host and says what lacks and how to mend it (judged in domain/preflight.ts). Changes nothing,
 * needs no agent, and is bounded also where names or endpoints do not answer.
 */
import { X509Certificate } from 'node:crypto';
import { accessSync, constants, existsSync, readFileSync, statfsSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { arch } from 'node:os';
import { delimiter, dirname, join, resolve } from 'node:path';
import { isAppError } from '#api/model/error-codes.ts';
import { createCloudHypervisor } from '../adapters/cloud-hypervisor/cloud-hypervisor.ts';
import { kernelLandlock, whyNoUsers } from '../adapters/isolation/host-isolation.ts';
import { createIdentityFiles } from '../adapters/identity-files/identity-files.ts';
import { createSystemClock } from '../adapters/system/clock.ts';
import { judgeHost, type CheckItem, type FoundHost } from '../domain/preflight.ts';
import { parseUserRange } from '../domain/user-range.ts';
import { renderTable } from './table.ts';

export interface CheckOptions {
  readonly stateDir: string;
  readonly hypervisor: string;
  /** The setting of that name. */
  readonly vmmUsers: string;
  readonly output: string;
}

export interface CheckResult {
  readonly text: string;
  /** Whether nothing is missing; warnings may be left. */
  readonly isReady: boolean;
}

const probeDeadlineMs = 5_000;
/** Of name resolution and connection together, for each endpoint; all are tried at once. */
const endpointDeadlineMs = 5_000;
const endpointsMax = 8;

export async function checkHost(options: CheckOptions): Promise<CheckResult> {
  const items = await preflight(options);
  const isReady = items.every(({ state }) => state !== 'missing');
  if (options.output === 'json') return { text: JSON.stringify({ ready: isReady, checks: items }, null, 2), isReady };
  const table = renderTable(['CHECK', 'STATE', 'FOUND'], items.map(({ name, state, found }) => [name, state, found]));
  const fixes = items.flatMap(({ name, fix }) => (fix === undefined ? [] : [`  ${name}: ${fix}`]));
  const verdict = isReady ? 'this host can run microVMs' : 'this host can not run microVMs yet';
  return { text: [table, '', ...(fixes.length === 0 ? [] : ['what to do:', ...fixes, '']), verdict].join('\n'), isReady };
}

export async function preflight(options: Omit<CheckOptions, 'output'>): Promise<readonly CheckItem[]> {
  return judgeHost(await lookAtHost(options));
}

async function lookAtHost(options: Omit<CheckOptions, 'output'>): Promise<FoundHost> {
  const stateDirectory = resolve(options.stateDir);
  const identity = loadIdentity(stateDirectory);
  const certificate = identity === null ? null : new X509Certificate(identity.chainPem);
  const [version, endpoints] = await Promise.all([
    hypervisorVersion(options.hypervisor),
    Promise.all((identity?.endpoints ?? []).slice(0, endpointsMax).map(async (endpoint) => ({ endpoint, problem: await reach(endpoint) }))),
  ]);
  return {
    architecture: arch(),
    cpuFlags: cpuFlags(),
    hypervisor: { path: options.hypervisor, version },
    isKvmPresent: existsSync('/dev/kvm'),
    isKvmUsable: may('/dev/kvm', constants.R_OK | constants.W_OK),
    isTunUsable: may('/dev/net/tun', constants.R_OK | constants.W_OK),
    cgroups: cgroups(),
    isolation: { usersProblem: whyNoUsers({ userRange: parseUserRange(options.vmmUsers), path: process.env['PATH'] }), landlock: kernelLandlock() },
    programs: Object.fromEntries(['ip', 'nft', 'dnsmasq', 'sh', 'flock', 'sleep', 'mkfs.ext4', 'debugfs', 'resize2fs', 'fallocate'].map((program) => [program, isOnPath(program)])),
    stateDirectory: lookAtStateDirectory(stateDirectory),
    space: lookAtSpace(stateDirectory),
    wallMs: createSystemClock().now().wallMs,
    newestKnownMs: certificate?.validFromDate.getTime() ?? null,
    certificateEndsMs: certificate?.validToDate.getTime() ?? null,
    endpoints,
  };
}

/** Null also for what this user may not read: the state directory's own line says so. */
function loadIdentity(stateDirectory: string): ReturnType<ReturnType<typeof createIdentityFiles>['load']> {
  return may(stateDirectory, constants.R_OK | constants.X_OK) ? createIdentityFiles(stateDirectory).load() : null;
}

async function hypervisorVersion(binaryPath: string): Promise<string | null> {
  try {
    const hypervisor = createCloudHypervisor({ binaryPath, environment: { PATH: process.env['PATH'] ?? '' } });
    return (await hypervisor.probe(AbortSignal.timeout(probeDeadlineMs))).version;
  } catch (error) {
    if (isAppError(error) || (error instanceof Error && error.name === 'TimeoutError')) return null;
    throw error;
  }
}

function cpuFlags(): readonly string[] {
  const line = /^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'));
  return (line?.[1] ?? '').trim().split(/\s+/);
}

function cgroups(): FoundHost['cgroups'] {
  if (existsSync('/sys/fs/cgroup/cgroup.controllers')) return 'v2';
  if (existsSync('/sys/fs/cgroup/unified/cgroup.controllers')) return 'hybrid';
  return existsSync('/sys/fs/cgroup/memory') ? 'v1' : 'none';
}

/** With the directories that the agent looks in as well. */
function isOnPath(program: string): boolean {
  return `${process.env['PATH'] ?? ''}${delimiter}/usr/local/sbin${delimiter}/usr/sbin${delimiter}/sbin`.split(delimiter).some((directory) => directory !== '' && may(join(directory, program), constants.X_OK));
}

function may(path: string, mode: number): boolean {
  try {
    accessSync(path, mode);
    return true;
  } catch {
    // Not there or not ours: both are the answer no.
    return false;
  }
}

function lookAtStateDirectory(path: string): FoundHost['stateDirectory'] {
  const stats = statSync(path, { throwIfNoEntry: false });
  if (stats === undefined) return { path, exists: false, isDirectory: false, isOwn: false, mode: 0, isWritable: false };
  return { path, exists: true, isDirectory: stats.isDirectory(), isOwn: stats.uid === process.getuid?.(), mode: stats.mode, isWritable: may(path, constants.W_OK | constants.X_OK) };
}

/** Of the nearest directory above that exists. */
function lookAtSpace(path: string): FoundHost['space'] {
  if (!existsSync(path)) return lookAtSpace(dirname(path));
  const { bavail, blocks, bsize } = statfsSync(path);
  return { freeBytes: bavail * bsize, totalBytes: blocks * bsize };
}

/** Null when a connection was made. The name is resolved on the way. */
function reach(endpoint: string): Promise<string | null> {
  const [, bracketed, plain, port] = /^(?:\[([^\]]+)\]|([^:]+)):(\d+)$/.exec(endpoint) ?? [];
  const host = bracketed ?? plain;
  if (host === undefined || port === undefined) return Promise.resolve('not of the form host:port');
  return new Promise((settle) => {
    const socket = connect({ host, port: Number(port) });
    const end = (problem: string | null): void => {
      clearTimeout(timer);
      socket.destroy();
      settle(problem);
    };
    const timer = setTimeout(() => end('no answer in time'), endpointDeadlineMs);
    socket.once('connect', () => end(null));
    socket.once('error', (error) => end('code' in error ? String(error.code) : 'no connection'));
  });
}
