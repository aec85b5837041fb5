/**
 * A file of full blocks beside the journal. Where the file system is full, it is given up, so that what the host owes
 * for its microVMs (ends, restarts, results, deletions) can still be written down. Owns that file only.
 */
import { randomFillSync } from 'node:crypto';
import { closeSync, fsyncSync, openSync, rmSync, statfsSync, statSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';

export interface SpaceReserve {
  /** Makes the file where it is missing. @returns whether it is there now; false: there is no room for it */
  keep(): boolean;
  /** @returns whether there was something to give up */
  giveUp(): boolean;
}

export function createSpaceReserve(path: string, bytes: number): SpaceReserve {
  const isThere = (): boolean => (statSync(path, { throwIfNoEntry: false })?.size ?? 0) >= bytes;

  function make(): void {
    const file = openSync(path, 'w', 0o600);
    try {
      // Zeros would take no room where the file system packs them.
      writeAll(file, randomFillSync(Buffer.allocUnsafe(bytes)));
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
  }

  return {
    keep() {
      if (isThere()) return true;
      const { bavail, bsize } = statfsSync(dirname(path));
      // As much again must stay free, or the next write takes it away anew.
      if (bavail * bsize < 2 * bytes) return false;
      try {
        make();
        return true;
      } catch (error) {
        rmSync(path, { force: true });
        if (error instanceof Error && 'code' in error && (error.code === 'ENOSPC' || error.code === 'EDQUOT')) return false;
        throw error;
      }
    },
    giveUp() {
      const isHeld = isThere();
      rmSync(path, { force: true });
      return isHeld;
    },
  };
}

function writeAll(file: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length; ) done += writeSync(file, bytes, done);
}
