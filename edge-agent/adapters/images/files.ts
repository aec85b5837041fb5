/** Files of images and disks: hashing, sparse copies, space, and the errors of a full file system. */
import { createHash, type Hash } from 'node:crypto';
import { constants, type Stats } from 'node:fs';
import { copyFile, open, readdir, stat, statfs, type FileHandle } from 'node:fs/promises';
import { AppError, isAppError } from '#api/model/error-codes.ts';
import { imageHeadBytes } from '../../domain/images.ts';
import { isErrno } from '../system/errno.ts';

const blockBytes = 2 ** 20;
export const zeroBlock = Buffer.alloc(blockBytes);

export async function statOrNull(path: string): Promise<Stats | null> {
  try {
    return await stat(path);
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR')) return null;
    throw error;
  }
}

/** Feeds the file to the hash. @returns its length */
export async function hashInto(hash: Hash, path: string, signal: AbortSignal): Promise<number> {
  const file = await open(path, 'r');
  try {
    return await eachBlock(file, signal, (block) => void hash.update(block));
  } finally {
    await file.close();
  }
}

export async function hashFile(path: string, signal: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  await hashInto(hash, path, signal);
  return hash.digest('hex');
}

/** A clone where the file system can, else a copy that leaves out the zeros. Durable on return; mode 0600. */
export async function copySparse(from: string, to: string, signal: AbortSignal): Promise<void> {
  try {
    await copyFile(from, to, constants.COPYFILE_FICLONE_FORCE);
    return await syncFile(to);
  } catch (error) {
    if (!isErrno(error, 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EXDEV', 'EINVAL', 'ENOTTY')) throw error;
  }
  const source = await open(from, 'r');
  const target = await open(to, 'w', 0o600).catch(async (error: unknown) => {
    await source.close();
    throw error;
  });
  try {
    const length = await eachBlock(source, signal, async (block, offset) => {
      if (!zeroBlock.subarray(0, block.length).equals(block)) await writeAll(target, block, offset);
    });
    await target.truncate(length);
    await target.sync();
  } finally {
    await source.close();
    await target.close();
  }
}

async function eachBlock(file: FileHandle, signal: AbortSignal, use: (block: Buffer, offset: number) => void | Promise<void>): Promise<number> {
  const buffer = Buffer.allocUnsafe(blockBytes);
  for (let offset = 0; ; ) {
    signal.throwIfAborted();
    const { bytesRead } = await file.read(buffer, 0, blockBytes, offset);
    if (bytesRead === 0) return offset;
    await use(buffer.subarray(0, bytesRead), offset);
    offset += bytesRead;
  }
}

export async function writeAll(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, position + done);
    done += bytesWritten;
  }
}

/** Makes a file at least that long, without using space for it. Durable on return. */
export async function growFile(path: string, bytes: number): Promise<void> {
  const file = await open(path, 'r+');
  try {
    if ((await file.stat()).size >= bytes) return;
    await file.truncate(bytes);
    await file.sync();
  } finally {
    await file.close();
  }
}

export async function syncFile(path: string): Promise<void> {
  const file = await open(path, 'r');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

export async function readHead(path: string): Promise<Uint8Array> {
  const file = await open(path, 'r');
  try {
    const { bytesRead, buffer } = await file.read(Buffer.alloc(imageHeadBytes), 0, imageHeadBytes, 0);
    return buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

/** Names in a directory; none when it is not there yet. */
export async function listNames(directory: string): Promise<readonly string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return [];
    throw error;
  }
}

export async function freeBytes(directory: string): Promise<number> {
  const { bavail, bsize } = await statfs(directory);
  return bavail * bsize;
}

/** The product's error for a failed write. */
export function writeError(error: unknown, what: string): unknown {
  if (isAppError(error) || !isErrno(error, 'ENOSPC', 'EDQUOT', 'EFBIG')) return error;
  return new AppError('DISK_FULL', `no space left for ${what}`, { cause: error });
}
