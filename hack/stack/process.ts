/**
 * Starts one program with its output in a log file and in memory, and knows how to end it for certain.
 *
 * Each program leads a process group of its own, so a Ctrl-C in the terminal reaches only us and the order of ending is
 * ours. Waiting is on events (a line of output, the exit), never on time alone; a time limit only turns a hang into a
 * readable failure.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { createWriteStream, mkdirSync, type WriteStream } from 'node:fs';
import { dirname } from 'node:path';
import { runDirectoryVariable, signalIfAlive } from './run-directory.ts';

/** Lines kept in memory for waiting on and for failure messages; the file has them all. */
const maxKeptLines = 20_000;
/** Lines shown when something fails. */
const failureTailLines = 25;

/** How to start a program. */
export interface ProcessSpec {
  /** Shown in messages. */
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  /** The run's folder; marks the process as the run's. */
  readonly runDirectory: string;
  /** Standard output and standard error, appended. */
  readonly logFile: string;
  /** Added to a minimal environment (PATH, HOME, LANG, TMPDIR), or to the whole of ours with `inheritEnvironment`. */
  readonly environment?: Readonly<Record<string, string>>;
  readonly inheritEnvironment?: boolean;
  readonly workingDirectory?: string;
  readonly uid?: number;
  readonly gid?: number;
}

