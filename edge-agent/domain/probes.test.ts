import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { ProbeRole, ProbeSpec, ProbeSpecs } from '#api/model/microvm.ts';
import { beginHealth, dueRoles, judge, nextDueMs, resumeHealth, suspendHealth, tryBegan, tryEnded, type Health, type ProbeOutcome } from './probes.ts';

const tcp = (replaced: Partial<ProbeSpec> = {}): ProbeSpec => ({ action: { kind: 'tcp', port: 80 }, initialDelayMs: 0, periodMs: 10, timeoutMs: 5, successThreshold: 1, failureThreshold: 3, ...replaced });
const start = { nowMs: 1_000, upMs: 0, isAdopted: false, isStartedUp: false };
const no: ProbeOutcome = { kind: 'failure', message: 'no' };
const yes: ProbeOutcome = { kind: 'success' };

/** Makes every try that is due, one after the other, and gives each the next outcome of its probe. */
function run(specs: ProbeSpecs, health: Health, outcomes: Partial<Record<ProbeRole, readonly ProbeOutcome[]>>, untilMs: number): { health: Health; tried: string[] } {
  const tried: string[] = [];
  const left = { startup: [...(outcomes.startup ?? [])], readiness: [...(outcomes.readiness ?? [])], liveness: [...(outcomes.liveness ?? [])] };
  let state = health;
  let due = 0;
  for (let next = nextDueMs(state); next !== undefined && next <= untilMs; next = nextDueMs(state)) {
    // What waited for startup is overdue by then.
    due = Math.max(due, next);
    for (const role of dueRoles(state, due)) {
      tried.push(`${due} ${role}`);
      state = tryEnded(specs, tryBegan(state, role), role, left[role].shift() ?? yes, due);
    }
  }
  return { health: state, tried };
}

describe('the probes of a guest', () => {
  test('are tried after the initial delay and then each on its own period, readiness and liveness at the same time', () => {
    const specs = { readiness: tcp({ initialDelayMs: 5, periodMs: 20 }), liveness: tcp({ periodMs: 30 }) };
    expect(run(specs, beginHealth(specs, start), {}, 1_065).tried).toEqual(['1000 liveness', '1005 readiness', '1025 readiness', '1030 liveness', '1045 readiness', '1060 liveness', '1065 readiness']);
  });

  test('wait for startup, and what startup needed is no failure of theirs', () => {
    const specs = { startup: tcp({ failureThreshold: 10 }), readiness: tcp(), liveness: tcp() };
    const begun = beginHealth(specs, start);
    const still = run(specs, begun, { startup: [no, no, no, no] }, 1_030);
    expect(still.tried).toEqual(['1000 startup', '1010 startup', '1020 startup', '1030 startup']);
    expect(judge(still.health)).toEqual({ isStartedUp: false, readiness: { status: 'pending', message: 'no probe has succeeded yet since it was started' } });
    const up = run(specs, still.health, {}, 1_040);
    expect(up.tried).toEqual(['1040 startup', '1040 readiness', '1040 liveness']);
    expect(judge(up.health)).toEqual({ isStartedUp: true, readiness: { status: 'succeeded', message: 'its readiness probe succeeds' } });
    // Startup is never tried again.
    expect(run(specs, up.health, {}, 1_100).tried.some((entry) => entry.includes('startup'))).toBe(false);
  });

  test('judge by successes and failures in a row, and keep the message of the moment of the change', () => {
    const specs = { readiness: tcp({ successThreshold: 2, failureThreshold: 2 }) };
    const said = (outcomes: readonly ProbeOutcome[]) => judge(run(specs, beginHealth(specs, start), { readiness: outcomes }, 1_000 + 10 * (outcomes.length - 1)).health).readiness;
    const other: ProbeOutcome = { kind: 'failure', message: 'other' };
    expect(said([yes, no, yes])?.status).toBe('pending');
    expect(said([yes, no, yes, yes])?.status).toBe('succeeded');
    expect(said([yes, yes, no])?.status).toBe('succeeded');
    expect(said([yes, yes, other, no])).toEqual({ status: 'failed', message: 'its readiness probe fails: no' });
    expect(said([yes, yes, other, no, other, other])).toEqual({ status: 'failed', message: 'its readiness probe fails: no' });
    expect(said([yes, yes, no, no, yes, yes])?.status).toBe('succeeded');
  });

  test.each(['startup', 'liveness'] as const)('a %s probe that fails asks for a restart, and nothing more is tried', (role) => {
    const specs = { [role]: tcp({ failureThreshold: 2 }), readiness: tcp() };
    const { health } = run(specs, beginHealth(specs, start), { [role]: [no, no] }, 1_010);
    expect(judge(health).failed).toEqual({ role, message: 'no' });
    expect(nextDueMs(health)).toBe(undefined);
    expect(dueRoles(health, 9_999)).toEqual([]);
  });

  test('that can not be tried never ask for a restart, and are not counted', () => {
    const specs = { liveness: tcp({ failureThreshold: 1 }), readiness: tcp() };
    const impossible: ProbeOutcome = { kind: 'impossible', message: 'no address' };
    const all = Array.from({ length: 20 }, () => impossible);
    const { health } = run(specs, beginHealth(specs, start), { liveness: all, readiness: all }, 1_150);
    expect(judge(health)).toEqual({ isStartedUp: true, readiness: { status: 'impossible', message: 'its readiness probe can not be tried: no address' } });
    const cut = run(specs, beginHealth(specs, start), { liveness: all.map(() => ({ kind: 'cut' })) }, 1_150);
    expect(judge(cut.health).failed).toBe(undefined);
  });

  test('of a guest that ran before this agent say that nothing is known until one was tried', () => {
    const specs = { readiness: tcp({ initialDelayMs: 500, failureThreshold: 1 }) };
    const begun = beginHealth(specs, { ...start, isAdopted: true, upMs: 400 });
    expect(judge(begun).readiness?.status).toBe('notProbed');
    expect(nextDueMs(begun)).toBe(1_100);
    // A wall clock that went back makes it no longer than the whole delay, one that went ahead no shorter than none.
    expect(nextDueMs(beginHealth(specs, { ...start, upMs: -1e9 }))).toBe(1_500);
    expect(nextDueMs(beginHealth(specs, { ...start, upMs: 1e9 }))).toBe(1_000);
    expect(judge(run(specs, begun, { readiness: [no] }, 1_100).health).readiness?.status).toBe('failed');
  });

  test('a startup that an earlier agent saw succeed is not asked again', () => {
    const specs = { startup: tcp(), liveness: tcp() };
    const begun = beginHealth(specs, { ...start, isAdopted: true, isStartedUp: true });
    expect(run(specs, begun, {}, 1_000).tried).toEqual(['1000 liveness']);
    expect(judge(begun).readiness?.status).toBe('succeeded');
  });

  test('stand still in a pause, and have to be shown anew after it', () => {
    const specs = { readiness: tcp(), liveness: tcp({ failureThreshold: 3 }) };
    const { health } = run(specs, beginHealth(specs, start), { liveness: [no, no] }, 1_010);
    const paused = suspendHealth(tryBegan(health, 'liveness'));
    expect(nextDueMs(paused)).toBe(undefined);
    const resumed = resumeHealth(paused, 60_000);
    expect(judge(resumed).readiness?.status).toBe('pending');
    // The two failures before the pause are forgotten.
    expect(judge(run(specs, resumed, { liveness: [no, no] }, 60_010).health).failed).toBe(undefined);
  });
});

