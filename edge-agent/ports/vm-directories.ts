/**
 * One directory for each microVM below the state directory, mode 0700, that says of itself whose it
 * is: the second memory of (epoch, revision) when the journal is lost.
 */
import type { MicroVMId } from '#api/model/ids.ts';
import type { DirectoryIdentity } from '../domain/microvm-record.ts';
import type { SeenDirectory } from '../domain/observed-state.ts';

export interface VmDirectories {
  /** Absolute path, whether it exists or not. */
  path(microvmId: MicroVMId): string;
  /** An identity that can't be read counts as none. */
  look(microvmId: MicroVMId): Promise<SeenDirectory>;
  /** Idempotent. */
  prepare(microvmId: MicroVMId): Promise<void>;
  /** Durable on return, and atomic: a reader sees the earlier or the later one. Idempotent. */
  writeIdentity(identity: DirectoryIdentity): Promise<void>;
  /** With everything in it; durable on return. Idempotent. */
  remove(microvmId: MicroVMId): Promise<void>;
  /** All that exist; names that are no microVM id are left out. */
  list(): Promise<readonly MicroVMId[]>;
}
