/**
 * Cuts the event monitor's stream into records. Pure and incremental: the VMM writes pretty-printed
 * JSON objects one after another, so a record ends where its braces close, wherever the chunks do.
 */

export interface RawEvent {
  readonly source: string;
  readonly event: string;
  readonly properties: Readonly<Record<string, string>>;
  readonly sinceStartMs: number;
  /** Bytes of the stream up to and including this record. */
  readonly endOffset: number;
}

/** A record longer than this is not an event; the stream is then broken and nothing more is read from it. */
const recordBytesMax = 64 * 1024;

const openBrace = 0x7b;
const closeBrace = 0x7d;
const quote = 0x22;
const backslash = 0x5c;

export interface EventParser {
  /** Takes the next bytes and returns the records that they complete. @throws Error when the stream is no event stream. */
  push(chunk: Uint8Array): RawEvent[];
}

/** @param startOffset offset in the stream of the first byte that will be pushed; it must lie between records. */
export function createEventParser(startOffset: number): EventParser {
  let pending: number[] = [];
  let depth = 0;
  let inString = false;
  let escaped = false;
  let offset = startOffset;

  function take(byte: number): RawEvent | null {
    offset += 1;
    if (depth === 0 && byte !== openBrace) return null; // Blank lines between records.
    pending.push(byte);
    if (pending.length > recordBytesMax) throw new Error('event record is longer than its limit');
    if (inString) {
      if (escaped) escaped = false;
      else if (byte === backslash) escaped = true;
      else if (byte === quote) inString = false;
      return null;
    }
    if (byte === quote) inString = true;
    if (byte === openBrace) depth += 1;
    if (byte !== closeBrace) return null;
    depth -= 1;
    if (depth > 0) return null;
    const text = Buffer.from(pending).toString('utf8');
    pending = [];
    return parseRecord(text, offset);
  }

  return {
    push(chunk) {
      const events: RawEvent[] = [];
      for (const byte of chunk) {
        const event = take(byte);
        if (event !== null) events.push(event);
      }
      return events;
    },
  };
}

function parseRecord(text: string, endOffset: number): RawEvent | null {
  // The shape is checked field by field below; a record without source or event is skipped.
  const record = JSON.parse(text) as { timestamp?: { secs?: unknown; nanos?: unknown }; source?: unknown; event?: unknown; properties?: unknown };
  if (typeof record.source !== 'string' || typeof record.event !== 'string') return null;
  const seconds = Number(record.timestamp?.secs ?? 0);
  const nanoseconds = Number(record.timestamp?.nanos ?? 0);
  const properties = typeof record.properties === 'object' && record.properties !== null ? Object.entries(record.properties) : [];
  return {
    source: record.source,
    event: record.event,
    properties: Object.fromEntries(properties.map(([key, value]) => [key, String(value)])),
    sinceStartMs: seconds * 1000 + nanoseconds / 1e6,
    endOffset,
  };
}