const outcome = fc.constantFrom<ProbeOutcome>(yes, no, { kind: 'cut' }, { kind: 'impossible', message: 'none' });
const spec = fc.record({ initialDelayMs: fc.nat(50), periodMs: fc.integer({ min: 1, max: 30 }), successThreshold: fc.integer({ min: 1, max: 4 }), failureThreshold: fc.integer({ min: 1, max: 4 }) }).map((fields) => tcp(fields));
const specsArbitrary = fc.record({ startup: spec, readiness: spec, liveness: spec }, { requiredKeys: [] });

describe('whatever a guest does', () => {
  test('a verdict needs as many outcomes in a row as its threshold says, and never more than one of them holds', () => {
    fc.assert(
      fc.property(spec, fc.array(outcome, { maxLength: 40 }), (readiness, outcomes) => {
        const specs = { readiness };
        let health = beginHealth(specs, start);
        let verdict = 'pending';
        let row: string[] = [];
        for (const [index, seen] of outcomes.entries()) {
          health = tryEnded(specs, tryBegan(health, 'readiness'), 'readiness', seen, 1_000 + index);
          // The model: what counts, in a row.
          if (seen.kind !== 'cut') row = row[0] === undefined || row[0] === seen.kind ? [...row, seen.kind] : [seen.kind];
          const last = seen.kind === 'cut' ? undefined : row[0];
          if (last === 'success' && row.length >= readiness.successThreshold) verdict = 'succeeded';
          if (last === 'failure' && row.length >= readiness.failureThreshold) verdict = 'failed';
          if (last === 'impossible') verdict = 'impossible';
          expect(judge(health).readiness?.status).toBe(verdict);
        }
      }),
    );
  });

  test('no probe is tried twice at once or sooner than its period, and none besides startup before it succeeded', () => {
    fc.assert(
      fc.property(specsArbitrary, fc.infiniteStream(outcome), fc.boolean(), (specs, outcomes, isAdopted) => {
        let health = beginHealth(specs, { ...start, isAdopted });
        const last = new Map<ProbeRole, number>();
        for (let count = 0; count < 60; count += 1) {
          const due = nextDueMs(health);
          if (due === undefined) break;
          for (const role of dueRoles(health, due)) {
            expect(role === 'startup').toBe(specs.startup !== undefined && !health.isStartedUp);
            health = tryBegan(health, role);
            expect(dueRoles(health, due)).not.toContain(role);
            const before = last.get(role);
            if (before !== undefined) expect(due - before).toBeGreaterThanOrEqual(specs[role]?.periodMs ?? 0);
            last.set(role, due);
            const { value } = outcomes.next();
            if (value !== undefined) health = tryEnded(specs, health, role, value, due);
          }
          const { failed } = judge(health);
          if (failed !== undefined) expect(failed.role).not.toBe('readiness');
        }
      }),
    );
  });
});
