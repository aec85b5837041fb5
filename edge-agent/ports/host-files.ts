/** The files of the host that a spec names: kernel, initramfs, firmware, disks. */
import type { DesiredMicroVM } from '#api/model/microvm.ts';

export interface HostFiles {
  /**
   * Resolves when all files exist, are regular files (disks: or block devices) and lie, after all
   * symbolic links, in the allowed directories.
   * @throws KERNEL_NOT_FOUND, INITRAMFS_NOT_FOUND, DISK_NOT_FOUND, PATH_NOT_ALLOWED, FILE_NOT_OPEN; `details.path` names the file
   */
  check(desired: DesiredMicroVM): Promise<void>;
  /** Calls back once when something changes where the file would be. Returns the way to stop waiting. */
  watchFor(path: string, callback: () => void): () => void;
}
