import { expect, test } from 'vitest';
import { testDesired, testNow, testRecord } from '#test/builders/edge-microvm.ts';
import { initialRun, type MicroVMRecord } from './microvm-record.ts';
import { applyNote, countReboots } from './notes.ts';
import { crashLoopEndsAtMs, isCrashLooping, restartDelayMs } from './restart-policy.ts';

const { restart } = testDesired();

test.each([
  [0, 0],
  [1, 1_000],
  [2, 2_000],
  [3, 4_000],
  [4, 30_000],
  [60, 30_000],
])('after %i failures in the window the restart waits %i ms', (failures, delay) => {
  expect(restartDelayMs(failures, restart)).toBe(delay);
});

function crash(record: MicroVMRecord, atMs: number): MicroVMRecord {
  const started: MicroVMRecord = { ...record, run: { ...record.run, phase: 'started' } };
  return applyNote(started, { kind: 'runEnded', exit: { reason: 'VMMCrash', signal: 'SIGKILL' } }, { ...testNow, bootMs: atMs });
}

test('more failures than allowed within the window are a crash loop, until the window has moved on', () => {
  let record = testRecord();
  for (const atMs of [1_000, 2_000, 3_000]) record = crash(record, atMs);
  expect(isCrashLooping(record.run, restart, { ...testNow, bootMs: 3_000 })).toBe(false);
  record = crash(record, 4_000);
  expect(isCrashLooping(record.run, restart, { ...testNow, bootMs: 4_000 })).toBe(true);
  expect(record.run.restartDue?.ms).toBe(34_000);
  expect(crashLoopEndsAtMs(record.run, restart, { ...testNow, bootMs: 4_000 })).toBe(601_000);
  expect(isCrashLooping(record.run, restart, { ...testNow, bootMs: 601_000 })).toBe(false);
});

test('a reboot of the host is no failure and waits for nothing', () => {
  const started: MicroVMRecord = { ...testRecord(), run: { ...initialRun, phase: 'started', failures: [999_999], failureBootId: 'boot-1' } };
  const after = applyNote(started, { kind: 'runEnded', exit: { reason: 'HostReboot' } }, { wallMs: testNow.wallMs, bootMs: 5, bootId: 'boot-2' });
  expect(after.run).toMatchObject({ phase: 'ended', failures: [], restartDue: { bootId: 'boot-2', ms: 5 }, lastExit: { reason: 'HostReboot' } });
});

test('reboots of the guest in place count as restarts and failures, each with a serial log of its own', () => {
  const cursor = { pid: 1, startTime: '1', offset: 10 };
  const after = countReboots({ ...testRecord(), run: { ...initialRun, phase: 'started', incarnation: 1 } }, { count: 3, cursor }, testNow);
  expect(after.run).toMatchObject({ restarts: 3, incarnation: 4, eventCursor: cursor, lastExit: { reason: 'GuestReboot' } });
  expect(after.run.failures).toHaveLength(3);
});
