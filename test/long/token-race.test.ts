/** One token, one certificate, in full. */
import { expect, it } from 'vitest';
import { createRandom, testSeed } from '#test/chaos/seed.ts';
import { useDatabase } from '#test/harness/postgres.ts';
import { openTestDatabase } from '#test/integration/db/builders.ts';
import { expectedRace, raceForTokens } from '#test/integration/enrollment/token-race.ts';

const tokenCount = 10_000;

it('[C3] 10,000 tokens, two agents racing for each: exactly 10,000 certificates', async () => {
  const seed = testSeed();
  const server = await useDatabase();
  const db = openTestDatabase(server);
  try {
    const result = await raceForTokens(db, server, tokenCount, createRandom(seed));
    console.log(`[C3] 10,000 tokens × 2 agents, seed ${seed}: ${JSON.stringify(result)}`);
    expect(result).toEqual(expectedRace(tokenCount));
  } finally {
    await db.close();
  }
});
