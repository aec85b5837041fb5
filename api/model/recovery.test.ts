import { describe, expect, it } from 'vitest';
import { advance, decideRecovery, encodePosition, furthest, parsePosition, type DatabasePosition, type FoundDatabase } from './recovery.ts';

const position: DatabasePosition = { incarnation: 2, epoch: 7, systemIdentifier: 'cluster-a', timeline: 3, auditId: 1_000, lsn: 50_000 };

function found(overrides: Partial<DatabasePosition> = {}, kept: Partial<FoundDatabase['kept']> = {}): FoundDatabase {
  return { ...position, ...overrides, kept: { systemIdentifier: 'cluster-a', timeline: 3, ...kept } };
}

describe('whether a database is an older copy of itself', () => {
  it.each([
    ['the same', found(), position],
    ['one that went on', found({ epoch: 9, auditId: 2_000, lsn: 90_000 }), position],
    ['one of which nothing was ever written down', found(), null],
    ['one that had a recovery since the witness was written', found({ incarnation: 3, systemIdentifier: 'cluster-b', auditId: 1 }, { systemIdentifier: 'cluster-b' }), position],
  ])('%s needs no recovery', (_, database, witness) => {
    expect(decideRecovery(database, witness)).toEqual({ reason: null, incarnation: database.incarnation });
  });

  it.each([
    ['a dump restored into another cluster', found({ systemIdentifier: 'cluster-b' }), null],
    ['a failover, or a recovery to a point in time', found({ timeline: 4 }), null],
    ['a switch to another cluster that had its own life', found({ systemIdentifier: 'cluster-b' }, { systemIdentifier: 'cluster-b' }), position],
    ['a copy from before the last recovery', found({ incarnation: 1 }), position],
    ['an older timeline', found({ timeline: 2 }, { timeline: 2 }), position],
    ['a copy from before the last change of leader', found({ epoch: 6 }), position],
    ['a dump restored in its place during one leadership', found({ auditId: 999 }), position],
    ['an older copy of the data directory', found({ lsn: 49_999 }), position],
  ])('%s is a recovery, and the incarnation is above all that were used', (_, database, witness) => {
    const decision = decideRecovery(database, witness);
    expect(decision.reason).toEqual(expect.any(String));
    expect(decision.incarnation).toBe(Math.max(database.incarnation, witness?.incarnation ?? 0) + 1);
  });
});

describe('what is written down', () => {
  it('is read back as it was, and nothing is made of what somebody edited', () => {
    expect(parsePosition(encodePosition(position))).toEqual(position);
    for (const text of [undefined, '', '{', '[]', 'null', '{"incarnation":1}', encodePosition(position).replace('7', '-7'), encodePosition(position).replace('"cluster-a"', '1')]) expect(parsePosition(text)).toBeNull();
  });

  it('counts as far as the further of two witnesses, and never goes back within a term', () => {
    const later = { ...position, epoch: 8 };
    expect([furthest(position, later), furthest(later, position), furthest(null, position), furthest(null, null)]).toEqual([later, later, position, null]);
    expect(advance(position, { ...position, auditId: 10, lsn: 60_000 })).toEqual({ ...position, lsn: 60_000 });
  });
});
