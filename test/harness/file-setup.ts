/**
 * Runs in every integration test file before its tests: names the file's scope, shows where the logs are when a test
 * fails, and closes the scope at the end.
 */
import { afterAll, beforeEach, expect } from 'vitest';
import { closeFileScope, fileLogDirectory, nameFileScope } from './file-scope.ts';

nameFileScope(expect.getState().testPath ?? 'test');

beforeEach(({ onTestFailed }) => {
  onTestFailed(() => {
    const logs = fileLogDirectory();
    if (logs !== null) {
      process.stderr.write(`logs of this file's programs: ${logs}\n`);
    }
  });
});

afterAll(closeFileScope, 120_000);
