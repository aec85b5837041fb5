/**
 * The chain over audit rows: one for each tenant, in order of commit, and signed checkpoints of it. Rows are written by
 * the stores in the transaction of the change; linking and signing come later and never hold up a writer.
 */

/** The last link of a tenant's chain. */
export interface ChainHead {
  readonly tenantId: string;
  /** Number of rows in the chain, from 1. */
  readonly position: number;
  /** Hash of the link at that position, 32 bytes as lower-case hexadecimal: it covers every row up to there. */
  readonly root: string;
  /** Position of the checkpoint before this one, 0 for the first. */
  readonly previousPosition: number;
}

/** A head that was signed. It proves the chain up to its position to whoever knows the public key. */
export interface Checkpoint extends ChainHead {
  readonly madeAtMs: number;
  /** SHA-256 of the public key's SubjectPublicKeyInfo, lower-case hexadecimal. */
  readonly keyId: string;
  /** Base64. */
  readonly signature: string;
}

export interface LinkPass {
  /** Rows that this pass linked. */
  readonly linked: number;
  /** There is more that can be linked now. */
  readonly isMore: boolean;
  /** Age of the oldest row that is committed and not linked after this pass; null when there is none. */
  readonly unlinkedAgeMs: number | null;
}

/** True when the signature is of one of the keys that are trusted. */
export type SignatureCheck = (checkpoint: Checkpoint) => boolean;

/** The first row of a tenant's chain that is not as it was when it was linked or signed. */
export interface BadRow {
  readonly tenantId: string;
  readonly table: 'audit_events' | 'audit_links' | 'audit_checkpoints';
  /** Position in the chain; of an event that has none, null. */
  readonly position: number | null;
  /** Id of the audit row where it is known. */
  readonly eventId: string | null;
  /** What is wrong, in words. */
  readonly problem: string;
}

export interface TenantVerdict {
  readonly tenantId: string;
  /** Links that were read and agree with each other and with their rows. */
  readonly rows: number;
  /** Up to here a signature vouches for every row. */
  readonly provedTo: number;
  /** Time of that signature, null when there is none. */
  readonly provedAtMs: number | null;
  /** Committed rows that the chainer did not reach yet: nothing vouches for them. */
  readonly unlinked: number;
  readonly bad: BadRow | null;
}

export interface AuditRow {
  readonly tenantId: string;
  readonly position: number;
  readonly eventId: string;
  readonly at: string;
  readonly actorKind: string;
  readonly actorName: string;
  readonly actorFrom: string;
  readonly action: string;
  readonly subjectKind: string;
  readonly subjectId: string;
  readonly beforeHash: string | null;
  readonly afterHash: string | null;
  readonly previousHash: string;
  readonly hash: string;
}

export interface AuditChainStore {
  /**
   * Links committed rows, at most `limit`, in order of commit; a row becomes linkable when every transaction that began
   * before it has ended. Writes nothing when there is nothing to link. Safe to call from several places at once.
   */
  link(limit: number): Promise<LinkPass>;
  /** Heads that have no checkpoint of their own. Reads only. */
  unsignedHeads(): Promise<readonly ChainHead[]>;
  /** Appends checkpoints in one transaction. One for a position that has one already is left out. */
  addCheckpoints(checkpoints: readonly Checkpoint[]): Promise<void>;
  /** Tenants that have audit rows, links or checkpoints, in order of their ids. */
  tenants(): Promise<readonly string[]>;
  /** All checkpoints of a tenant, in order. */
  checkpoints(tenantId: string): AsyncIterable<Checkpoint>;
  /** All linked rows of a tenant, in order. */
  rows(tenantId: string): AsyncIterable<AuditRow>;
  /**
   * Walks rows, links and checkpoints of one tenant. `exported` are checkpoints kept outside of the database: only they
   * show that the end of a chain was cut off together with its checkpoints.
   */
  verify(tenantId: string, exported: readonly Checkpoint[], isSigned: SignatureCheck): Promise<TenantVerdict>;
  close(): Promise<void>;
}
