/** Cuts rows of a log into lines: pure. What is not ended yet is carried to the next row of the same boot. */
import type { TenantId } from '#api/model/ids.ts';
import type { ExportedRow, LogLine } from '../ports/log-sink.ts';

/** A longer line is cut, bytes. */
export const lineBytesMax = 65_536;
const lineEnd = 0x0a;

export interface CutLines {
  readonly lines: readonly LogLine[];
  /** The unfinished line at the end of the row. */
  readonly carry: Uint8Array;
}

/** `carry`: what came before the row of its line. A gap ends the line before it. */
export function cutLines(tenantId: TenantId, row: ExportedRow, carry: Uint8Array): CutLines {
  const lines: LogLine[] = [];
  const { namespace, siteName, microvmId, microvmName, source, incarnation, receivedAtMs } = row;
  const add = (offset: number, bytes: Uint8Array, gapBytes = 0): void => {
    const text = gapBytes > 0 ? `${gapBytes} bytes were lost here` : Buffer.from(bytes).toString('utf8').replace(/\r$/, '');
    lines.push({ tenantId, namespace, siteName, microvmId, microvmName, source, incarnation, offset, text, gapBytes, receivedAtMs });
  };
  const isAfterGap = row.gapBytes > 0;
  if (isAfterGap) {
    if (carry.byteLength > 0) add(row.offset - row.gapBytes - carry.byteLength, carry);
    add(row.offset, new Uint8Array(), row.gapBytes);
  }
  const before = isAfterGap ? new Uint8Array() : carry;
  const bytes = Buffer.concat([before, row.data]);
  const firstOffset = row.offset - before.byteLength;
  let start = 0;
  for (;;) {
    const end = bytes.indexOf(lineEnd, start);
    const stop = end < 0 ? bytes.byteLength : end;
    // Pieces of a line that is too long leave at once: what is carried stays small.
    while (stop - start > lineBytesMax) {
      add(firstOffset + start, bytes.subarray(start, start + lineBytesMax));
      start += lineBytesMax;
    }
    if (end < 0) return { lines, carry: bytes.subarray(start) };
    add(firstOffset + start, bytes.subarray(start, end));
    start = end + 1;
  }
}
