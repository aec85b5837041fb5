/**
 * The Hypervisor port on its adapter: every obligation that the agent relies on, on real processes.
 * Who runs is judged by an outside observer (processes-of-directory.ts), not by the adapter's records.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { createCloudHypervisor } from '#edge-agent/adapters/cloud-hypervisor/cloud-hypervisor.ts';
import { systemSerialLines } from '#edge-agent/adapters/consoles/serial-lines.ts';
import { createLogSpace } from '#edge-agent/adapters/system/log-space.ts';
import { createProber } from '#edge-agent/adapters/probes/prober.ts';
import type { EventCursor, Hypervisor, VmSpec } from '#edge-agent/ports/hypervisor.ts';
import { reapersOf, vmmsOf } from './processes-of-directory.ts';
import { countCells, describeOnTargets, type Target } from './targets.ts';
import { until } from './vmm-under-test.ts';

const bases: string[] = [];
const agents: ChildProcess[] = [];

afterEach(async () => {
  for (const agent of agents.splice(0)) agent.kill('SIGKILL');
  for (const base of bases.splice(0)) {
    for (const pid of await vmmsOf(join(base, 'vm'))) process.kill(pid, 'SIGKILL');
    await until('the end of all processes', 10_000, async () => (await vmmsOf(join(base, 'vm'))).length === 0 && (await reapersOf(join(base, 'vm'))).length === 0);
    await rm(base, { recursive: true, force: true });
  }
});

async function makeVmDirectory(): Promise<string> {
  const base = await mkdtemp(join(tmpdir(), 'nkudo-port-'));
  bases.push(base);
  await mkdir(join(base, 'vm'), { mode: 0o700 });
  return join(base, 'vm');
}

const never = new AbortController().signal;
const path = { PATH: process.env['PATH'] ?? '' };
const connect = (target: Target, options: { memoryBytesMax?: number } = {}): Hypervisor =>
  createCloudHypervisor({ binaryPath: target.binary, environment: path, deadlines: { observeMs: 500, callMs: 1_000 }, ...options });

function specFor(target: Target, cmdline: string, replaced: Partial<VmSpec> = {}): VmSpec {
  return { cpuCount: 1, cpuMax: 1, memoryBytes: 64 * 1024 * 1024, boot: { kind: 'kernel', path: target.guest, cmdline }, disks: [], serialLog: true, ...replaced };
}

async function bootGuest(hypervisor: Hypervisor, directory: string, spec: VmSpec): Promise<number> {
  const { pid } = await hypervisor.spawn(directory, never);
  await hypervisor.create(directory, spec, never);
  await hypervisor.boot(directory, never);
  return pid;
}

async function untilSerial(hypervisor: Hypervisor, directory: string, line: string): Promise<void> {
  await until(`the guest's line ${line}`, 20_000, async () => (await readFile(hypervisor.paths(directory).serialLog, 'utf8').catch(() => '')).includes(line));
}

const failure = (code: string) => expect.objectContaining({ code });

describeOnTargets('Hypervisor port', (target) => {
  const cells = countCells(target, 'Hypervisor port');
  afterEach(() => void cells.add());

  test('probes the version and names a missing binary', async () => {
    expect((await connect(target).probe(never)).version).toMatch(/^v\d+\.\d+/);
    const missing = createCloudHypervisor({ binaryPath: '/nonexistent/cloud-hypervisor', environment: path });
    await expect(missing.probe(never)).rejects.toEqual(failure('HYPERVISOR_MISSING'));
    await expect(missing.spawn(await makeVmDirectory(), never)).rejects.toEqual(failure('HYPERVISOR_MISSING'));
  });

  test('makes one VMM out of many spawns at once and leaves no reaper but its own', async () => {
    const directory = await makeVmDirectory();
    const [first, second] = [connect(target), connect(target)];
    const spawned = await Promise.all([first, second, first, second, first].map((hypervisor) => hypervisor.spawn(directory, never)));
    expect(new Set(spawned.map((identity) => identity.pid)).size).toBe(1);
    expect(await vmmsOf(directory)).toEqual([spawned[0]?.pid]);
    await until('the end of the other reapers', 10_000, async () => (await reapersOf(directory)).length === 1);
  });

  test('starts no VMM by itself when the one that many asked for has ended', async () => {
    const directory = await makeVmDirectory();
    const hypervisor = connect(target);
    await Promise.all([1, 2, 3].map(() => hypervisor.spawn(directory, never)));
    await hypervisor.kill(directory, never);
    await until('the end of the reapers', 10_000, async () => (await reapersOf(directory)).length === 0);
    expect(await vmmsOf(directory)).toEqual([]);
  });

  test('adopts a VMM whose agent was killed', async () => {
    const directory = await makeVmDirectory();
    const agent = startAgent('stay', directory, target);
    await saysSpawned(agent);
    const [pid] = await vmmsOf(directory);
    agent.kill('SIGKILL');
    await exitOf(agent);
    const hypervisor = connect(target);
    expect(await hypervisor.observe(directory, never)).toMatchObject({ kind: 'live', process: { pid }, api: 'none' });
    expect((await hypervisor.spawn(directory, never)).pid).toBe(pid);
    expect(await vmmsOf(directory)).toEqual([pid]);
  });

  test('does not double a VMM whose agent was killed right after it started the reaper', async () => {
    const directory = await makeVmDirectory();
    await exitOf(startAgent('die-after-reaper', directory, target));
    const { pid } = await connect(target).spawn(directory, never);
    expect(await vmmsOf(directory)).toEqual([pid]);
    await until('the end of the other reaper', 10_000, async () => (await reapersOf(directory)).length === 1);
    expect(await vmmsOf(directory)).toEqual([pid]);
  });

  test('finds a VMM whose reaper was killed before it wrote the process record', async () => {
    const directory = await makeVmDirectory();
    const hypervisor = connect(target);
    const pid = await bootGuest(hypervisor, directory, specFor(target, 'idle'));
    for (const reaper of await reapersOf(directory)) process.kill(reaper, 'SIGKILL');
    await rm(join(directory, 'vmm.process'));
    expect(await hypervisor.observe(directory, never)).toMatchObject({ kind: 'live', process: { pid }, api: 'running' });
    expect((await hypervisor.spawn(directory, never)).pid).toBe(pid);
    expect(await vmmsOf(directory)).toEqual([pid]);
    // From then on it is known by its record, also when its API is gone with it.
    process.kill(pid, 'SIGKILL');
    await hypervisor.waitForExit(directory, never);
    expect(await vmmsOf(directory)).toEqual([]);
    expect(await hypervisor.observe(directory, never)).toMatchObject({ kind: 'exited', exit: { reason: 'Unknown', process: { pid } } });
  });

  test('finds a VMM whose directory was removed under it, starts no second one, and ends it', async () => {
    const hypervisor = connect(target);
    const directory = await makeVmDirectory();
    const pid = await bootGuest(hypervisor, directory, specFor(target, 'idle'));
    await rm(directory, { recursive: true });
    expect(await hypervisor.observe(directory, never)).toMatchObject({ kind: 'live', process: { pid }, api: 'unreachable' });
    await mkdir(directory, { mode: 0o700 });
    expect(await hypervisor.observe(directory, never)).toMatchObject({ kind: 'live', process: { pid }, api: 'unreachable' });
    await hypervisor.kill(directory, never);
    expect(await hypervisor.observe(directory, never)).toEqual({ kind: 'absent' });
    await until('the end of the VMM', 10_000, async () => (await vmmsOf(directory)).length === 0);
  });

  test('reports Unknown for an end that nobody saw, and can spawn again', async () => {
    const directory = await makeVmDirectory();
    const hypervisor = connect(target);
    const { pid } = await hypervisor.spawn(directory, never);
    for (const reaper of await reapersOf(directory)) process.kill(reaper, 'SIGKILL');
    process.kill(pid, 'SIGKILL');
    await hypervisor.waitForExit(directory, never);
    expect(await vmmsOf(directory)).toEqual([]);
    expect(await hypervisor.observe(directory, never)).toMatchObject({ kind: 'exited', exit: { reason: 'Unknown' } });
    expect((await hypervisor.spawn(directory, never)).pid).not.toBe(pid);
  });

  test('is not fooled by another process with the recorded pid', async () => {
    const directory = await makeVmDirectory();
    const bootId = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    await writeFile(join(directory, 'vmm.process'), JSON.stringify({ pid: process.pid, startTime: '1', bootId }));
    expect(await connect(target).observe(directory, never)).toMatchObject({ kind: 'exited' });
    await connect(target).kill(directory, never);
    expect(await connect(target).observe(directory, never)).toMatchObject({ kind: 'exited', exit: { reason: 'Unknown' } });
  });

  test('reports HostReboot for a VMM of an earlier boot', async () => {
    const directory = await makeVmDirectory();
    const bootId = '00000000-0000-4000-8000-000000000000';
    await writeFile(join(directory, 'vmm.process'), JSON.stringify({ pid: process.pid, startTime: '1', bootId }));
    expect(await connect(target).observe(directory, never)).toMatchObject({ kind: 'exited', exit: { reason: 'HostReboot' } });
  });

  test('observes an untouched directory as absent', async () => {
    expect(await connect(target).observe(await makeVmDirectory(), never)).toEqual({ kind: 'absent' });
  });

  test('gives the guest a vsock device, whose host side only its owner reaches', async () => {
    const [directory, twin] = [await makeVmDirectory(), await makeVmDirectory()];
    const hypervisor = connect(target);
    await bootGuest(hypervisor, directory, specFor(target, 'vsock 1024', { vsock: { cid: 42 } }));
    await untilSerial(hypervisor, directory, 'NKUDO-VSOCK ready cid 42 port 1024');
    const { vsockSocket } = hypervisor.paths(directory);
    expect(statSync(vsockSocket).mode & 0o777).toBe(0o700);
    const ask = (path: string, port: number) => createProber().probe({ action: { kind: 'vsock', port }, vsockSocket: path }, AbortSignal.timeout(20_000));
    expect(await ask(vsockSocket, 1024)).toEqual({ kind: 'success' });
    expect(await ask(vsockSocket, 1025)).toMatchObject({ kind: 'failure', message: expect.stringContaining('refused by the guest') as string });
    // Context ids of one host need not differ: each VMM has a socket of its own.
    await bootGuest(hypervisor, twin, specFor(target, 'vsock 7', { vsock: { cid: 42 } }));
    await untilSerial(hypervisor, twin, 'NKUDO-VSOCK ready cid 42 port 7');
    expect(await ask(hypervisor.paths(twin).vsockSocket, 7)).toEqual({ kind: 'success' });
    expect(await ask(vsockSocket, 1024)).toEqual({ kind: 'success' });
    // It stays over a reset, and a killed VMM's is not in the way of the next.
    await hypervisor.reboot(directory, never);
    expect(await ask(vsockSocket, 1024)).toEqual({ kind: 'success' });
    await hypervisor.kill(directory, never);
    await bootGuest(hypervisor, directory, specFor(target, 'vsock 1024', { vsock: { cid: 42 } }));
    expect(await ask(vsockSocket, 1024)).toEqual({ kind: 'success' });
  });

  test('a guest that does not drive its vsock device answers nobody', async () => {
    const directory = await makeVmDirectory();
    const hypervisor = connect(target);
    await bootGuest(hypervisor, directory, specFor(target, 'idle', { vsock: { cid: 3 } }));
    await untilSerial(hypervisor, directory, 'NKUDO-IDLE');
    const asking = createProber().probe({ action: { kind: 'vsock', port: 1024 }, vsockSocket: hypervisor.paths(directory).vsockSocket }, AbortSignal.timeout(300));
    await expect(asking).rejects.toHaveProperty('name', 'TimeoutError');
  });

  test('an interactive console goes both ways, over resets and without waiting for a reader', async () => {
    const directory = await makeVmDirectory();
    const hypervisor = connect(target);
    await hypervisor.spawn(directory, never);
    await hypervisor.create(directory, specFor(target, 'echo', { serialInteractive: true }), never);
    const { serialSocket, serialLog } = hypervisor.paths(directory);
    const first = await openLine(serialSocket);
    await hypervisor.boot(directory, never);
    await first.until('NKUDO-IDLE');
    first.line.write(Buffer.from('typed at the site\r'));
    await first.until('typed at the site\r');
    expect(existsSync(serialLog)).toBe(false);
    await hypervisor.reboot(directory, never);
    await first.ended;
    // What was printed before anybody listened is kept for the first who does.
    const second = await openLine(serialSocket);
    await second.until('NKUDO-GUEST-READY');
    // A second one has the line instead.
    const third = await openLine(serialSocket);
    await second.ended;
    third.line.write(Buffer.from('again\r'));
    await third.until('again\r');
    await hypervisor.kill(directory, never);
    await bootGuest(hypervisor, directory, specFor(target, 'flood 500', { serialInteractive: true }));
    // Nobody reads 32 KiB, and the guest is done all the same: it answers its power button.
    const late = await openLine(serialSocket);
    late.line.close();
    await hypervisor.powerButton(directory, never);
    expect(await hypervisor.waitForExit(directory, never)).toMatchObject({ reason: 'GuestShutdown' });
  }, 60_000);

  test('a hole in the file of a console stays one, and the VMM goes on behind it', async () => {
    const directory = await makeVmDirectory();
    const hypervisor = connect(target);
    const { serialLog } = hypervisor.paths(directory);
    await bootGuest(hypervisor, directory, specFor(target, 'flood 500'));
    const isLongerThan = (bytes: number) => until(`${bytes} bytes`, 30_000, async () => ((await stat(serialLog).catch(() => null))?.size ?? 0) > bytes);
    await isLongerThan(3 * 4_096);
    expect(await createLogSpace(path).free(serialLog, 4_096, 8_192)).toBe(true);
    await untilSerial(hypervisor, directory, 'NKUDO-FLOOD-END');
    const log = await readFile(serialLog);
    const numbers = (part: Buffer) => [...part.toString('latin1').matchAll(/ (\d+)\r\n/g)].map(([, number]) => Number(number));
    expect(log.subarray(4_096, 8_192).every((byte) => byte === 0)).toBe(true);
    expect(numbers(log.subarray(0, 4_096)).length).toBeGreaterThan(50);
    const behind = numbers(log.subarray(8_192));
    expect(behind).toEqual(Array.from({ length: behind.length }, (_, index) => 500 - behind.length + 1 + index));
    expect((await stat(serialLog)).blocks * 512).toBeLessThan(log.length);
  });

  test('tells of a panic while the guest stands still, and names it when the VMM is ended', async () => {
    const directory = await makeVmDirectory();
    const hypervisor = connect(target);
    await bootGuest(hypervisor, directory, specFor(target, 'panic 20'));
    const words: string[] = [];
    for await (const { source, event } of hypervisor.events(directory, null, never)) {
      words.push(`${source}:${event}`);
      if (event === 'panic') break;
    }
    expect(words.at(-1)).toBe('guest:panic');
    // The VMM goes on with a guest that does nothing any more; ending it is the agent's.
    expect(await hypervisor.observe(directory, never)).toMatchObject({ kind: 'live', api: 'running' });
    expect(await readFile(hypervisor.paths(directory).serialLog, 'utf8')).toContain('NKUDO-PANIC\r\n');
    await hypervisor.shutdownVmm(directory, never);
    expect(await hypervisor.observe(directory, never)).toMatchObject({ kind: 'exited', exit: { reason: 'GuestPanic' } });
  });

  const ends: { name: string; cmdline: string; end: (hypervisor: Hypervisor, directory: string, pid: number) => Promise<void>; expected: object }[] = [
    { name: 'a guest power-off', cmdline: 'poweroff 20', end: async () => undefined, expected: { reason: 'GuestShutdown', code: 0 } },
    { name: 'the power button', cmdline: 'idle', end: (hypervisor, directory) => hypervisor.powerButton(directory, never), expected: { reason: 'GuestShutdown', code: 0 } },
    { name: 'a vCPU failure', cmdline: 'crash 20', end: async () => undefined, expected: { reason: 'VMMCrash', code: 0 } },
    { name: 'SIGKILL', cmdline: 'idle', end: async (_hypervisor, _directory, pid) => void process.kill(pid, 'SIGKILL'), expected: { reason: 'VMMCrash', signal: 'SIGKILL' } },
    { name: 'SIGTERM', cmdline: 'idle', end: async (_hypervisor, _directory, pid) => void process.kill(pid, 'SIGTERM'), expected: { reason: 'Operator', code: 0 } },
    { name: 'vmm.shutdown', cmdline: 'idle', end: (hypervisor, directory) => hypervisor.shutdownVmm(directory, never), expected: { reason: 'Operator', code: 0 } },
  ];
  test.each(ends)('tells the reason of $name and can spawn again', async ({ cmdline, end, expected }) => {
    const directory = await makeVmDirectory();
    const hypervisor = connect(target);
    const pid = await bootGuest(hypervisor, directory, specFor(target, cmdline));
    if (cmdline === 'idle') await untilSerial(hypervisor, directory, 'NKUDO-IDLE');
    await end(hypervisor, directory, pid);
    const exit = await hypervisor.waitForExit(directory, never);
    expect(exit).toMatchObject({ ...expected, process: { pid } });
    expect(exit.atMs).toBeTypeOf('number');
    expect(await hypervisor.observe(directory, never)).toMatchObject({ kind: 'exited', exit: expected });
    expect((await hypervisor.spawn(directory, never)).pid).not.toBe(pid);
    expect(await hypervisor.observe(directory, never)).toMatchObject({ kind: 'live', api: 'none' });
  });

  test('repeats pause, resume, shutdown, delete, kill and vmm.shutdown without harm', async () => {
    const directory = await makeVmDirectory();
    const hypervisor = connect(target);
    await bootGuest(hypervisor, directory, specFor(target, 'idle'));
    const twice = async (act: (directory: string, signal: AbortSignal) => Promise<void>, api: string) => {
      await act(directory, never);
      await act(directory, never);
      expect(await hypervisor.observe(directory, never)).toMatchObject({ kind: 'live', api });
    };
    await twice(hypervisor.pause, 'paused');
    await twice(hypervisor.resume, 'running');
    await twice(hypervisor.shutdown, 'created');
    await hypervisor.boot(directory, never);
    await hypervisor.reboot(directory, never);
    expect(await hypervisor.info(directory, never)).toMatchObject({ state: 'running', memoryBytes: 64 * 1024 * 1024, cpuCount: 1, kernelPath: target.guest });
    await twice(hypervisor.delete, 'none');
    expect(await hypervisor.info(directory, never)).toBe(null);
    await hypervisor.shutdownVmm(directory, never);
    await hypervisor.shutdownVmm(directory, never);
    await hypervisor.kill(directory, never);
    expect(await vmmsOf(directory)).toEqual([]);
  });

  test('replaces an unbooted configuration and refuses to replace a running one', async () => {
    const directory = await makeVmDirectory();
    const hypervisor = connect(target);
    await hypervisor.spawn(directory, never);
    await hypervisor.create(directory, specFor(target, 'idle', { cpuCount: 2, cpuMax: 2 }), never);
    await hypervisor.create(directory, specFor(target, 'idle'), never);
    expect(await hypervisor.info(directory, never)).toMatchObject({ state: 'created', cpuCount: 1 });
    await hypervisor.boot(directory, never);
    await expect(hypervisor.create(directory, specFor(target, 'idle'), never)).rejects.toEqual(failure('HYPERVISOR_FAILED'));
    await expect(hypervisor.boot(directory, never)).rejects.toEqual(failure('HYPERVISOR_FAILED'));
    expect(await hypervisor.observe(directory, never)).toMatchObject({ api: 'running' });
  });

  test('refuses what can not boot, by a code, before anything is made', async () => {
    const directory = await makeVmDirectory();
    const hypervisor = connect(target, { memoryBytesMax: 1024 ** 3 });
    await hypervisor.spawn(directory, never);
    await writeFile(join(directory, 'text'), 'no kernel');
    const kernel = (file: string, initramfsPath?: string): Partial<VmSpec> => ({ boot: { kind: 'kernel', path: file, cmdline: '', ...(initramfsPath === undefined ? {} : { initramfsPath }) } });
    const refusals: [string, Partial<VmSpec>][] = [
      ['KERNEL_NOT_FOUND', kernel('/nonexistent/kernel')],
      ['KERNEL_NOT_FOUND', kernel(directory)],
      ['KERNEL_NOT_FOUND', { boot: { kind: 'firmware', path: '/nonexistent/firmware' } }],
      ['KERNEL_NOT_BOOTABLE', kernel(join(directory, 'text'))],
      ['INITRAMFS_NOT_FOUND', kernel(target.guest, '/nonexistent/initramfs')],
      ['DISK_NOT_FOUND', { disks: [{ name: 'root', path: '/nonexistent/disk', readOnly: false }] }],
      ['NOT_ENOUGH_MEMORY', { memoryBytes: 1024 ** 4 }],
    ];
    for (const [code, replaced] of refusals) {
      const refusal: unknown = await hypervisor.create(directory, specFor(target, 'idle', replaced), never).catch((error: unknown) => error);
      expect(refusal, code).toEqual(failure(code));
      if (code !== 'NOT_ENOUGH_MEMORY') expect(refusal).toHaveProperty('details.path');
      expect(await hypervisor.info(directory, never)).toBe(null);
    }
  });

  test('leaves no configuration behind when the VMM refuses to boot it', async () => {
    const [holder, other] = [await makeVmDirectory(), await makeVmDirectory()];
    const hypervisor = connect(target);
    const disk = { name: 'root', path: join(holder, 'disk.raw'), readOnly: false };
    await writeFile(disk.path, '');
    await truncate(disk.path, 1024 * 1024);
    await bootGuest(hypervisor, holder, specFor(target, 'idle', { disks: [disk] }));
    await hypervisor.spawn(other, never);
    await hypervisor.create(other, specFor(target, 'idle', { disks: [disk] }), never);
    await expect(hypervisor.boot(other, never)).rejects.toEqual(failure('DISK_IN_USE'));
    expect(await hypervisor.info(other, never)).toBe(null);

    const gone = { name: 'data', path: join(other, 'gone.raw'), readOnly: false };
    await writeFile(gone.path, '');
    await hypervisor.create(other, specFor(target, 'idle', { disks: [gone] }), never);
    await rm(gone.path);
    await expect(hypervisor.boot(other, never)).rejects.toEqual(failure('DISK_NOT_FOUND'));
    expect(await hypervisor.info(other, never)).toBe(null);

    await hypervisor.create(other, specFor(target, 'idle', { cpuCount: 4, cpuMax: 2 }), never);
    await expect(hypervisor.boot(other, never)).rejects.toEqual(failure('SPEC_REFUSED'));
    expect(await hypervisor.info(other, never)).toBe(null);
  });

  test('works in a directory whose path is longer than a socket address', async () => {
    const base = await mkdtemp(join(tmpdir(), 'nkudo-port-'));
    bases.push(base);
    const directory = join(base, 'x'.repeat(120), 'y'.repeat(120));
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const hypervisor = connect(target);
    const pid = await bootGuest(hypervisor, directory, specFor(target, 'idle'));
    await untilSerial(hypervisor, directory, 'NKUDO-IDLE');
    expect(await vmmsOf(directory)).toEqual([pid]);
    await hypervisor.kill(directory, never);
    expect(await vmmsOf(directory)).toEqual([]);
  });

  test('delivers events once, goes on at a cursor, and ends with the process', async () => {
    const directory = await makeVmDirectory();
    const hypervisor = connect(target);
    await bootGuest(hypervisor, directory, specFor(target, 'idle'));
    await untilSerial(hypervisor, directory, 'NKUDO-IDLE');
    const seen: string[] = [];
    let cursor: EventCursor | null = null;
    for await (const event of hypervisor.events(directory, null, never)) {
      seen.push(event.event);
      cursor = event.cursor;
      if (event.event === 'booted') break;
    }
    expect(seen).toEqual(['starting', 'booting', 'booted']);
    await hypervisor.pause(directory, never);
    const rest: string[] = [];
    const reading = (async () => {
      for await (const event of connect(target).events(directory, cursor, never)) rest.push(event.event);
    })();
    await hypervisor.resume(directory, never);
    await until('the events of the pause', 10_000, async () => rest.includes('resumed'));
    await hypervisor.kill(directory, never);
    await reading;
    expect(rest).toEqual(['pausing', 'paused', 'resuming', 'resumed']);

    await hypervisor.spawn(directory, never);
    for await (const event of hypervisor.events(directory, cursor, never)) {
      // A cursor of the earlier VMM means nothing for this one.
      expect(event.event).toBe('starting');
      break;
    }
  });

  test('gives up on a VMM that does not answer, and still ends it', async () => {
    const directory = await makeVmDirectory();
    const hypervisor = connect(target);
    const pid = await bootGuest(hypervisor, directory, specFor(target, 'idle'));
    process.kill(pid, 'SIGSTOP');
    await until('the stop', 10_000, async () => / T /.test(readFileSync(`/proc/${pid}/stat`, 'utf8')));
    await expect(hypervisor.info(directory, never)).rejects.toEqual(failure('HYPERVISOR_TIMEOUT'));
    expect(await hypervisor.observe(directory, never)).toMatchObject({ kind: 'live', api: 'unreachable' });
    await hypervisor.kill(directory, never);
    expect(await vmmsOf(directory)).toEqual([]);
  });

  test('rejects with the reason of its signal, and without a VMM by a code', async () => {
    const directory = await makeVmDirectory();
    const hypervisor = connect(target);
    await expect(hypervisor.boot(directory, never)).rejects.toEqual(failure('HYPERVISOR_FAILED'));
    await hypervisor.spawn(directory, never);
    const controller = new AbortController();
    const waiting = hypervisor.waitForExit(directory, controller.signal);
    controller.abort(new Error('the agent stops'));
    await expect(waiting).rejects.toThrow('the agent stops');
    await expect(hypervisor.info(directory, controller.signal)).rejects.toThrow('the agent stops');
  });

  test('keeps text of a spec out of any shell', async () => {
    const directory = await makeVmDirectory();
    const hypervisor = connect(target);
    const cmdline = 'idle $(touch injected) `touch injected`; touch injected';
    await bootGuest(hypervisor, directory, specFor(target, cmdline));
    await untilSerial(hypervisor, directory, `NKUDO-CMDLINE ${cmdline}`);
    expect(existsSync(join(directory, 'injected'))).toBe(false);
  });
});

async function openLine(path: string) {
  const line = await systemSerialLines.connect(path);
  if (line === null) throw new Error('nobody listens at the serial socket');
  let text = '';
  const ended = (async () => {
    for await (const bytes of line.output) text += Buffer.from(bytes).toString();
  })();
  return { line, ended, until: (words: string) => until(`the words ${words}`, 30_000, async () => text.includes(words), () => text.slice(-500)) };
}

function startAgent(what: 'stay' | 'die-after-reaper', directory: string, target: Target): ChildProcess {
  const script = join(import.meta.dirname, 'short-lived-agent.ts');
  const agent = spawn(process.execPath, [script, what, directory, target.binary], { stdio: ['ignore', 'pipe', 'inherit'], cwd: import.meta.dirname });
  agents.push(agent);
  return agent;
}

async function saysSpawned(agent: ChildProcess): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    agent.stdout?.once('data', () => resolve());
    agent.once('exit', (code) => reject(new Error(`the agent ended with ${String(code)}`)));
  });
}

async function exitOf(agent: ChildProcess): Promise<void> {
  if (agent.exitCode !== null || agent.signalCode !== null) return;
  await new Promise((resolve) => agent.once('exit', resolve));
}
