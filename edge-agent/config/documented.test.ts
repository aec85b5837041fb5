import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { settings, type Setting } from './settings.ts';

const page = readFileSync(new URL('../../docs/edge.md', import.meta.url), 'utf8');

test('the page for the site names every setting with its variable, its flag and its default', () => {
  expect(settings.length).toBeGreaterThan(10);
  const undocumented = settings.filter(({ key, variable, flag, byDefault }: Setting) => {
    const row = page.split('\n').find((line) => line.startsWith(`| \`${key}\``)) ?? '';
    const value = [byDefault].flat().join(', ');
    return ![variable, flag ?? '', value === '' ? 'none' : `\`${value}\``].every((text) => row.includes(text));
  });
  expect(undocumented.map(({ key }) => key)).toEqual([]);
});
