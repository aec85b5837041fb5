import { afterEach, describe, expect, it } from 'vitest';
import { createManualTime, settle, type ManualTime } from '#test/fakes/manual-time.ts';
import { createMemoryKubernetesApi, expired, unavailable, type MemoryKubernetesApi } from '#test/fakes/memory-kubernetes-api.ts';
import type { KubernetesObject, Resource } from './kubernetes-api.ts';
import { createReflector, type Reflector } from './reflector.ts';

const resource: Resource = { group: 'test', version: 'v1', plural: 'things', kind: 'Thing', isNamespaced: true };
const silent = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
const thing = (name: string, fields: object = {}) => ({ metadata: { name, namespace: 'ns', ...fields } });

interface Started {
  readonly api: MemoryKubernetesApi;
  readonly time: ManualTime;
  readonly reflector: Reflector<KubernetesObject>;
  readonly seen: string[];
}

const endings: AbortController[] = [];
afterEach(() => {
  for (const ending of endings.splice(0)) ending.abort();
});

async function start(prepare: (api: MemoryKubernetesApi) => void = () => {}): Promise<Started> {
  const api = createMemoryKubernetesApi();
  const time = createManualTime();
  prepare(api);
  const reflector = createReflector({ api, resource, parse: (object) => object, time, log: silent });
  const seen: string[] = [];
  reflector.onChange(({ before, after }) => seen.push(`${before?.metadata.uid ?? '-'}>${after?.metadata.uid ?? '-'}`));
  const ending = new AbortController();
  endings.push(ending);
  void reflector.run(ending.signal);
  await settle();
  return { api, time, reflector, seen };
}

const names = (reflector: Reflector<KubernetesObject>): string[] => reflector.list().map((object) => object.metadata.name).sort();

describe('the reflector', () => {
  it('has synced after the last page of the first list, and follows changes', async () => {
    const { api, reflector } = await start((made) => {
      for (let index = 0; index < 1201; index += 1) made.put(thing(`t${index}`));
    });
    expect(reflector.hasSynced()).toBe(true);
    expect(reflector.list()).toHaveLength(1201);
    expect(api.calls('list')).toBe(3);
    api.put(thing('late'));
    api.remove({ namespace: 'ns', name: 't0' });
    await settle();
    expect(reflector.get({ namespace: 'ns', name: 'late' })).toBeDefined();
    expect(reflector.get({ namespace: 'ns', name: 't0' })).toBeUndefined();
  });

  it('has not synced while the list fails, and goes on when it works', async () => {
    const { api, reflector, time } = await start((made) => {
      made.put(thing('a'));
      made.fail('list', unavailable());
    });
    expect(reflector.hasSynced()).toBe(false);
    await time.advance(60_000);
    expect(reflector.hasSynced()).toBe(false);
    expect(api.calls('list')).toBeGreaterThan(3);
    api.fail('list', null);
    await time.advance(60_000);
    expect(reflector.hasSynced()).toBe(true);
    expect(names(reflector)).toEqual(['a']);
  });

  it('resumes a cut watch from the last version without a list, and misses nothing', async () => {
    const { api, reflector, time } = await start((made) => void made.put(thing('a')));
    api.put(thing('a', { labels: { seen: 'yes' } }));
    await settle();
    const lastSeen = api.version();
    api.breakWatches(unavailable());
    await settle();
    api.put(thing('b'));
    await time.advance(60_000);
    expect(names(reflector)).toEqual(['a', 'b']);
    expect(api.lastWatchFrom()).toBe(lastSeen);
    expect(api.calls('list')).toBe(1);
  });

  it.each([
    ['inside the stream', (api: MemoryKubernetesApi) => api.breakWatches(expired())],
    [
      'as the answer to the request',
      (api: MemoryKubernetesApi) => {
        api.forgetBefore(1_000_000);
        api.breakWatches(unavailable());
      },
    ],
  ])('lists again when the version is too old, said %s', async (_where, cut) => {
    const { api, reflector, time } = await start((made) => {
      made.put(thing('stays'));
      made.put(thing('goes'));
    });
    cut(api);
    await settle();
    api.remove({ namespace: 'ns', name: 'goes' });
    api.put(thing('comes'));
    await time.advance(200);
    api.forgetBefore(0);
    await time.advance(60_000);
    expect(names(reflector)).toEqual(['comes', 'stays']);
    expect(api.calls('list')).toBeGreaterThan(1);
  });

  it('removes nothing while lists are refused', async () => {
    const { api, reflector, time } = await start((made) => void made.put(thing('a')));
    api.fail('list', unavailable());
    api.fail('watch', expired());
    api.breakWatches(expired());
    await time.advance(600_000);
    expect(names(reflector)).toEqual(['a']);
  });

  it('shows an object that was made again under its name as gone and new', async () => {
    const { api, reflector, seen, time } = await start((made) => void made.put(thing('a', { uid: 'first' })));
    seen.length = 0;
    api.breakWatches(expired());
    await settle();
    api.remove({ namespace: 'ns', name: 'a' });
    api.put(thing('a', { uid: 'second' }));
    await time.advance(60_000);
    expect(seen).toEqual(['first>-', '->second']);
    expect(reflector.findByUid('first')).toBeUndefined();
    expect(reflector.findByUid('second')?.metadata.name).toBe('a');
  });

  it('opens a new watch when the old one says nothing, not even a bookmark', async () => {
    const { api, time } = await start((made) => void made.put(thing('a')));
    expect(api.calls('watch')).toBe(1);
    await time.advance(131_000);
    expect(api.calls('watch')).toBe(2);
    expect(api.openWatches()).toBe(1);
  });

  it('keeps the answer to its own write when an older event arrives afterwards', async () => {
    const { api, reflector, seen } = await start((made) => void made.put(thing('a', { uid: 'one' })));
    const older = api.put(thing('a', { labels: { step: '1' } }));
    const newer = api.put(thing('a', { labels: { step: '2' } }));
    reflector.assume(newer);
    seen.length = 0;
    await settle();
    expect(Number(older.metadata.resourceVersion)).toBeLessThan(Number(newer.metadata.resourceVersion));
    expect(reflector.get({ namespace: 'ns', name: 'a' })?.metadata.labels).toEqual({ step: '2' });
    expect(seen).toEqual([]);
  });
});
