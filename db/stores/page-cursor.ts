/** Opaque cursors of paged lists: the last row's order keys, base64url of JSON. They select, they never authorise. */
import { AppError } from '#api/model/error-codes.ts';
import { isUuid } from '#api/model/ids.ts';
import type { Page } from '#controller/ports/fleet-store.ts';

const cursorMax = 512;
/** Most rows of one page. */
const pageMax = 1000;

export function encodeCursor(keys: readonly string[]): string {
  return Buffer.from(JSON.stringify(keys)).toString('base64url');
}

/** @throws INVALID_REQUEST on a text that {@link encodeCursor} did not make from a text and a UUID */
export function decodeCursor(cursor: string): readonly [string, string] {
  const parsed = cursor.length > cursorMax ? null : parse(cursor);
  if (!Array.isArray(parsed) || parsed.length !== 2) throw malformed();
  const [key, id]: unknown[] = parsed;
  if (typeof key !== 'string' || typeof id !== 'string' || !isUuid(id)) throw malformed();
  return [key, id];
}

function parse(cursor: string): unknown {
  try {
    return JSON.parse(Buffer.from(cursor, 'base64url').toString('utf8'));
  } catch {
    return null; // Refused by the caller, like any other wrong text.
  }
}

function malformed(): AppError {
  return new AppError('INVALID_REQUEST', 'the page cursor is malformed');
}

export function boundedSize(size: number): number {
  return Math.min(Math.max(1, Math.trunc(size)), pageMax);
}

/** `rows` holds one more than the page when there is a next one. */
export function toPage<Row>(rows: readonly Row[], size: number, keys: (row: Row) => readonly [string, string]): Page<Row> {
  const page = rows.slice(0, size);
  const last = page.at(-1);
  return { rows: page, nextCursor: rows.length > size && last !== undefined ? encodeCursor(keys(last)) : null };
}
