/** How long the agent stays away after a session ended, by the reason. Pure. */
import { fullJitterMs } from './retry-delay.ts';

export type GoodbyeReason = 'shuttingDown' | 'replaced' | 'revoked' | 'quarantined' | 'notApproved' | 'unspecified';

export const reconnectBaseMs = 500;
export const reconnectCapMs = 30_000;
/** A replica that stops hands its agents to the others, spread over this time. */
const shutdownSpreadMs = 2_000;
const quarantineMs = 60_000;

export interface LinkEnd {
  readonly reason: GoodbyeReason | 'broken';
  readonly retryAfterMs: number;
}

/** @param failures sessions that failed in a row, this one included */
export function linkDelayMs(end: LinkEnd, failures: number, random: number): number {
  switch (end.reason) {
    case 'shuttingDown':
      return Math.max(end.retryAfterMs, Math.round(random * shutdownSpreadMs));
    case 'quarantined':
      return Math.max(end.retryAfterMs, quarantineMs);
    default:
      return Math.max(end.retryAfterMs, fullJitterMs(failures, random, { baseMs: reconnectBaseMs, capMs: reconnectCapMs }));
  }
}
