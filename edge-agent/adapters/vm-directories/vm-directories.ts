/** The VmDirectories port on the file system: `<state>/vms/<uid>/vm.json`. */
import { existsSync } from 'node:fs';
import { readdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { parseEpoch } from '#api/model/epoch.ts';
import { isUuid, microVMId, type MicroVMId } from '#api/model/ids.ts';
import type { DirectoryIdentity } from '../../domain/microvm-record.ts';
import type { VmDirectories } from '../../ports/vm-directories.ts';
import { seedFile } from '../seed/seeds.ts';
import { ensureDirectory, syncDirectory, writeFileDurably } from '../system/durable-file.ts';

export function createVmDirectories(stateDirectory: string): VmDirectories {
  const root = join(stateDirectory, 'vms');
  const path = (id: MicroVMId): string => join(root, id);
  return {
    path,
    async look(id) {
      if (!(await exists(path(id)))) return { exists: false, identity: null };
      return { exists: true, identity: await readIdentity(join(path(id), 'vm.json'), id), hasSeed: existsSync(join(path(id), seedFile)) };
    },
    async prepare(id) {
      ensureDirectory(path(id));
    },
    async writeIdentity(identity) {
      writeFileDurably(join(path(identity.microvmId), 'vm.json'), `${JSON.stringify(identity)}\n`);
    },
    async remove(id) {
      if (!(await exists(path(id)))) return;
      await rm(path(id), { recursive: true, force: true });
      syncDirectory(root);
    },
    async list() {
      if (!(await exists(root))) return [];
      return (await readdir(root)).filter(isUuid).map(microVMId);
    },
  };
}

async function exists(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return false;
    throw error;
  }
}

/** Null also for a file that somebody damaged: then the directory proves nothing. */
async function readIdentity(path: string, id: MicroVMId): Promise<DirectoryIdentity | null> {
  try {
    const parsed: unknown = JSON.parse(await readFile(path, 'utf8'));
    if (typeof parsed !== 'object' || parsed === null) return null;
    const { microvmId, epoch, revision, incarnation } = parsed as Record<string, unknown>; // Each field is checked below.
    if (microvmId !== id || typeof epoch !== 'number' || typeof revision !== 'number' || typeof incarnation !== 'number') return null;
    return { microvmId: id, epoch: parseEpoch(epoch), revision, incarnation };
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof RangeError || (error instanceof Error && 'code' in error && error.code === 'ENOENT')) return null;
    throw error;
  }
}
