/**
 * Runs a command of somebody else's so that it can't hurt the host: a deadline after which its whole process group is
 * killed, a limit on its memory, and a limit on its output. Should the agent die meanwhile, `timeout` of coreutils or
 * busybox, where there is one, ends the command in its place. Nothing that is given here may be a secret: arguments are
 * visible to everybody on the host.
 */
import { spawn } from 'node:child_process';

export interface BoundedCommand {
  /** The executable, then its arguments; none of it ever becomes shell text. */
  readonly command: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  readonly deadlineMs: number;
}

export type CommandEnd =
  /** `code` is 128 + n when signal n ended it. Output beyond the limit is cut off. */
  | { readonly kind: 'ended'; readonly code: number; readonly out: string; readonly err: string }
  | { readonly kind: 'late' }
  | { readonly kind: 'tooMuchOutput' }
  | { readonly kind: 'notStarted'; readonly problem: string };

/** Most bytes of standard output. A status with a thousand peers has less than half. */
export const outputBytesMax = 2 ** 20;
/** Most bytes of standard error that are kept; the rest is read and dropped. */
const errorBytesMax = 16_384;
/** Writable private memory of the command, KiB: it only speaks to its service, and needs a few dozen MiB. */
const memoryKiB = 512 * 1024;
/** `timeout` is the second bound: it comes later than our own. */
const backstopMs = 5_000;

/**
 * Limits, then exec, so that the pid stays. Out of memory, the kernel takes the command before any microVM.
 * `ulimit -d` counts what is written to, not what is reserved: Go and Node reserve far more than they use.
 */
const script = `
ulimit -d ${memoryKiB} 2>/dev/null
ulimit -c 0 2>/dev/null
{ echo 1000 >/proc/self/oom_score_adj; } 2>/dev/null
backstop="$1"
shift
if command -v timeout >/dev/null 2>&1; then exec timeout -s KILL "$backstop" "$@"; fi
exec "$@"
`;

/** Rejects only with the signal's reason, after the command's end. */
export function runBounded({ command, environment, deadlineMs }: BoundedCommand, signal: AbortSignal): Promise<CommandEnd> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason);
    const backstopSeconds = Math.ceil((deadlineMs + backstopMs) / 1000);
    const child = spawn('/bin/sh', ['-c', script, 'nkudo-mesh-command', String(backstopSeconds), ...command], {
      cwd: '/',
      env: { ...environment },
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let cut: CommandEnd | undefined;
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    let outBytes = 0;
    let errBytes = 0;
    let hasExited = false;
    const kill = (): void => {
      // Later its id may be that of another group, perhaps of a VMM.
      if (child.pid !== undefined && !hasExited) killGroup(child.pid);
      child.stdout.destroy();
      child.stderr.destroy();
    };
    const giveUp = (end: CommandEnd): void => {
      cut ??= end;
      kill();
    };
    const timer = setTimeout(() => giveUp({ kind: 'late' }), deadlineMs);
    const onAbort = (): void => kill();
    signal.addEventListener('abort', onAbort, { once: true });
    child.stdout.on('data', (chunk: Buffer) => {
      outBytes += chunk.byteLength;
      if (outBytes > outputBytesMax) giveUp({ kind: 'tooMuchOutput' });
      else out.push(chunk);
    });
    child.stderr.on('data', (chunk: Buffer) => {
      if (errBytes < errorBytesMax) err.push(chunk.subarray(0, errorBytesMax - errBytes));
      errBytes += chunk.byteLength;
    });
    const settle = (end: CommandEnd): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
      if (signal.aborted) reject(signal.reason);
      else resolve(cut ?? end);
    };
    child.once('error', (error) => settle({ kind: 'notStarted', problem: error.message }));
    child.once('exit', () => {
      // What it left behind in its group. Process ids are given out in turn, so at this moment the group is still its own.
      if (child.pid !== undefined) killGroup(child.pid);
      hasExited = true;
    });
    child.once('close', (code, ended) => {
      settle({ kind: 'ended', code: code ?? 128 + signalNumber(ended), out: Buffer.concat(out).toString('utf8'), err: Buffer.concat(err).toString('utf8') });
    });
  });
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // ESRCH: nothing of the group is left. What left the group holds at most a pipe, and those are closed by the caller.
  }
}

function signalNumber(name: NodeJS.Signals | null): number {
  return name === 'SIGKILL' ? 9 : name === 'SIGTERM' ? 15 : 0;
}
