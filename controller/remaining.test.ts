import { expect, test } from 'vitest';
import { describeRemaining } from './remaining.ts';

const answers = (counts: Readonly<Record<string, number | null>>): Parameters<typeof describeRemaining>[0] => ({
  get: (path) => {
    const [, plural = ''] = /v1alpha1\/(\w+)\?limit=1$/.exec(path) ?? [];
    const found = counts[plural] ?? null;
    if (found === null) return Promise.resolve({ status: 404, body: {}, dateMs: null });
    return Promise.resolve({ status: 200, body: { items: found === 0 ? [] : [{}], metadata: found > 1 ? { remainingItemCount: found - 1 } : {} }, dateMs: null });
  },
  may: () => Promise.resolve(true),
});

test('says how much stays, and that microVMs go on', async () => {
  const [first, second] = await describeRemaining(answers({ sites: 1, hosts: 3, microvms: 12 }));
  expect(first).toContain('1 sites, 3 hosts, 12 microVMs');
  expect(second).toContain('go on running');
});

test('says when none is left, and never takes "unknown" for none', async () => {
  expect((await describeRemaining(answers({ sites: 0, hosts: 0, microvms: 0 })))[1]).toBe('No microVM is left on any host.');
  const [first, second] = await describeRemaining(answers({}));
  expect(first).toContain('an unknown number of microVMs');
  expect(second).toContain('go on running');
});
