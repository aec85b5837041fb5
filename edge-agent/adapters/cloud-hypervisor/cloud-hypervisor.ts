/**
 * The Hypervisor port on Cloud Hypervisor (v53 and newer), one VMM process for each VM directory,
 * started through a reaper (reaper.ts) and driven over its REST API (api-client.ts).
 *
 * Keeps no state of its own: each call looks at the directory and the process. So an agent that was
 * killed has lost nothing that this adapter needs.
 */
import { spawn as spawnProcess } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { access, constants, open, readlink } from 'node:fs/promises';
import { constants as osConstants, totalmem } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { AppError, isAppError } from '#api/model/error-codes.ts';
import type {
  EventCursor,
  Hypervisor,
  HypervisorFacts,
  ProcessIdentity,
  VmmApiState,
  VmmCounters,
  VmmEvent,
  VmmExit,
  VmMachine,
  VmmInfo,
  VmmObservation,
  VmSpec,
} from '../../ports/hypervisor.ts';
import type { Confinement, VmmUser } from '../../ports/isolation.ts';
import { type Answer, apiGet, apiPut, type CallOptions } from './api-client.ts';
import { isErrno } from '../system/errno.ts';
import { followEvents } from './event-stream.ts';
import { decideExitReason, readLogVerdict, splitStatus } from './exit-reason.ts';
import { findByDirectory, identify, isAlive, readBootId } from './process-table.ts';
import { handOver } from './hand-over.ts';
import { claimHeldStatus, completeProcessRecord, isClaimHeld, readExitRecord, readProcessRecord, startReaper, startReaperUnit } from './reaper.ts';
import { findHugepageProblem } from './hugepages.ts';
import { createMachineCalls, readMachine } from './machine.ts';
import { bootRefusalError, findFileProblem, refusalError } from './refusal.ts';
import { absolutePath, deriveVmConfig, type LandlockRule } from './vm-config.ts';
import { runFolder, vmFile, vmFileName, vmFiles } from './vm-files.ts';

/** Longest waits, milliseconds. The measured times are far below them; a loaded host needs the room. */
export interface HypervisorDeadlines {
  /** From the start of the process to its first answer (3-30 ms measured). */
  readonly spawnMs: number;
  /** vmm.ping and vm.info while observing. */
  readonly observeMs: number;
  /** Calls that change little: create, pause, resume, power button, delete. */
  readonly callMs: number;
  /** vm.boot and vm.reboot; 300 vCPUs took 438 ms. */
  readonly bootMs: number;
  /** From vmm.shutdown or SIGKILL to the process being gone. */
  readonly exitMs: number;
  /** From asking a guest for a processor, memory or a device until it has answered by its acts. */
  readonly guestMs: number;
}

export const defaultDeadlines: HypervisorDeadlines = { spawnMs: 10_000, observeMs: 2_000, callMs: 10_000, bootMs: 60_000, exitMs: 20_000, guestMs: 10_000 };

export interface CloudHypervisorOptions {
  /** Path or name of the `cloud-hypervisor` executable. */
  readonly binaryPath: string;
  /** The whole environment of reaper and VMM. It needs PATH for `flock`, `mv`, `rm` and `sync`. */
  readonly environment: Readonly<Record<string, string>>;
  readonly deadlines?: Partial<HypervisorDeadlines>;
  /** Guest memory above this is refused, since a VMM eats the host's RAM instead of refusing; default: all of the host's. */
  readonly memoryBytesMax?: number;
  /** `try`: VMMs confine themselves to their files with Landlock wherever the kernel lets them; default: they don't. */
  readonly landlock?: 'try' | 'off';
  /** Where the kernel says how many huge pages are free; default: its own place. */
  readonly hugepagesDirectory?: string;
}

