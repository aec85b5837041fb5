/** Reproducible choice for tests that run a sample: the seed is printed, and NKUDO_TEST_SEED repeats a run. */

/** True in `npm run test:long`, where everything runs. */
export const isFullRun = process.env['NKUDO_TEST_LONG'] === '1';

/** The seed of this run. */
export function testSeed(): number {
  const given = process.env['NKUDO_TEST_SEED'];
  return given === undefined ? Date.now() % 2 ** 31 : Number(given);
}

/** Mulberry32: enough for choosing, no more. Source: https://github.com/bryc/code/blob/master/jshash/PRNGs.md */
export function createRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** `size` different items in random order; all of them when there are fewer. */
export function sample<Item>(items: readonly Item[], size: number, random: () => number): readonly Item[] {
  const keyed = items.map((item) => ({ item, key: random() }));
  return keyed.sort((a, b) => a.key - b.key).slice(0, size).map(({ item }) => item);
}
