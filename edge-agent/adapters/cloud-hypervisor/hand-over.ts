/**
 * Gives a VMM with a user of its own the files that the agent made for it inside the directory of the microVM: a disk
 * that the guest may write becomes its user's, all else may be read by its group. Files elsewhere are the operator's and
 * stay as they are. Nothing is followed through a link, and what others share is never given away.
 */
import { chmodSync, chownSync, closeSync, constants, fchmodSync, fchownSync, fstatSync, lstatSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { AppError } from '#api/model/error-codes.ts';
import type { VmSpec } from '../../ports/hypervisor.ts';
import { runFolder } from './vm-files.ts';
import { relativePath } from './vm-config.ts';

/** The group passes through and does not look. */
const passThroughMode = 0o710;

export function handOver(vmDirectory: string, { boot, disks }: Pick<VmSpec, 'boot' | 'disks'>, userId: number): void {
  const read = [boot.path, ...(boot.kind === 'kernel' && boot.initramfsPath !== undefined ? [boot.initramfsPath] : [])];
  for (const path of read) handOverFile(vmDirectory, path, true, userId);
  for (const { path, readOnly } of disks) handOverFile(vmDirectory, path, readOnly, userId);
}

/** Idempotent. A file outside the directory is left alone. */
export function handOverFile(vmDirectory: string, path: string, isReadOnly: boolean, userId: number): void {
  const inside = relativePath(vmDirectory, path);
  if (inside === path) return;
  const folders = inside.split('/').slice(0, -1);
  // The VMM's own folder is its own already, and the agent follows no name in it.
  if (folders[0] === runFolder) return;
  for (const index of folders.keys()) {
    const folder = join(vmDirectory, ...folders.slice(0, index + 1));
    if (!lstatSync(folder).isDirectory()) throw new AppError('HYPERVISOR_FAILED', `${folder} is not a directory`);
    chmodSync(folder, passThroughMode);
    chownSync(folder, 0, userId);
  }
  const file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    const { nlink, uid } = fstatSync(file);
    if (!isReadOnly) {
      if (nlink > 1 && uid !== userId) throw new AppError('HYPERVISOR_FAILED', `${path} has other names, so it can not become the VMM's`);
      fchmodSync(file, 0o600);
      fchownSync(file, userId, userId);
    } else if (nlink > 1) {
      // One file for many microVMs, in folders that each VMM finds only its own of.
      fchmodSync(file, 0o444);
    } else {
      fchmodSync(file, 0o440);
      fchownSync(file, 0, userId);
    }
  } finally {
    closeSync(file);
  }
}
