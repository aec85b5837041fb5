/**
 * Whether the database is an older copy of itself: restored from a backup, or failed over with lost commits. Pure.
 * Compares what it is now with what it says of itself and with what was written down outside of it (the witness, in
 * Kubernetes). Invariant: after a recovery the incarnation is above every one that was ever used.
 */

/** How far a database has come; nothing of it ever goes back in one and the same database. */
export interface DatabasePosition {
  /** First part of fencing epochs, from 1. */
  readonly incarnation: number;
  /** Of the leadership, from 0. */
  readonly epoch: number;
  readonly systemIdentifier: string;
  readonly timeline: number;
  /** Newest audit row. */
  readonly auditId: number;
  /** End of the write-ahead log that is on disk, bytes. */
  readonly lsn: number;
}

export interface FoundDatabase extends DatabasePosition {
  /** System identifier and timeline as the database itself has written them down. */
  readonly kept: { readonly systemIdentifier: string; readonly timeline: number };
}

export interface RecoveryDecision {
  /** Null: none is needed. A sentence for the operator. */
  readonly reason: string | null;
  /** To be used from now on. */
  readonly incarnation: number;
}

/** `witness`: null when nothing was ever written down. */
export function decideRecovery(found: FoundDatabase, witness: DatabasePosition | null): RecoveryDecision {
  const reason = reasonOf(found, witness);
  const highest = Math.max(found.incarnation, witness?.incarnation ?? 0);
  return { reason, incarnation: reason === null ? highest : highest + 1 };
}

function reasonOf(found: FoundDatabase, witness: DatabasePosition | null): string | null {
  if (found.kept.systemIdentifier !== found.systemIdentifier) return 'its content was restored into another Postgres cluster';
  if (found.kept.timeline !== found.timeline) return `it was failed over or restored: its timeline is ${found.timeline} and was ${found.kept.timeline}`;
  return witness === null ? null : reasonOfWitness(found, witness);
}

function reasonOfWitness(found: DatabasePosition, witness: DatabasePosition): string | null {
  // It was not written any more after the last recovery, and says nothing of the time since.
  if (witness.incarnation < found.incarnation) return null;
  if (witness.systemIdentifier !== found.systemIdentifier) return 'another Postgres cluster was used last';
  if (witness.incarnation > found.incarnation) return `it is older than its last recovery: incarnation ${found.incarnation}, and ${witness.incarnation} was used`;
  if (witness.timeline !== found.timeline) return `its timeline is ${found.timeline}, and ${witness.timeline} was used last`;
  if (witness.epoch > found.epoch) return `it is older than what was used last: leadership epoch ${found.epoch}, and ${witness.epoch} was used`;
  if (witness.auditId > found.auditId) return `it is older than what was used last: it has ${found.auditId} rows of the audit log, and ${witness.auditId} were written`;
  if (witness.lsn > found.lsn) return `it is an older copy of its own files: ${witness.lsn - found.lsn} bytes of the write-ahead log are missing`;
  return null;
}

/** The further one of two positions of the same database. */
export function advance(known: DatabasePosition, seen: DatabasePosition): DatabasePosition {
  return { ...seen, epoch: Math.max(known.epoch, seen.epoch), auditId: Math.max(known.auditId, seen.auditId), lsn: Math.max(known.lsn, seen.lsn) };
}

/** As text for an annotation or a ConfigMap. */
export function encodePosition(position: DatabasePosition): string {
  const { incarnation, epoch, systemIdentifier, timeline, auditId, lsn } = position;
  return JSON.stringify({ incarnation, epoch, systemIdentifier, timeline, auditId, lsn });
}

/** Null when the text is not one of {@link encodePosition}. */
export function parsePosition(text: string | undefined): DatabasePosition | null {
  if (text === undefined || text === '') return null;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null; // Somebody edited it; the other witness may still be readable.
  }
  if (typeof value !== 'object' || value === null) return null;
  const fields = new Map<string, unknown>(Object.entries(value));
  const count = (name: string): number | null => {
    const found = fields.get(name);
    return typeof found === 'number' && Number.isSafeInteger(found) && found >= 0 ? found : null;
  };
  const [incarnation, epoch, timeline, auditId, lsn] = [count('incarnation'), count('epoch'), count('timeline'), count('auditId'), count('lsn')];
  const systemIdentifier = fields.get('systemIdentifier');
  if (incarnation === null || epoch === null || timeline === null || auditId === null || lsn === null || typeof systemIdentifier !== 'string') return null;
  return { incarnation, epoch, systemIdentifier, timeline, auditId, lsn };
}

/** Of two witnesses the one that knows more; null when there is none. */
export function furthest(one: DatabasePosition | null, other: DatabasePosition | null): DatabasePosition | null {
  if (one === null || other === null) return one ?? other;
  const order = other.incarnation - one.incarnation || other.epoch - one.epoch || other.auditId - one.auditId || other.lsn - one.lsn;
  return order > 0 ? other : one;
}
