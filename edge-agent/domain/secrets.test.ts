import { describe, expect, it } from 'vitest';
import { testDesired, testRecord } from '#test/builders/edge-microvm.ts';
import { decideKeeping, decidePruning } from './secrets.ts';

const value = (name: string, text: string) => ({ name, key: 'k', reveal: () => Buffer.from(text) });
const reference = (name: string, resourceVersion = '1') => ({ name, key: 'k', resourceVersion });
const kept = (name: string, text: string, resourceVersion = '1') => ({ ...reference(name, resourceVersion), ...value(name, text) });
const shown = (secrets: readonly ReturnType<typeof kept>[] | null) => secrets?.map(({ name, resourceVersion, reveal }) => `${name}@${resourceVersion} ${Buffer.from(reveal()).toString()}`) ?? null;
const keeping = (...args: Parameters<typeof decideKeeping>) => {
  const decided = decideKeeping(...args);
  return decided.kind === 'keep' ? shown(decided.secrets as readonly ReturnType<typeof kept>[] | null) : decided;
};

describe('what is kept of Secrets before an operation is accepted', () => {
  it('is what came with it, under the version that it names', () => {
    expect(keeping(testDesired({ secrets: [reference('a', '7')] }), [value('a', 'new')], [])).toEqual(['a@7 new']);
  });

  it('is also what the intent before needs, until the new one is durable', () => {
    expect(keeping(testDesired({ secrets: [reference('a', '2')] }), [value('a', 'new')], [kept('a', 'old'), kept('b', 'other')])).toEqual(['a@2 new', 'b@1 other']);
  });

  it('is what was here before where a value did not come', () => {
    expect(keeping(testDesired({ secrets: [reference('a', '2')] }), [], [kept('a', 'old')])).toEqual(['a@2 old']);
  });

  it('is nothing new for what is kept already', () => {
    expect(keeping(testDesired({ secrets: [reference('a')] }), [value('a', 'same')], [kept('a', 'same')])).toBeNull();
  });

  it('names the value that nobody has', () => {
    expect(keeping(testDesired({ secrets: [reference('a'), reference('b')] }), [value('a', 'x')], [kept('c', 'y')])).toEqual({ kind: 'missing', key: reference('b') });
  });
});

describe('what is kept of Secrets after an operation was accepted', () => {
  const all = [kept('a', 'x'), kept('b', 'y'), kept('c', 'z')];
  const prune = (change: Parameters<typeof testRecord>[0]) => shown(decidePruning(testRecord(change), all) as readonly ReturnType<typeof kept>[] | null);

  it('is what it and the intent before it need', () => {
    const previous = { desired: testDesired({ secrets: [reference('b')] }), generation: 1, isDeleting: false };
    expect(prune({ desired: testDesired({ secrets: [reference('a')] }), previous })).toEqual(['a@1 x', 'b@1 y']);
  });

  it('is nothing for a microVM without any', () => {
    expect(prune({})).toEqual([]);
  });

  it('is all of it while it is torn down, since a teardown that has not begun can be taken back', () => {
    expect(prune({ isDeleting: true })).toBeNull();
  });
});
