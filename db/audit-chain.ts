/**
 * What a link of the audit chain covers, and the walk that finds the first row which is not as it was. Reads its rows
 * from whoever gives them; statements are in `stores/audit-store.ts`, signatures are the controller's.
 *
 * A link's hash covers its tenant, its position, the hash before it and every column of the row. So an edited, missing
 * or moved row breaks its own link; whoever also makes the hashes anew breaks the next checkpoint, which they can't sign.
 */
import { createHash } from 'node:crypto';
import type { BadRow, Checkpoint, SignatureCheck, TenantVerdict } from '#controller/ports/audit-chain.ts';

/** Version of the rule by which links are hashed; the first item of what is hashed. */
const linkVersion = 'nkudo-audit-link/1';
/** What stands before the first link. */
export const firstPreviousHash = '0'.repeat(64);

/** A row of audit_events, all of it as text: the time in microseconds since 1970, ids as Postgres prints them. */
export interface AuditEventRow {
  readonly id: string;
  readonly xact: string;
  readonly at_us: string;
  readonly actor_kind: string;
  readonly actor_name: string;
  readonly actor_from: string;
  readonly action: string;
  readonly subject_kind: string;
  readonly subject_id: string;
  readonly before_hash: string | null;
  readonly after_hash: string | null;
}

/** Hash of the link that puts the row at the position; lower-case hexadecimal. */
export function linkHash(place: { readonly tenantId: string; readonly position: number; readonly previousHash: string }, event: AuditEventRow): string {
  const covered = [
    linkVersion, place.tenantId, place.position, place.previousHash, event.id, event.xact, event.at_us, event.actor_kind, event.actor_name,
    event.actor_from, event.action, event.subject_kind, event.subject_id, event.before_hash, event.after_hash,
  ];
  return createHash('sha256').update(JSON.stringify(covered)).digest('hex');
}

/** A link with its row; the row is null when it is missing. */
export interface ChainLink {
  readonly position: number;
  readonly eventId: string;
  readonly previousHash: string;
  readonly hash: string;
  readonly event: AuditEventRow | null;
}

/** What is read of one tenant. */
export interface ChainSource {
  /** In order of position. */
  readonly links: AsyncIterable<ChainLink>;
  /** As they are in the database, in order of position. */
  readonly checkpoints: readonly Checkpoint[];
  /** As they were kept elsewhere, in any order. */
  readonly exported: readonly Checkpoint[];
  /** Rows without a link, oldest first. `isOverdue`: the chainer says that it is past them. */
  readonly unlinked: () => Promise<{ readonly count: number; readonly firstOverdueId: string | null }>;
}

/** Reads the whole chain of one tenant once, and stops at the first bad row. */
export async function verifyChain(tenantId: string, source: ChainSource, isSigned: SignatureCheck): Promise<TenantVerdict> {
  const badCheckpoint = findBadCheckpoint(tenantId, source, isSigned);
  const known = checkpointsByPosition(source, badCheckpoint, isSigned);
  const highest = Math.max(0, ...known.keys());
  let rows = 0;
  let hash = firstPreviousHash;
  let proved: Checkpoint | null = null;
  const verdict = (bad: BadRow | null, unlinked = 0): TenantVerdict => ({
    tenantId, rows, provedTo: proved?.position ?? 0, provedAtMs: proved?.madeAtMs ?? null, unlinked, bad,
  });
  for await (const link of source.links) {
    const problem = problemOf(tenantId, link, { position: rows + 1, hash });
    if (problem !== null) return verdict(earliest(problem, badCheckpoint));
    const checkpoint = known.get(link.position);
    if (checkpoint !== undefined && checkpoint.root !== link.hash) {
      const problemText = `rows ${(proved?.position ?? 0) + 1} to ${link.position} do not lead to the signed root: one of them was changed and the hashes were made anew`;
      return verdict({ tenantId, table: 'audit_links', position: link.position, eventId: link.eventId, problem: problemText });
    }
    if (badCheckpoint !== null && badCheckpoint.position === link.position) return verdict(badCheckpoint);
    rows = link.position;
    hash = link.hash;
    proved = checkpoint ?? proved;
  }
  if (highest > rows) {
    return verdict({ tenantId, table: 'audit_links', position: rows + 1, eventId: null, problem: `the chain ends at ${rows}, and a signed checkpoint shows that it had ${highest} rows` });
  }
  if (badCheckpoint !== null) return verdict(badCheckpoint);
  const unlinked = await source.unlinked();
  if (unlinked.firstOverdueId !== null) {
    return verdict({ tenantId, table: 'audit_events', position: null, eventId: unlinked.firstOverdueId, problem: 'the row has no link, and the chainer is past it: its link was taken out, or it was put in later' }, unlinked.count);
  }
  return verdict(null, unlinked.count);
}

/** Of a bad link and a bad checkpoint, the one that stands first in the chain. */
function earliest(link: BadRow, checkpoint: BadRow | null): BadRow {
  return checkpoint !== null && (checkpoint.position ?? 0) < (link.position ?? 0) ? checkpoint : link;
}

function problemOf(tenantId: string, link: ChainLink, expected: { readonly position: number; readonly hash: string }): BadRow | null {
  const bad = (table: BadRow['table'], position: number, problem: string): BadRow => ({ tenantId, table, position, eventId: position === link.position ? link.eventId : null, problem });
  if (link.position !== expected.position) return bad('audit_links', expected.position, `the link is missing; the next one there is ${link.position}`);
  if (link.previousHash !== expected.hash) return bad('audit_links', link.position, 'it does not follow from the link before it');
  if (link.event === null) return bad('audit_events', link.position, 'the row is missing');
  if (linkHash({ tenantId, position: link.position, previousHash: link.previousHash }, link.event) !== link.hash) {
    return bad('audit_events', link.position, 'the row, or its link, is not what was linked');
  }
  return null;
}

/** Checkpoints are looked at by themselves first: their signatures and the chain of their positions. */
function findBadCheckpoint(tenantId: string, source: ChainSource, isSigned: SignatureCheck): BadRow | null {
  const bad = (position: number, problem: string): BadRow => ({ tenantId, table: 'audit_checkpoints', position, eventId: null, problem });
  let previous = 0;
  for (const checkpoint of source.checkpoints) {
    if (!isSigned(checkpoint)) return bad(checkpoint.position, `its signature by key ${checkpoint.keyId.slice(0, 16)} is not valid, or that key is not trusted`);
    if (checkpoint.previousPosition > previous) return bad(checkpoint.previousPosition, `the checkpoint is missing; the one at ${checkpoint.position} follows it`);
    previous = checkpoint.position;
  }
  const stored = new Set(source.checkpoints.map((checkpoint) => checkpoint.position));
  for (const checkpoint of source.exported.toSorted((left, right) => left.position - right.position)) {
    if (!isSigned(checkpoint)) return bad(checkpoint.position, 'in the exported file: its signature is not valid, or its key is not trusted');
    if (!stored.has(checkpoint.position)) return bad(checkpoint.position, 'the checkpoint is in the exported file and not in the database');
  }
  return null;
}

/** Roots that are vouched for. Exported ones count more: nobody with the database alone can have changed them. */
function checkpointsByPosition(source: ChainSource, bad: BadRow | null, isSigned: SignatureCheck): Map<number, Checkpoint> {
  const isSound = (checkpoint: Checkpoint): boolean => bad === null || checkpoint.position < (bad.position ?? 0);
  const sound = [...source.checkpoints.filter(isSound), ...source.exported.filter(isSigned)];
  return new Map(sound.map((checkpoint) => [checkpoint.position, checkpoint]));
}
