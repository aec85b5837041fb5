/**
 * The outside observer of invariant I1: which processes run in a VM directory, by /proc alone, without
 * any record that the product writes.
 */
import { readdir, readFile, readlink } from 'node:fs/promises';

export interface SeenProcess {
  readonly pid: number;
  readonly isReaper: boolean;
}

/** VMMs and reapers whose working directory is this one. One that is ending may be missing already. */
export async function processesOf(directory: string): Promise<SeenProcess[]> {
  const found: SeenProcess[] = [];
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      if ((await readlink(`/proc/${name}/cwd`)) !== directory) continue;
      const stat = await readFile(`/proc/${name}/stat`, 'utf8');
      const [state] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      if (state === 'Z') continue;
      const command = (await readFile(`/proc/${name}/cmdline`, 'utf8')).split('\0');
      const isReaper = command.includes('nkudo-vmm-reaper');
      // A reaper's own short commands, such as flock, are neither.
      if (!isReaper && !command.includes('--api-socket')) continue;
      found.push({ pid: Number(name), isReaper });
    } catch {
      continue; // It ended while it was looked at, or is not ours to look at.
    }
  }
  return found;
}

export async function vmmsOf(directory: string): Promise<number[]> {
  return (await processesOf(directory)).filter((process) => !process.isReaper).map((process) => process.pid);
}

export async function reapersOf(directory: string): Promise<number[]> {
  return (await processesOf(directory)).filter((process) => process.isReaper).map((process) => process.pid);
}
