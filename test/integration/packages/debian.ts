/**
 * A clean Debian with systemd as its process 1, in namespaces on this machine: made once by mmdebstrap and kept in the
 * cache, unpacked anew for each test. Needs root, mmdebstrap and, the first time, a Debian mirror. Owns its processes,
 * its control groups and its files, and leaves none.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { buildOnce, contentKey } from '#hack/build-cache.ts';
import { runTool } from '#hack/compile-cache.ts';

const suite = 'bookworm';
/** What the package depends on, and a bus as every Debian with systemd has one. */
const packages = ['systemd', 'systemd-sysv', 'dbus', 'iproute2', 'nftables', 'libstdc++6', 'util-linux', 'procps', 'openssl'];
/** Of the machine around it, or of no use here. */
const masked = ['systemd-modules-load.service', 'systemd-sysctl.service', 'systemd-remount-fs.service', 'sys-kernel-debug.mount', 'sys-kernel-tracing.mount', 'sys-fs-fuse-connections.mount', 'dev-hugepages.mount', 'apt-daily.timer', 'apt-daily-upgrade.timer', 'console-getty.service', 'getty.target'];
const archive = 'root.tar';
const waitMs = 120_000;
const pollMs = 20;

export interface Ended {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

export interface Debian {
  /** A path in it, as this machine sees it. */
  at(path: string): string;
  run(...command: readonly string[]): Promise<Ended>;
  /** As `run`, for what has to succeed: its output, without the last end of line. */
  ask(...command: readonly string[]): Promise<string>;
  /** Processes of that program in it, as this machine counts them. @param name last part of the path of the executable */
  pidsOf(name: string): readonly number[];
  close(): Promise<void>;
}

/** Why there can be none here; null when there can. Makes it the first time, which takes about a minute. */
export async function findDebianObstacle(): Promise<string | null> {
  if (process.getuid?.() !== 0) return 'namespaces and control groups need root';
  if (process.arch !== 'x64') return 'it is made for x86-64 only';
  for (const program of ['mmdebstrap', 'unshare', 'nsenter']) if (spawnSync('sh', ['-c', `command -v ${program}`]).status !== 0) return `there is no ${program}: apt-get install mmdebstrap util-linux`;
  try {
    await ensureRoot();
    return null;
  } catch (error) {
    return `mmdebstrap could not make it: ${error instanceof Error ? error.message.slice(-600) : String(error)}`;
  }
}

async function ensureRoot(): Promise<string> {
  const clean = ['rm -rf "$1"/usr/share/locale "$1"/usr/share/man "$1"/usr/share/info', `cd "$1"/etc/systemd/system && for unit in ${masked.join(' ')}; do ln -sf /dev/null "$unit"; done`, ': > "$1"/etc/resolv.conf; echo nkudo-debian > "$1"/etc/hostname'];
  const args = ['--variant=minbase', `--include=${packages.join()}`, ...clean.map((hook) => `--customize-hook=${hook}`), suite, archive];
  const directory = await buildOnce({
    kind: 'debian-root',
    key: contentKey([JSON.stringify(args)]),
    onWait: (pid) => process.stdout.write(`debian: process ${pid} is making it, waiting\n`),
    build: async (staging) => {
      process.stdout.write('debian: making a clean root file system with mmdebstrap (once; about a minute)\n');
      await runTool('mmdebstrap', args, { cwd: staging });
    },
  });
  return join(directory, archive);
}

export async function startDebian(): Promise<Debian> {
  const root = mkdtempSync(join(tmpdir(), 'nkudo-debian-'));
  const groups = `nkudo-debian-${process.pid}-${Date.now().toString(36)}`;
  execFileSync('tar', ['--extract', '--file', await ensureRoot(), '--directory', root, '--numeric-owner', '--preserve-permissions']);
  // Not what the temporary directory of a test has, or nobody but root gets in.
  execFileSync('chmod', ['0755', root]);
  mkdirSync(join(root, 'var/log/journal'), { recursive: true });
  const child = spawn('sh', [join(import.meta.dirname, 'enter-debian.sh'), root, groups], { stdio: ['ignore', 'pipe', 'pipe'] });
  let log = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (log += chunk.toString()));
  let init = 0;

