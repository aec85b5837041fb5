import { constants } from 'node:os';
import { describe, expect, test } from 'vitest';
import { decideExitReason, type ExitEvidence, readLogVerdict, splitStatus } from './exit-reason.ts';

const version = 'v53.0-246-gae44c2971';
const line = (level: string, message: string) => `cloud-hypervisor:   0.722288s: <vmm> ${level}:vmm/src/lib.rs:2151 -- ${message}\r\n`;
const evidence = (replaced: Partial<ExitEvidence>): ExitEvidence => ({ status: 0, isFromEarlierBoot: false, wasOomKilled: false, logVerdict: 'none', ...replaced });

describe('readLogVerdict', () => {
  test.each([
    ['guestShutdown', line('INFO', 'VM guest exit event')],
    ['shutdownRequested', line('INFO', 'VM exit event')],
    ['shutdownRequested', line('INFO', 'API request event: VmmShutdown')],
    ['guestPanic', line('INFO', 'Event: source = guest event = panic ') + line('INFO', 'VM guest exit event')],
    ['vcpuFailed', line('ERROR', 'vCPU thread panicked') + line('INFO', 'VM exit event')],
    ['vcpuFailed', line('ERROR', 'VCPU generated error: VcpuRun(Failed to run vcpu') + 'Caused by:\n    InternalError\n' + line('INFO', 'VM exit event')],
  ])('reads %s', (verdict, log) => {
    expect(readLogVerdict(version, line('INFO', 'Booting VM') + log)).toBe(verdict);
  });

  test('knows nothing about a version before the pinned ones or one that is no version', () => {
    const log = line('INFO', 'VM guest exit event');
    expect(readLogVerdict('v52.1', log)).toBe('none');
    expect(readLogVerdict('', log)).toBe('none');
    expect(readLogVerdict('v60.0', log)).toBe('guestShutdown');
  });

  test('does not take the words inside another message for the line', () => {
    expect(readLogVerdict(version, line('INFO', 'Booting VM from config: cmdline: Some("VM guest exit event")'))).toBe('none');
    expect(readLogVerdict(version, 'VM guest exit event\r\n')).toBe('none');
    expect(readLogVerdict(version, line('WARN', 'VM guest exit event'))).toBe('none');
  });
});

describe('decideExitReason', () => {
  test.each([
    ['GuestShutdown', evidence({ logVerdict: 'guestShutdown' })],
    ['GuestPanic', evidence({ logVerdict: 'guestPanic' })],
    ['VMMCrash', evidence({ logVerdict: 'vcpuFailed' })],
    ['Operator', evidence({ logVerdict: 'shutdownRequested' })],
    ['Unknown', evidence({})],
    ['VMMCrash', evidence({ status: 137 })],
    ['VMMCrash', evidence({ status: 1, logVerdict: 'guestShutdown' })],
    ['OOM', evidence({ status: 137, wasOomKilled: true })],
    ['Unknown', evidence({ status: undefined, logVerdict: 'guestShutdown' })],
    ['HostReboot', evidence({ status: undefined, isFromEarlierBoot: true })],
    ['GuestShutdown', evidence({ isFromEarlierBoot: true, logVerdict: 'guestShutdown' })],
  ])('decides %s', (reason, given) => {
    expect(decideExitReason(given)).toBe(reason);
  });
});

test('splits a shell status into code or signal', () => {
  expect(splitStatus(0, constants.signals)).toEqual({ code: 0 });
  expect(splitStatus(101, constants.signals)).toEqual({ code: 101 });
  expect(splitStatus(137, constants.signals)).toEqual({ signal: 'SIGKILL' });
  expect(splitStatus(128 + 60, constants.signals)).toEqual({ signal: 'SIG60' });
});
