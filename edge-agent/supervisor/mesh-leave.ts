/**
 * Takes this host out of the mesh: for an order not to join, and for whoever ends the enrollment of the host. Only what
 * the agent joined is left, and the note of it goes after the effect, so that a crash in between repeats it.
 */
import { encodeMeshRecord, meshFact, parseMeshRecord } from '../domain/mesh-record.ts';
import { around, type EdgeFaultPoints } from '../fault-points.ts';
import type { Journal } from '../ports/journal.ts';
import type { Mesh, MeshOutcome } from '../ports/mesh.ts';

export interface MeshLeaveDeps {
  readonly mesh: Pick<Mesh, 'leave'>;
  readonly journal: Pick<Journal, 'loadFact' | 'saveFact'>;
  readonly faults: EdgeFaultPoints;
}

/** Idempotent. Rejects only when aborted. @throws JOURNAL_FAILED */
export async function leaveMesh({ mesh, journal, faults }: MeshLeaveDeps, signal: AbortSignal): Promise<MeshOutcome> {
  const record = parseMeshRecord(journal.loadFact(meshFact));
  if (record.membership === null) return { kind: 'done' };
  const outcome = await around(faults, 'mesh.down', () => mesh.leave(signal));
  if (outcome.kind === 'done') await around(faults, 'journal.meshMembership', () => journal.saveFact(meshFact, encodeMeshRecord({ ...record, membership: null })));
  return outcome;
}
