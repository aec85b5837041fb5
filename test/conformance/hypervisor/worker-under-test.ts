/**
 * One microVM driven by the agent's own worker on a target, from its desired state to what the VMM was told and says:
 * decisions, steps, disks, seed and adapter are the real ones. Networks are left to the VMM, which makes taps that are
 * not there; leases, probes and consoles take no part. Stands between adapter and VMM and keeps every call.
 */
import { createHash, randomUUID } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer, request, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { isAbsolute, join } from 'node:path';
import { inertFaultPoints } from '#api/fault-points/fault-points.ts';
import { operationId, planId } from '#api/model/ids.ts';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import { createSlots } from '#api/model/slots.ts';
import { createCloudHypervisor } from '#edge-agent/adapters/cloud-hypervisor/cloud-hypervisor.ts';
import { createGuestDisks } from '#edge-agent/adapters/images/guest-disks.ts';
import type { ImageCache } from '#edge-agent/adapters/images/image-cache.ts';
import { createSeeds } from '#edge-agent/adapters/seed/seeds.ts';
import { createSystemClock, systemEntropy } from '#edge-agent/adapters/system/clock.ts';
import { createVmDirectories } from '#edge-agent/adapters/vm-directories/vm-directories.ts';
import { initialRun } from '#edge-agent/domain/microvm-record.ts';
import type { Hypervisor } from '#edge-agent/ports/hypervisor.ts';
import type { KeptSecrets } from '#edge-agent/ports/kept-secrets.ts';
import type { Logger } from '#edge-agent/ports/logger.ts';
import { deriveVmSpec } from '#edge-agent/steps/vm-spec.ts';
import { createMicroVMWorker } from '#edge-agent/supervisor/microvm-worker.ts';
import { testDesired, testMicroVMId, testRecord } from '#test/builders/edge-microvm.ts';
import { createMemoryJournal } from '#test/fakes/memory-journal.ts';
import { makeQcow2 } from '#test/integration/edge-agent/qcow2.ts';
import { exchange, requestBytes } from './raw-http.ts';
import type { Members } from './vmm-description.ts';
import { until } from './vmm-under-test.ts';

export interface RecordedCall {
  /** Without the prefix of the API, such as `/vm.create`. */
  readonly call: string;
  readonly body: unknown;
  readonly status: number;
}

export interface WorkerUnderTest {
  /** Takes the desired state over and waits until nothing is left to do. @throws when the microVM has a problem */
  bring(change: Change): Promise<void>;
  /** Resolves when the guest has said that it runs, and knows its power button and what comes and goes. */
  guestIsUp(): Promise<void>;
  /** Only gives a VMM the configuration of a start. */
  configure(change: Change): Promise<void>;
  /** PUTs since the last time that it was asked. */
  takeCalls(): readonly RecordedCall[];
  /** vm.info as the VMM says it; null: there is no VMM. */
  info(): Promise<Members | null>;
  /** What the VMM was told to be at its start. */
  told(): Members;
  /** The same with the digest of what lies at the path of each disk. */
  toldWithContent(): Members;
  pid(): Promise<number | null>;
  readonly restarts: () => number;
  close(): Promise<void>;
}

/** Files that a change may name, made for each worker. */
export interface Files {
  readonly guest: string;
  readonly otherGuest: string;
  readonly initramfs: string;
  readonly disk: string;
  readonly otherDisk: string;
}
export type Change = (files: Files) => Partial<DesiredMicroVM>;

/** Content of the images that the cache has; the digest says the format. */
export const images = { raw: Buffer.alloc(1 << 20, 'r'), qcow2: makeQcow2(1 << 20) };
export const digestOf = (content: Buffer): string => createHash('sha256').update(content).digest('hex');

const silent = { debug() {}, info() {}, warn() {}, error() {} };
const logger: Logger = { ...silent, child: () => logger };
const giveUpMs = 60_000;
const never = new AbortController().signal;
const apiSocket = 'run/api.sock';
const vmmSocket = 'run/vmm.sock';

