/** For commands that change what a running agent holds in memory: they take its lock, or say that it runs. */
import { existsSync } from 'node:fs';
import { AppError, isAppError } from '#api/model/error-codes.ts';
import { lockStateDirectory } from '../adapters/system/state-lock.ts';

/** @param remedy what to do when an agent runs. @throws NOT_FOUND without a state directory, STATE_DIR_LOCKED */
export async function withStoppedAgent<Result>(stateDirectory: string, remedy: string, work: () => Promise<Result>): Promise<Result> {
  if (!existsSync(stateDirectory)) throw new AppError('NOT_FOUND', `there is no state directory ${stateDirectory}`, { remedy: 'correct --state-dir' });
  const lock = lockOrExplain(stateDirectory, remedy);
  try {
    return await work();
  } finally {
    lock.release();
  }
}

function lockOrExplain(stateDirectory: string, remedy: string): ReturnType<typeof lockStateDirectory> {
  try {
    return lockStateDirectory(stateDirectory);
  } catch (error) {
    if (isAppError(error) && error.code === 'STATE_DIR_LOCKED') throw new AppError('STATE_DIR_LOCKED', 'an agent runs with this state directory', { remedy, cause: error });
    throw error;
  }
}