/** How a program ended: one of the two is set. */
export interface ExitStatus {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** A started program. */
export interface RunningProcess {
  readonly name: string;
  readonly pid: number;
  readonly logFile: string;
  /** Settles when the program has ended and its output was read to the end. Never rejects. */
  readonly exited: Promise<ExitStatus>;
  /** Null while the program runs. */
  exitStatus(): ExitStatus | null;
  /** All lines so far, oldest first (the newest 20,000). */
  lines(): readonly string[];
  /**
   * Resolves with the first line, past ones included, that matches; with `after`, only lines from that index on.
   * Rejects when the program ends first or after `timeoutMs`, showing the last lines.
   */
  waitForLine(match: RegExp | ((line: string) => boolean), options?: { timeoutMs?: number; after?: number }): Promise<string>;
  /** Calls back for every line from now on; returns how to stop. */
  onLine(listener: (line: string) => void): () => void;
  /** Sends a signal to the program itself; false when it has ended. */
  signal(signal: NodeJS.Signals): boolean;
  /** SIGTERM, after `graceMs` (default 10,000) SIGKILL to the whole group; resolves with how it ended. */
  stop(graceMs?: number): Promise<ExitStatus>;
  /** SIGKILL to the program alone: what it started lives on, as after a crash. Resolves when it is gone. */
  crash(): Promise<ExitStatus>;
}

/** Starts the program. @throws when it can't be started at all. */
export async function startProcess(spec: ProcessSpec): Promise<RunningProcess> {
  mkdirSync(dirname(spec.logFile), { recursive: true });
  const log = createWriteStream(spec.logFile, { flags: 'a' });
  const child = spawn(spec.command, spec.args, {
    cwd: spec.workingDirectory ?? spec.runDirectory,
    env: buildEnvironment(spec),
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    ...(spec.uid === undefined ? {} : { uid: spec.uid }),
    ...(spec.gid === undefined ? {} : { gid: spec.gid }),
  });
  const pid = await waitForSpawn(child, spec);
  return track(spec, { child, pid, log });
}

function buildEnvironment(spec: ProcessSpec): NodeJS.ProcessEnv {
  const kept = ['PATH', 'HOME', 'LANG', 'TMPDIR', 'XDG_CACHE_HOME'].flatMap((name) => {
    const value = process.env[name];
    return value === undefined ? [] : [[name, value] as const];
  });
  const base = spec.inheritEnvironment === true ? process.env : Object.fromEntries(kept);
  return { ...base, ...spec.environment, [runDirectoryVariable]: spec.runDirectory };
}

function waitForSpawn(child: ChildProcess, spec: ProcessSpec): Promise<number> {
  return new Promise((resolve, reject) => {
    child.once('error', (error) => reject(new Error(`${spec.name} did not start: ${error.message}`)));
    child.once('spawn', () => {
      if (child.pid === undefined) {
        reject(new Error(`${spec.name} started without a pid`));
      } else {
        resolve(child.pid);
      }
    });
  });
}

interface Started {
  readonly child: ChildProcess;
  readonly pid: number;
  readonly log: WriteStream;
}

function track(spec: ProcessSpec, { child, pid, log }: Started): RunningProcess {
  const output = createLineBuffer();
  for (const stream of [child.stdout, child.stderr]) {
    let rest = '';
    stream?.setEncoding('utf8');
    stream?.on('data', (chunk: string) => {
      // After the exit, a child of the program may still write to the output that it inherited.
      if (!log.writableEnded) {
        log.write(chunk);
      }
      const parts = (rest + chunk).split('\n');
      rest = parts.pop() ?? '';
      parts.forEach(output.push);
    });
    stream?.on('end', () => {
      if (rest !== '') {
        output.push(rest);
      }
    });
  }
  let status: ExitStatus | null = null;
  const exited = new Promise<ExitStatus>((resolve) => {
    // Not 'close': a program's own children may hold its output open long after it ended.
    child.once('exit', (code, signal) => {
      status = { code, signal };
      setImmediate(() => {
        output.end();
        log.end();
        resolve({ code, signal });
      });
    });
  });
  const stop = async (graceMs = 10_000): Promise<ExitStatus> => {
    if (status === null) {
      signalIfAlive(pid, 'SIGTERM');
      const timer = setTimeout(() => signalIfAlive(-pid, 'SIGKILL'), graceMs);
      await exited;
      clearTimeout(timer);
    }
    return exited;
  };
  return {
    name: spec.name,
    pid,
    logFile: spec.logFile,
    exited,
    exitStatus: () => status,
    lines: output.lines,
    waitForLine: (match, options = {}) => waitForLine({ spec, output, match, exited, ...options }),
    onLine: output.subscribe,
    signal: (signal) => status === null && signalIfAlive(pid, signal),
    stop,
    crash: () => {
      if (status === null) {
        signalIfAlive(pid, 'SIGKILL');
      }
      return exited;
    },
  };
}

interface LineBuffer {
  push(line: string): void;
  end(): void;
  lines(): readonly string[];
  subscribe(listener: (line: string) => void): () => void;
}

function createLineBuffer(): LineBuffer {
  const kept: string[] = [];
  const listeners = new Set<(line: string) => void>();
  return {
    push: (line) => {
      kept.push(line);
      if (kept.length > maxKeptLines) {
        kept.splice(0, maxKeptLines / 10);
      }
      for (const listener of [...listeners]) {
        listener(line);
      }
    },
    end: () => listeners.clear(),
    lines: () => kept,
    subscribe: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

interface LineWait {
  readonly spec: ProcessSpec;
  readonly output: LineBuffer;
  readonly match: RegExp | ((line: string) => boolean);
  readonly exited: Promise<ExitStatus>;
  readonly timeoutMs?: number;
  readonly after?: number;
}

function waitForLine({ spec, output, match, exited, timeoutMs = 30_000, after = 0 }: LineWait): Promise<string> {
  const matches = (line: string): boolean => (match instanceof RegExp ? match.test(line) : match(line));
  const wanted = match instanceof RegExp ? String(match) : 'the awaited line';
  return new Promise((resolve, reject) => {
    const past = output.lines().slice(after).find(matches);
    if (past !== undefined) {
      resolve(past);
      return;
    }
    const finish = (settle: () => void): void => {
      clearTimeout(timer);
      unsubscribe();
      settle();
    };
    const fail = (reason: string): void =>
      finish(() => reject(new Error(`${spec.name} ${reason} ${wanted}; its last lines:\n${tail(output.lines())}`)));
    const unsubscribe = output.subscribe((line) => {
      if (matches(line)) {
        finish(() => resolve(line));
      }
    });
    const timer = setTimeout(() => fail(`printed in ${timeoutMs} ms no line matching`), timeoutMs);
    void exited.then(({ code, signal }) => fail(`ended (${signal ?? `exit code ${code}`}) before a line matching`));
  });
}

/** The last lines, for failure messages. */
export function tail(lines: readonly string[], count: number = failureTailLines): string {
  return lines.slice(-count).join('\n');
}
