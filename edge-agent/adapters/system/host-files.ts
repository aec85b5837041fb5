/**
 * The files that a spec names. Paths come from tenants, so they are judged after all symbolic links:
 * they must lie below an allowed directory and never below the agent's own state or the kernel's
 * pseudo file systems.
 */
import { watch, type FSWatcher } from 'node:fs';
import { open, realpath, stat } from 'node:fs/promises';
import { basename, dirname, normalize, sep } from 'node:path';
import { AppError, isAppError, type ErrorCode } from '#api/model/error-codes.ts';
import { imageHeadBytes, readImageFormat } from '../../domain/images.ts';
import type { HostFiles } from '../../ports/host-files.ts';

/** Never a kernel or a disk, whatever is allowed. Block devices under /dev are. */
const forbiddenRoots = ['/proc', '/sys', '/run'];

export interface HostFilesOptions {
  readonly allowedPaths: readonly string[];
  readonly stateDirectory: string;
  /** Groups of VMMs that have users of their own; null: they run as the agent, and may what it may. */
  readonly vmmGroupIds: readonly number[] | null;
}

export function createHostFiles(options: HostFilesOptions): HostFiles {
  async function checkOne(path: string, missing: ErrorCode, disk?: { readonly isWritten: boolean }): Promise<void> {
    if (path.includes('\0') || normalize(path) !== path) throw notAllowed(path, 'is not a plain absolute path');
    let real: string;
    try {
      real = await realpath(path);
    } catch (error) {
      throw fileError(error, path, missing);
    }
    const forbidden = [...forbiddenRoots, await realpath(options.stateDirectory)];
    if (forbidden.some((root) => isBelow(real, root))) throw notAllowed(path, 'lies where no microVM may read');
    const allowed = await Promise.all(options.allowedPaths.map((root) => realpath(root).catch(() => root)));
    if (!allowed.some((root) => isBelow(real, root))) throw notAllowed(path, 'lies outside the allowed directories');
    const kind = await stat(real).catch((error: unknown) => {
      throw fileError(error, path, missing);
    });
    if (!kind.isFile() && !(disk !== undefined && kind.isBlockDevice())) throw new AppError(missing, `not a regular file: ${path}`, { details: { path } });
    await checkRights(path, real, disk?.isWritten === true);
  }

  /** Whether a VMM may open it: the file itself, and every directory on the way. */
  async function checkRights(path: string, real: string, isWritten: boolean): Promise<void> {
    if (options.vmmGroupIds === null) return;
    const directories: string[] = [];
    for (let above = dirname(real); ; above = dirname(above)) {
      directories.unshift(above);
      if (above === dirname(above)) break;
    }
    for (const directory of directories) {
      if (!mayUse(await stat(directory), options.vmmGroupIds, 'x')) throw notOpen(path, `they may not pass through ${directory}`);
    }
    const file = await stat(real);
    if (!mayUse(file, options.vmmGroupIds, 'r')) throw notOpen(path, 'they may not read it');
    if (isWritten && !mayUse(file, options.vmmGroupIds, 'w')) throw notOpen(path, 'they may not write it');
  }

  return {
    async check({ boot, disks }) {
      await checkOne(boot.path, 'KERNEL_NOT_FOUND');
      if (boot.kind === 'kernel' && boot.initramfsPath !== undefined) await checkOne(boot.initramfsPath, 'INITRAMFS_NOT_FOUND');
      for (const { path, readOnly, managed } of disks) {
        if (managed !== undefined) continue;
        await checkOne(path, 'DISK_NOT_FOUND', { isWritten: !readOnly });
        if ((await stat(path)).isFile()) await refuseBackingFile(path);
      }
    },
    watchFor: watchNearest,
  };
}

/** A qcow2 file that names another one would show the guest what no check of its own path has seen. */
async function refuseBackingFile(path: string): Promise<void> {
  const file = await open(path, 'r').catch((error: unknown) => {
    throw fileError(error, path, 'DISK_NOT_FOUND');
  });
  try {
    const { bytesRead, buffer } = await file.read(Buffer.alloc(imageHeadBytes), 0, imageHeadBytes, 0);
    readImageFormat(buffer.subarray(0, bytesRead));
  } catch (error) {
    if (!isAppError(error)) throw error;
    throw new AppError(error.code, `${error.message}: ${path}`, { details: { path }, cause: error });
  } finally {
    await file.close();
  }
}

function isBelow(path: string, root: string): boolean {
  return path === root || path.startsWith(root.endsWith(sep) ? root : root + sep);
}

function notAllowed(path: string, why: string): AppError {
  return new AppError('PATH_NOT_ALLOWED', `${path} ${why}`, { details: { path } });
}

const rightBits = { r: 4, w: 2, x: 1 } as const;

/** As the kernel decides for a user that owns nothing of it. */
export function mayUse({ mode, gid }: { readonly mode: number; readonly gid: number }, groupIds: readonly number[], right: keyof typeof rightBits): boolean {
  const bits = groupIds.includes(gid) ? mode >> 3 : mode;
  return (bits & rightBits[right]) !== 0;
}

function notOpen(path: string, why: string): AppError {
  return new AppError('FILE_NOT_OPEN', `microVMs run as users of their own, and of ${path} ${why}`, { details: { path } });
}

function fileError(error: unknown, path: string, missing: ErrorCode): AppError {
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  const why = code === 'EACCES' ? 'the agent may not read' : code === 'ELOOP' ? 'too many symbolic links' : 'no such file';
  return new AppError(missing, `${why}: ${path}`, { details: { path }, cause: error });
}

/** Watches the nearest directory above the path that exists, since the file itself may not. */
function watchNearest(path: string, callback: () => void): () => void {
  let watcher: FSWatcher | undefined;
  const stop = (): void => watcher?.close();
  // In each directory only the name on the way to the path counts: a busy directory is nobody's news.
  for (let [directory, name] = [dirname(path), basename(path)]; ; [directory, name] = [dirname(directory), basename(directory)]) {
    const awaited = name;
    try {
      watcher = watch(directory, { persistent: false }, (_event, changed) => {
        if (changed !== null && changed !== awaited) return;
        stop();
        callback();
      });
      watcher.on('error', stop);
      return stop;
    } catch {
      // It does not exist either, or may not be watched: the slow retry finds the change.
      if (directory === dirname(directory)) return stop;
    }
  }
}
