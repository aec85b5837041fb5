/**
 * The launcher with stand-ins for the versions of the agent: small scripts that are ready, end, hang or ask to be started
 * again. What it keeps must survive its own end at any moment, a torn file and a machine that started anew.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { encodeSelection, parseSelection, type SlotSelection } from '#edge-agent/domain/slot-selection.ts';
import { untilTrue } from './bare-root.ts';

const launcher = join(import.meta.dirname, '..', '..', '..', 'edge-agent', 'packaging', 'launcher.sh');
/** Stand-ins write down each start, once they are prepared for signals. */
const ready = 'echo "$NKUDO_EDGE_START_ID" >"$NKUDO_EDGE_AGENT_DIR/ready.new"; mv "$NKUDO_EDGE_AGENT_DIR/ready.new" "$NKUDO_EDGE_AGENT_DIR/ready"';
const prepare = 'sleeper=; trap \'kill $sleeper; exit 0\' TERM; trap \'kill $sleeper; exit 75\' HUP; sleep 1000 >/dev/null 2>&1 & sleeper=$!';
const waits = `${prepare}\n@started\nwait $sleeper`;
const healthy = `${prepare}\n@started\n${ready}\nwait $sleeper`;

let root: string;
let children: ChildProcess[];
let text: string;

const lib = (): string => join(root, 'lib');
const agentDirectory = (): string => join(root, 'state', 'agent');
const starts = (name: string): number => (existsSync(join(root, 'starts')) ? readFileSync(join(root, 'starts'), 'utf8').split('\n').filter((line) => line === name).length : 0);
const selection = (): SlotSelection => parseSelection(readFileSync(join(agentDirectory(), 'selection'), 'utf8'));
const until = (what: string, condition: () => boolean): Promise<void> => untilTrue(what, condition, () => text);

function writeVersion(slot: 'base' | 'a' | 'b', name: string, body: string): void {
  const directory = slot === 'base' ? lib() : join(agentDirectory(), 'slots', slot);
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, 'nkudo-edge'), `#!/bin/sh\n[ "$1" = run ] || { echo "${name} $*"; exit 0; }\n${(body.includes('@started') ? body : `@started\n${body}`).replace('@started', `echo ${name} >>"${join(root, 'starts')}"`)}\n`, { mode: 0o755 });
  writeFileSync(join(directory, 'version'), `${name}\n`);
}

function select(chosen: Partial<SlotSelection>): void {
  mkdirSync(agentDirectory(), { recursive: true });
  writeFileSync(join(agentDirectory(), 'selection'), `${encodeSelection({ running: 'base', previous: null, trial: null, packaged: '1.0.0', ...chosen })}\n`);
}

function start(...args: string[]): { readonly child: ChildProcess; readonly ended: Promise<number | string | null> } {
  const child = spawn(launcher, args, { env: { PATH: process.env['PATH'], NKUDO_EDGE_LIB: lib(), NKUDO_EDGE_AGENT_DIR: agentDirectory() }, stdio: ['ignore', 'pipe', 'pipe'] });
  children.push(child);
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (text += chunk.toString()));
  return { child, ended: new Promise((resolve) => child.once('close', (code, signal) => resolve(signal ?? code))) };
}

const agentPid = (): number => Number(readFileSync(join(agentDirectory(), 'child'), 'utf8').split(' ')[0]);

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'nkudo-launcher-'));
  children = [];
  text = '';
  mkdirSync(join(root, 'state'));
});

afterEach(() => {
  for (const child of children) child.kill('SIGKILL');
  try {
    process.kill(agentPid(), 'SIGKILL');
  } catch {
    // None is left over, as it should be.
  }
  rmSync(root, { recursive: true, force: true, maxRetries: 5 });
});

test('without anything but the package it starts that, and ends with it', async () => {
  writeVersion('base', '1.0.0', healthy);
  const { child, ended } = start('run');
  await until('the agent', () => existsSync(join(agentDirectory(), 'ready')));
  expect(selection()).toEqual({ running: 'base', previous: null, trial: null, packaged: '1.0.0' });
  child.kill('SIGTERM');
  expect(await ended).toBe(0);
});

test('a command is run by the version that runs', async () => {
  writeVersion('base', '1.0.0', healthy);
  writeVersion('a', '2.0.0', healthy);
  select({ running: 'a', previous: 'base' });
  await start('status', '--output', 'json').ended;
  expect(text).toBe('2.0.0 status --output json\n');
});

test('[E9] a version on trial that gets ready becomes the one that runs, and the one before stays', async () => {
  writeVersion('base', '1.0.0', healthy);
  writeVersion('a', '2.0.0', healthy);
  const { child, ended } = start('run');
  await until('the packaged agent', () => existsSync(join(agentDirectory(), 'ready')));
  select({ trial: { slot: 'a', needs: 'start', deadlineSeconds: 300 } });
  process.kill(agentPid(), 'SIGHUP');
  await until('the new one to be kept', () => selection().running === 'a');
  expect(selection()).toMatchObject({ previous: 'base', trial: null });
  child.kill('SIGTERM');
  expect(await ended).toBe(0);
  expect(starts('2.0.0')).toBe(1);
});

