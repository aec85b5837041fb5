/**
 * Reads a tar stream of a stranger: ustar, PAX and GNU long names, as layers of container images have them.
 * Names stay bytes (`latin1` strings, one character for each), since not all are UTF-8. Everything that is
 * held in memory is bounded; what a path means is the caller's.
 *
 * Not tar-stream: it decodes PAX values as UTF-8 (3.2.2), and a file capability is binary.
 * Source: POSIX pax (IEEE Std 1003.1), GNU tar manual "Basic Tar Format".
 */
import { AppError } from '#api/model/error-codes.ts';

export type TarType = 'file' | 'hardLink' | 'symlink' | 'directory' | 'other';

export interface TarEntry {
  /** As written, one character for each byte. */
  readonly path: string;
  readonly type: TarType;
  /** The permission bits, 0..0o7777. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Seconds. */
  readonly mtime: number;
  readonly bytes: number;
  readonly link: string;
  /** Extended attributes by name. */
  readonly xattrs: ReadonlyMap<string, Buffer>;
  /** The content, once, before the next entry is asked for; left out it is skipped. */
  readonly content: () => AsyncIterable<Buffer>;
}

const blockBytes = 512;
/** Of one extended header: long names and attributes. */
const extensionBytesMax = 2 ** 20;
const types: Readonly<Record<string, TarType>> = { '\0': 'file', '0': 'file', '7': 'file', '1': 'hardLink', '2': 'symlink', '5': 'directory' };

/** @throws IMAGE_REFUSED for what is no tar archive, or ends too early */
export async function* readTar(source: AsyncIterable<Uint8Array>): AsyncGenerator<TarEntry> {
  const reader = createByteReader(source);
  let pax = new Map<string, Buffer>();
  let global = new Map<string, Buffer>();
  let longName: string | undefined;
  let longLink: string | undefined;
  for (;;) {
    const header = await reader.take(blockBytes, true);
    // Two empty blocks end an archive, and some writers leave them out. What follows is read all the same: it belongs to the digest.
    if (header === null || header.every((byte) => byte === 0)) {
      return await reader.drain();
    }
    checkSum(header);
    const flag = header.toString('latin1', 156, 157);
    const headerBytes = readNumber(header, 124, 12);
    if (flag === 'x' || flag === 'g' || flag === 'L' || flag === 'K') {
      if (headerBytes > extensionBytesMax) throw refused('an extended header that is too long');
      const text = (await reader.take(headerBytes)).subarray();
      await reader.skip(padding(headerBytes));
      if (flag === 'x') pax = parsePax(text);
      else if (flag === 'g') global = new Map([...global, ...parsePax(text)]);
      else if (flag === 'L') longName = cString(text);
      else longLink = cString(text);
      continue;
    }
    const records = new Map([...global, ...pax]);
    if ([...records.keys()].some((key) => key.startsWith('GNU.sparse')) || flag === 'S') throw refused('a sparse file in an archive');
    const bytes = decimal(records.get('size')) ?? headerBytes;
    const type = types[flag] ?? 'other';
    const hasContent = type === 'file' || type === 'other';
    let left = hasContent ? bytes : 0;
    const end = padding(left);
    yield {
      path: records.get('path')?.toString('latin1') ?? longName ?? ustarName(header),
      type: type === 'file' && flag !== '7' && ustarName(header).endsWith('/') && longName === undefined && !records.has('path') ? 'directory' : type,
      mode: readNumber(header, 100, 8) & 0o7777,
      uid: decimal(records.get('uid')) ?? readNumber(header, 108, 8),
      gid: decimal(records.get('gid')) ?? readNumber(header, 116, 8),
      mtime: decimal(records.get('mtime')) ?? readNumber(header, 136, 12),
      bytes: left,
      link: records.get('linkpath')?.toString('latin1') ?? longLink ?? cString(header.subarray(157, 257)),
      xattrs: new Map([...records].flatMap(([key, value]) => (key.startsWith(xattrPrefix) ? [[key.slice(xattrPrefix.length), value] as const] : []))),
      content: async function* () {
        while (left > 0) {
          const chunk = await reader.some(left);
          left -= chunk.length;
          yield chunk;
        }
      },
    };
    await reader.skip(left + end);
    pax = new Map();
    longName = undefined;
    longLink = undefined;
  }
}

/** As Docker, BuildKit and GNU tar write them. */
const xattrPrefix = 'SCHILY.xattr.';

