import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { outputBytesMax, runBounded, type CommandEnd } from './bounded-command.ts';

const environment = { PATH: process.env['PATH'] ?? '' };
const never = new AbortController().signal;
let directory: string;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'nkudo-bounded-'));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const shell = (script: string, change: { deadlineMs?: number; signal?: AbortSignal } = {}): Promise<CommandEnd> =>
  runBounded({ command: ['/bin/sh', '-c', script, 'sh', directory], environment, deadlineMs: change.deadlineMs ?? 20_000 }, change.signal ?? never);

/** True when the process is gone or a zombie that nobody reaps. */
function isGone(pid: string): boolean {
  try {
    return /^State:\s+Z/m.test(readFileSync(`/proc/${pid.trim()}/status`, 'utf8'));
  } catch {
    return true; // ENOENT: it has ended.
  }
}

test('gives output and status back', async () => {
  expect(await shell('echo out; echo err >&2; exit 3')).toEqual({ kind: 'ended', code: 3, out: 'out\n', err: 'err\n' });
});

test('a command that hangs, ignores signals and has children is killed with all of them', async () => {
  const end = shell('trap "" TERM INT HUP; sleep 600 & echo $! >"$1/child"; echo $$ >"$1/self"; while :; do sleep 600; done', { deadlineMs: 300 });
  expect(await end).toEqual({ kind: 'late' });
  for (const name of ['child', 'self']) {
    const pid = readFileSync(join(directory, name), 'utf8');
    await vi.waitFor(() => expect(isGone(pid)).toBe(true), { timeout: 5_000 });
  }
});

test('what a command leaves behind is killed with its end', async () => {
  expect(await shell('sleep 600 >/dev/null 2>&1 & echo $! >"$1/left"')).toMatchObject({ kind: 'ended', code: 0 });
  await vi.waitFor(() => expect(isGone(readFileSync(join(directory, 'left'), 'utf8'))).toBe(true), { timeout: 5_000 });
});

test('a command that prints without end is cut off', async () => {
  expect(await shell('while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done')).toEqual({ kind: 'tooMuchOutput' });
  expect(outputBytesMax).toBe(2 ** 20);
});

test('errors without end are read and dropped', async () => {
  const end = await shell('i=0; while [ $i -lt 4000 ]; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx >&2; i=$((i+1)); done');
  expect(end.kind === 'ended' && end.err.length).toBe(16_384);
});

test('a command can not take more memory than it was given, and the kernel takes it first', async () => {
  expect(await shell('ulimit -d; cat /proc/self/oom_score_adj')).toMatchObject({ out: '524288\n1000\n' });
  const end = await runBounded({ command: [process.execPath, '-e', 'const held = []; for (;;) held.push(Buffer.alloc(2 ** 24, 1))'], environment, deadlineMs: 60_000 }, never);
  expect(end.kind === 'ended' && end.code !== 0).toBe(true);
});

test('an abort ends it and is what it rejects with', async () => {
  const stop = new AbortController();
  const end = shell('sleep 600', { signal: stop.signal });
  const reason = new Error('the agent stops');
  stop.abort(reason);
  await expect(end).rejects.toBe(reason);
});

test('a command that can not be run has an end as well', async () => {
  expect(await runBounded({ command: [join(directory, 'nothing')], environment, deadlineMs: 5_000 }, never)).toMatchObject({ kind: 'ended', code: 127 });
});
