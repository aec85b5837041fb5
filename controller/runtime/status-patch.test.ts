import { describe, expect, it } from 'vitest';
import { createMemoryKubernetesApi } from '#test/fakes/memory-kubernetes-api.ts';
import type { KubernetesObject, Resource } from './kubernetes-api.ts';
import { patchStatus, stampConditions, writeFinalizers, type ObjectWithStatus, type StatusWriter } from './status-patch.ts';

interface Status {
  readonly word: string;
  /** Projections may leave fields undefined. */
  readonly extra?: string | undefined;
}
type Thing = ObjectWithStatus<Status>;

const resource: Resource = { group: 'test', version: 'v1', plural: 'things', kind: 'Thing', isNamespaced: true };
const key = { namespace: 'ns', name: 'a' };

function setup() {
  const api = createMemoryKubernetesApi();
  const assumed: KubernetesObject[] = [];
  const writer: StatusWriter<Thing> = { api, resource, parse: (object) => object, assume: (object) => assumed.push(object), around: (write) => write() };
  const object: Thing = api.put({ metadata: { name: 'a', namespace: 'ns', uid: 'one' } });
  return { api, writer, object, assumed };
}

describe('writing a status', () => {
  it('writes only when it differs, and hands the answer to the cache', async () => {
    const { api, writer, object, assumed } = setup();
    const first = await patchStatus(writer, object, () => ({ word: 'x' }));
    expect([first.isWritten, assumed.length, api.calls('patch')]).toEqual([true, 1, 1]);
    const again = await patchStatus<Status, Thing>(writer, first.object ?? object, () => ({ word: 'x', extra: undefined }));
    expect([again.isWritten, api.calls('patch')]).toEqual([false, 1]);
  });

  it('derives it again from the newer object after a conflict', async () => {
    const { api, writer, object } = setup();
    const theirs = { metadata: { name: 'a', namespace: 'ns' }, status: { word: 'theirs' } };
    api.put(theirs);
    const seen: string[] = [];
    const written = await patchStatus<Status, Thing>(writer, object, (thing) => {
      seen.push(thing.status?.word ?? 'none');
      return { word: `after ${thing.status?.word ?? 'none'}` };
    });
    expect(seen).toEqual(['none', 'theirs']);
    expect(written.object?.status).toEqual({ word: 'after theirs' });
  });

  it('writes nothing to another object of the same name, nor to one that is gone', async () => {
    const { api, writer, object } = setup();
    api.remove(key);
    expect(await patchStatus(writer, object, () => ({ word: 'x' }))).toEqual({ object: null, isWritten: false });
    api.put({ metadata: { name: 'a', namespace: 'ns', uid: 'two' } });
    expect(await patchStatus(writer, object, () => ({ word: 'x' }))).toEqual({ object: null, isWritten: false });
    expect(api.find(key)).not.toHaveProperty('status');
  });

  it('does not hand an object to the cache that is gone without its last finalizer', async () => {
    const { api, writer, assumed } = setup();
    const metadata = { name: 'a', namespace: 'ns', uid: 'one', deletionTimestamp: '2026-01-02T03:04:05Z', finalizers: ['f', 'g'] };
    const leaving: Thing = api.put({ metadata });
    const half = await writeFinalizers(writer, leaving, ['g']);
    expect([half?.metadata.finalizers, assumed.length]).toEqual([['g'], 1]);
    await writeFinalizers(writer, half ?? leaving, []);
    expect(assumed).toHaveLength(1);
  });

  it('refuses to change finalizers of a version that it has not seen, and learns the newer one', async () => {
    const { api, writer, object, assumed } = setup();
    const newer = api.put({ metadata: { name: 'a', namespace: 'ns' } });
    await expect(writeFinalizers(writer, object, ['f'])).rejects.toMatchObject({ code: 'CONFLICT' });
    expect(assumed.at(-1)?.metadata.resourceVersion).toBe(newer.metadata.resourceVersion);
    expect(api.find(key)?.metadata.finalizers).toBeUndefined();
  });
});

describe('conditions', () => {
  it('keep the time of their last change of status, whatever else changes', () => {
    const old = [{ type: 'Ready', status: 'True', lastTransitionTime: '2026-01-01T00:00:00Z', reason: 'A', message: 'a' }] as const;
    const nowMs = Date.UTC(2026, 5, 1);
    const same = stampConditions([{ type: 'Ready', status: 'True', reason: 'B', message: 'b' }], old, { generation: 2, nowMs });
    expect(same[0]?.lastTransitionTime).toBe('2026-01-01T00:00:00Z');
    const changed = stampConditions([{ type: 'Ready', status: 'False', reason: 'B', message: 'b' }], old, { generation: 2, nowMs });
    expect(changed[0]?.lastTransitionTime).toBe('2026-06-01T00:00:00Z');
  });
});
