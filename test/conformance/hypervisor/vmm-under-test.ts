/**
 * One VMM process of a target in a directory of its own, driven by raw HTTP, so that the suite does
 * not depend on the adapter that it also holds to account. Owns that nothing is left: every process
 * is killed and every directory removed after its test.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach } from 'vitest';
import { exchange, type RawAnswer, requestBytes } from './raw-http.ts';
import type { Target } from './targets.ts';

export type VmState = 'none' | 'created' | 'running' | 'paused' | 'shutdown';

export interface ProcessEnd {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface VmmUnderTest {
  readonly directory: string;
  readonly socket: string;
  readonly process: ChildProcess;
  file(name: string): string;
  /** A configuration that boots the test guest, with some fields replaced. */
  config(replaced?: Readonly<Record<string, unknown>>): Record<string, unknown>;
  get(call: string): Promise<RawAnswer>;
  put(call: string, body?: unknown): Promise<RawAnswer>;
  /** Brings a fresh VMM to a state; `shutdown` is created, booted and shut down again. */
  bringTo(state: VmState, cmdline?: string): Promise<void>;
  /** What vm.info shows, `none` without a configuration, `gone` without a process. */
  state(): Promise<string>;
  /** `source:event` of everything written so far. */
  events(): Promise<string[]>;
  /** Waits until the condition holds for the events. */
  untilEvents(condition: (events: string[]) => boolean): Promise<string[]>;
  untilSerial(text: string): Promise<string>;
  readonly ended: Promise<ProcessEnd>;
  makeDisk(name?: string): Promise<string>;
}

const liveVmms = new Set<{ stop: () => Promise<void> }>();

/** To be called once in each file: stops what its tests started. */
export function stopVmmsAfterEach(): void {
  afterEach(stopVmms);
}

/** Stops every VMM that this file's tests have started and not stopped yet. */
export async function stopVmms(): Promise<void> {
  await Promise.all([...liveVmms].map((vmm) => vmm.stop()));
  liveVmms.clear();
}

const startTimeoutMs = 20_000;
const waitTimeoutMs = 20_000;
const pollMs = 3;

export async function startVmm(target: Target, extraArguments: readonly string[] = []): Promise<VmmUnderTest> {
  const directory = await mkdtemp(join(tmpdir(), 'nkudo-ch-'));
  const socket = join(directory, 'api.sock');
  const standard = ['--api-socket', `path=${socket}`, '--event-monitor', `path=${join(directory, 'events')}`, '-v', '--log-file', join(directory, 'vmm.log')];
  const child = spawn(target.binary, [...standard, ...extraArguments], { cwd: directory, stdio: 'ignore' });
  const ended = new Promise<ProcessEnd>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code, signal) => resolve({ code, signal }));
  });
  liveVmms.add({
    stop: async () => {
      child.kill('SIGKILL');
      await ended;
      await rm(directory, { recursive: true, force: true });
    },
  });
  const vmm = describeVmm(target, { directory, socket, child, ended });
  await until('the first ping', startTimeoutMs, async () => {
    if (child.exitCode !== null) throw new Error(`the VMM ended with ${child.exitCode}`);
    return (await vmm.get('vmm.ping').catch(() => null))?.status === 200;
  });
  return vmm;
}

/** Runs the program to its end and returns what it printed. */
export async function runProgram(target: Target, args: readonly string[], cwd: string): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const child = spawn(target.binary, [...args], { cwd, stdio: ['ignore', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString('utf8')));
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString('utf8')));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  return { code, stdout, stderr };
}

function describeVmm(target: Target, parts: { directory: string; socket: string; child: ChildProcess; ended: Promise<ProcessEnd> }): VmmUnderTest {
  const { directory, socket, child, ended } = parts;
  const file = (name: string) => join(directory, name);
  const send = (method: string, call: string, body?: unknown) => exchange(socket, requestBytes(method, `/api/v1/${call}`, body === undefined ? undefined : JSON.stringify(body)));
  const config = (replaced: Readonly<Record<string, unknown>> = {}) => ({
    payload: { kernel: target.guest, cmdline: 'idle' },
    memory: { size: 64 * 1024 * 1024 },
    serial: { mode: 'File', file: file('serial.log') },
    console: { mode: 'Off' },
    ...replaced,
  });

  async function put(call: string, body?: unknown) {
    return send('PUT', call, body);
  }

  async function mustPut(call: string, body?: unknown) {
    const answer = await put(call, body);
    if (answer.status !== 204) throw new Error(`${call} answered ${answer.status} ${answer.body}`);
  }

  async function bringTo(state: VmState, cmdline = 'idle') {
    if (state === 'none') return;
    await mustPut('vm.create', config({ payload: { kernel: target.guest, cmdline } }));
    if (state === 'created') return;
    await mustPut('vm.boot');
    // Before this line the guest does not know its power button yet.
    if (cmdline === 'idle') await untilSerial('NKUDO-IDLE');
    if (state === 'paused') await mustPut('vm.pause');
    if (state === 'shutdown') await mustPut('vm.shutdown');
  }

  async function state() {
    try {
      const answer = await send('GET', 'vm.info');
      if (answer.status === 404) return 'none';
      // The state is all that is taken from the answer here.
      return (JSON.parse(answer.body) as { state: string }).state;
    } catch {
      return 'gone';
    }
  }

  async function events() {
    const text = await readFile(file('events'), 'utf8');
    const records = text.split('\n\n').filter((record) => record.trim() !== '' && record.trimEnd().endsWith('}'));
    return records.map((record) => {
      const parsed = JSON.parse(record) as { source: string; event: string };
      return `${parsed.source}:${parsed.event}`;
    });
  }

  async function untilEvents(condition: (seen: string[]) => boolean) {
    let seen: string[] = [];
    await until('the expected events', waitTimeoutMs, async () => {
      seen = await events();
      return condition(seen);
    }, () => seen.join(' '));
    return seen;
  }

  async function untilSerial(text: string) {
    let seen = '';
    await until(`the guest's line ${text}`, waitTimeoutMs, async () => {
      seen = await readFile(file('serial.log'), 'utf8').catch(() => '');
      return seen.includes(text);
    }, () => seen);
    return seen;
  }

  async function makeDisk(name = 'disk.raw') {
    await writeFile(file(name), '');
    await truncate(file(name), 1024 * 1024);
    return file(name);
  }

  return { directory, socket, process: child, file, config, get: (call) => send('GET', call), put, bringTo, state, events, untilEvents, untilSerial, ended, makeDisk };
}

/** Polls a condition; the only waiting in this suite that no event ends. */
export async function until(what: string, timeoutMs: number, condition: () => Promise<boolean>, describe: () => string = () => ''): Promise<void> {
  const deadline = AbortSignal.timeout(timeoutMs);
  for (;;) {
    if (await condition()) return;
    if (deadline.aborted) throw new Error(`${what} did not come within ${timeoutMs} ms ${describe()}`);
    await delay(pollMs);
  }
}

export function chainOf(answer: RawAnswer): string[] {
  // An error body of the VMM is an array of strings; anything else fails the comparison that follows.
  return JSON.parse(answer.body) as string[];
}
