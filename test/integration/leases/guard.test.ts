/** The guard and the watchers as real processes, beside a real agent where it matters; a VMM here is the simulator or a sleep. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import { startReaper } from '#edge-agent/adapters/cloud-hypervisor/reaper.ts';
import { createGuardProcess, formatTable, parseTable } from '#edge-agent/adapters/guard/guard-process.ts';
import { createSystemClock } from '#edge-agent/adapters/system/clock.ts';
import type { Guard } from '#edge-agent/ports/guard.ts';
import { until } from '#test/harness/until.ts';
import { createAgentFixture, newMicroVM } from '../edge-agent/agent-fixture.ts';

const clock = createSystemClock();
const { bootId } = clock.now();
const environment = { PATH: process.env['PATH'] ?? '' };
const roots: string[] = [];
const guards: { readonly guard: Guard; readonly directory: string }[] = [];

afterEach(() => {
  for (const { guard, directory } of guards.splice(0)) {
    guard.close();
    kill(livePidIn(directory));
  }
});
afterAll(() => {
  for (const root of roots) rmSync(root, { recursive: true, force: true, maxRetries: 5 });
});

function kill(pid: number): void {
  try {
    if (pid > 1) process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended.
  }
}

/** The pid on record; 0 when its process is gone. */
function livePidIn(directory: string): number {
  const path = join(directory, 'pid');
  if (!existsSync(path)) return 0;
  const pid = Number(readFileSync(path, 'utf8'));
  return isAlive(pid) ? pid : 0;
}

/** The pid of the guard that holds the lock; it writes its pid a moment after it took the lock. */
async function pidIn(directory: string): Promise<number> {
  await until(() => livePidIn(directory) !== 0, 'the guard to write its pid');
  return livePidIn(directory);
}

function isAlive(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return !/^[ZX]/.test(stat.slice(stat.lastIndexOf(')') + 2));
  } catch {
    return false; // There is no such process.
  }
}

function scene(): { readonly guard: Guard; readonly directory: string; vm(name: string): string } {
  const root = mkdtempSync(join(tmpdir(), 'nkudo-guard-'));
  roots.push(root);
  const directory = join(root, 'guard');
  const guard = createGuardProcess({ directory, bootId, environment });
  guards.push({ guard, directory });
  const vm = (name: string): string => {
    const path = join(root, name);
    mkdirSync(path, { recursive: true });
    return path;
  };
  return { guard, directory, vm };
}

/** Something that lives until it is killed, under a reaper as a VMM is; its pid. */
async function startVmm(vmDirectory: string, guardDirectory?: string): Promise<number> {
  rmSync(join(vmDirectory, 'vmm.process'), { force: true }); // Of an earlier one.
  startReaper({ vmDirectory, guardDirectory, command: ['/bin/sleep', '3600'], environment });
  const record = join(vmDirectory, 'vmm.process');
  await until(() => existsSync(record), 'the record of the process');
  const { pid } = JSON.parse(readFileSync(record, 'utf8')) as { pid: number }; // Written by the reaper.
  return pid;
}

const inMs = (ms: number) => ({ bootId, ms: clock.now().bootMs + ms });

describe('the table', () => {
  test('is read as it was written, never later than asked, and not in another boot', () => {
    const entries = [{ vmDirectory: '/state/vms/with a space', end: { bootId, ms: 12_349 } }];
    expect(parseTable(formatTable(entries, bootId), bootId)).toEqual([{ vmDirectory: '/state/vms/with a space', end: { bootId, ms: 12_340 } }]);
    expect(parseTable(formatTable(entries, bootId), 'another')).toEqual([]);
    expect(parseTable(formatTable([{ vmDirectory: '/x', end: { bootId: 'earlier', ms: 9e9 } }], bootId), bootId)[0]?.end.ms).toBe(0);
  });
});

