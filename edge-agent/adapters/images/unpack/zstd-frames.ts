/**
 * Where the frames of a zstd file begin and end. Node's decompressor takes one frame only (24.21: the rest is
 * dropped or an error, by how the chunks fall), and files of several are common (pzstd, zstd:chunked).
 * Source: RFC 8878, sections 3.1.1 and 3.1.2.
 */
import { open } from 'node:fs/promises';
import { AppError } from '#api/model/error-codes.ts';

export interface FrameRange {
  readonly start: number;
  /** Of the byte behind it. */
  readonly end: number;
}

const windowBytes = 2 ** 18;
const frameMagic = 0xfd2fb528;
/** Its last four bits are anybody's. */
const skippableMagic = 0x184d2a50;
const dictionaryIdBytes = [0, 1, 2, 4] as const;
const contentSizeBytes = [0, 2, 4, 8] as const;

/** The frames with content, in order; those for others are passed over. @throws IMAGE_REFUSED */
export async function* zstdFrames(path: string, signal: AbortSignal): AsyncGenerator<FrameRange> {
  const file = await open(path, 'r');
  try {
    const { size } = await file.stat();
    let window: Buffer = Buffer.alloc(0);
    let windowStart = 0;

    const bytesAt = async (offset: number, length: number): Promise<Buffer> => {
      if (offset + length > size) throw refused();
      if (offset < windowStart || offset + length > windowStart + window.length) {
        signal.throwIfAborted();
        const { bytesRead, buffer } = await file.read(Buffer.alloc(windowBytes), 0, windowBytes, offset);
        window = buffer.subarray(0, bytesRead);
        windowStart = offset;
        if (bytesRead < length) throw refused();
      }
      return window.subarray(offset - windowStart, offset - windowStart + length);
    };

    for (let start = 0; start < size; ) {
      const magic = (await bytesAt(start, 4)).readUInt32LE();
      if ((magic & 0xfffffff0) >>> 0 === skippableMagic) {
        start += 8 + (await bytesAt(start + 4, 4)).readUInt32LE();
        continue;
      }
      if (magic !== frameMagic) throw refused();
      const descriptor = (await bytesAt(start + 4, 1)).readUInt8();
      const isSingleSegment = (descriptor & 0x20) !== 0;
      const sizeFlag = descriptor >>> 6;
      const sizeBytes = sizeFlag === 0 && isSingleSegment ? 1 : (contentSizeBytes[sizeFlag] ?? 0);
      let end = start + 5 + (isSingleSegment ? 0 : 1) + (dictionaryIdBytes[descriptor & 3] ?? 0) + sizeBytes;
      for (let isLast = false; !isLast; ) {
        const block = (await bytesAt(end, 3)).readUIntLE(0, 3);
        isLast = (block & 1) === 1;
        const isRepeated = ((block >>> 1) & 3) === 1;
        end += 3 + (isRepeated ? 1 : block >>> 3);
      }
      if ((descriptor & 4) !== 0) end += 4;
      if (end > size) throw refused();
      yield { start, end };
      start = end;
    }
  } finally {
    await file.close();
  }
}

function refused(): AppError {
  return new AppError('IMAGE_REFUSED', 'the image has content that is no whole zstd');
}
