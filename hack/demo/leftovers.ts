/**
 * Looks for what a deleted microVM left: processes, files, live rows. Looks at the machine and at the database, not at
 * what the product says about itself.
 */
import { readdirSync, readlinkSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { queryAsAdmin, type PostgresAccess } from '../stack/postgres.ts';

/** The helper process of a VMM ends a moment after it. */
const settleTimeoutMs = 10_000;
const settlePollMs = 100;

/** Where to look and for whom. */
export interface LeftoverSearch {
  readonly stateDirectory: string;
  readonly postgres: PostgresAccess;
  readonly microvmUids: readonly string[];
}

/** One sentence for each thing that is left; empty when nothing is, which may take a moment. */
export async function findLeftovers(search: LeftoverSearch): Promise<readonly string[]> {
  const deadline = performance.now() + settleTimeoutMs;
  for (;;) {
    const found = [...findProcesses(search), ...findFiles(search), ...(await findRows(search))];
    if (found.length === 0 || performance.now() > deadline) {
      return found;
    }
    await delay(settlePollMs);
  }
}

/** A VMM and its helper work in the microVM's directory. */
function findProcesses({ stateDirectory }: LeftoverSearch): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        const directory = readlinkSync(`/proc/${pid}/cwd`);
        return directory.startsWith(`${stateDirectory}/`) ? [`process ${pid} in ${directory}`] : [];
      } catch {
        return []; // Ended meanwhile.
      }
    });
}

function findFiles({ stateDirectory, microvmUids }: LeftoverSearch): string[] {
  return readdirSync(stateDirectory, { recursive: true, encoding: 'utf8' })
    .filter((file) => microvmUids.some((uid) => file.includes(uid)))
    .map((file) => `file ${file}`);
}

async function findRows({ postgres, microvmUids }: LeftoverSearch): Promise<string[]> {
  const [row] = await queryAsAdmin(
    postgres,
    'postgres',
    `SELECT (SELECT count(*) FROM nkudo.bindings WHERE microvm_id = ANY ($1::uuid[]) AND released_at IS NULL)::int AS bindings,
            (SELECT count(*) FROM nkudo.operations WHERE microvm_id = ANY ($1::uuid[]) AND status IN ('Pending', 'Dispatched', 'Running'))::int AS operations`,
    [microvmUids],
  );
  return ['bindings', 'operations'].filter((name) => row?.[name] !== 0).map((name) => `${String(row?.[name])} live rows in ${name}`);
}
