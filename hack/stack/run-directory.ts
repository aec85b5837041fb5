/**
 * One temporary folder per run, and the promise that nothing started for it outlives it.
 *
 * Every process of a run carries the folder's path: in its environment, its command line or as its working directory.
 * That is how they are found again, also those that made themselves a session of their own. A tiny shell process holds
 * the other end of a pipe; when the owner ends in any way, kill -9 included, it kills what carries the path and removes
 * the folder. Who starts what is left to the callers.
 */
import { spawn } from 'node:child_process';
import { chmodSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

/** Environment variable that marks every process of a run. */
export const runDirectoryVariable = 'NKUDO_RUN_DIR';

/** A killed process can still be seen for a moment, and one that was forking can leave a child: look again. */
const killPasses = 40;
const killPassDelayMs = 50;

/** A unix socket's path may have 107 bytes; what the programs put below the run's folder takes up to 70. */
const maxParentLength = 24;

/** A run's folder. */
export interface RunDirectory {
  readonly path: string;
  /** Kills every process that carries the folder's path, then removes the folder. Safe to call twice. */
  close(): Promise<void>;
}

/**
 * Makes the folder (mode 0711: programs that run as another user may pass through it, not list it) and starts its
 * watcher.
 */
export function createRunDirectory(prefix: string, parent: string = temporaryParent()): RunDirectory {
  const path = mkdtempSync(join(parent, prefix));
  chmodSync(path, 0o711);
  const watcher = spawn('/bin/sh', ['-c', watcherScript, 'nkudo-run-watcher'], {
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
    cwd: '/',
    env: { PATH: '/usr/bin:/bin' },
  });
  watcher.stdin.on('error', () => {
    // The watcher was killed by hand; the orderly close below does its work.
  });
  watcher.stdin.write(`${path}\n`);
  watcher.unref();
  if ('unref' in watcher.stdin && typeof watcher.stdin.unref === 'function') {
    watcher.stdin.unref();
  }
  let closing: Promise<void> | null = null;
  return {
    path,
    close: () => {
      closing ??= closeRun(path).finally(() => watcher.stdin.end());
      return closing;
    },
  };
}

/**
 * The user's temporary folder, or `/tmp` where that one is too deep for unix sockets or closed to the other user that
 * Postgres runs as for root.
 */
function temporaryParent(): string {
  const configured = tmpdir();
  const isPassable = process.getuid?.() !== 0 || foldersOf(configured).every((folder) => (statSync(folder).mode & 0o001) !== 0);
  return isPassable && configured.length <= maxParentLength ? configured : '/tmp';
}

/** A folder and all above it. */
function foldersOf(path: string): string[] {
  const parent = dirname(path);
  return parent === path ? [path] : [path, ...foldersOf(parent)];
}

async function closeRun(path: string): Promise<void> {
  await killProcessesOf(path);
  await rm(path, { recursive: true, force: true, maxRetries: 3 });
}

/** The path comes over the pipe, so that the watcher's own command line and environment do not carry it. */
const watcherScript = `
read -r run_dir || exit 0
case "$run_dir" in /*/*) ;; *) exit 1 ;; esac
while read -r _; do :; done
pass=0
while [ "$pass" -lt 20 ]; do
  found=0
  for process in /proc/[0-9]*; do
    pid="\${process#/proc/}"
    [ "$pid" = "$$" ] && continue
    if { cat "$process/cmdline" "$process/environ"; readlink "$process/cwd"; } 2>/dev/null | grep -aqF -- "$run_dir"; then
      kill -9 "$pid" 2>/dev/null && found=1
    fi
  done
  [ "$found" = 0 ] && break
  pass=$((pass + 1))
  sleep 0.1
done
rm -rf -- "$run_dir"
`;

/** Pids of the live processes that carry the folder's path; never the caller's own. */
export function findProcessesOf(path: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .map(Number)
    .filter((pid) => carriesPath(pid, path));
}

/**
 * Kills (SIGKILL) every process that carries the folder's path and waits until they are gone.
 * @throws when some can't be killed, naming them.
 */
export async function killProcessesOf(path: string): Promise<void> {
  for (let pass = 0; pass < killPasses; pass += 1) {
    const pids = findProcessesOf(path);
    if (pids.length === 0) {
      return;
    }
    for (const pid of pids) {
      signalIfAlive(pid, 'SIGKILL');
    }
    await delay(killPassDelayMs);
  }
  throw new Error(`processes ${findProcessesOf(path).join(', ')} of ${path} survived SIGKILL`);
}

function carriesPath(pid: number, path: string): boolean {
  return (
    readProcess(pid, 'cmdline').includes(path) ||
    readProcess(pid, 'environ').includes(path) ||
    isInside(workingDirectory(pid), path)
  );
}

function isInside(directory: string, path: string): boolean {
  return directory === path || directory.startsWith(`${path}/`);
}

function readProcess(pid: number, file: 'cmdline' | 'environ'): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'latin1'); // Empty for a process that has ended but was not reaped.
  } catch {
    return ''; // Ended meanwhile, or another user's.
  }
}

function workingDirectory(pid: number): string {
  try {
    return readlinkSync(`/proc/${pid}/cwd`);
  } catch {
    return ''; // Ended meanwhile, or another user's.
  }
}

/** Sends a signal; false when there is no such process. A negative pid names a process group. */
export function signalIfAlive(pid: number, signal: NodeJS.Signals): boolean {
  try {
    process.kill(pid, signal);
    return true;
  } catch {
    return false; // Gone already, or another user's, which a run never starts.
  }
}