describe('the guard', () => {
  test('ends a VMM whose moment has passed, leaves the others, and ends one that is started too late', async () => {
    const { guard, directory, vm } = scene();
    const [early, late, named] = [vm('early'), vm('late'), vm('with a space')];
    guard.save([{ vmDirectory: early, end: inMs(300) }, { vmDirectory: late, end: inMs(3_600_000) }, { vmDirectory: named, end: inMs(300) }]);
    await guard.ensure();
    const pids = await Promise.all([early, late, named].map((path) => startVmm(path)));
    await until(() => !isAlive(pids[0] ?? 0) && !isAlive(pids[2] ?? 0), 'the two VMMs to end');
    expect(isAlive(pids[1] ?? 0)).toBe(true);
    await until(() => existsSync(join(early, 'vmm.exit')), 'the reaper of the first one to be done');
    const again = await startVmm(early);
    expect(again).not.toBe(pids[0]);
    await until(() => !isAlive(again), 'the VMM that came too late to end');
    expect(isAlive(await pidIn(directory))).toBe(true);
    kill(pids[1] ?? 0);
  });

  test('is one for each directory, however many ask for it, and the moment that moved counts', async () => {
    const { guard, directory, vm } = scene();
    const path = vm('a');
    guard.save([{ vmDirectory: path, end: inMs(1_000) }]);
    await Promise.all([guard.ensure(), guard.ensure()]);
    const first = await pidIn(directory);
    const second = createGuardProcess({ directory, bootId, environment });
    await second.ensure();
    second.close();
    expect(await pidIn(directory)).toBe(first);
    const other = vm('b');
    guard.save([{ vmDirectory: path, end: inMs(3_600_000) }, { vmDirectory: other, end: inMs(1_200) }]);
    const pid = await startVmm(path);
    const ended = await startVmm(other);
    // Its moment lies after the first moment of the other one.
    await until(() => !isAlive(ended), 'the other VMM to end');
    expect(isAlive(pid)).toBe(true);
    kill(pid);
  });

  test('that is killed and does not come back takes its VMMs with it, and one that does not need it goes on', async () => {
    const { guard, directory, vm } = scene();
    const [guarded, free] = [vm('guarded'), vm('free')];
    guard.save([{ vmDirectory: guarded, end: inMs(3_600_000) }]);
    await guard.ensure();
    const [pid, other] = await Promise.all([startVmm(guarded, guard.directory), startVmm(free)]);
    guard.close();
    kill(await pidIn(directory));
    await until(() => !isAlive(pid), 'the VMM without a guard to end');
    expect(isAlive(other)).toBe(true);
    kill(other);
  });

  test('that comes back in time takes nothing with it', async () => {
    const { guard, directory, vm } = scene();
    const path = vm('a');
    guard.save([{ vmDirectory: path, end: inMs(3_600_000) }]);
    await guard.ensure();
    const pid = await startVmm(path, guard.directory);
    const returned = new Promise<void>((resolve) => guard.onLost(() => void guard.ensure().then(resolve)));
    const first = await pidIn(directory);
    kill(first);
    await returned;
    expect(await pidIn(directory)).not.toBe(first);
    // What is overdue under the new guard ends: it knows its table, and the first VMM has outlived the watcher's patience.
    const probe = vm('probe');
    guard.save([{ vmDirectory: path, end: inMs(3_600_000) }, { vmDirectory: probe, end: inMs(4_500) }]);
    const ended = await startVmm(probe, guard.directory);
    await until(() => !isAlive(ended), 'the probe to end');
    expect(isAlive(pid)).toBe(true);
    kill(pid);
  });
});

describe('an agent with a microVM that may be replaced', () => {
  test('does not start it without a control plane; one with the default starts', async () => {
    const fixture = await createAgentFixture();
    try {
      const [fenced, plain] = [newMicroVM(), newMicroVM()];
      fixture.seed(fenced, fixture.desired({ lease: { stopOnHostAfterMs: 9_000 } }));
      fixture.seed(plain, fixture.desired({ name: 'plain' }));
      const agent = await fixture.start();
      await fixture.until('the one with the default to run', () => fixture.record(plain).run.phase === 'started');
      expect(fixture.record(fenced).run.phase).toBe('idle');
      expect(fixture.vmmPids(fenced)).toEqual([]);
      await agent.kill('SIGTERM');
      expect(fixture.vmmPids(plain)).toHaveLength(1);
    } finally {
      await fixture.close();
    }
  });
});
