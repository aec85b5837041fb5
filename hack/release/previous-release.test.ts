import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { repositoryRoot } from '../build-cache.ts';
import { contractChanges, nameInChangelog } from './previous-release.ts';

const commit = '0123456789abcdef0123456789abcdef01234567';

describe('the previous release', () => {
  it('is the newest version of the change log that says its commit', () => {
    const text = `# Change log\n\n## Unreleased\n\n- x\n\n## 1.2.0-rc.1, 2026-11-25\n\nCommit \`${commit}\`.\n\n## 1.1.0, 2026-01-01\n\nCommit \`${commit.replace('0', 'f')}\`.\n`;
    expect(nameInChangelog(text)).toEqual({ version: '1.2.0-rc.1', commit });
  });

  it('is not one whose commit is not said, or is no full hash', () => {
    expect(() => nameInChangelog(`## Unreleased\n\nCommit \`${commit}\`.\n\n## 1.1.0\n\nCommit \`0123456\`.\n\n## 1.0.0\n`)).toThrow('names no commit');
  });

  it('is named in the change log of this tree', () => {
    expect(nameInChangelog(readFileSync(join(repositoryRoot, 'CHANGELOG.md'), 'utf8')).commit).toMatch(/^[0-9a-f]{40}$/);
  });
});

describe('the contracts of two trees', () => {
  let directory: string;
  const place = (tree: string, file: string, text: string): void => {
    mkdirSync(join(directory, tree, file, '..'), { recursive: true });
    writeFileSync(join(directory, tree, file), text);
  };
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'nkudo-contracts-'));
    for (const tree of ['a', 'b']) {
      place(tree, 'api/proto/x/v1/x.proto', 'x');
      place(tree, 'crds/v1alpha1/site.yaml', 'site');
      place(tree, 'README.md', tree);
    }
  });
  afterEach(() => rmSync(directory, { recursive: true }));
  const changes = (): readonly string[] => contractChanges(join(directory, 'a'), join(directory, 'b'));

  it('are equal when every file of them is', () => {
    expect(changes()).toEqual([]);
  });

  it('differ by a changed, a new and a missing file', () => {
    place('b', 'db/migrations/0002_x.sql', 'x');
    place('a', 'crds/v1alpha1/host.yaml', 'host');
    place('b', 'api/proto/x/v1/x.proto', 'y');
    expect(changes()).toEqual(['api/proto/x/v1/x.proto', 'crds/v1alpha1/host.yaml', 'db/migrations/0002_x.sql']);
  });
});