  async function close(): Promise<void> {
    const ended = new Promise((resolve) => child.once('close', resolve));
    // SIGTERM is one that unshare leaves to its child. With process 1 everything in its namespace ends.
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGKILL');
      await ended;
    }
    await removeGroups(groups);
    rmSync(root, { recursive: true, force: true, maxRetries: 5 });
  }

  const isInside = (pid: number): boolean => readlinkSync(`/proc/${pid}/ns/pid`) === readlinkSync(`/proc/${init}/ns/pid`);
  const debian: Debian = {
    at: (path) => join(root, path),
    run: (...command) =>
      new Promise((resolve, reject) => {
        const running = spawn('nsenter', ['--target', String(init), '--mount', '--pid', '--uts', '--ipc', '--cgroup', '--root', '--wd=/', '/usr/bin/env', '-i', 'PATH=/usr/sbin:/usr/bin:/sbin:/bin', 'HOME=/root', 'LC_ALL=C', 'DEBIAN_FRONTEND=noninteractive', ...command], { stdio: ['ignore', 'pipe', 'pipe'] });
        let [out, err] = ['', ''];
        running.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
        running.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
        running.once('error', reject);
        running.once('close', (code) => resolve({ code, out, err }));
      }),
    async ask(...command) {
      const { code, out, err } = await debian.run(...command);
      if (code !== 0) throw new Error(`${command.join(' ')} ended with ${String(code)}:\n${out}${err}`);
      return out.trimEnd();
    },
    pidsOf: (name) =>
      processes().filter((pid) => {
        try {
          return readlinkSync(`/proc/${pid}/exe`).replace(/ \(deleted\)$/, '').endsWith(`/${name}`) && isInside(pid);
        } catch {
          return false; // It ended while we looked, or is a thread of the kernel.
        }
      }),
    close,
  };

  try {
    for (const giveUpAt = performance.now() + waitMs; !isBooted(); await delay(pollMs)) {
      if (child.exitCode !== null || performance.now() > giveUpAt) throw new Error(`systemd did not start:\n${log.slice(-4_000)}`);
    }
    // Running or degraded: a unit that has no place in namespaces may fail.
    await debian.run('systemctl', 'is-system-running', '--wait');
  } catch (error) {
    await close();
    throw error;
  }
  return debian;

  function isBooted(): boolean {
    try {
      init = Number(readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').trim().split(' ')[0]);
      return init > 0 && readFileSync(`/proc/${init}/comm`, 'utf8').trim() === 'systemd' && existsSync(`/proc/${init}/root/run/systemd/private`);
    } catch {
      return false; // Not yet.
    }
  }
}

function processes(): readonly number[] {
  return readdirSync('/proc').filter((name) => /^\d+$/.test(name)).map(Number);
}

/** A process that was killed is in its group for a moment longer. */
async function removeGroups(name: string): Promise<void> {
  const points = readFileSync('/proc/mounts', 'utf8').split('\n').map((line) => line.split(' ')).filter(([, , type]) => type === 'cgroup' || type === 'cgroup2');
  for (const [, point] of points) {
    const top = join(String(point), name);
    for (let turn = 0; existsSync(top) && turn < 100; turn += 1) {
      removeEmpty(top);
      if (existsSync(top)) await delay(50);
    }
  }
}

function removeEmpty(directory: string): void {
  for (const entry of readdirSync(directory, { withFileTypes: true })) if (entry.isDirectory()) removeEmpty(join(directory, entry.name));
  try {
    rmdirSync(directory);
  } catch {
    // Still in use; the next turn looks again.
  }
}
