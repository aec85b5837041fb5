/**
 * An older copy of a database's files, and what puts it in the place of the newer ones: a restore, or a failover to a
 * standby that lagged behind. Whatever was committed in between is lost.
 */
import { appendFileSync, cpSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { PostgresCluster } from '#hack/stack/postgres.ts';
import { fileScope } from '#test/harness/file-scope.ts';

export interface DatabaseCopy {
  /** Stops the server in order and puts the copy back: the same timeline. */
  restore(): Promise<void>;
  /** Kills the server; the copy is promoted in its place, under the same address: a new timeline. Needs `wal_level=replica`. */
  failOver(): Promise<void>;
}

const parts = [
  'base', 'global', 'pg_wal', 'pg_xact', 'pg_multixact', 'pg_subtrans', 'pg_notify', 'pg_logical', 'pg_commit_ts', 'pg_dynshmem', 'pg_replslot',
  'pg_serial', 'pg_snapshots', 'pg_stat', 'pg_stat_tmp', 'pg_tblspc', 'pg_twophase',
];

/** A copy of the files of a server that is stopped in order for it, as a snapshot of its disk is. */
export async function copyDatabase(postgres: PostgresCluster): Promise<DatabaseCopy> {
  const { dataDirectory } = postgres;
  const copy = `${fileScope().makeDirectory('b')}/data`;
  await postgres.stop();
  cpSync(dataDirectory, copy, { recursive: true, preserveTimestamps: true });
  await postgres.start();
  const putBack = async (): Promise<void> => {
    // In place, because the folder's owner is the server's user.
    for (const part of parts) {
      rmSync(join(dataDirectory, part), { recursive: true, force: true });
      cpSync(join(copy, part), join(dataDirectory, part), { recursive: true, preserveTimestamps: true });
    }
    await ownAgain(dataDirectory);
    await postgres.start();
  };
  return {
    restore: async () => {
      await postgres.stop();
      await putBack();
    },
    failOver: async () => {
      await postgres.crash();
      // A recovery that finds no further log ends there and begins a timeline of its own, as every promotion does.
      writeFileSync(join(dataDirectory, 'recovery.signal'), '');
      appendFileSync(join(dataDirectory, 'postgresql.auto.conf'), `restore_command = 'false'\n`);
      await putBack();
    },
  };
}

/** Files that root copied belong to root. */
async function ownAgain(directory: string): Promise<void> {
  if (process.getuid?.() !== 0) return;
  const chown = await fileScope().start({ name: 'chown', command: 'chown', args: ['-R', '--reference', directory, directory] });
  const { code } = await chown.exited;
  if (code !== 0) throw new Error(`chown ended with ${code}`);
}
