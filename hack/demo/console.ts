/** The guest's first console lines as they arrived in the control plane's database. */
import { setTimeout as delay } from 'node:timers/promises';
import { queryAsAdmin, type PostgresAccess } from '../stack/postgres.ts';

const waitTimeoutMs = 30_000;
const pollMs = 200;
const wantedLines = 4;
const shownLines = 6;

/** Waits for some lines; @throws when none came in 30 s. */
export async function readConsole(postgres: PostgresAccess, microvmUid: string): Promise<readonly string[]> {
  const deadline = performance.now() + waitTimeoutMs;
  for (;;) {
    const lines = await readLines(postgres, microvmUid);
    const isOver = performance.now() > deadline;
    if (lines.length >= wantedLines || (isOver && lines.length > 0)) {
      return lines.slice(0, shownLines);
    }
    if (isOver) {
      throw new Error(`no console line of the guest arrived in ${waitTimeoutMs / 1000} s`);
    }
    await delay(pollMs);
  }
}

async function readLines(postgres: PostgresAccess, microvmUid: string): Promise<readonly string[]> {
  const rows = await queryAsAdmin(
    postgres,
    'postgres',
    `SELECT convert_from(string_agg(data, ''::bytea ORDER BY incarnation, byte_offset), 'LATIN1') AS text
       FROM nkudo.logs WHERE microvm_id = $1 AND source = 'serial'`,
    [microvmUid],
  );
  const text = rows[0]?.['text'];
  return typeof text === 'string' ? text.split(/\r?\n/).slice(0, -1) : [];
}
