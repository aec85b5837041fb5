/**
 * `unenroll`: the host forgets who it is. Works without a control plane, which is told by nobody: the Host object is deleted
 * there. MicroVMs are never touched; with any left here it refuses unless told that they are to be left.
 */
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { AppError } from '#api/model/error-codes.ts';
import { createIdentityFiles } from '../adapters/identity-files/identity-files.ts';
import { openJournalForReading } from '../adapters/journal-sqlite/journal-sqlite.ts';
import { journalFile } from './run.ts';
import { withStoppedAgent } from './stopped-agent.ts';

export interface UnenrollOptions {
  readonly stateDir: string;
  /** Goes on although microVMs are left on this host that nobody will manage. */
  readonly keepMicroVMs: boolean;
}

/** Idempotent. @throws STATE_DIR_LOCKED, CONFLICT with microVMs left */
export async function unenroll(options: UnenrollOptions): Promise<string> {
  const stateDirectory = resolve(options.stateDir);
  return withStoppedAgent(stateDirectory, 'stop the agent first, such as by systemctl stop nkudo-edge; its microVMs go on', async () => {
    const left = microvmsLeft(stateDirectory);
    if (left > 0 && !options.keepMicroVMs) {
      throw new AppError('CONFLICT', `${left} microVMs are left on this host`, {
        remedy: 'delete them first (kubectl delete microvm), or leave them running with nobody to manage them: --keep-microvms',
      });
    }
    const store = createIdentityFiles(stateDirectory);
    const identity = store.load();
    store.clear();
    if (identity === null) return 'this host was not enrolled';
    const running = left === 0 ? '' : `; ${left} microVMs are left as they are`;
    return `forgot the identity of host ${identity.hostName}${running}; to end it at the control plane as well: kubectl -n ${identity.namespace} delete nkhost ${identity.hostName}`;
  });
}

function microvmsLeft(stateDirectory: string): number {
  const path = join(stateDirectory, journalFile);
  if (!existsSync(path)) return 0;
  const journal = openJournalForReading(path);
  try {
    return journal.loadMicroVMs().filter(({ isTombstone }) => !isTombstone).length;
  } finally {
    journal.close();
  }
}
