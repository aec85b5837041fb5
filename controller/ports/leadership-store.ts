/**
 * The leadership epoch in Postgres. It fences writes: each transaction of a reconciler takes the row
 * FOR SHARE and is refused with LEADERSHIP_LOST unless the epoch is still the caller's, so that a
 * paused old leader can do nothing.
 */
import type { Actor } from './audit.ts';

export interface LeadershipEpoch {
  readonly epoch: number;
  /** Incarnation for {@link makeEpoch}; rises after a restore of the database. */
  readonly incarnation: number;
}

export interface LeadershipStore {
  /**
   * Called once after the Kubernetes Lease was won: bumps the epoch and returns it. Waits for open
   * transactions of the old leader. Not idempotent.
   */
  acquire(actor: Actor): Promise<LeadershipEpoch>;
}
