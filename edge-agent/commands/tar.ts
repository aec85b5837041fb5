/** A tar archive of small files in memory (POSIX ustar). Names are ours, at most 100 bytes; sizes are bounded by the caller. */

export interface ArchivedFile {
  readonly name: string;
  readonly content: Buffer;
}

const blockBytes = 512;
const nameBytesMax = 100;

/** @param mtimeMs epoch milliseconds, the same for all */
export function makeTar(files: readonly ArchivedFile[], mtimeMs: number): Buffer {
  const parts = files.flatMap(({ name, content }) => [header(name, content.length, mtimeMs), content, Buffer.alloc((blockBytes - (content.length % blockBytes)) % blockBytes)]);
  // Two empty blocks end an archive.
  return Buffer.concat([...parts, Buffer.alloc(2 * blockBytes)]);
}

function header(name: string, size: number, mtimeMs: number): Buffer {
  if (Buffer.byteLength(name) > nameBytesMax) throw new RangeError('a name in the archive is too long');
  const block = Buffer.alloc(blockBytes);
  const octal = (value: number, digits: number): string => `${value.toString(8).padStart(digits, '0')}\0`;
  const put = (text: string, offset: number): void => void block.write(text, offset, 'latin1');
  block.write(name, 0, 'utf8');
  put(octal(0o600, 7), 100);
  put(octal(0, 7), 108);
  put(octal(0, 7), 116);
  put(octal(size, 11), 124);
  put(octal(Math.floor(mtimeMs / 1000), 11), 136);
  put('        ', 148); // The sum is taken as if it were spaces.
  put('0', 156);
  put('ustar\x0000', 257);
  put(octal(block.reduce((sum, byte) => sum + byte, 0), 6), 148);
  return block;
}
