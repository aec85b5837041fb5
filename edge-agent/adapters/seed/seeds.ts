/** The Seeds port: an ISO 9660 image with the label `cidata` in the directory of the microVM, 0600. */
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { AppError } from '#api/model/error-codes.ts';
import type { MicroVMId } from '#api/model/ids.ts';
import { isSameSecret, type DesiredMicroVM, type SecretKey } from '#api/model/microvm.ts';
import { deriveSeedFiles } from '../../domain/cloud-init.ts';
import type { KeptSecrets } from '../../ports/kept-secrets.ts';
import type { Seeds } from '../../ports/seeds.ts';
import type { VmDirectories } from '../../ports/vm-directories.ts';
import { syncDirectory, writeFileDurably } from '../system/durable-file.ts';
import { writeIso } from './iso9660.ts';

/** cloud-init looks for a file system with this label. Source: cloud-init documentation, "NoCloud". */
const label = 'cidata';
export const seedFile = 'seed.iso';

export interface SeedsOptions {
  readonly directories: Pick<VmDirectories, 'path'>;
  readonly secrets: Pick<KeptSecrets, 'load'>;
  /** DNS servers that guests are told of; may be empty. */
  readonly nameServers: readonly string[];
}

export function createSeeds({ directories, secrets, nameServers }: SeedsOptions): Seeds {
  const path = (microvmId: MicroVMId): string => join(directories.path(microvmId), seedFile);

  function userDataOf(microvmId: MicroVMId, key: SecretKey | undefined): Uint8Array | null {
    if (key === undefined) return null;
    const kept = secrets.load(microvmId).find((candidate) => isSameSecret(candidate, key));
    if (kept === undefined) throw new AppError('SECRET_UNAVAILABLE', `the value ${key.key} of the Secret ${key.name} is not on the host`);
    return kept.reveal();
  }

  function makeImage(microvmId: MicroVMId, desired: DesiredMicroVM): Uint8Array | null {
    const { cloudInit } = desired;
    if (cloudInit === undefined) return null;
    const secretUserData = userDataOf(microvmId, cloudInit.userDataSecret);
    return writeIso(label, deriveSeedFiles({ microvmId, desired, cloudInit, secretUserData, nameServers }));
  }

  return {
    path,
    async ensure(microvmId, desired) {
      const image = makeImage(microvmId, desired);
      try {
        if (image === null) remove(path(microvmId));
        else if (!isContent(path(microvmId), image)) writeFileDurably(path(microvmId), image);
      } catch (error) {
        if (error instanceof Error && 'code' in error && (error.code === 'ENOSPC' || error.code === 'EDQUOT')) throw new AppError('DISK_FULL', 'no space is left for the disk of cloud-init', { cause: error });
        throw error;
      }
    },
  };
}

function remove(path: string): void {
  if (!existsSync(path)) return;
  rmSync(path, { force: true });
  syncDirectory(dirname(path));
}

function isContent(path: string, content: Uint8Array): boolean {
  return existsSync(path) && Buffer.compare(readFileSync(path), content) === 0;
}