/** Of a spawn that nobody asked to confine. */
const unconfined: Confinement = { user: null, prefix: [], cgroups: [], oomFiles: [] };
/** Where disks lie that the agent made; ones that are plugged in later are among them. */
const disksFolder = 'disks';
const tunDevice = '/dev/net/tun';
/** Measured on cloud-hypervisor v53: it reads the flags of a tap here, also of one that is plugged in later. */
const tapFolder = '/sys/devices/virtual/net';

/** How often a process or file that gives no notification is looked at while a call waits for it. */
const pollMs = 3;
/** How long observing waits for an ending VMM to be recorded. */
const settleMs = 1_000;
/** The end of a log is searched for the words of the end; a crash prints a stack trace of a few KiB. */
const logTailBytes = 64 * 1024;

export function createCloudHypervisor(options: CloudHypervisorOptions): Hypervisor {
  const deadlines = { ...defaultDeadlines, ...options.deadlines };
  const memoryBytesMax = options.memoryBytesMax ?? totalmem();
  let knownVersion: string | null = null;
  let landlock: HypervisorFacts['landlock'] = 'unknown';

  const callOptions = (vmDirectory: string, signal: AbortSignal, timeoutMs: number = deadlines.callMs): CallOptions => ({ vmDirectory, signal, timeoutMs });

  async function probe(signal: AbortSignal): Promise<HypervisorFacts> {
    const version = await readVersion(options, signal);
    knownVersion = version;
    return { binaryPath: options.binaryPath, version, isKvmUsable: await isKvmUsable(), landlock };
  }

  async function observe(vmDirectory: string, signal: AbortSignal): Promise<VmmObservation> {
    const presence = await lookAt(vmDirectory, signal);
    switch (presence.kind) {
      case 'absent':
      case 'starting':
        return presence;
      case 'live':
        return { kind: 'live', process: presence.process, ...(await readApi(vmDirectory, presence.process, signal)) };
      case 'gone':
        return { kind: 'exited', exit: await describeExit(vmDirectory, presence.process, signal) };
    }
  }

  async function readApi(vmDirectory: string, process: ProcessIdentity, signal: AbortSignal): Promise<{ readonly api: VmmApiState; readonly machine?: VmMachine }> {
    try {
      const answer = await apiGet('/vm.info', callOptions(vmDirectory, signal, deadlines.observeMs));
      if (!answer.ok) return { api: answer.refusal.status === 404 ? 'none' : 'unreachable' };
      const api = apiStateOf(answer.body.state) ?? 'unreachable';
      return api === 'running' || api === 'paused' ? { api, machine: await readMachine(answer.body, { pid: process.pid, vmDirectory }) } : { api };
    } catch (error) {
      if (isAppError(error)) return { api: 'unreachable' };
      throw error;
    }
  }

  async function describeExit(vmDirectory: string, process: ProcessIdentity, signal: AbortSignal): Promise<VmmExit> {
    const record = await readExitRecord(vmDirectory);
    const isRecorded = record !== null && isSame(record.process, process);
    const version = knownVersion ?? (await probe(signal).then((facts) => facts.version, () => ''));
    const reason = decideExitReason({
      status: isRecorded ? record.status : undefined,
      isFromEarlierBoot: process.bootId !== (await readBootId()),
      // Counted only for a VMM with limits of its own.
      wasOomKilled: isRecorded && record.oomKills > 0,
      logVerdict: readLogVerdict(version, await readTail(vmFile(vmDirectory, 'log'))),
    });
    if (!isRecorded) return { reason, process };
    return { reason, process, atMs: record.atMs, ...splitStatus(record.status, osConstants.signals) };
  }

  async function spawn(vmDirectory: string, signal: AbortSignal, spawnOptions: SpawnOptions = {}): Promise<ProcessIdentity> {
    const done = new AbortController();
    try {
      return await untilAnswers(vmDirectory, signal, spawnOptions, done.signal);
    } finally {
      done.abort();
    }
  }

  async function untilAnswers(vmDirectory: string, signal: AbortSignal, spawnOptions: SpawnOptions, done: AbortSignal): Promise<ProcessIdentity> {
    const deadline = AbortSignal.timeout(deadlines.spawnMs);
    let reaper: LaunchedReaper | null = null;
    for (;;) {
      signal.throwIfAborted();
      if (deadline.aborted) throw new AppError('HYPERVISOR_TIMEOUT', `the VMM did not answer within ${deadlines.spawnMs} ms of its start`);
      const presence = await lookAt(vmDirectory, signal);
      if (presence.kind === 'live') {
        // A reaper of ours that came second has to be gone first: it would start a VMM after the end of this one.
        const isOurReaperDone = reaper === null || reaper.status !== null || reaper.failure !== null || reaper.pid === presence.reaperPid;
        if (isOurReaperDone && (await answersPing(vmDirectory, signal))) {
          if (!presence.isRecorded) await completeProcessRecord(vmDirectory, presence.process);
          return presence.process;
        }
      } else if (presence.kind !== 'starting') {
        if (reaper === null || reaper.status === claimHeldStatus) reaper = launch(vmDirectory, spawnOptions, done);
        else if (reaper.failure !== null || reaper.status !== null) throw await spawnError(vmDirectory, reaper.failure);
      }
      await delay(pollMs, undefined, { signal });
    }
  }

  function launch(vmDirectory: string, { guardDirectory, confinement = unconfined }: SpawnOptions, done: AbortSignal): LaunchedReaper {
    mkdirSync(join(vmDirectory, runFolder), { recursive: true, mode: 0o700 });
    const command = [
      ...confinement.prefix,
      options.binaryPath,
      '--api-socket',
      `path=${vmFiles.apiSocket}`,
      '--event-monitor',
      `path=${vmFiles.events}`,
      '-v', // The lines that tell exits apart are at this level.
      '--log-file',
      vmFiles.log,
      '--seccomp',
      'true',
    ];
    const words = { vmDirectory, guardDirectory, confinement, command, environment: options.environment };
    const started = confinement.unit === undefined ? startReaper(words) : startReaperUnit(words, confinement.unit, done);
    const reaper: LaunchedReaper = { pid: undefined, status: null, failure: null };
    void started.pid.then((pid) => (reaper.pid = pid));
    started.ended.then(
      (status) => (reaper.status = status),
      (error: unknown) => (reaper.failure = error),
    );
    return reaper;
  }

  async function spawnError(vmDirectory: string, failure: unknown): Promise<AppError> {
    const record = await readExitRecord(vmDirectory);
    const output = (await readTail(vmFile(vmDirectory, 'output'))).trim().slice(-500);
    // 126 and 127 are the shell's own: not executable, not found.
    const code = record?.status === 127 || record?.status === 126 ? 'HYPERVISOR_MISSING' : 'HYPERVISOR_FAILED';
    return new AppError(code, `the VMM ended before it answered: ${output}`, { details: { status: record?.status ?? -1 }, cause: failure });
  }

  async function answersPing(vmDirectory: string, signal: AbortSignal): Promise<boolean> {
    try {
      return (await apiGet('/vmm.ping', callOptions(vmDirectory, signal, deadlines.observeMs))).ok;
    } catch (error) {
      if (isAppError(error)) return false;
      throw error;
    }
  }

  async function create(vmDirectory: string, spec: VmSpec, signal: AbortSignal, { user = null }: { readonly user?: VmmUser | null } = {}): Promise<void> {
    const mostBytes = spec.memoryMaxBytes ?? spec.memoryBytes;
    if (mostBytes > memoryBytesMax) {
      throw new AppError('NOT_ENOUGH_MEMORY', `the microVM asks for ${mostBytes} bytes of memory, the host allows ${memoryBytesMax}`);
    }
    const problem = (await findHugepageProblem(spec, options.hugepagesDirectory)) ?? (await findFileProblem(spec));
    if (problem !== null) throw problem;
    const info = await readInfo(vmDirectory, signal);
    if (info !== null && info.state !== 'created') throw new AppError('HYPERVISOR_FAILED', `a guest is ${info.state} already`);
    if (info !== null) {
      // What a VMM has once shut itself out of, it never gets back.
      if (options.landlock === 'try' && landlock !== 'no' && !hasSameFiles(info, spec)) throw new AppError('HYPERVISOR_FAILED', 'the VMM has confined itself to the files of another configuration');
      await remove(vmDirectory, signal);
    }
    if (user !== null) handOver(vmDirectory, spec, user.userId);
    const place = { vmDirectory, serialLog: vmFileName(vmDirectory, 'serialLog'), serialSocket: vmFileName(vmDirectory, 'serialSocket'), vsockSocket: vmFileName(vmDirectory, 'vsockSocket') };
    const triesLandlock = options.landlock === 'try' && landlock !== 'no' && existsSync(join(vmDirectory, runFolder));
    if (triesLandlock) {
      const confined = await apiPut('/vm.create', deriveVmConfig(spec, { ...place, landlock: landlockRules(vmDirectory) }), callOptions(vmDirectory, signal));
      if (confined.ok) {
        landlock = 'yes';
        return;
      }
      await remove(vmDirectory, signal);
    }
    const answer = await apiPut('/vm.create', deriveVmConfig(spec, place), callOptions(vmDirectory, signal));
    if (answer.ok) {
      // It was refused only with Landlock, so the kernel has none, or an older one than the VMM wants.
      if (triesLandlock) landlock = 'no';
      return;
    }
    // A configuration whose console files could not be opened stays behind in the VMM.
    await remove(vmDirectory, signal);
    throw refusalError('vm.create', answer.refusal);
  }

  async function boot(vmDirectory: string, signal: AbortSignal): Promise<void> {
    // Read first: a refused boot drops the device that failed from the configuration.
    const info = await readInfo(vmDirectory, signal);
    if (info !== null && info.state !== 'created') throw new AppError('HYPERVISOR_FAILED', `a guest is ${info.state} already`);
    const answer = await apiPut('/vm.boot', undefined, callOptions(vmDirectory, signal, deadlines.bootMs));
    if (answer.ok) return;
    const error = await bootRefusalError(info === null ? null : specOf(info), answer.refusal);
    await remove(vmDirectory, signal);
    throw error;
  }

  /** Makes a transition; a refusal is fine when the wanted state is there anyway. */
  async function transit(path: '/vm.shutdown' | '/vm.pause' | '/vm.resume', wanted: VmmInfo['state'], vmDirectory: string, signal: AbortSignal): Promise<void> {
    const answer = await apiPut(path, undefined, callOptions(vmDirectory, signal));
    if (answer.ok) return;
    const info = await readInfo(vmDirectory, signal);
    if (info?.state === wanted || (info === null && wanted === 'created')) return;
    throw refusalError(path.slice(1), answer.refusal);
  }

  async function readInfo(vmDirectory: string, signal: AbortSignal): Promise<VmmInfo | null> {
    const answer = await apiGet('/vm.info', callOptions(vmDirectory, signal));
    if (!answer.ok && answer.refusal.status === 404) return null;
    const { config, state, memory_actual_size } = bodyOf('vm.info', answer);
    const known = apiStateOf(state);
    if (known === null) throw new AppError('HYPERVISOR_FAILED', `vm.info shows the unknown state ${state}`);
    const kernelPath = config.payload.kernel ?? config.payload.firmware;
    return {
      state: known,
      memoryBytes: memory_actual_size ?? config.memory?.size ?? 0,
      cpuCount: config.cpus?.boot_vcpus ?? 1,
      ...(kernelPath === undefined ? {} : { kernelPath: absolutePath(vmDirectory, kernelPath) }),
      diskPaths: (config.disks ?? []).flatMap((disk) => (disk.path === undefined ? [] : [absolutePath(vmDirectory, disk.path)])),
    };
  }

  async function remove(vmDirectory: string, signal: AbortSignal): Promise<void> {
    bodyOf('vm.delete', await apiPut('/vm.delete', undefined, callOptions(vmDirectory, signal)));
  }

  async function pidOf(vmDirectory: string, signal: AbortSignal): Promise<number> {
    const presence = await lookAt(vmDirectory, signal);
    if (presence.kind !== 'live') throw new AppError('HYPERVISOR_FAILED', 'the VMM has ended');
    return presence.process.pid;
  }

  async function kill(vmDirectory: string, signal: AbortSignal): Promise<void> {
    const presence = await lookAt(vmDirectory, signal);
    if (presence.kind !== 'live') return;
    signalProcess(presence.process.pid, 'SIGKILL');
    await waitUntilGone(vmDirectory, presence.process, signal, deadlines.exitMs);
  }

  async function shutdownVmm(vmDirectory: string, signal: AbortSignal): Promise<void> {
    const presence = await lookAt(vmDirectory, signal);
    if (presence.kind !== 'live') return;
    try {
      bodyOf('vmm.shutdown', await apiPut('/vmm.shutdown', undefined, callOptions(vmDirectory, signal)));
    } catch (error) {
      // It may have ended by itself meanwhile, which is what was wanted.
      if (await isAlive(presence.process, await readBootId())) throw error;
    }
    await waitUntilGone(vmDirectory, presence.process, signal, deadlines.exitMs);
  }

  async function waitUntilGone(vmDirectory: string, process: ProcessIdentity, signal: AbortSignal, timeoutMs: number): Promise<void> {
    const deadline = AbortSignal.timeout(timeoutMs);
    for (;;) {
      const presence = await lookAt(vmDirectory, signal);
      if (presence.kind !== 'live' || !isSame(presence.process, process)) return;
      if (deadline.aborted) throw new AppError('HYPERVISOR_TIMEOUT', `process ${process.pid} did not end in ${timeoutMs} ms`);
      await delay(pollMs, undefined, { signal });
    }
  }

  async function waitForExit(vmDirectory: string, signal: AbortSignal): Promise<VmmExit> {
    const presence = await lookAt(vmDirectory, signal);
    if (presence.kind === 'absent' || presence.kind === 'starting') return { reason: 'Unknown' };
    if (presence.kind === 'live') {
      // The stream ends with the process; its events are for others.
      for await (const event of followFrom(vmDirectory, presence.process, null, signal)) void event;
      await waitUntilGone(vmDirectory, presence.process, signal, deadlines.exitMs);
    }
    return describeExit(vmDirectory, presence.process, signal);
  }

  async function* events(vmDirectory: string, cursor: EventCursor | null, signal: AbortSignal): AsyncIterable<VmmEvent> {
    const presence = await lookAt(vmDirectory, signal);
    if (presence.kind === 'live' || presence.kind === 'gone') yield* followFrom(vmDirectory, presence.process, cursor, signal);
  }

  function followFrom(vmDirectory: string, process: ProcessIdentity, cursor: EventCursor | null, signal: AbortSignal) {
    return followEvents({ vmDirectory, process, cursor, signal, isAlive: async () => isAlive(process, await readBootId()) });
  }

  return {
    probe,
    paths: (vmDirectory) => ({
      serialLog: vmFile(vmDirectory, 'serialLog'),
      serialSocket: vmFile(vmDirectory, 'serialSocket'),
      vsockSocket: vmFile(vmDirectory, 'vsockSocket'),
      vmmLog: vmFile(vmDirectory, 'log'),
    }),
    spawn,
    observe,
    create,
    boot,
    powerButton: async (vmDirectory, signal) => void bodyOf('vm.power-button', await apiPut('/vm.power-button', undefined, callOptions(vmDirectory, signal))),
    shutdown: (vmDirectory, signal) => transit('/vm.shutdown', 'created', vmDirectory, signal),
    pause: (vmDirectory, signal) => transit('/vm.pause', 'paused', vmDirectory, signal),
    resume: (vmDirectory, signal) => transit('/vm.resume', 'running', vmDirectory, signal),
    reboot: async (vmDirectory, signal) => void bodyOf('vm.reboot', await apiPut('/vm.reboot', undefined, callOptions(vmDirectory, signal, deadlines.bootMs))),
    delete: remove,
    info: readInfo,
    // Counters are integers by the description; unused latencies are u64 max and lose their last digits, which nobody needs.
    counters: async (vmDirectory, signal) => bodyOf('vm.counters', await apiGet('/vm.counters', callOptions(vmDirectory, signal))) as VmmCounters,
    ...createMachineCalls({ callOptions, guestMs: deadlines.guestMs, memoryBytesMax, pidOf }),
    shutdownVmm,
    kill,
    waitForExit,
    events,
  };
}

