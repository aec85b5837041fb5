import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decideDeletionHold, deletionLimits, type Deletion, type DeletionFacts } from './deletion-guard.ts';

const facts = (changes: Partial<DeletionFacts> = {}): DeletionFacts => ({
  isEnabled: true, isNamespaceGoing: false, present: 100, pending: [], gone: [], confirmed: null, wasHeld: false, ...changes,
});
const at = (count: number, stepMs = 0): Deletion[] => Array.from({ length: count }, (_, index) => ({ createdAtMs: -1, deletedAtMs: index * stepMs }));
const held = (changes: Partial<DeletionFacts>): boolean => decideDeletionHold(facts(changes)).isHeld;

describe('the brake on mass deletion', () => {
  it('holds more than a fifth and at least ten within five minutes', () => {
    expect(held({ pending: at(20) })).toBe(false);
    expect(held({ pending: at(21) })).toBe(true);
    expect(held({ present: 12, pending: at(9) })).toBe(false);
    expect(held({ present: 12, pending: at(10) })).toBe(true);
    expect(held({ pending: at(21, deletionLimits.windowMs / 19) })).toBe(false);
  });

  it('counts those that went already', () => {
    expect(held({ present: 79, pending: at(5), gone: at(21) })).toBe(true);
    expect(held({ present: 79, pending: at(5), gone: at(10) })).toBe(false);
  });

  it('does not count what is made and deleted again and again', () => {
    const churn = Array.from({ length: 40 }, (_, index) => ({ createdAtMs: index * 1_000, deletedAtMs: index * 1_000 + 900 }));
    expect(held({ present: 1, pending: churn.slice(-1), gone: churn.slice(0, -1) })).toBe(false);
  });

  it('stays on although those that went are forgotten', () => {
    expect(held({ pending: at(3), wasHeld: true })).toBe(true);
    expect(held({ pending: [], wasHeld: true })).toBe(false);
  });

  it('lets go what was confirmed, and no more', () => {
    expect(held({ pending: at(30), confirmed: 30 })).toBe(false);
    expect(held({ pending: at(12), confirmed: 30, wasHeld: true })).toBe(false);
    expect(held({ pending: at(31), confirmed: 30 })).toBe(true);
  });

  it('holds every deletion of a namespace', () => {
    expect(decideDeletionHold(facts({ isNamespaceGoing: true, present: 1, pending: at(1) }))).toEqual({ isHeld: true, deleting: 1, present: 1, cause: 'NamespaceDeleted' });
    expect(held({ isNamespaceGoing: true, pending: at(1), confirmed: 1 })).toBe(false);
    expect(held({ isNamespaceGoing: true, pending: at(1), isEnabled: false })).toBe(false);
  });

  it('decides the same whatever the order of the deletions', () => {
    fc.assert(
      fc.property(fc.array(fc.record({ createdAtMs: fc.integer({ min: 0, max: 1_000_000 }), deletedAtMs: fc.integer({ min: 0, max: 1_000_000 }) }), { maxLength: 40 }), fc.integer({ min: 1, max: 200 }), (times, present) => {
        expect(decideDeletionHold(facts({ present, pending: times.toReversed() }))).toEqual(decideDeletionHold(facts({ present, pending: times })));
      }),
    );
  });
});
