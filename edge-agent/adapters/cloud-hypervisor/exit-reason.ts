/**
 * Says why a VMM ended. Pure. An emulation failure and an orderly power-off have the same exit code
 * and the same events (measured on v53 and v54), so the VMM's own log is the only witness: this file
 * holds the log lines, pinned by VMM version and proven by the conformance suite on the real binary.
 * A log without a known line gives `Unknown`, never a guess.
 */
import type { ExitReason } from '#api/model/microvm.ts';

/** What the log says ended the VMM; `none` when it has no line that we know. */
export type LogVerdict = 'guestShutdown' | 'guestPanic' | 'vcpuFailed' | 'shutdownRequested' | 'none';

interface PinnedLine {
  /** Level and message; the source location between them differs by version. */
  readonly level: 'INFO' | 'ERROR';
  readonly message: string;
  readonly match: 'whole' | 'prefix';
  readonly verdict: LogVerdict;
}

/** Read in this order: a vCPU failure also logs the request to exit that it makes. */
const pinnedLines: readonly PinnedLine[] = [
  { level: 'ERROR', message: 'VCPU generated error: ', match: 'prefix', verdict: 'vcpuFailed' },
  { level: 'ERROR', message: 'vCPU thread panicked', match: 'whole', verdict: 'vcpuFailed' },
  { level: 'INFO', message: 'Event: source = guest event = panic ', match: 'prefix', verdict: 'guestPanic' },
  { level: 'INFO', message: 'VM guest exit event', match: 'whole', verdict: 'guestShutdown' },
  { level: 'INFO', message: 'API request event: VmmShutdown', match: 'whole', verdict: 'shutdownRequested' },
  { level: 'INFO', message: 'VM exit event', match: 'whole', verdict: 'shutdownRequested' },
];

/** Versions whose log lines are known: from v53 on. `version` is what `--version` prints. */
const firstKnownMajor = 53;

export function readLogVerdict(version: string, log: string): LogVerdict {
  const major = /^v?(\d+)\./.exec(version)?.[1];
  if (major === undefined || Number(major) < firstKnownMajor) return 'none';
  const lines = log.split(/\r?\n/).map(parseLogLine);
  for (const pinned of pinnedLines) {
    const found = lines.some(
      (line) => line !== null && line.level === pinned.level && (pinned.match === 'whole' ? line.message.trimEnd() === pinned.message : line.message.startsWith(pinned.message)),
    );
    if (found) return pinned.verdict;
  }
  return 'none';
}

/** Source: cloud-hypervisor --help, default log format: `cloud-hypervisor: {boottime}s: <{thread}> {level}:{location} -- {msg}`. */
function parseLogLine(line: string): { level: string; message: string } | null {
  const match = /^cloud-hypervisor: +[0-9.]+s: <[^>]*> ([A-Z]+):\S+ -- (.*)$/.exec(line);
  const level = match?.[1];
  const message = match?.[2];
  return level === undefined || message === undefined ? null : { level, message };
}

export interface ExitEvidence {
  /** As the shell counts: exit code, or 128 + signal number; undefined when nobody saw the end. */
  readonly status: number | undefined;
  /** True when the VMM was started in an earlier boot of the host. */
  readonly isFromEarlierBoot: boolean;
  /** True when the kernel's OOM killer ended a process of the VMM's own memory cgroup. */
  readonly wasOomKilled: boolean;
  readonly logVerdict: LogVerdict;
}

const signalBase = 128;

export function decideExitReason(evidence: ExitEvidence): ExitReason {
  if (evidence.status === undefined) return evidence.isFromEarlierBoot ? 'HostReboot' : 'Unknown';
  if (evidence.wasOomKilled) return 'OOM';
  if (evidence.status !== 0) return 'VMMCrash';
  switch (evidence.logVerdict) {
    case 'vcpuFailed':
      return 'VMMCrash';
    case 'guestPanic':
      return 'GuestPanic';
    case 'guestShutdown':
      return 'GuestShutdown';
    case 'shutdownRequested':
      return 'Operator';
    case 'none':
      return 'Unknown';
  }
}

/** Splits a shell status into exit code or signal name. `signals` maps name to number (os.constants.signals). */
export function splitStatus(status: number, signals: Readonly<Record<string, number>>): { code: number } | { signal: string } {
  if (status <= signalBase) return { code: status };
  const number = status - signalBase;
  const name = Object.entries(signals).find(([, value]) => value === number)?.[0];
  return { signal: name ?? `SIG${number}` };
}
