/**
 * One agent for each state directory. Node has no flock(2); a SQLite database whose exclusive lock is
 * held in an open transaction is one in effect: fcntl locks on the file, released by the kernel when
 * the process dies, valid across containers that share the directory, and immune to a reused pid.
 * Nobody else opens `agent.lock`, since closing any descriptor of it in this process would release it.
 */
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { AppError } from '#api/model/error-codes.ts';

export interface StateLock {
  release(): void;
}

const sqliteBusy = 5;

/** Somebody who only looks (`status`) holds the lock for a moment; an agent that starts outlasts that. */
const patienceMs = 1_000;

/** @throws STATE_DIR_LOCKED */
export function lockStateDirectory(stateDirectory: string, timeout: number = patienceMs): StateLock {
  const database = new DatabaseSync(join(stateDirectory, 'agent.lock'), { timeout });
  try {
    // Nothing is ever written, so it works on a full file system too.
    database.exec('PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE');
  } catch (error) {
    database.close();
    if (error instanceof Error && 'errcode' in error && error.errcode === sqliteBusy) throw new AppError('STATE_DIR_LOCKED', undefined, { cause: error });
    throw error;
  }
  return { release: () => database.close() };
}

/** Whether an agent holds the directory now. */
export function isStateDirectoryLocked(stateDirectory: string): boolean {
  try {
    lockStateDirectory(stateDirectory, 0).release();
    return false;
  } catch (error) {
    if (error instanceof AppError && error.code === 'STATE_DIR_LOCKED') return true;
    throw error;
  }
}
