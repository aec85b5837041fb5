/** One token, one certificate: a sample of the full count (npm run test:long), and a few over the real wire. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Database } from '#db/database.ts';
import { createRandom, testSeed } from '#test/chaos/seed.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';
import { openTestDatabase } from '#test/integration/db/builders.ts';
import { startControlPlane } from '#test/integration/gateway/control-plane.ts';
import { codeOf, enroll, makeHostKey } from '#test/integration/gateway/edge-client.ts';
import { expectedRace, raceForTokens } from './token-race.ts';

const tokenCount = 400;
const wireTokenCount = 8;

let server: TestDatabase;
let db: Database;
beforeAll(async () => {
  server = await useDatabase();
  db = openTestDatabase(server);
});
afterAll(() => db.close());

it(`[C3] ${tokenCount} tokens, two agents racing for each: exactly ${tokenCount} certificates`, async () => {
  const seed = testSeed();
  const result = await raceForTokens(db, server, tokenCount, createRandom(seed));
  console.log(`[C3] ${tokenCount} tokens × 2 agents, seed ${seed} (NKUDO_TEST_SEED repeats it; npm run test:long does 10,000): ${JSON.stringify(result)}`);
  expect(result).toEqual(expectedRace(tokenCount));
});

it('[C3] the same over TLS with real requests and real certificates', async () => {
  const plane = await startControlPlane();
  const [tokens, keys] = await Promise.all([
    Promise.all(Array.from({ length: wireTokenCount }, () => plane.issueToken())),
    Promise.all(Array.from({ length: 2 * wireTokenCount }, () => makeHostKey())),
  ]);
  const outcomes = await Promise.all(
    keys.map((key, index) => codeOf(enroll(plane.dial(), { token: tokens[index >> 1]?.text ?? '', key, hostName: `race-${index}` }))),
  );
  expect(outcomes.toSorted()).toEqual([...Array.from({ length: wireTokenCount }, () => 'OK'), ...Array.from({ length: wireTokenCount }, () => 'TOKEN_USED')]);
  const [row] = await plane.rows.query('select count(*)::int as count from nkudo.certificates where tenant_id = $1', [plane.tenant]);
  expect(row?.['count']).toBe(wireTokenCount);
});