interface ByteReader {
  /** Exactly so many bytes; null at the end of the stream if that is allowed. */
  take(bytes: number): Promise<Buffer>;
  take(bytes: number, mayEnd: true): Promise<Buffer | null>;
  /** At least one byte, at most so many. */
  some(max: number): Promise<Buffer>;
  skip(bytes: number): Promise<void>;
  /** Reads to the end. */
  drain(): Promise<void>;
}

function createByteReader(source: AsyncIterable<Uint8Array>): ByteReader {
  const iterator = source[Symbol.asyncIterator]();
  let held: Buffer = Buffer.alloc(0);

  async function more(): Promise<boolean> {
    const next = await iterator.next();
    if (next.done === true) return false;
    const chunk = Buffer.from(next.value.buffer, next.value.byteOffset, next.value.byteLength);
    held = held.length === 0 ? chunk : Buffer.concat([held, chunk]);
    return true;
  }
  function cut(bytes: number): Buffer {
    const part = held.subarray(0, bytes);
    held = held.subarray(bytes);
    return part;
  }
  async function take(bytes: number): Promise<Buffer>;
  async function take(bytes: number, mayEnd: true): Promise<Buffer | null>;
  async function take(bytes: number, mayEnd = false): Promise<Buffer | null> {
    while (held.length < bytes) {
      if (await more()) continue;
      if (mayEnd && held.length === 0) return null;
      throw refused('an archive that ends too early');
    }
    return cut(bytes);
  }
  async function some(max: number): Promise<Buffer> {
    while (held.length === 0) if (!(await more())) throw refused('an archive that ends too early');
    return cut(Math.min(max, held.length));
  }
  return {
    take,
    some,
    async skip(bytes) {
      for (let left = bytes; left > 0; ) left -= (await some(left)).length;
    },
    async drain() {
      do held = Buffer.alloc(0);
      while (await more());
    },
  };
}

function padding(bytes: number): number {
  return (blockBytes - (bytes % blockBytes)) % blockBytes;
}

function checkSum(header: Buffer): void {
  const sum = header.reduce((total, byte, index) => total + (index >= 148 && index < 156 ? 32 : byte), 0);
  if (sum !== readNumber(header, 148, 8)) throw refused('a layer that is no tar archive');
}

/** Octal, or base 256 when the first bit is set. */
function readNumber(header: Buffer, offset: number, length: number): number {
  const bytes = header.subarray(offset, offset + length);
  const value =
    ((bytes[0] ?? 0) & 0x80) === 0
      ? Number.parseInt(cString(bytes).trim() || '0', 8)
      : bytes.reduce((total, byte, index) => total * 256 + (index === 0 ? byte & 0x7f : byte), 0);
  if (!Number.isSafeInteger(value) || value < 0) throw refused('a number in an archive that is none');
  return value;
}

/** Whole part of a decimal number; a time may have a fraction, or be before 1970 (then 0). */
function decimal(value: Buffer | undefined): number | undefined {
  if (value === undefined) return undefined;
  const number = Math.trunc(Number(value.toString('latin1')));
  if (!Number.isSafeInteger(number)) throw refused('a number in an archive that is none');
  return Math.max(0, number);
}

function ustarName(header: Buffer): string {
  const name = cString(header.subarray(0, 100));
  // GNU tar has the same magic with other bytes behind it, and something else in the place of the prefix.
  const prefix = header.toString('latin1', 257, 263) === 'ustar\0' ? cString(header.subarray(345, 500)) : '';
  return prefix === '' ? name : `${prefix}/${name}`;
}

function cString(bytes: Buffer): string {
  const end = bytes.indexOf(0);
  return bytes.toString('latin1', 0, end < 0 ? bytes.length : end);
}

/** `<length> <key>=<value>\n`, the value being any bytes. */
function parsePax(text: Buffer): Map<string, Buffer> {
  const records = new Map<string, Buffer>();
  for (let offset = 0; offset < text.length; ) {
    const space = text.indexOf(' ', offset);
    const length = Number(text.toString('latin1', offset, space < 0 ? offset : space));
    const equals = text.indexOf('=', space);
    const end = offset + length;
    if (!Number.isSafeInteger(length) || length <= 0 || end > text.length || equals < 0 || equals >= end || text[end - 1] !== 0x0a) throw refused('an extended header that can not be read');
    records.set(text.toString('latin1', space + 1, equals), text.subarray(equals + 1, end - 1));
    offset = end;
  }
  return records;
}

function refused(what: string): AppError {
  return new AppError('IMAGE_REFUSED', `the image has ${what}`);
}
