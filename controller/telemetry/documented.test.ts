/** docs/ against the code: each figure that a person can scrape and each variable that a person can set is explained. */
import { globSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('../../', import.meta.url));
const read = (pattern: string): string => globSync(pattern, { cwd: root, exclude: (name) => name.endsWith('.test.ts') }).map((file) => readFileSync(`${root}${file}`, 'utf8')).join('\n');
const docs = new Set(read('docs/*.md').match(/\w+/g));

function undocumented(pattern: string, name: RegExp): { readonly count: number; readonly missing: readonly string[] } {
  const names = [...new Set([...read(pattern).matchAll(name)].map((match) => match[1] ?? ''))];
  return { count: names.length, missing: names.filter((each) => !docs.has(each)) };
}

describe('the pages for operators', () => {
  it('name every metric', () => {
    const { count, missing } = undocumented('controller/**/*.ts', /(?:name: |[gG]auge\()'(nkudo_[a-z_]+)'/g);
    expect(missing).toEqual([]);
    expect(count).toBeGreaterThan(30);
  });

  it('name every setting', () => {
    const { count, missing } = undocumented('controller/config.ts', /\b(NKUDO_[A-Z_]+)\b/g);
    expect(missing).toEqual([]);
    expect(count).toBeGreaterThan(20);
  });
});
