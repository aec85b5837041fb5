/**
 * Looks for texts in the serial log of one boot, going on where the last look ended. Holds no more of
 * the log than a text can be long, and reads a bounded piece with each look.
 */
import { behind, serialLogBounds } from '../domain/log-bounds.ts';
import type { LogFiles } from '../ports/log-files.ts';

const pieceBytes = 64 * 1024;
/** Read by one look at most, bytes; the next one goes on. */
const lookBytesMax = 8 * 2 ** 20;

export interface ConsoleSearch {
  /** Whether the text was printed since the search began. Once it was, it stays so. */
  contains(text: string, signal: AbortSignal): Promise<boolean>;
}

export function createConsoleSearch(files: Pick<LogFiles, 'size' | 'read'>, path: string): ConsoleSearch {
  const places = new Map<string, { offset: number; rest: Buffer; isFound: boolean }>();
  return {
    async contains(text, signal) {
      const place = places.get(text) ?? { offset: 0, rest: Buffer.alloc(0), isFound: false };
      places.set(text, place);
      const size = await files.size(path);
      // A boot that is not known yet has truncated it.
      if (size !== null && size < place.offset) Object.assign(place, { offset: 0, rest: Buffer.alloc(0) });
      for (let read = 0; !place.isFound && read < lookBytesMax; ) {
        signal.throwIfAborted();
        const piece = await files.read(path, place.offset, pieceBytes);
        if (piece.length === 0) break;
        const next = behind(piece, place.offset, size ?? 0, serialLogBounds);
        read += piece.length;
        if (next !== place.offset + piece.length) {
          // What was there is not kept.
          Object.assign(place, { offset: next, rest: Buffer.alloc(0) });
          continue;
        }
        const bytes = Buffer.concat([place.rest, piece]);
        place.isFound = bytes.includes(text, 0, 'latin1');
        place.rest = Buffer.from(bytes.subarray(Math.max(0, bytes.length - text.length + 1)));
        place.offset = next;
      }
      return place.isFound;
    },
  };
}
