/** The LogFiles port on the file system; notifications come from inotify on the directory, which outlives the file. */
import { constants, watch } from 'node:fs';
import { lstat, open } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import type { LogFiles } from '../../ports/log-files.ts';

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ELOOP');
}

export const systemLogFiles: LogFiles = {
  async size(path) {
    try {
      const found = await lstat(path);
      return found.isFile() ? found.size : null;
    } catch (error) {
      if (isMissing(error)) return null;
      throw error;
    }
  },
  async read(path, offset, max) {
    let file;
    try {
      // The folder belongs to a VMM: a link there could lead to anything that the agent may read, a pipe could hold it up.
      file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
      const { buffer, bytesRead } = await file.read(Buffer.alloc(max), 0, max, offset);
      return buffer.subarray(0, bytesRead);
    } catch (error) {
      if (isMissing(error)) return new Uint8Array();
      throw error;
    } finally {
      await file?.close();
    }
  },
  watch(path, callback) {
    const name = basename(path);
    try {
      const watcher = watch(dirname(path), { persistent: false }, (_event, changed) => {
        if (changed === null || changed === name) callback();
      });
      watcher.on('error', () => watcher.close());
      return () => watcher.close();
    } catch (error) {
      if (isMissing(error)) return null;
      throw error;
    }
  },
};