export function createWorkerUnderTest({ binary, guest, hugepagesDirectory }: { readonly binary: string; readonly guest: string; readonly hugepagesDirectory?: string }): WorkerUnderTest {
  const base = mkdtempSync(join(tmpdir(), 'nkudo-fields-'));
  const files = makeFiles(base, guest);
  const id = testMicroVMId;
  const directories = createVmDirectories(base);
  const directory = directories.path(id);
  const calls: RecordedCall[] = [];
  let told: Members = {};
  let recorder: Server | undefined;

  const adapter = createCloudHypervisor({ binaryPath: binary, environment: { PATH: process.env['PATH'] ?? '' }, ...(hugepagesDirectory === undefined ? {} : { hugepagesDirectory }) });
  const hypervisor: Hypervisor = {
    ...adapter,
    async spawn(vmDirectory, signal, options) {
      // It unlinks its path when it is closed, which would be that of the next VMM.
      await closeRecorder();
      const identity = await adapter.spawn(vmDirectory, signal, options);
      await record();
      return identity;
    },
  };

  async function record(): Promise<void> {
    renameSync(join(directory, apiSocket), join(directory, vmmSocket));
    const server = createServer((incoming, answer) => {
      void (async () => {
        const chunks: Buffer[] = [];
        for await (const chunk of incoming) chunks.push(chunk as Buffer); // Without an encoding chunks are buffers.
        const text = Buffer.concat(chunks);
        const { method = '', url = '' } = incoming;
        const onward = request({ socketPath: join(directory, vmmSocket), method, path: url, headers: incoming.headers, agent: false }, (reply) => {
          if (method === 'PUT') note(url.replace('/api/v1', ''), text.toString('utf8'), reply.statusCode ?? 0);
          answer.writeHead(reply.statusCode ?? 500, reply.headers);
          reply.pipe(answer);
        });
        onward.on('error', () => answer.destroy());
        onward.end(text);
      })().catch(() => answer.destroy());
    });
    await new Promise<void>((resolve) => server.listen(join(directory, apiSocket), resolve));
    recorder = server;
  }

  function note(call: string, text: string, status: number): void {
    const body: unknown = text === '' ? undefined : JSON.parse(text);
    calls.push({ call, body, status });
    if (call === '/vm.create') told = body as Members; // The adapter's own JSON object.
  }

  async function closeRecorder(): Promise<void> {
    const server = recorder;
    recorder = undefined;
    server?.closeAllConnections();
    if (server !== undefined) await new Promise((resolve) => server.close(resolve));
  }

  const secretOf = (name: string, key: string) => ({ name, key, resourceVersion: '1', reveal: () => Buffer.from(`#cloud-config\n# ${key} of ${name}\n`) });
  const secrets: KeptSecrets = { load: () => [secretOf('data', 'a'), secretOf('data', 'b'), secretOf('other', 'a')], save: () => {}, list: () => [] };
  const journal = createMemoryJournal();
  const initial = testRecord({ microvmId: id, desired: testDesired({ runPolicy: 'Halted' }), run: initialRun });
  journal.saveMicroVM(initial);
  let fatal: unknown;
  const worker = createMicroVMWorker(initial, {
    journal,
    hypervisor,
    directories,
    files: { check: () => Promise.resolve(), watchFor: () => () => {} },
    networks: { ensure: () => Promise.resolve([]), remove: () => Promise.resolve(), sweep: () => Promise.resolve([]) },
    isolation: { facts: () => ({ users: false, limits: [], cgroups: 'none', systemd: false, landlock: 'unknown', problems: [] }), groupIds: () => [], userOf: () => null, prepare: () => Promise.resolve({ user: null, prefix: [], cgroups: [], oomFiles: [] }), release: () => Promise.resolve(), sweep: () => Promise.resolve([]) },
    disks: createGuestDisks({ stateDirectory: base, directories, cache: cacheIn(base), path: undefined, secrets: () => [] }),
    secrets,
    seeds: createSeeds({ directories, secrets, nameServers: [] }),
    probes: { noticed: () => {}, viewOf: () => undefined, forget: () => {} },
    consoles: { noticed: () => {}, forget: () => {} },
    leases: { viewOf: () => undefined, prepare: () => Promise.resolve(), noticed: () => {}, guardDirectoryOf: () => undefined, isHeld: () => false },
    hostMemoryBytes: Number.MAX_SAFE_INTEGER,
    clock: createSystemClock(),
    entropy: systemEntropy,
    faults: inertFaultPoints(),
    logger,
    bootSlots: createSlots(1),
    reporter: { observed: () => {}, reportsQueued: () => {} },
    onFatal: (error) => void (fatal = error),
  });

  const desiredOf = (change: Change): DesiredMicroVM => testDesired({ boot: { kind: 'kernel', path: files.guest, cmdline: 'idle' }, ...change(files) });

  async function bring(change: Change): Promise<void> {
    const { revision, ...rest } = worker.record();
    const desired = desiredOf(change);
    const next = { ...rest, desired, revision: revision + 1, generation: revision + 1, operation: { id: operationId(randomUUID()), planId: planId(randomUUID()), kind: 'Update', state: 'accepted', attempt: 0 } } as const;
    journal.saveMicroVM(next);
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`not settled within ${giveUpMs} ms: ${JSON.stringify(worker.situation())}`)), giveUpMs);
      const look = (): void => {
        const { progress, problem } = worker.situation();
        if (fatal === undefined && problem === undefined && progress !== 'settled') return;
        // The record says so a moment later.
        if (problem === undefined && worker.record().operation?.state !== 'done') return;
        clearTimeout(timer);
        leave();
        if (problem === undefined && fatal === undefined) resolve();
        else reject(new Error(`the microVM has a problem: ${problem?.message ?? String(fatal)}`));
      };
      const leave = worker.onSituation(look);
      worker.take(next);
    });
  }

  /** Of two workers the same things have the same paths. */
  const portable = (json: string): Members => JSON.parse(json.replaceAll(base, '/base')) as Members; // An object, by whoever calls it.

  async function info(): Promise<Members | null> {
    if (recorder === undefined || !existsSync(join(directory, vmmSocket))) return null;
    const answer = await exchange(join(directory, vmmSocket), requestBytes('GET', '/api/v1/vm.info')).catch(() => null);
    return answer === null ? null : portable(answer.body); // Held to the description by the caller.
  }

  async function configure(change: Change): Promise<void> {
    await directories.prepare(id);
    await hypervisor.spawn(directory, never);
    await hypervisor.create(directory, deriveVmSpec({ ...initial, desired: desiredOf(change) }, []), never);
  }

  function toldWithContent(): Members {
    const disks = told['disks'] as readonly Members[] | undefined; // As the adapter wrote it.
    if (disks === undefined) return portable(JSON.stringify(told));
    const withContent = disks.map((disk) => {
      const path = String(disk['path']);
      return { ...disk, path: `${path} ${digestOf(readFileSync(isAbsolute(path) ? path : join(directory, path)))}` };
    });
    return portable(JSON.stringify({ ...told, disks: withContent }));
  }

  return {
    bring,
    configure,
    guestIsUp: () => until("the guest's line", giveUpMs, async () => readFileSync(join(directory, 'run/serial.log'), 'utf8').includes('NKUDO-IDLE')),
    takeCalls: () => calls.splice(0),
    info,
    told: () => portable(JSON.stringify(told)),
    toldWithContent,
    async pid() {
      const seen = await adapter.observe(directory, never);
      return seen.kind === 'live' ? seen.process.pid : null;
    },
    restarts: () => worker.record().run.restarts,
    async close() {
      await worker.stop();
      await adapter.kill(directory, never).catch(() => {});
      await closeRecorder();
      rmSync(base, { recursive: true, force: true });
    },
  };
}

function makeFiles(base: string, guest: string): Files {
  const inBase = (name: string): string => join(base, name);
  writeFileSync(inBase('guest'), readFileSync(guest));
  writeFileSync(inBase('other-guest'), readFileSync(guest));
  writeFileSync(inBase('initramfs'), Buffer.alloc(4_096));
  for (const name of ['one.raw', 'two.raw']) {
    writeFileSync(inBase(name), name);
    truncateSync(inBase(name), 1 << 20);
  }
  return { guest: inBase('guest'), otherGuest: inBase('other-guest'), initramfs: inBase('initramfs'), disk: inBase('one.raw'), otherDisk: inBase('two.raw') };
}

/** What a transfer would have brought is there. */
function cacheIn(base: string): ImageCache {
  return {
    async find({ image }) {
      const content = image.sha256 === digestOf(images.qcow2) ? images.qcow2 : images.raw;
      const path = join(base, `image-${digestOf(content)}`);
      writeFileSync(path, content);
      return { kind: 'cached', path, sha256: digestOf(content), isFileSystem: false };
    },
    forgo: () => {},
    discard: () => Promise.resolve(),
    makeRoom: () => Promise.resolve(),
    stop: () => Promise.resolve(),
  };
}
