/**
 * The user's build cache for what takes long to build: one folder per artefact, named by the hash of what went into it.
 *
 * Owns where built things live and how they get there: built in a staging folder, renamed into place in one step, under
 * a lock file, so that two processes never build the same thing twice and a half-built folder is never visible.
 * What is built, and how, is left to the callers. Nothing is ever written into the source tree.
 */
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { link, mkdir, readFile, rename, rm, unlink, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

/** How often a process that waits for another one's build looks again. */
const lockPollMs = 250;
/** How often it says that it is still waiting. */
const lockReportMs = 15_000;

/** The root of the source tree. */
export const repositoryRoot = join(import.meta.dirname, '..');

/** `$XDG_CACHE_HOME/nkudo`, or `~/.cache/nkudo`. */
export function cacheRoot(): string {
  const configured = process.env['XDG_CACHE_HOME'];
  const base = configured !== undefined && configured.startsWith('/') ? configured : join(homedir(), '.cache');
  return join(base, 'nkudo');
}

/** SHA-256 over the parts, each length-prefixed so that no two lists collide; the first 16 hex digits. */
export function contentKey(parts: readonly (string | Uint8Array)[]): string {
  const hash = createHash('sha256');
  for (const part of parts) {
    hash.update(`${part.length}:`);
    hash.update(part);
  }
  return hash.digest('hex').slice(0, 16);
}

/** What `buildOnce` needs to know. */
export interface BuildRequest {
  /** Folder under the cache root, for example `kubernetes`. */
  readonly kind: string;
  /** Names this exact content; see `contentKey`. */
  readonly key: string;
  /** Fills the given empty folder. A failure leaves nothing behind. */
  readonly build: (stagingDirectory: string) => Promise<void>;
  /** Called when another process is building the same thing. */
  readonly onWait?: (holderPid: number) => void;
}

/**
 * Returns the folder that holds the artefact, building it first when it is not there.
 * Safe to call from any number of processes at once.
 */
export async function buildOnce(request: BuildRequest): Promise<string> {
  const target = join(cacheRoot(), request.kind, request.key);
  if (existsSync(target)) {
    return target;
  }
  await mkdir(dirname(target), { recursive: true });
  return withFileLock(`${target}.lock`, request.onWait ?? (() => {}), async () => {
    if (existsSync(target)) {
      return target;
    }
    const staging = `${target}.staging-${process.pid}-${randomBytes(4).toString('hex')}`;
    await mkdir(staging);
    try {
      await request.build(staging);
      await rename(staging, target);
    } finally {
      await rm(staging, { recursive: true, force: true });
    }
    return target;
  });
}

/**
 * Runs `work` while holding the lock file. The file names its holder by pid and start time, so a lock whose holder died
 * is taken over.
 */
export async function withFileLock<T>(
  lockFile: string,
  onWait: (holderPid: number) => void,
  work: () => Promise<T>,
): Promise<T> {
  await acquire(lockFile, onWait);
  try {
    return await work();
  } finally {
    await unlink(lockFile).catch(() => {
      // Somebody removed the cache while we worked; there is no lock left to release.
    });
  }
}

async function acquire(lockFile: string, onWait: (holderPid: number) => void): Promise<void> {
  const own = `${lockFile}.${process.pid}-${randomBytes(4).toString('hex')}`;
  await writeFile(own, `${process.pid} ${processStartTime(process.pid) ?? '0'}`);
  try {
    let reportedAt = -lockReportMs;
    for (let waitedMs = 0; ; waitedMs += lockPollMs) {
      if (await tryLink(own, lockFile)) {
        return;
      }
      const holder = await readHolder(lockFile);
      if (holder !== null && processStartTime(holder.pid) !== holder.startTime) {
        await rm(lockFile, { force: true });
        continue;
      }
      if (holder !== null && waitedMs - reportedAt >= lockReportMs) {
        reportedAt = waitedMs;
        onWait(holder.pid);
      }
      await delay(lockPollMs);
    }
  } finally {
    await rm(own, { force: true });
  }
}

/** `link` is the one file operation that both creates and refuses atomically with the content already inside. */
async function tryLink(own: string, lockFile: string): Promise<boolean> {
  try {
    await link(own, lockFile);
    return true;
  } catch (error) {
    if (errorCode(error) === 'EEXIST') {
      return false;
    }
    throw error;
  }
}

async function readHolder(lockFile: string): Promise<{ pid: number; startTime: string } | null> {
  const text = await readFile(lockFile, 'utf8').catch(() => null); // Released between our try and our look.
  const match = text === null ? null : /^(\d+) (\d+)$/.exec(text);
  return match === null ? null : { pid: Number(match[1]), startTime: match[2] ?? '' };
}

/**
 * Start time of a live process in clock ticks since boot, or null when there is none: with the pid it names one process
 * for good. Source: proc(5), field 22 of /proc/PID/stat; the command name may hold spaces and brackets, so the fields
 * are counted from the last bracket.
 */
export function processStartTime(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const isDead = fields[0] === 'Z' || fields[0] === 'X';
    return isDead ? null : (fields[19] ?? null);
  } catch {
    return null; // No such process.
  }
}

/** The `code` of a Node system error, or null for any other value. */
export function errorCode(error: unknown): string | null {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : null;
}
