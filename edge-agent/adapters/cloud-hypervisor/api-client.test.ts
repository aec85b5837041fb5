import { expect, test } from 'vitest';
import { parseChain } from './api-client.ts';

test('reads a chain of errors, and keeps a body of another form as one line', () => {
  expect(parseChain('["Error from API","The VM could not boot"]')).toEqual(['Error from API', 'The VM could not boot']);
  expect(parseChain('{ "error": "Invalid request." }')).toEqual(['{ "error": "Invalid request." }']);
  expect(parseChain('not JSON')).toEqual(['not JSON']);
  expect(parseChain('')).toEqual([]);
});
