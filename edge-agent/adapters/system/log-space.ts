/**
 * The LogSpace port by `fallocate` of util-linux, since Node has no call for it: a hole in the file. A VMM writes its logs
 * at an offset of its own (measured on v54: no O_APPEND), so neither shortening nor replacing the file would do.
 */
import { spawn } from 'node:child_process';
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import type { LogSpace } from '../../ports/log-files.ts';
import { errnoOf } from './errno.ts';

const program = 'fallocate';
/** It is one system call. */
const deadlineMs = 30_000;

export function createLogSpace(environment: Readonly<Record<string, string>>): LogSpace {
  return {
    async free(path, from, to) {
      let file;
      try {
        // The folder belongs to a VMM: nothing there is followed, nothing may keep the agent waiting, and no file of another name is changed.
        file = await open(path, constants.O_RDWR | constants.O_NOFOLLOW | constants.O_NONBLOCK);
        const found = await file.stat();
        if (!found.isFile() || found.nlink !== 1) return false;
        return found.size < to || (await punch(file.fd, from, to, environment));
      } catch (error) {
        if (errnoOf(error) === 'ENOENT') return true;
        if (errnoOf(error) !== undefined) return false;
        throw error;
      } finally {
        await file?.close();
      }
    },
  };
}

/** By the open file, whatever its name leads to meanwhile. */
function punch(descriptor: number, from: number, to: number, environment: Readonly<Record<string, string>>): Promise<boolean> {
  const child = spawn(program, ['--punch-hole', '--offset', String(from), '--length', String(to - from), '/proc/self/fd/3'], {
    cwd: '/',
    env: { ...environment },
    stdio: ['ignore', 'ignore', 'ignore', descriptor],
    timeout: deadlineMs,
    killSignal: 'SIGKILL',
  });
  return new Promise((resolve) => {
    child.once('error', () => resolve(false));
    child.once('exit', (code) => resolve(code === 0));
  });
}
