/**
 * What is kept of a log that somebody else writes and never ends: its beginning, and the newest part. What lies between
 * is freed on the disk and reads as zeros; offsets stay what they are. Pure.
 */

/** Longest tail of a serial log that is sent after an absence, bytes. */
export const backlogMax = 16 * 2 ** 20;

export interface LogBounds {
  /** Kept of the beginning, bytes: what a guest or a VMM says at its start. */
  readonly headBytes: number;
  /** Kept of the end, bytes. */
  readonly tailBytes: number;
  /** Freed at once at least, bytes: each time costs a process. */
  readonly stepBytes: number;
}

/** The tail is more than what is sent, so that a reader notices in time when it was overtaken. At most 24 MiB together. */
export const serialLogBounds: LogBounds = { headBytes: 2 ** 20, tailBytes: backlogMax + 2 ** 20, stepBytes: 6 * 2 ** 20 };
export const vmmLogBounds: LogBounds = { headBytes: 2 ** 18, tailBytes: 2 ** 20, stepBytes: 2 ** 20 };

/** Only whole blocks of a file system are freed. */
const blockBytes = 4_096;

/** Where the part that is not kept ends, in a log that is so large; the head when all is kept. */
export function endOfMiddle(sizeBytes: number, { headBytes, tailBytes }: LogBounds): number {
  return Math.max(headBytes, Math.floor((sizeBytes - tailBytes) / blockBytes) * blockBytes);
}

/** Where a reader goes on that has read `piece` at `offset`: behind it, or at the newest part when that was freed. */
export function behind(piece: Uint8Array, offset: number, sizeBytes: number, bounds: LogBounds): number {
  const end = endOfMiddle(sizeBytes, bounds);
  const isFreed = offset >= bounds.headBytes && offset < end && piece.every((byte) => byte === 0);
  return isFreed ? end : offset + piece.length;
}
