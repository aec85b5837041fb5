/**
 * Reaches a unix socket in a folder that somebody less trusted may write to, however long its path is. A
 * link in its place is never followed: it could lead to the socket of another program of this host.
 */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { basename, dirname } from 'node:path';

/** O_PATH: names a file without opening it. Source: open(2); Node has no name for it. */
const pathOnly = 0o10000000;

/** Calls back with a path that leads to exactly this socket until the work has ended. Null when there is no socket. */
export async function withSocketFile<Result>(path: string, work: (path: string) => Promise<Result>): Promise<Result | null> {
  const directory = await openOrNull(dirname(path), constants.O_RDONLY | constants.O_DIRECTORY);
  if (directory === null) return null;
  try {
    const socket = await openOrNull(`/proc/self/fd/${directory.fd}/${basename(path)}`, pathOnly | constants.O_NOFOLLOW);
    if (socket === null) return null;
    try {
      // The path through the open file stays below the 107 bytes that a socket address can hold.
      return (await socket.stat()).isSocket() ? await work(`/proc/self/fd/${socket.fd}`) : null;
    } finally {
      await socket.close();
    }
  } finally {
    await directory.close();
  }
}

async function openOrNull(path: string, flags: number) {
  try {
    return await open(path, flags);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    throw error;
  }
}
