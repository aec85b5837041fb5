import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { asObject, diffPatch, memberName, mergePatch, planSet, type Json, type SetHost, type SetMember, type SetSpec } from './plan-set.ts';

const digestOf = (text: string): string => createHash('sha256').update(text).digest('hex');
const template: Json = { cpu: { count: 1 }, memory: { size: '512Mi' } };

const setOf = (fields: Partial<SetSpec> = {}): SetSpec => ({
  name: 'tills', mode: 'Replicas', replicas: 3, siteName: 'shop-1', siteLabels: {}, template, overrides: new Map(), updates: 'RollingUpdate', maxUnavailable: 1, ...fields,
});
const hostOf = (name: string, fields: Partial<SetHost> = {}): SetHost => ({ name, siteName: 'shop-1', labels: {}, taints: [], isDeleting: false, ...fields });
const shop = { name: 'shop-1', labels: {}, isDeleting: false, isHeld: false };
const nothing = { sites: [shop], hosts: [], members: [] };
const planOf = (set: SetSpec, seen: Partial<Parameters<typeof planSet>[1]> = {}) => planSet(set, { ...nothing, ...seen }, digestOf);

/** What there is once all that a plan asks for has happened and is Ready. */
const settled = (set: SetSpec, seen: Partial<Parameters<typeof planSet>[1]> = {}): SetMember[] =>
  planOf(set, seen).slots.map(({ name, digest, spec }) => ({ name, digest, siteName: (spec['siteRef'] as { name: string }).name, hostName: String(asObject(spec['placement'])['hostName'] ?? ''), isReady: true, isDeleting: false })); // As the plan writes it.

describe('replicas', () => {
  test('are numbered from zero, and nothing is left to do once they are there', () => {
    expect(planOf(setOf()).create.map(({ name }) => name)).toEqual(['tills-0', 'tills-1', 'tills-2']);
    expect(planOf(setOf(), { members: settled(setOf()) })).toMatchObject({ create: [], update: [], remove: [], updated: 3 });
  });

  test('that are too many go from the highest number down', () => {
    const many = setOf({ replicas: 12 });
    expect(planOf(setOf({ replicas: 8 }), { members: settled(many) }).remove).toEqual(['tills-11', 'tills-10', 'tills-9', 'tills-8']);
  });

  test('one that is being deleted is neither made under its name nor deleted again', () => {
    const members = settled(setOf()).map((member) => ({ ...member, isDeleting: member.name === 'tills-1' }));
    expect(planOf(setOf(), { members })).toMatchObject({ create: [], remove: [] });
    expect(planOf(setOf({ replicas: 1 }), { members }).remove).toEqual(['tills-2']);
  });
});

describe('one for each', () => {
  test('host of the site that the template allows for ever, whatever its room', () => {
    const hosts = [
      hostOf('b', { labels: { disk: 'ssd' } }),
      hostOf('a', { labels: { disk: 'ssd' }, taints: [{ key: 'till', value: '', effect: 'NoSchedule' }] }),
      hostOf('c', { labels: { disk: 'ssd' }, taints: [{ key: 'gpu', value: 'yes', effect: 'NoSchedule' }] }),
      hostOf('d'),
      hostOf('e', { labels: { disk: 'ssd' }, siteName: 'shop-2' }),
      hostOf('f', { labels: { disk: 'ssd' }, isDeleting: true }),
    ];
    const placement = { hostSelector: { matchLabels: { disk: 'ssd' } }, tolerations: [{ key: 'till', operator: 'Exists' }] };
    const { slots } = planOf(setOf({ mode: 'PerHost', template: { ...template, placement } }), { hosts });
    expect(slots.map(({ name }) => name)).toEqual(['tills-a', 'tills-b']);
    expect(slots[0]?.spec).toEqual({ ...template, siteRef: { name: 'shop-1' }, placement: { hostName: 'a', tolerations: placement.tolerations } });
  });

  test('site with the labels, and its own difference', () => {
    const sites = [{ ...shop, name: 'shop-2', labels: { region: 'north' } }, { ...shop, labels: { region: 'north' } }, { ...shop, name: 'shop-3' }];
    const overrides = new Map<string, Json>([['shop-2', { cpu: { count: 4 }, memory: null }]]);
    const { slots } = planOf(setOf({ mode: 'PerSite', siteLabels: { region: 'north' }, overrides }), { sites });
    expect(slots.map(({ spec }) => spec)).toEqual([{ ...template, siteRef: { name: 'shop-1' } }, { cpu: { count: 4 }, siteRef: { name: 'shop-2' } }]);
  });
});

