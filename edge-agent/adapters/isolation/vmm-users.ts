/**
 * Gives each microVM a user of its own. The group of the microVM's directory is the memory of it: it is there as long
 * as the directory and everything in it, so a user is free again exactly when nothing of its microVM is left. The
 * group may pass through the directory and see nothing of it; what the VMM writes is in folders of its own.
 */
import { chmodSync, chownSync, lstatSync, mkdirSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { AppError } from '#api/model/error-codes.ts';
import { isUuid, type MicroVMId } from '#api/model/ids.ts';
import { stableHash } from '#api/model/stable-hash.ts';
import { syncDirectory } from '../system/durable-file.ts';
import { chooseUser, type UserRange } from '../../domain/user-range.ts';

/** The group passes through and does not look. */
export const passThroughMode = 0o710;

export interface VmmUsers {
  /** Allocates where there is none; the directory exists. Durable on return, idempotent. */
  ensure(microvmId: MicroVMId): number;
}

export function createVmmUsers(vmsDirectory: string, range: UserRange): VmmUsers {
  return {
    ensure(microvmId) {
      const directory = join(vmsDirectory, microvmId);
      const known = userOfDirectory(directory, range);
      if (known !== undefined) return known;
      const chosen = chooseUser(range, stableHash(microvmId, 0), takenUsers(vmsDirectory, range));
      if (chosen === null) throw new AppError('HYPERVISOR_FAILED', `all users from ${range.first} to ${range.last} belong to other microVMs; give the agent a larger range with vmmUsers`);
      // The group is the memory, so it comes last: what it stands for is complete by then.
      chmodSync(directory, passThroughMode);
      chownSync(directory, 0, chosen);
      syncDirectory(directory);
      return chosen;
    },
  };
}

/** A look at every directory, at a start only: no second memory that could be wrong. */
function takenUsers(vmsDirectory: string, range: UserRange): ReadonlySet<number> {
  const users = readdirSync(vmsDirectory).filter(isUuid).map((name) => userOfDirectory(join(vmsDirectory, name), range));
  return new Set(users.filter((user) => user !== undefined));
}

/** Undefined also for a directory that went away meanwhile, or that an agent without users has made. */
function userOfDirectory(directory: string, { first, last }: UserRange): number | undefined {
  const stats = statSync(directory, { throwIfNoEntry: false });
  return stats !== undefined && stats.gid >= first && stats.gid <= last ? stats.gid : undefined;
}

/** Makes the folder that the VMM may write to: its own, and closed to all others. Idempotent. */
export function ensureOwnFolder(folder: string, userId: number | null): void {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  if (userId !== null && lstatSync(folder).uid !== userId) chownSync(folder, userId, userId);
}
