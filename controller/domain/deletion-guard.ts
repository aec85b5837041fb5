/**
 * The brake on mass deletion: when very many microVMs of a Site are deleted at once, or their namespace is, nothing more
 * is torn down until somebody says that it is meant. Pure; it decides from the deletions that are there, so that a
 * restart of the controller does not release it.
 */

/** A microVM that is being deleted or went. */
export interface Deletion {
  readonly createdAtMs: number;
  readonly deletedAtMs: number;
}

/**
 * More than this share of a Site's microVMs, and at least so many, within this time. Counted are those that existed when
 * the first of them was deleted: what is made and deleted again and again is no mass deletion.
 */
export const deletionLimits = { share: 0.2, count: 10, windowMs: 300_000 } as const;

export interface DeletionFacts {
  /** massDeletionGuard is not Disabled. */
  readonly isEnabled: boolean;
  readonly isNamespaceGoing: boolean;
  /** MicroVMs of the site that exist, those being deleted included. */
  readonly present: number;
  /** Those that are still there. */
  readonly pending: readonly Deletion[];
  /** Those that went meanwhile, as far as it is remembered. */
  readonly gone: readonly Deletion[];
  /** Highest number of deletions that somebody confirmed; null: none. */
  readonly confirmed: number | null;
  /** It was held when it was last shown. */
  readonly wasHeld: boolean;
}

export type DeletionHold =
  | { readonly isHeld: false; readonly deleting: number }
  | { readonly isHeld: true; readonly deleting: number; readonly present: number; readonly cause: 'ManyAtOnce' | 'NamespaceDeleted' };

export function decideDeletionHold(facts: DeletionFacts): DeletionHold {
  const deleting = facts.pending.length;
  const free = { isHeld: false, deleting } as const;
  if (!facts.isEnabled || deleting === 0) return free;
  if (facts.confirmed !== null && deleting <= facts.confirmed) return free;
  if (facts.isNamespaceGoing) return { isHeld: true, deleting, present: facts.present, cause: 'NamespaceDeleted' };
  const isMany = isMassDeletion([...facts.pending, ...facts.gone], facts.present + facts.gone.length);
  // Those that went, and so do not count any more, do not make the rest harmless.
  return isMany || facts.wasHeld ? { isHeld: true, deleting, present: facts.present, cause: 'ManyAtOnce' } : free;
}

function isMassDeletion(deletions: readonly Deletion[], total: number): boolean {
  const sorted = deletions.toSorted((left, right) => left.deletedAtMs - right.deletedAtMs);
  if (sorted.length < deletionLimits.count) return false;
  for (const [index, first] of sorted.entries()) {
    let count = 0;
    for (let next = index; next < sorted.length; next += 1) {
      const deletion = sorted[next];
      if (deletion === undefined || deletion.deletedAtMs - first.deletedAtMs > deletionLimits.windowMs) break;
      if (deletion.createdAtMs <= first.deletedAtMs) count += 1;
      if (count >= deletionLimits.count && count > total * deletionLimits.share) return true;
    }
  }
  return false;
}
