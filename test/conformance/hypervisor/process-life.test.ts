/**
 * How the process starts and ends: exit codes, sockets left or removed, signals, the guest's own ends,
 * modes of files. Measured on cloud-hypervisor v53.0-246.
 */
import { spawn } from 'node:child_process';
import { existsSync, statSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { exchange, requestBytes } from './raw-http.ts';
import { countCells, describeOnTargets, type Target } from './targets.ts';
import { runProgram, startVmm, stopVmmsAfterEach, until, type VmmUnderTest } from './vmm-under-test.ts';

stopVmmsAfterEach();

const scratches: string[] = [];
afterEach(async () => {
  for (const scratch of scratches.splice(0)) await rm(scratch, { recursive: true, force: true });
});
async function makeScratch(): Promise<string> {
  const scratch = await mkdtemp(join(tmpdir(), 'nkudo-ch-'));
  scratches.push(scratch);
  return scratch;
}

const modeOf = (path: string) => statSync(path).mode & 0o777;

const endOfRunning = ['vm:shutdown', 'vm:deleted', 'vmm:shutdown'];

async function expectOrderlyEnd(vmm: VmmUnderTest): Promise<void> {
  expect(await vmm.ended).toEqual({ code: 0, signal: null });
  expect(existsSync(vmm.socket)).toBe(false);
  expect(existsSync(`${vmm.socket}.lock`)).toBe(true);
  const events = await vmm.events();
  // The last records may be missing.
  const seen = events.slice(events.indexOf('vm:booted') + 1).filter((event) => !event.startsWith('virtio-device:'));
  expect(seen).toEqual(endOfRunning.slice(0, seen.length));
}

async function logOf(vmm: VmmUnderTest): Promise<string> {
  return readFile(vmm.file('vmm.log'), 'utf8');
}

describeOnTargets('process life', (target: Target) => {
  const cells = countCells(target, 'process life');

  test('makes socket, lock, events, log and serial file for the owner only', async () => {
    const vmm = await startVmm(target);
    await vmm.bringTo('running');
    expect(modeOf(vmm.socket)).toBe(0o700);
    for (const file of ['api.sock.lock', 'events', 'vmm.log', 'serial.log']) expect(modeOf(vmm.file(file)), file).toBe(0o600);
    cells.add(5);
  });

  test.each(['SIGTERM', 'SIGINT'] as const)('ends in order on %s', async (signal) => {
    const vmm = await startVmm(target);
    await vmm.bringTo('running');
    vmm.process.kill(signal);
    await expectOrderlyEnd(vmm);
    expect(await logOf(vmm)).toMatch(/ -- VM exit event\r?\n/);
    cells.add();
  });

  test.each(['SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGQUIT', 'SIGKILL'] as const)('dies of %s and leaves a stale socket', async (signal) => {
    const vmm = await startVmm(target);
    await vmm.bringTo('running');
    vmm.process.kill(signal);
    expect(await vmm.ended).toEqual({ code: null, signal });
    expect(existsSync(vmm.socket)).toBe(true);
    expect(await connectError(vmm.socket)).toBe('ECONNREFUSED');
    expect((await vmm.events()).at(-1)).toBe('vm:booted');
    cells.add();
  });

  test('ends in order when the guest powers off', async () => {
    const vmm = await startVmm(target);
    await vmm.bringTo('running', 'poweroff 20');
    await expectOrderlyEnd(vmm);
    expect(await readFile(vmm.file('serial.log'), 'utf8')).toBe('NKUDO-GUEST-READY\r\nNKUDO-CMDLINE poweroff 20\r\nNKUDO-ACPI ready\r\nNKUDO-POWEROFF\r\n');
    expect(await logOf(vmm)).toMatch(/ -- VM guest exit event\r?\n/);
    cells.add();
  });

  test('ends in order when the guest answers the power button', async () => {
    const vmm = await startVmm(target);
    await vmm.bringTo('running');
    expect((await vmm.put('vm.power-button')).status).toBe(204);
    await expectOrderlyEnd(vmm);
    expect(await readFile(vmm.file('serial.log'), 'utf8')).toContain('NKUDO-IDLE\r\nNKUDO-POWER-BUTTON\r\n');
    cells.add();
  });

  test('queues the power button while paused', async () => {
    const vmm = await startVmm(target);
    await vmm.bringTo('paused');
    expect((await vmm.put('vm.power-button')).status).toBe(204);
    expect(await vmm.state()).toBe('Paused');
    expect((await vmm.put('vm.resume')).status).toBe(204);
    expect(await vmm.ended).toEqual({ code: 0, signal: null });
    cells.add();
  });

  test('runs on when the guest ignores the power button', async () => {
    const vmm = await startVmm(target);
    await vmm.bringTo('running', 'nobutton');
    await vmm.untilSerial('NKUDO-ACPI ready');
    await vmm.put('vm.power-button');
    await vmm.untilSerial('NKUDO-POWER-BUTTON');
    expect(await vmm.state()).toBe('Running');
    cells.add();
  });

  test('ends with code 0 and the events of an orderly end when a vCPU fails; only the log tells', async () => {
    const vmm = await startVmm(target);
    await vmm.bringTo('running', 'crash 20');
    await expectOrderlyEnd(vmm);
    expect(await logOf(vmm)).toMatch(/ERROR:\S+ -- VCPU generated error: VcpuRun\(/);
    expect(await readFile(vmm.file('serial.log'), 'utf8')).toContain('NKUDO-CRASH');
    cells.add();
  });

  test('ends also with --no-shutdown when a vCPU fails', async () => {
    const vmm = await startVmm(target, ['--no-shutdown']);
    await vmm.bringTo('running', 'crash 20');
    expect(await vmm.ended).toEqual({ code: 0, signal: null });
    cells.add();
  });

  test('stays with --no-shutdown when the guest powers off', async () => {
    const vmm = await startVmm(target, ['--no-shutdown']);
    await vmm.bringTo('running', 'poweroff 20');
    const events = await vmm.untilEvents((seen) => seen.includes('vm:shutdown'));
    expect(events.slice(-2)).toEqual(['vm:booted', 'vm:shutdown']);
    expect(await vmm.state()).toBe('Created');
    cells.add();
  });

  test.each(['reboot', 'triple'])('reboots in place on the guest word %s, without a back-off', async (word) => {
    const vmm = await startVmm(target);
    await vmm.bringTo('running', `${word} 10`);
    const events = await vmm.untilEvents((seen) => seen.filter((event) => event === 'vm:rebooted').length >= 3);
    expect(events.slice(1, 7)).toEqual(['vm:booting', 'vm:booted', 'vm:rebooting', 'vm:rebooted', 'vm:rebooting', 'vm:rebooted']);
    expect(vmm.process.exitCode).toBe(null);
    cells.add();
  });

  test('truncates the serial file at a reboot and keeps its inode', async () => {
    const vmm = await startVmm(target);
    await vmm.bringTo('running');
    const inode = statSync(vmm.file('serial.log')).ino;
    expect((await vmm.put('vm.reboot')).status).toBe(204);
    await vmm.untilSerial('NKUDO-IDLE');
    const text = await readFile(vmm.file('serial.log'), 'utf8');
    expect(text.match(/NKUDO-GUEST-READY/g)).toHaveLength(1);
    expect(statSync(vmm.file('serial.log')).ino).toBe(inode);
    cells.add();
  });

  test('refuses the socket of a live VMM and leaves that one alone', async () => {
    const vmm = await startVmm(target);
    const second = await runProgram(target, ['--api-socket', `path=${vmm.socket}`], vmm.directory);
    expect(second.code).toBe(1);
    expect(second.stderr).toContain(`API socket "${vmm.socket}" is already in use by another running instance`);
    expect((await vmm.get('vmm.ping')).status).toBe(200);
    cells.add();
  });

  test('replaces a stale socket, and a regular file, at its path', async () => {
    const first = await startVmm(target);
    first.process.kill('SIGKILL');
    await first.ended;
    const again = await runUntilPing(target, first.socket, first.directory);
    expect(again).toBe(200);
    await rm(first.socket);
    await writeFile(first.socket, 'text');
    expect(await runUntilPing(target, first.socket, first.directory)).toBe(200);
    cells.add(2);
  });

  test('refuses a directory, a missing parent and an over-long path', async () => {
    const scratch = await makeScratch();
    const directory = join(scratch, 'directory');
    await mkdir(directory);
    for (const path of [directory, '/nonexistent/api.sock', join(scratch, 'a'.repeat(110))]) {
      const { code, stderr } = await runProgram(target, ['--api-socket', `path=${path}`], scratch);
      expect(code, path).toBe(1);
      expect(stderr).toContain("Error creation API server's socket");
      cells.add();
    }
  });

  test('ends with code 2 and its usage on an unknown flag, no argument, or a missing value', async () => {
    const scratch = await makeScratch();
    for (const args of [['--bogus'], [], ['--api-socket'], ['--api-socket', join(scratch, 'a'), '--seccomp', 'zz']]) {
      const { code, stderr } = await runProgram(target, args, scratch);
      expect(code, args.join(' ')).toBe(2);
      expect(stderr).toMatch(/Usage|--help/);
      cells.add();
    }
  });

  test('prints its version', async () => {
    const { code, stdout } = await runProgram(target, ['--version'], await makeScratch());
    expect(code).toBe(0);
    expect(stdout).toMatch(/^cloud-hypervisor v\d+\.\d+\S*\nMigration Protocol Versions: 0\n$/);
    cells.add();
  });

  test('leaves its socket stale when a boot from the command line fails', async () => {
    const scratch = await makeScratch();
    const { code, stderr } = await runProgram(target, ['--api-socket', join(scratch, 'api.sock'), '--kernel', '/nonexistent/kernel', '--memory', 'size=64M'], scratch);
    expect(code).toBe(1);
    expect(stderr).toContain('Cannot open kernel file');
    expect(existsSync(join(scratch, 'api.sock'))).toBe(true);
    cells.add();
  });

  test('refuses event files and log files that it can not make', async () => {
    const scratch = await makeScratch();
    for (const flag of ['--event-monitor', '--log-file']) {
      const value = flag === '--event-monitor' ? 'path=/nonexistent/file' : '/nonexistent/file';
      expect((await runProgram(target, ['--api-socket', join(scratch, 'a'), flag, value], scratch)).code).toBe(1);
      cells.add();
    }
  });

  test('leaves the serial socket stale after a kill, and refuses it at the next create', async () => {
    const first = await startVmm(target);
    const serial = { mode: 'Socket', socket: first.file('serial.sock') };
    expect((await first.put('vm.create', first.config({ serial }))).status).toBe(204);
    first.process.kill('SIGKILL');
    await first.ended;
    const second = await startVmm(target);
    const refusal = await second.put('vm.create', second.config({ serial }));
    expect(refusal.status).toBe(500);
    expect(refusal.body).toContain('Address already in use');
    await rm(serial.socket);
    await second.put('vm.delete');
    expect((await second.put('vm.create', second.config({ serial }))).status).toBe(204);
    cells.add(3);
  });

  test('replays a serial socket to its first client and drops it for the second', async () => {
    const vmm = await startVmm(target);
    const path = vmm.file('serial.sock');
    await vmm.put('vm.create', vmm.config({ serial: { mode: 'Socket', socket: path } }));
    expect((await vmm.put('vm.boot')).status).toBe(204);
    const first = readSocket(path);
    await until('the replay', 10_000, async () => first.text().includes('NKUDO-IDLE\r\n'));
    expect(first.text()).toMatch(/^NKUDO-GUEST-READY/);
    const second = readSocket(path);
    await until('the end of the first client', 10_000, async () => first.hasEnded());
    expect(second.hasEnded()).toBe(false);
    second.close();
    cells.add(2);
  });
});

async function runUntilPing(target: Target, socket: string, directory: string): Promise<number | undefined> {
  const child = spawn(target.binary, ['--api-socket', socket], { cwd: directory, stdio: 'ignore' });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  try {
    let status: number | undefined;
    await until('the first ping', 10_000, async () => {
      status = (await exchange(socket, requestBytes('GET', '/api/v1/vmm.ping')).catch(() => null))?.status;
      return status !== undefined || child.exitCode !== null;
    });
    return status;
  } finally {
    child.kill('SIGKILL');
    await ended;
  }
}

async function connectError(path: string): Promise<string | undefined> {
  const socket = connect(path);
  return new Promise((resolve) => {
    socket.once('connect', () => {
      socket.destroy();
      resolve(undefined);
    });
    socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code));
  });
}

function readSocket(path: string) {
  const socket = connect(path);
  let text = '';
  let hasEnded = false;
  socket.on('data', (chunk: Buffer) => (text += chunk.toString('utf8')));
  socket.on('error', () => undefined);
  socket.on('end', () => (hasEnded = true));
  return { text: () => text, hasEnded: () => hasEnded, close: () => socket.destroy() };
}
