/**
 * Memory of the NetBird service, read from /proc and never limited or ended by us: it is the host's. Owns the highest
 * value since the service started, so that what is reported only rises.
 */
import { readdir, readFile } from 'node:fs/promises';
import { basename } from 'node:path';

/** Length of a name in /proc/<pid>/comm. Source: TASK_COMM_LEN of Linux, less the end mark. */
const commLength = 15;

export interface DaemonMemory {
  /** Bytes; 0 when no service is found or it may not be looked at. */
  read(): Promise<number>;
}

export function createDaemonMemory(options: { readonly procDirectory: string }): DaemonMemory & { readonly setCommand: (path: string) => void } {
  let name = 'netbird';
  let seen: { readonly pid: string; readonly bytes: number } | undefined;
  const fileOf = (pid: string, file: string): Promise<string> =>
    // A process that ended, or one that may not be looked at, is none.
    readFile(`${options.procDirectory}/${pid}/${file}`, 'utf8').catch(() => '');

  const isDaemon = async (pid: string): Promise<boolean> => {
    if ((await fileOf(pid, 'comm')).trim() !== name.slice(0, commLength)) return false;
    const [, ...args] = (await fileOf(pid, 'cmdline')).split('\0');
    return args.includes('service') && args.includes('run');
  };

  async function find(): Promise<string | undefined> {
    if (seen !== undefined && (await isDaemon(seen.pid))) return seen.pid;
    for (const pid of await readdir(options.procDirectory)) if (/^\d+$/.test(pid) && (await isDaemon(pid))) return pid;
    return undefined;
  }

  return {
    setCommand: (path) => void (name = basename(path)),
    async read() {
      const pid = await find();
      if (pid === undefined) {
        seen = undefined;
        return 0;
      }
      const kibibytes = Number(/^VmHWM:\s*(\d+) kB$/m.exec(await fileOf(pid, 'status'))?.[1] ?? 0);
      seen = { pid, bytes: Math.max(kibibytes * 1024, seen?.pid === pid ? seen.bytes : 0) };
      return seen.bytes;
    },
  };
}
