/**
 * Names of the files in one VM directory. They are relative because the VMM runs with the directory
 * as its working directory: a unix socket path is limited to 107 bytes, a state directory is not, and
 * a VMM with a user of its own may pass through no directory above.
 * `vm.json` and whatever else the agent keeps there are not this adapter's.
 *
 * What the VMM writes is in {@link runFolder}, which is its own; all else belongs to the agent, so that
 * a VMM that a guest has taken over can't write what the agent goes by.
 */
import { existsSync, lstatSync } from 'node:fs';
import { basename, join } from 'node:path';

/** The only place that the VMM may write to, besides its disks. */
export const runFolder = 'run';

export const vmFiles = {
  /** Held with flock(2) by the reaper and the VMM for as long as one of them lives. */
  claim: 'vmm.claim',
  /** Identity of the process, written by the reaper as soon as it exists. */
  process: 'vmm.process',
  /** How it ended, written by the reaper. */
  exit: 'vmm.exit',
  /** Standard output and error of the VMM, which it uses only before its log file is open. */
  output: 'vmm.out',
  /** Scripts that a service of systemd runs. */
  reaperScript: 'vmm.reaper',
  watcherScript: 'vmm.watcher',
  apiSocket: `${runFolder}/api.sock`,
  events: `${runFolder}/events`,
  log: `${runFolder}/vmm.log`,
  serialLog: `${runFolder}/serial.log`,
  /** COM1 of an interactive console; a stale one is in the way of the next, so the reaper removes both sockets. */
  serialSocket: `${runFolder}/serial.sock`,
  vsockSocket: `${runFolder}/vsock.sock`,
} as const;

export function vmFile(vmDirectory: string, file: keyof typeof vmFiles): string {
  return join(vmDirectory, vmFileName(vmDirectory, file));
}

/**
 * Relative to the directory. A VMM that an agent before the run folder has started keeps its files beside the others, where
 * this agent's reaper puts links only.
 */
export function vmFileName(vmDirectory: string, file: keyof typeof vmFiles): string {
  const name = vmFiles[file];
  return name.startsWith(`${runFolder}/`) && isOfEarlierAgent(vmDirectory) ? basename(name) : name;
}

function isOfEarlierAgent(vmDirectory: string): boolean {
  const log = lstatSync(join(vmDirectory, basename(vmFiles.log)), { throwIfNoEntry: false });
  if (log !== undefined) return !log.isSymbolicLink();
  return !existsSync(join(vmDirectory, runFolder)) && existsSync(join(vmDirectory, vmFiles.claim));
}