interface SpawnOptions {
  readonly guardDirectory?: string;
  readonly confinement?: Confinement;
}

/** What a VMM may open besides the files of its own configuration: what it writes, and what is plugged in later. */
function landlockRules(vmDirectory: string): readonly LandlockRule[] {
  // A disk may be plugged in later.
  mkdirSync(join(vmDirectory, disksFolder), { recursive: true, mode: 0o700 });
  const inside = [runFolder, disksFolder].filter((folder) => existsSync(join(vmDirectory, folder)));
  const written = [...inside, ...(existsSync(tunDevice) ? [tunDevice] : [])].map((path) => ({ path, access: 'rw' as const }));
  return [...written, ...(existsSync(tapFolder) ? [{ path: tapFolder, access: 'r' as const }] : [])];
}

function hasSameFiles(info: VmmInfo, { boot, disks }: VmSpec): boolean {
  return info.kernelPath === boot.path && info.diskPaths.join('\0') === disks.map(({ path }) => path).join('\0');
}

interface LaunchedReaper {
  /** Undefined until it is known. */
  pid: number | undefined;
  /** Null while it lives. */
  status: number | null;
  failure: unknown;
}

/** What the directory and the process table say, without asking the VMM more than its pid. */
type Presence =
  | { readonly kind: 'absent' }
  | { readonly kind: 'starting' }
  | { readonly kind: 'live'; readonly process: ProcessIdentity; readonly isRecorded: boolean; readonly reaperPid: number | undefined }
  | { readonly kind: 'gone'; readonly process: ProcessIdentity };

