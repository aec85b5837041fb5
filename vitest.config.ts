/**
 * Kinds of tests. `unit` lies beside the code and starts nothing. `integration` is everything under `test/`: it gets
 * real servers through `test/harness`, which starts only what the selected files ask for. `long` takes in full what
 * `npm test` takes a sample of. `cluster` installs the product into a real cluster.
 */
import { defineConfig } from 'vitest/config';

/** Two cores: more files at once would only make every one of them slow. */
const integrationWorkers = 2;

// vitest asks for a default export.
export default defineConfig({
  test: {
    passWithNoTests: false,
    projects: [
      {
        test: {
          name: 'unit',
          include: ['{api,controller,crds,db,edge-agent,hack}/**/*.test.ts'],
          exclude: ['**/*.integration.test.ts', '**/node_modules/**'],
          testTimeout: 10_000,
        },
      },
      {
        test: {
          name: 'integration',
          include: ['test/**/*.test.ts', '{api,controller,crds,db,edge-agent,hack}/**/*.integration.test.ts'],
          exclude: ['**/node_modules/**', 'test/long/**', 'test/cluster/**'],
          pool: 'forks',
          maxWorkers: integrationWorkers,
          globalSetup: ['test/harness/global-setup.ts'],
          setupFiles: ['test/harness/file-setup.ts'],
          testTimeout: 120_000,
          hookTimeout: 180_000,
          teardownTimeout: 60_000,
        },
      },
      {
        test: {
          // `npm run test:cluster`: one real cluster for each file.
          name: 'cluster',
          include: ['test/cluster/**/*.test.ts'],
          pool: 'forks',
          maxWorkers: 1,
          globalSetup: ['test/harness/global-setup.ts'],
          setupFiles: ['test/harness/file-setup.ts'],
          testTimeout: 900_000,
          hookTimeout: 900_000,
          teardownTimeout: 120_000,
        },
      },
      {
        test: {
          // `npm run test:long`: the chaos tests take every point instead of a sample (NKUDO_TEST_LONG=1).
          name: 'long',
          include: ['test/chaos/**/*.test.ts', 'test/integration/operator-commands/site-kill-points.test.ts', 'test/e2e/ha.test.ts', 'test/e2e/lists.test.ts', 'test/integration/release/release.test.ts', 'test/long/**/*.test.ts'],
          pool: 'forks',
          maxWorkers: 1,
          globalSetup: ['test/harness/global-setup.ts'],
          setupFiles: ['test/harness/file-setup.ts'],
          testTimeout: 3_600_000,
          hookTimeout: 180_000,
          teardownTimeout: 60_000,
        },
      },
    ],
  },
});