test('[E9] a version that ends before it is ready is tried three times, also over ends of the launcher, and then given up', async () => {
  writeVersion('base', '1.0.0', healthy);
  writeVersion('a', '2.0.0', 'kill -KILL $PPID; exit 1');
  select({ trial: { slot: 'a', needs: 'start', deadlineSeconds: 300 } });
  for (let turn = 1; turn <= 3; turn += 1) {
    expect(await start('run').ended).toBe('SIGKILL');
    expect(starts('2.0.0')).toBe(turn);
  }
  start('run');
  await until('the version before', () => starts('1.0.0') === 1);
  expect(selection()).toMatchObject({ running: 'base', trial: null });
  expect(readFileSync(join(agentDirectory(), 'failed/a'), 'utf8')).toBe('ended 3 times before it was ready\n');
  expect(starts('2.0.0')).toBe(3);
});

test('[E9] a version that can not even be executed is given up', async () => {
  writeVersion('base', '1.0.0', healthy);
  writeVersion('a', '2.0.0', '');
  writeFileSync(join(agentDirectory(), 'slots/a/nkudo-edge'), Buffer.from('\x7fELF\u0002\u0001torn'), { mode: 0o755 });
  select({ trial: { slot: 'a', needs: 'start', deadlineSeconds: 300 } });
  start('run');
  await until('the version before', () => starts('1.0.0') === 1);
  expect(selection()).toMatchObject({ running: 'base', trial: null });
});

test('[E9] a version that hangs is ended at its deadline', async () => {
  writeVersion('base', '1.0.0', healthy);
  writeVersion('a', '2.0.0', 'trap "" TERM; while :; do sleep 1; done');
  select({ trial: { slot: 'a', needs: 'start', deadlineSeconds: 2 } });
  start('run');
  await until('the version before', () => starts('1.0.0') === 1);
  expect(readFileSync(join(agentDirectory(), 'failed/a'), 'utf8')).toBe('was not ready within 2 s\n');
});

test('[E9] a version that was kept and then ends again and again before it is ready makes room for the one before, once', async () => {
  writeVersion('base', '1.0.0', 'exit 1');
  writeVersion('a', '2.0.0', 'exit 1');
  select({ running: 'a', previous: 'base' });
  for (let turn = 1; turn <= 4; turn += 1) expect(await start('run').ended).toBe(1);
  // The fifth goes back at once; that one ends as well, and there is none before it.
  expect(await start('run').ended).toBe(1);
  expect(selection()).toMatchObject({ running: 'base', previous: null });
  expect([starts('2.0.0'), starts('1.0.0')]).toEqual([5, 1]);
  expect(await start('run').ended).toBe(1);
  expect([starts('2.0.0'), starts('1.0.0')]).toEqual([5, 2]);
});

test('an end that no other version could have helped, and a stop, count against none', async () => {
  writeVersion('base', '1.0.0', healthy);
  writeVersion('a', '2.0.0', 'exit 78');
  select({ running: 'a', previous: 'base' });
  for (let turn = 0; turn < 6; turn += 1) expect(await start('run').ended).toBe(78);
  writeVersion('b', '3.0.0', waits);
  select({ running: 'a', previous: 'base', trial: { slot: 'b', needs: 'start', deadlineSeconds: 300 } });
  for (let turn = 1; turn <= 4; turn += 1) {
    const { child, ended } = start('run');
    await until('the trial', () => starts('3.0.0') === turn);
    child.kill('SIGTERM');
    await ended;
  }
  expect(selection()).toMatchObject({ running: 'a', trial: { slot: 'b' } });
  expect(starts('1.0.0')).toBe(0);
});

test('the agent of a launcher that was killed is ended before another is started', async () => {
  writeVersion('base', '1.0.0', healthy);
  const first = start('run');
  await until('the agent', () => existsSync(join(agentDirectory(), 'ready')));
  const orphan = agentPid();
  first.child.kill('SIGKILL');
  start('run');
  await until('the next agent', () => starts('1.0.0') === 2);
  expect(agentPid()).not.toBe(orphan);
  expect(existsSync(`/proc/${orphan}`)).toBe(false);
});

test('a package that changed is tried beside what ran, also one that does not work', async () => {
  writeVersion('base', '1.0.0', healthy);
  writeVersion('a', '2.0.0', healthy);
  select({ running: 'a', previous: 'base' });
  writeVersion('base', '3.0.0', 'exit 1');
  const bad = start('run');
  await until('what ran before', () => starts('2.0.0') === 1);
  expect(starts('3.0.0')).toBe(3);
  // What failed is nothing to go back to.
  expect(selection()).toEqual({ running: 'a', previous: null, trial: null, packaged: '3.0.0' });
  bad.child.kill('SIGTERM');
  await bad.ended;
  writeVersion('base', '4.0.0', healthy);
  start('run');
  await until('the package to be kept', () => selection().running === 'base');
  expect(selection()).toEqual({ running: 'base', previous: 'a', trial: null, packaged: '4.0.0' });
});

test('a line that can not be read, and a slot without a program, lead to the packaged version', async () => {
  writeVersion('base', '1.0.0', 'exit 7');
  mkdirSync(agentDirectory());
  for (const line of ['', '2 a base', '2 a base - - x 0 - 0 0 1.0.0', '9 a base - - 0 0 - 0 0 1.0.0']) {
    writeFileSync(join(agentDirectory(), 'selection'), line);
    expect(await start('run').ended, line).toBe(7);
  }
  select({ running: 'a', previous: null });
  expect(await start('run').ended).toBe(7);
  expect(starts('1.0.0')).toBe(5);
});