async function lookAt(vmDirectory: string, signal: AbortSignal): Promise<Presence> {
  const deadline = AbortSignal.timeout(settleMs);
  for (;;) {
    const presence = await lookOnce(vmDirectory, signal);
    if (presence !== 'ending') return presence;
    if (deadline.aborted) return { kind: 'starting' };
    await delay(pollMs, undefined, { signal });
  }
}

async function lookOnce(vmDirectory: string, signal: AbortSignal): Promise<Presence | 'ending'> {
  const bootId = await readBootId();
  const record = await readProcessRecord(vmDirectory);
  if (record === null) {
    if (!(await isClaimHeld(vmDirectory))) {
      // Nothing in the directory, yet a VMM may live: somebody may have removed the directory under it.
      const stray = await findByDirectory(vmDirectory, bootId);
      return stray === null ? { kind: 'absent' } : { kind: 'live', process: stray, isRecorded: true, reaperPid: undefined };
    }
    const orphan = await findUnrecorded(vmDirectory, bootId, signal);
    return orphan === null ? { kind: 'starting' } : { kind: 'live', process: orphan, isRecorded: false, reaperPid: undefined };
  }
  const { process, reaperPid } = record;
  if (await isAlive(process, bootId)) return { kind: 'live', process, isRecorded: true, reaperPid };
  const exit = await readExitRecord(vmDirectory);
  if (exit !== null && isSame(exit.process, process)) return { kind: 'gone', process };
  if (process.bootId !== bootId || !(await isClaimHeld(vmDirectory))) return { kind: 'gone', process };
  return 'ending';
}

