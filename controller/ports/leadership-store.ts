/**
 * The leadership epoch in Postgres. It fences writes: each transaction of a reconciler takes the row
 * FOR SHARE and is refused with LEADERSHIP_LOST unless the epoch is still the caller's, so that a
 * paused old leader can do nothing. The same holds when the database became an older copy of itself.
 */
import type { DatabasePosition } from '#api/model/recovery.ts';
import type { Actor } from './audit.ts';

export interface LeadershipEpoch {
  readonly epoch: number;
  /** Incarnation for {@link makeEpoch}; rises after a restore of the database. */
  readonly incarnation: number;
  /** Why the incarnation was raised by this call; null when it was not. */
  readonly recovery: string | null;
  /** As of this call. */
  readonly position: DatabasePosition;
}

export interface PositionReading {
  /** As it is, to be compared. */
  readonly present: DatabasePosition;
  /** The part that no crash of the server takes back, to be noted. */
  readonly durable: DatabasePosition;
}

export interface LeadershipStore {
  /**
   * Called once after the Kubernetes Lease was won: bumps the epoch and returns it. Waits for open
   * transactions of the old leader. `witness`: how far the database had come as far as is known outside of it; when it
   * is further than the database, the database is an older copy, and the incarnation rises. Not idempotent.
   */
  acquire(actor: Actor, witness?: DatabasePosition | null): Promise<LeadershipEpoch>;
  /** How far the database has come. Reads only. */
  position(): Promise<PositionReading>;
  /** Newest audit row that a committed write of this process has seen as leader: no position below it is of the same database. */
  seenAuditId(): number;
  /** Called when a write of this process was refused with LEADERSHIP_LOST. Returns the end of listening. */
  onRefused(listener: () => void): () => void;
}
