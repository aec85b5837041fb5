/**
 * `vm logs`: the guest's console as far as its file on this host goes, that of the newest boot. Needs no agent.
 * Following ends with the reader: SIGINT, or a pipe that was closed.
 */
import { resolve } from 'node:path';
import type { Writable } from 'node:stream';
import { AppError } from '#api/model/error-codes.ts';
import { microVMId } from '#api/model/ids.ts';
import { createCloudHypervisor } from '../adapters/cloud-hypervisor/cloud-hypervisor.ts';
import { systemLogFiles } from '../adapters/system/log-files.ts';
import { createVmDirectories } from '../adapters/vm-directories/vm-directories.ts';
import { behind, serialLogBounds } from '../domain/log-bounds.ts';
import { findMicroVM } from './inspect.ts';

const chunkBytesMax = 65_536;
const leftOutMark = (bytes: number): string => `\r\n[nkudo-edge: ${bytes} bytes are not kept on this host any more]\r\n`;

export interface LogsOptions {
  readonly stateDir: string;
  readonly named: string;
  readonly follow: boolean;
  readonly out: Writable;
}

/** @throws NOT_FOUND, also when its console is not logged or it never ran */
export async function printLogs({ stateDir, named, follow, out }: LogsOptions): Promise<void> {
  const vm = await findMicroVM(stateDir, named);
  const { paths } = createCloudHypervisor({ binaryPath: 'cloud-hypervisor', environment: {} });
  const file = paths(createVmDirectories(resolve(stateDir)).path(microVMId(vm.microvmId))).serialLog;
  if ((await systemLogFiles.size(file)) === null) {
    throw new AppError('NOT_FOUND', `${vm.namespace}/${vm.name} has no console log on this host`, { remedy: 'it has one from its first boot on, with console.serial: Log in its spec' });
  }
  let wake = (): void => {};
  let isChanged = false;
  const stopWatching = follow
    ? systemLogFiles.watch(file, () => {
        isChanged = true;
        wake();
      })
    : null;
  let offset = 0;
  // The watcher alone does not keep the process alive.
  const keepAlive = setInterval(() => {}, 2 ** 30);
  const onGone = (): void => wake();
  // A reader that closed its pipe has seen enough.
  out.on('error', onGone);
  try {
    for (;;) {
      isChanged = false;
      offset = await copyFrom(file, offset, out);
      if (stopWatching === null || out.destroyed) return;
      if (!isChanged) await new Promise<void>((resume) => (wake = resume));
    }
  } finally {
    clearInterval(keepAlive);
    stopWatching?.();
  }
}

/** Up to the end at this moment; from the start again when a boot truncated the file. Returns the new offset, bytes. */
async function copyFrom(file: string, from: number, out: Writable): Promise<number> {
  let size = (await systemLogFiles.size(file)) ?? 0;
  let offset = size < from ? 0 : from;
  for (;;) {
    const chunk = await systemLogFiles.read(file, offset, chunkBytesMax);
    if (chunk.length === 0) return offset;
    // A hole that was made since then is told by what is there now.
    if (offset + chunk.length > size) size = (await systemLogFiles.size(file)) ?? 0;
    const next = behind(chunk, offset, size, serialLogBounds);
    const isKept = next === offset + chunk.length;
    await new Promise<void>((written) => out.write(isKept ? chunk : leftOutMark(next - offset), () => written()));
    if (out.destroyed) return offset;
    offset = next;
  }
}
