/** When the agent looks at the mesh again, asks for a key again, and tries again after a failure. Pure. */
import { fullJitterMs } from './retry-delay.ts';

/** Shortest wait between two questions or attempts, milliseconds: full jitter alone may give 0. */
const floorMs = 1_000;
export const askBaseMs = 5_000;
/** A host that gets no key asks this often at least, and never more often than {@link floorMs}. */
export const askCapMs = 300_000;
/** First look after an attempt, milliseconds; it doubles up to the poll interval while the service is connecting. */
const settleBaseMs = 250;

/** @param count questions or failures in a row, from 1 @param random from 0 to 1 */
export function meshRetryMs(count: number, random: number): number {
  return Math.max(floorMs, fullJitterMs(count, random, { baseMs: askBaseMs, capMs: askCapMs }));
}

/** @param looks looks since the last attempt that all found it connecting, from 1 */
export function settleMs(looks: number, pollMs: number): number {
  return Math.min(pollMs, settleBaseMs * 2 ** Math.min(20, looks));
}
