/**
 * Runs cells of an authorisation matrix: one call each, with the code that is expected and the proof that nothing was
 * written. The proof is a checksum over every row of every table of the product.
 */
import pg from 'pg';
import { fileScope } from '#test/harness/file-scope.ts';
import type { TestDatabase } from '#test/harness/postgres.ts';
import type { Outcome } from '../identity/fleet-client.ts';

export interface Cell {
  /** Route and credentials in words. */
  readonly name: string;
  readonly expected: string;
  /** Texts that the answer must not hold. */
  readonly hidden?: readonly string[];
  /** What the answer must hold. */
  readonly shows?: readonly string[];
  /** Milliseconds. */
  readonly call: () => Promise<Outcome>;
}

export interface Findings {
  readonly cells: number;
  /** Cells that are not as expected, in one line each. */
  readonly failures: readonly string[];
}

/** Gives one line for each table: its rows and a checksum of their content, without the coarse note of a key's use. */
export async function createSnapshots(rows: TestDatabase): Promise<() => Promise<string>> {
  const client = new pg.Client({ connectionString: rows.adminUrl });
  await client.connect();
  fileScope().defer(() => client.end());
  const tables = await rows.query(
    `select c.relname as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname = 'nkudo' and c.relkind in ('r', 'p') and not c.relispartition order by 1`,
  );
  const parts = tables.map(({ name }) => {
    const row = name === 'api_keys' ? `(to_jsonb(t) - 'last_used_at')::text` : 't::text';
    return `select '${String(name)}' as name, count(*)::int as count, coalesce(sum(hashtextextended(${row}, 0)), 0)::text as sum from nkudo.${String(name)} t`;
  });
  const text = `${parts.join(' union all ')} order by 1`;
  return async () => {
    const counts = await client.query<{ name: string; count: number; sum: string }>({ name: 'snapshot', text });
    return counts.rows.map(({ name, count, sum }) => `${name} ${count} ${sum}`).join('\n');
  };
}

function differences(before: string, after: string): string {
  const old = new Set(before.split('\n'));
  return after.split('\n').filter((line) => !old.has(line)).map((line) => line.split(' ')[0]).join(', ');
}

export async function runMatrix(snapshot: () => Promise<string>, cells: readonly Cell[]): Promise<Findings> {
  const failures: string[] = [];
  let before = await snapshot();
  for (const cell of cells) {
    const outcome = await cell.call();
    const after = await snapshot();
    if (outcome.code !== cell.expected) failures.push(`${cell.name}: ${outcome.code}, not ${cell.expected}`);
    const shown = (cell.hidden ?? []).filter((text) => outcome.answer.includes(text));
    if (shown.length > 0) failures.push(`${cell.name}: the answer holds ${shown.join(', ')}`);
    const missing = (cell.shows ?? []).filter((text) => !outcome.answer.includes(text));
    if (missing.length > 0) failures.push(`${cell.name}: the answer lacks ${missing.join(', ')}: ${outcome.answer.slice(0, 300)}`);
    if (after !== before) failures.push(`${cell.name}: changed ${differences(before, after)}`);
    before = after;
  }
  return { cells: cells.length, failures };
}
