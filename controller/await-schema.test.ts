import { expect, test } from 'vitest';
import { awaitSchema, missingOf } from './await-schema.ts';
import type { DatabaseFacts } from './ports/database-facts.ts';
import { createTime } from './runtime/time.ts';

const role = (problem: string | null): DatabaseFacts['roles'][number] => ({ variable: 'NKUDO_DATABASE_URL', role: 'nkudo_app', problem, isTooStrong: false });
const server: NonNullable<DatabaseFacts['server']> = {
  version: '18', versionNumber: 180_000, isInRecovery: false, isDurable: true, synchronousStandbys: '', synchronousCommit: 'on', incarnation: 1, pendingMigrations: [], logPartitionsAhead: 14, clockAheadMs: 0,
};

test('names what is missing: the server, the schema, migrations', () => {
  expect(missingOf({ roles: [role('Postgres refuses')], server: null })).toBe('Postgres refuses');
  expect(missingOf({ roles: [role(null)], server: { ...server, pendingMigrations: null } })).toContain('no schema that this version knows');
  expect(missingOf({ roles: [role(null)], server: { ...server, pendingMigrations: ['0012_a.sql', '0013_b.sql'] } })).toContain('waits for 2 migrations, the first of them 0012_a.sql');
  expect(missingOf({ roles: [role(null)], server })).toBeNull();
});

test('waits, says each reason once, and goes on', async () => {
  const answers: DatabaseFacts[] = [
    { roles: [role('Postgres refuses')], server: null },
    { roles: [role('Postgres refuses')], server: null },
    { roles: [role(null)], server: { ...server, pendingMigrations: ['0013_b.sql'] } },
    { roles: [role(null)], server },
  ];
  const said: unknown[] = [];
  const time = { ...createTime({ nowMs: () => 0, monotonicMs: () => 0, random: () => 0.5 }), schedule: (_delayMs: number, run: () => void) => { queueMicrotask(run); return () => {}; } };
  await awaitSchema({ facts: () => Promise.resolve(answers.shift() ?? { roles: [], server: null }), log: { warn: (fields: unknown) => void said.push(fields) }, time }, new AbortController().signal);
  expect(answers).toHaveLength(0);
  expect(said).toEqual([{ reason: 'Postgres refuses' }, { reason: expect.stringContaining('0013_b.sql') as string }]);
});

test('gives up when told', async () => {
  const stop = new AbortController();
  stop.abort(new Error('stop'));
  const time = createTime({ nowMs: () => 0, monotonicMs: () => 0, random: () => 0.5 });
  await expect(awaitSchema({ facts: () => Promise.resolve({ roles: [role('no')], server: null }), log: { warn: () => {} }, time }, stop.signal)).rejects.toThrow('stop');
});
