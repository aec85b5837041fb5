/**
 * The Guard port on a process of its own: writes its table, starts it when there is none, and learns of its end by
 * waiting for the lock that it holds. The guard is never stopped from here: it must outlive every agent.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { AppError } from '#api/model/error-codes.ts';
import type { Guard, GuardEntry } from '../../ports/guard.ts';
import { ensureDirectory } from '../system/durable-file.ts';
import { guardFiles, guardScript, watcherScript } from './guard-scripts.ts';

/** A process that takes a lock and prints a pid; a loaded host needs the room. */
const startDeadlineMs = 10_000;
const pollMs = 10;
/** Of flock, when somebody else holds the lock. */
const heldStatus = 75;
const waitSeconds = 10;
/** Moments are hundredths of a second in the table: an end is never rounded up. */
const msPerTick = 10;

export interface GuardOptions {
  /** Directory of the guard; made when it is missing. */
  readonly directory: string;
  readonly bootId: string;
  /** The whole environment of the guard: PATH for flock, sleep, tr and sed. */
  readonly environment: Readonly<Record<string, string>>;
}

export function createGuardProcess(options: GuardOptions): Guard {
  const { directory, bootId, environment } = options;
  const path = (name: keyof typeof guardFiles): string => join(directory, guardFiles[name]);
  let waiter: ChildProcess | undefined;
  let starting: Promise<void> | undefined;
  let onLost = (): void => {};
  let isClosed = false;
  ensureDirectory(directory);

  const start = (script: string, name: string, args: readonly string[]): ChildProcess => {
    const child = spawn('/bin/sh', ['-c', script, name, ...args], { cwd: '/', env: { ...environment }, detached: true, stdio: 'ignore' });
    child.on('error', () => {
      // Seen as a lock that nobody takes.
    });
    child.unref();
    return child;
  };

  async function isHeld(): Promise<boolean> {
    const probe = spawn('flock', ['-s', '-n', '-E', String(heldStatus), path('lock'), 'true'], { stdio: 'ignore' });
    const status = await new Promise<number | null>((resolve, reject) => {
      probe.once('error', (cause) => reject(new AppError('GUARD_FAILED', 'flock can not be run', { cause })));
      probe.once('exit', resolve);
    });
    return status === heldStatus;
  }

  /** Blocks in the kernel while the guard lives; for a bounded time each, so that none is left over of an agent that was killed. */
  function awaitEnd(): void {
    const child = spawn('flock', ['-s', '-w', String(waitSeconds), '-E', String(heldStatus), path('lock'), 'true'], { stdio: 'ignore' });
    waiter = child;
    child.unref();
    const ended = (status: number | null): void => {
      if (waiter !== child) return;
      waiter = undefined;
      if (isClosed) return;
      if (status === heldStatus) awaitEnd();
      else onLost();
    };
    child.once('error', () => ended(null));
    child.once('exit', ended);
  }

  async function startAndWait(): Promise<void> {
    const giveUpAt = performance.now() + startDeadlineMs;
    if (!(await isHeld())) {
      start(guardScript, 'nkudo-guard', [directory]);
      while (!(await isHeld())) {
        if (performance.now() > giveUpAt) throw new AppError('GUARD_FAILED', `the guard did not start within ${startDeadlineMs} ms`);
        await delay(pollMs);
      }
    }
    if (!isClosed) awaitEnd();
  }

  return {
    directory,
    load() {
      let text: string;
      try {
        text = readFileSync(path('table'), 'utf8');
      } catch (error) {
        if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return [];
        throw error;
      }
      return parseTable(text, bootId);
    },
    save(entries) {
      try {
        // Not synced: after a power cut the moments belong to another boot, and no VMM lives.
        const temporary = `${path('table')}.new`;
        writeFileSync(temporary, formatTable(entries, bootId), { mode: 0o600 });
        renameSync(temporary, path('table'));
      } catch (cause) {
        throw new AppError('GUARD_FAILED', 'the table of the guard can not be written', { cause });
      }
    },
    async ensure() {
      if (waiter !== undefined) return;
      starting ??= startAndWait().finally(() => {
        starting = undefined;
      });
      await starting;
    },
    watch(vmDirectory, process) {
      start(watcherScript, 'nkudo-vmm-watcher', [directory, vmDirectory, String(process.pid), process.startTime]);
    },
    onLost(callback) {
      onLost = callback;
    },
    close() {
      isClosed = true;
      waiter?.kill();
      waiter = undefined;
    },
  };
}

export function formatTable(entries: readonly GuardEntry[], bootId: string): string {
  const lines = entries.map(({ vmDirectory, end }) => `${end.bootId === bootId ? Math.max(0, Math.floor(end.ms / msPerTick)) : 0} ${vmDirectory}`);
  return `${[bootId, ...lines].join('\n')}\n`;
}

export function parseTable(text: string, bootId: string): readonly GuardEntry[] {
  const [said, ...lines] = text.split('\n');
  if (said !== bootId) return [];
  return lines.flatMap((line) => {
    const match = /^(\d+) (\/.*)$/.exec(line);
    return match === null ? [] : [{ vmDirectory: match[2] ?? '', end: { bootId, ms: Number(match[1]) * msPerTick } }];
  });
}