/** A VMM whose reaper was killed before it wrote the process record: it says its own pid. */
async function findUnrecorded(vmDirectory: string, bootId: string, signal: AbortSignal): Promise<ProcessIdentity | null> {
  try {
    const answer = await apiGet('/vmm.ping', { vmDirectory, signal, timeoutMs: settleMs });
    const pid = answer.ok ? answer.body.pid : undefined;
    // It is the word of a VMM, and what it names may be killed later.
    return typeof pid === 'number' && (await worksIn(pid, vmDirectory)) ? await identify(pid, bootId) : null;
  } catch (error) {
    if (isAppError(error)) return null;
    throw error;
  }
}

async function worksIn(pid: number, vmDirectory: string): Promise<boolean> {
  return readlink(`/proc/${pid}/cwd`).then(
    (directory) => directory === vmDirectory || directory === `${vmDirectory} (deleted)`,
    () => false, // It is gone.
  );
}

function isSame(one: ProcessIdentity, other: ProcessIdentity): boolean {
  return one.pid === other.pid && one.startTime === other.startTime && one.bootId === other.bootId;
}

function bodyOf<T>(call: string, answer: Answer<T>): T {
  if (answer.ok) return answer.body;
  throw refusalError(call, answer.refusal);
}

/** `Shutdown` and `BreakPoint` are in the description but never shown by a default build (measured). */
function apiStateOf(state: string): VmmInfo['state'] | null {
  switch (state) {
    case 'Created':
    case 'Shutdown':
      return 'created';
    case 'Running':
      return 'running';
    case 'Paused':
      return 'paused';
    default:
      return null;
  }
}

