import { describe, expect, it } from 'vitest';
import { secretValueMax } from '#api/model/microvm.ts';
import { createMemoryKubernetesApi } from '#test/fakes/memory-kubernetes-api.ts';
import { createGuestSecrets } from './guest-secrets.ts';

function secret(name: string, values: Readonly<Record<string, string>>, labels: Readonly<Record<string, string>> = { 'nkudo.dev/guest': 'true' }, namespace = 'shop') {
  return { kind: 'Secret', metadata: { name, namespace, labels }, data: Object.fromEntries(Object.entries(values).map(([key, value]) => [key, Buffer.from(value).toString('base64')])) };
}

describe('a Secret for guests', () => {
  it('is read once for all of its keys, and gives value and version', async () => {
    const api = createMemoryKubernetesApi();
    const { metadata } = api.put(secret('guest', { a: 'one', b: 'two' }));
    const readings = await createGuestSecrets(api).read('shop', [{ name: 'guest', key: 'a' }, { name: 'guest', key: 'b' }]);
    expect(readings.map((reading) => reading.kind === 'found' && [reading.reference.resourceVersion, Buffer.from(reading.value.reveal()).toString()])).toEqual([[metadata.resourceVersion, 'one'], [metadata.resourceVersion, 'two']]);
    expect(api.calls('get')).toBe(1);
    expect(JSON.stringify(readings)).not.toContain('one');
  });

  it.each([
    ['there is none', [], 'SecretNotFound', /create it with the key a and the label/],
    ['it has no label', [secret('guest', { a: 'x' }, {})], 'SecretNotForGuests', /kubectl -n shop label secret guest nkudo\.dev\/guest=true/],
    ['its label says something else', [secret('guest', { a: 'x' }, { 'nkudo.dev/guest': 'yes' })], 'SecretNotForGuests', /label/],
    ['it lacks the key', [secret('guest', { b: 'x' })], 'SecretKeyNotFound', /has no key a/],
    ['its value is too large', [secret('guest', { a: 'x'.repeat(secretValueMax + 1) })], 'SecretTooLarge', /65537 bytes; at most 65536/],
    ['it is in another namespace', [secret('guest', { a: 'x' }, { 'nkudo.dev/guest': 'true' }, 'other')], 'SecretNotFound', /in namespace shop/],
  ])('is refused with a reason and what to do when %s', async (_what, objects, reason, message) => {
    const api = createMemoryKubernetesApi();
    for (const object of objects) api.put(object);
    expect(await createGuestSecrets(api).read('shop', [{ name: 'guest', key: 'a' }])).toEqual([{ kind: 'refused', key: { name: 'guest', key: 'a' }, reason, message: expect.stringMatching(message) }]);
  });

  it('takes a value of exactly the longest length', async () => {
    const api = createMemoryKubernetesApi();
    api.put(secret('guest', { a: 'x'.repeat(secretValueMax) }));
    expect(await createGuestSecrets(api).read('shop', [{ name: 'guest', key: 'a' }])).toMatchObject([{ kind: 'found' }]);
  });
});
