/**
 * Looks at processes through /proc. Owns the rule that a process is the one we mean
 * only when pid, start time and boot id all agree. Changes nothing.
 */
import { readFileSync } from 'node:fs';
import { readdir, readFile, readlink } from 'node:fs/promises';
import type { ProcessIdentity } from '../../ports/hypervisor.ts';
import { isErrno } from '../system/errno.ts';

let bootId: Promise<string> | undefined;

/** Read once: no process lives longer than the boot that it is of. */
export function readBootId(): Promise<string> {
  bootId ??= readFile('/proc/sys/kernel/random/boot_id', 'utf8').then((text) => text.trim());
  return bootId;
}

/** Start time and state letter of a process; null when there is none. */
export function parseProcStat(text: string): { state: string; startTime: string } | null {
  // The second field is the command in parentheses and may hold anything, so cut behind its last one.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const state = fields[0];
  const startTime = fields[19];
  if (state === undefined || startTime === undefined || !/^\d+$/.test(startTime)) return null;
  return { state, startTime };
}

/** True while exactly this process exists and has not ended; a zombie has ended. */
export async function isAlive(process: ProcessIdentity, bootId: string): Promise<boolean> {
  if (process.bootId !== bootId) return false;
  let text: string;
  try {
    // At once: the kernel has it in memory, and a thread for it would cost ten times as much, for each VMM again and again.
    text = readFileSync(`/proc/${process.pid}/stat`, 'utf8');
  } catch (error) {
    if (isErrno(error, 'ENOENT') || isErrno(error, 'ESRCH')) return false;
    throw error;
  }
  const found = parseProcStat(text);
  return found !== null && found.startTime === process.startTime && found.state !== 'Z' && found.state !== 'X';
}

/** The process that has this pid now; null when there is none. */
export async function identify(pid: number, bootId: string): Promise<ProcessIdentity | null> {
  try {
    const found = parseProcStat(await readFile(`/proc/${pid}/stat`, 'utf8'));
    return found === null ? null : { pid, startTime: found.startTime, bootId };
  } catch (error) {
    if (isErrno(error, 'ENOENT') || isErrno(error, 'ESRCH')) return null;
    throw error;
  }
}

/**
 * The VMM that was started in this directory, also when the directory was removed or replaced under it: its working
 * directory still tells. Reads the whole process table, so it is for the moment before something new is started.
 */
export async function findByDirectory(vmDirectory: string, bootId: string): Promise<ProcessIdentity | null> {
  for (const name of await readdir('/proc')) {
    if (/^\d+$/.test(name) && (await isVmmOf(name, vmDirectory))) {
      const identity = await identify(Number(name), bootId);
      if (identity !== null && (await isAlive(identity, bootId))) return identity;
    }
  }
  return null;
}

async function isVmmOf(pid: string, vmDirectory: string): Promise<boolean> {
  try {
    const directory = await readlink(`/proc/${pid}/cwd`);
    if (directory !== vmDirectory && directory !== `${vmDirectory} (deleted)`) return false;
    // The reaper has the same words behind its script; in the VMM they come first.
    return (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0')[1] === '--api-socket';
  } catch {
    // It ended meanwhile, or it is another user's: not one that we started.
    return false;
  }
}