describe('one that is there', () => {
  const set = setOf({ mode: 'PerHost' });
  const hosts = [hostOf('a'), hostOf('b')];
  const members = settled(set, { hosts });
  const taint = (effect: 'NoSchedule' | 'NoExecute') => [{ key: 'gpu', value: '', effect }];

  test('stays when its host takes no others, and goes when it takes none', () => {
    expect(planOf(set, { members, hosts: [hostOf('a'), hostOf('b', { taints: taint('NoSchedule') })] })).toMatchObject({ remove: [], create: [] });
    expect(planOf(set, { members: [], hosts: [hostOf('b', { taints: taint('NoSchedule') })] }).create).toEqual([]);
    expect(planOf(set, { members, hosts: [hostOf('a'), hostOf('b', { taints: taint('NoExecute') })] }).remove).toEqual(['tills-b']);
    expect(planOf(set, { members, hosts: [hostOf('a'), hostOf('b', { isDeleting: true })] }).remove).toEqual(['tills-b']);
  });

  test('[C10] stays when hosts or sites are not in the list any more: a deletion would have been seen', () => {
    expect(planOf(set, { members, hosts: [] })).toMatchObject({ remove: [], create: [] });
    expect(planOf(set, { members, hosts, sites: [] }).remove).toEqual([]);
    const perSite = setOf({ mode: 'PerSite' });
    expect(planOf(perSite, { members: settled(perSite), sites: [] })).toMatchObject({ remove: [], create: [] });
  });

  test('stays while the site is on hold, whatever its host says', () => {
    const held = [{ ...shop, isHeld: true }];
    expect(planOf(set, { members, sites: held, hosts: [hostOf('a'), hostOf('b', { taints: taint('NoExecute') })] }).remove).toEqual([]);
  });
});

describe('a changed template', () => {
  const old = setOf({ replicas: 5 });
  const changed = (fields: Partial<SetSpec> = {}): SetSpec => setOf({ replicas: 5, template: { ...template, cpu: { count: 2 } }, ...fields });

  test('reaches at most maxUnavailable that are Ready, and those that are not at once', () => {
    expect(planOf(changed(), { members: settled(old) }).update).toHaveLength(1);
    expect(planOf(changed({ maxUnavailable: 2 }), { members: settled(old) }).update).toHaveLength(2);
    const broken = settled(old).map((member) => ({ ...member, isReady: member.name !== 'tills-3' }));
    expect(planOf(changed(), { members: broken }).update.map(({ name }) => name)).toEqual(['tills-3']);
    expect(planOf(changed({ updates: 'OnDelete' }), { members: settled(old) }).update).toEqual([]);
  });

  test('reaches all of them, with never more than maxUnavailable away', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 4 }), (replicas, maxUnavailable) => {
        const target = changed({ replicas, maxUnavailable });
        let members = settled(setOf({ replicas }));
        for (let round = 0; round <= replicas; round += 1) {
          const { update } = planOf(target, { members });
          expect(update.length).toBeLessThanOrEqual(maxUnavailable);
          // Nothing more while these are away.
          const away = members.map((member) => ({ ...member, digest: update.find(({ name }) => name === member.name)?.digest ?? member.digest, isReady: !update.some(({ name }) => name === member.name) }));
          expect(planOf(target, { members: away }).update.length).toBeLessThanOrEqual(maxUnavailable - update.length);
          members = away.map((member) => ({ ...member, isReady: true }));
        }
        expect(planOf(target, { members })).toMatchObject({ update: [], updated: replicas });
      }),
    );
  });
});

describe('names', () => {
  test('fit, and differ for what they stand for', () => {
    const long = 'h'.repeat(63);
    const names = [memberName('tills', long, digestOf), memberName('tills', `${long.slice(1)}x`, digestOf)];
    for (const name of names) expect(name).toMatch(/^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/);
    expect(Math.max(...names.map((name) => name.length))).toBeLessThanOrEqual(63);
    expect(new Set(names).size).toBe(2);
  });
});

describe('patches', () => {
  // A merge patch can't say null, and an empty object in it means no change.
  const value = fc.letrec((tie) => ({
    leaf: fc.oneof(fc.integer(), fc.string(), fc.boolean(), fc.array(fc.integer())),
    tree: fc.dictionary(fc.constantFrom('a', 'b', 'c'), fc.oneof({ maxDepth: 3 }, tie('leaf'), tie('tree')), { minKeys: 1 }),
  })).tree as fc.Arbitrary<Json>;

  test('the difference of two objects makes one out of the other', () => {
    fc.assert(fc.property(value, value, (from, to) => {
      expect(mergePatch(from, diffPatch(from, to))).toEqual(to);
    }));
    expect(diffPatch({ a: { b: 1, c: [1] } }, { a: { b: 1, c: [1] } })).toEqual({});
  });
});
