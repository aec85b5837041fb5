/**
 * A machine without Node, npm or anything of this project: a directory with a C library, a shell and the few programs
 * that docs/edge.md asks of a host, entered by chroot in a mount namespace. Owns the processes that work in it.
 */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

/** What launcher, reaper, guard and the isolation of VMMs start, where the host has it. */
const programs = ['sh', 'flock', 'sleep', 'mv', 'mkdir', 'rm', 'date', 'sync', 'cat', 'sed', 'tr', 'chown', 'setpriv', 'ip', 'nft'];
const waitMs = 60_000;
const pollMs = 20;

export interface BareRoot {
  readonly path: string;
  /** A path of the machine, as seen from here. */
  outside(path: string): string;
  run(environment: Readonly<Record<string, string>>, ...command: readonly string[]): Promise<{ readonly code: number | null; readonly out: string; readonly err: string }>;
  start(environment: Readonly<Record<string, string>>, ...command: readonly string[]): { readonly child: ChildProcess; readonly log: () => string };
  /** Processes of that program, dead ones left out. @param name last part of the path of the executable */
  pidsOf(name: string): readonly number[];
  close(): void;
}

export function makeBareRoot(): BareRoot {
  const path = mkdtempSync(join(tmpdir(), 'nkudo-bare-'));
  for (const directory of ['proc', 'dev', 'sys', 'tmp', 'etc', 'run', 'root', 'var/lib', 'usr/bin', 'usr/sbin']) mkdirSync(join(path, directory), { recursive: true, mode: 0o755 });
  for (const program of programs) copyProgram(path, program);
  writeFileSync(join(path, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\n');
  writeFileSync(join(path, 'etc/machine-id'), `${'0'.repeat(31)}1\n`);
  const running: ChildProcess[] = [];

  const enter = (environment: Readonly<Record<string, string>>, command: readonly string[]): ChildProcess => {
    const script = 'mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && mount --rbind /sys "$1/sys" && root=$1 && shift && exec chroot "$root" /bin/env -i "$@"';
    const assignments = Object.entries({ PATH: '/usr/sbin:/usr/bin:/bin', ...environment }).map(([name, value]) => `${name}=${value}`);
    const child = spawn('unshare', ['--mount', '--propagation', 'private', '/bin/sh', '-c', script, 'enter', path, ...assignments, ...command], { stdio: ['ignore', 'pipe', 'pipe'] });
    running.push(child);
    return child;
  };
  copyProgram(path, 'env');

  function pidsOf(name: string): readonly number[] {
    return readdirSync('/proc').filter((pid) => /^\d+$/.test(pid)).map(Number).filter((pid) => {
      try {
        return readlinkSync(`/proc/${pid}/exe`).replace(/ \(deleted\)$/, '').endsWith(`/${name}`) && readlinkSync(`/proc/${pid}/root`) === path;
      } catch {
        return false; // It ended while we looked, or is none of ours.
      }
    });
  }

  return {
    path,
    outside: (inside) => join(path, inside),
    run: (environment, ...command) =>
      new Promise((resolve) => {
        const child = enter(environment, command);
        let [out, err] = ['', ''];
        child.stdout?.on('data', (chunk: Buffer) => (out += chunk.toString()));
        child.stderr?.on('data', (chunk: Buffer) => (err += chunk.toString()));
        child.once('close', (code) => resolve({ code, out, err }));
      }),
    start(environment, ...command) {
      const child = enter(environment, command);
      let text = '';
      for (const stream of [child.stdout, child.stderr]) stream?.on('data', (chunk: Buffer) => (text += chunk.toString()));
      return { child, log: () => text };
    },
    pidsOf,
    close() {
      for (const child of running) if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL');
      // Everything in here: agents, VMMs, their reapers and guards.
      for (let turn = 0; turn < 50; turn += 1) {
        const inside = insiders(path);
        for (const pid of inside) kill(pid);
        if (inside.length === 0) break;
        execFileSync('sleep', ['0.1']);
      }
      rmSync(path, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

function insiders(root: string): readonly number[] {
  return readdirSync('/proc').filter((pid) => /^\d+$/.test(pid)).map(Number).filter((pid) => {
    try {
      return readlinkSync(`/proc/${pid}/root`) === root && !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
    } catch {
      return false; // It ended while we looked.
    }
  });
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It ended by itself.
  }
}

/** With the libraries that the loader names. */
function copyProgram(root: string, name: string): void {
  const found = ['/usr/bin', '/bin', '/usr/sbin', '/sbin'].map((directory) => join(directory, name)).find((path) => existsSync(path));
  if (found === undefined) return;
  const at = join(root, ['ip', 'nft'].includes(name) ? 'usr/sbin' : 'usr/bin', name);
  copyFileSync(found, at);
  mkdirSync(join(root, 'bin'), { recursive: true });
  if (['sh', 'env'].includes(name)) copyFileSync(found, join(root, 'bin', name));
  copyLibraries(root, found);
}

/** Exported for programs that are put in by other ways. */
export function copyLibraries(root: string, program: string): void {
  const text = execFileSync('sh', ['-c', 'ldd "$1" 2>/dev/null || :', 'ldd', program], { encoding: 'utf8' });
  for (const [, library] of text.matchAll(/(\/[^\s()]+\.so[^\s()]*)/g)) {
    if (library === undefined || existsSync(join(root, library))) continue;
    mkdirSync(dirname(join(root, library)), { recursive: true });
    copyFileSync(library, join(root, library));
  }
}

/** Other processes send no event, so they are looked at again. */
export async function untilTrue(what: string, condition: () => boolean, more: () => string): Promise<void> {
  const giveUpAt = performance.now() + waitMs;
  while (!condition()) {
    if (performance.now() > giveUpAt) throw new Error(`gave up waiting for: ${what}\n${more().slice(-6_000)}`);
    await new Promise((resolve) => setTimeout(resolve, pollMs));
  }
}
