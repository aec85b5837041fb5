/** Writes a file so that after a power cut a reader finds the earlier or the later content, whole. */
import { closeSync, fsyncSync, mkdirSync, openSync, renameSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { AppError } from '#api/model/error-codes.ts';

/** Durable on return. Mode 0600. @throws DISK_FULL; JOURNAL_FAILED when nobody knows what is on the disk: the process must end */
export function writeFileDurably(path: string, content: string | Uint8Array): void {
  inWords(`writing ${basename(path)}`, () => {
    const temporary = join(dirname(path), `.${basename(path)}.new`);
    const file = openSync(temporary, 'w', 0o600);
    try {
      writeFileSync(file, content);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(temporary, path);
    syncDirectory(dirname(path));
  });
}

function inWords(what: string, work: () => void): void {
  try {
    work();
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : '';
    if (code === 'ENOSPC' || code === 'EDQUOT') throw new AppError('DISK_FULL', `no space left for ${what}`, { cause: error });
    if (code === 'EIO') throw new AppError('JOURNAL_FAILED', `${what} failed: the disk does not take what it is given`, { remedy: 'look at the disk of the state directory', cause: error });
    throw error;
  }
}

/** Makes the names in a directory durable. */
export function syncDirectory(path: string): void {
  const directory = openSync(path, 'r');
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
}

/** Makes a directory (0700) and its missing parents; durable on return. Idempotent. @throws DISK_FULL, JOURNAL_FAILED */
export function ensureDirectory(path: string): void {
  inWords(`making ${basename(path)}`, () => {
    const first = mkdirSync(path, { recursive: true, mode: 0o700 });
    // Also one that was there: an agent that died here may have left its name only in memory.
    for (let made = path; ; made = dirname(made)) {
      syncDirectory(dirname(made));
      if (first === undefined || made === first) return;
    }
  });
}