/** As much of the spec as the VMM repeats, to say which file made a boot fail. */
function specOf(info: VmmInfo): VmSpec | null {
  if (info.kernelPath === undefined) return null;
  return {
    cpuCount: info.cpuCount,
    cpuMax: info.cpuCount,
    memoryBytes: info.memoryBytes,
    boot: { kind: 'kernel', path: info.kernelPath, cmdline: '' },
    disks: info.diskPaths.map((path, index) => ({ name: `#${index}`, path, readOnly: true })),
    serialLog: false,
  };
}

function signalProcess(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if (!isErrno(error, 'ESRCH')) throw new AppError('HYPERVISOR_FAILED', `process ${pid} can not be signalled`, { cause: error });
  }
}

async function readTail(path: string): Promise<string> {
  let file;
  try {
    // In the folder of the VMM nothing is followed, and nothing may keep the reader waiting.
    file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    const { size } = await file.stat();
    const length = Math.min(size, logTailBytes);
    const { bytesRead, buffer } = await file.read(Buffer.alloc(length), 0, length, size - length);
    return buffer.subarray(0, bytesRead).toString('utf8');
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return '';
    throw error;
  } finally {
    await file?.close();
  }
}

async function isKvmUsable(): Promise<boolean> {
  try {
    await access('/dev/kvm', constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false; // Absent or not allowed: the same for a caller.
  }
}

async function readVersion(options: CloudHypervisorOptions, signal: AbortSignal): Promise<string> {
  const child = spawnProcess(options.binaryPath, ['--version'], { stdio: ['ignore', 'pipe', 'ignore'], env: { ...options.environment }, signal });
  const chunks: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  }).catch((error: unknown) => {
    signal.throwIfAborted();
    throw new AppError('HYPERVISOR_MISSING', `${options.binaryPath} can not be run`, { cause: error });
  });
  const version = /^cloud-hypervisor (\S+)/.exec(Buffer.concat(chunks).toString('utf8'))?.[1];
  if (code !== 0 || version === undefined) throw new AppError('HYPERVISOR_MISSING', `${options.binaryPath} --version does not answer like cloud-hypervisor`);
  return version;
}
