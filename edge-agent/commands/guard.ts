/**
 * `guard`: becomes the guard of a state directory, for a host on which a service manager is to keep it. The agent finds
 * it by its lock and starts none of its own. The process turns into the small one; it never returns.
 */
import { join, resolve } from 'node:path';
import { AppError } from '#api/model/error-codes.ts';
import { guardScript } from '../adapters/guard/guard-scripts.ts';
import { ensureDirectory } from '../adapters/system/durable-file.ts';
import { guardDirectory } from '../config.ts';

/** @throws GUARD_FAILED */
export function runGuard(stateDirectory: string): never {
  const directory = join(resolve(stateDirectory), guardDirectory);
  ensureDirectory(directory);
  try {
    process.execve?.('/bin/sh', ['sh', '-c', guardScript, 'nkudo-guard', directory], { PATH: process.env['PATH'] ?? '/usr/bin:/bin' });
  } catch (cause) {
    throw new AppError('GUARD_FAILED', undefined, { cause });
  }
  throw new AppError('GUARD_FAILED', 'this Node can not become another program');
}
