/**
 * What storing chunks of logs comes to: pure. Owns that each byte of a stream is stored once, that what is missing becomes a
 * gap, and that chunks which continue each other share a row. Locks and rows are the store's.
 */
import type { LogChunk } from '#controller/ports/log-store.ts';

/** Most bytes of a row; also of one message to a reader. */
export const logRowBytesMax = 65_536;

export interface LogRow extends Pick<LogChunk, 'microvmId' | 'source' | 'incarnation' | 'offset' | 'gapBytes'> {
  /** In this order; together at most {@link logRowBytesMax}, or one chunk. */
  readonly parts: readonly Uint8Array[];
}

export interface LogAppend {
  readonly rows: readonly LogRow[];
  /** Streams that advance, with their new cursor. */
  readonly cursors: ReadonlyMap<string, { readonly chunk: LogChunk; readonly nextOffset: number }>;
  /** For each chunk, the cursor of its stream in the end. */
  readonly nextOffsets: readonly number[];
}

export function streamKey(chunk: Pick<LogChunk, 'microvmId' | 'source' | 'incarnation'>): string {
  return `${chunk.microvmId}/${chunk.source}/${chunk.incarnation}`;
}

interface OpenRow {
  readonly first: LogChunk;
  readonly offset: number;
  readonly gapBytes: number;
  readonly parts: Uint8Array[];
  bytes: number;
}

/** `stored` has the cursor of each stream, absent for a new one; chunks of microVMs that are not in `bound` are dropped. */
export function planAppend(chunks: readonly LogChunk[], bound: ReadonlySet<string>, stored: ReadonlyMap<string, number>): LogAppend {
  const reached = new Map<string, number>();
  const advanced = new Map<string, LogChunk>();
  const rows: OpenRow[] = [];
  // The last row of each log. A row of another boot of the same log closes it, so that ids keep the order of arrival.
  const open = new Map<string, { readonly key: string; readonly row: OpenRow }>();
  for (const chunk of chunks.filter(({ microvmId }) => bound.has(microvmId))) {
    const key = streamKey(chunk);
    const log = `${chunk.microvmId}/${chunk.source}`;
    const next = reached.get(key) ?? stored.get(key) ?? 0;
    const end = chunk.offset + chunk.data.byteLength;
    if (next >= end) continue;
    reached.set(key, end);
    advanced.set(key, chunk);
    const gapBytes = Math.max(0, chunk.offset - next);
    const data = chunk.data.subarray(Math.max(0, next - chunk.offset));
    const last = open.get(log);
    if (gapBytes === 0 && last?.key === key && last.row.bytes + data.byteLength <= logRowBytesMax) {
      last.row.parts.push(data);
      last.row.bytes += data.byteLength;
      continue;
    }
    const row = { first: chunk, offset: end - data.byteLength, gapBytes, parts: [data], bytes: data.byteLength };
    rows.push(row);
    open.set(log, { key, row });
  }
  return {
    rows: rows.map(({ first: { microvmId, source, incarnation }, offset, gapBytes, parts }) => ({ microvmId, source, incarnation, offset, gapBytes, parts })),
    cursors: new Map([...advanced].map(([key, chunk]) => [key, { chunk, nextOffset: reached.get(key) ?? 0 }])),
    nextOffsets: chunks.map((chunk) => {
      const key = streamKey(chunk);
      return bound.has(chunk.microvmId) ? (reached.get(key) ?? stored.get(key) ?? 0) : chunk.offset + chunk.data.byteLength;
    }),
  };
}
