/**
 * Names of the files in one VM directory. They are relative because the VMM runs with the directory
 * as its working directory: a unix socket path is limited to 107 bytes, a state directory is not.
 * `vm.json` and whatever else the agent keeps there are not this adapter's.
 */
import { join } from 'node:path';

export const vmFiles = {
  /** Held with flock(2) by the reaper and the VMM for as long as one of them lives. */
  claim: 'vmm.claim',
  /** Identity of the process, written by the reaper as soon as it exists. */
  process: 'vmm.process',
  /** How it ended, written by the reaper. */
  exit: 'vmm.exit',
  apiSocket: 'api.sock',
  events: 'events',
  log: 'vmm.log',
  /** Standard output and error of the VMM, which it uses only before its log file is open. */
  output: 'vmm.out',
  serialLog: 'serial.log',
} as const;

export function vmFile(vmDirectory: string, file: keyof typeof vmFiles): string {
  return join(vmDirectory, vmFiles[file]);
}
