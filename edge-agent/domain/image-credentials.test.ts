import { expect, test } from 'vitest';
import type { ManagedDisk, SecretValue } from '#api/model/microvm.ts';
import { credentialsOf } from './image-credentials.ts';

const disk = { persistence: 'Persistent', isRetained: false, secretName: 'login' } as const;
const oci = (registry: string, repository = 'team/app'): ManagedDisk => ({ ...disk, oci: { registry, repository, sha256: 'a'.repeat(64) } });
const http: ManagedDisk = { ...disk, image: { url: 'https://images.example/a', sha256: 'a'.repeat(64) } };
const value = (key: string, text: string): SecretValue => ({ name: 'login', key, reveal: () => new TextEncoder().encode(text) });
const config = (auths: unknown): readonly SecretValue[] => [value('.dockerconfigjson', JSON.stringify({ auths }))];
const auth = (text: string): object => ({ auth: Buffer.from(text).toString('base64') });

test('of a URL they are the keys of basic authentication', () => {
  expect(credentialsOf(http, [value('username', 'shop'), value('password', 'Canary:1')])).toEqual({ username: 'shop', password: 'Canary:1' });
  expect(credentialsOf({ ...http, ...{ secretName: undefined } } as unknown as ManagedDisk, [])).toBeUndefined();
});

test.each([
  ['registry.example:5000', { 'registry.example:5000': auth('shop:a:b') }, { username: 'shop', password: 'a:b' }],
  ['registry.example', { 'https://registry.example/v2/': { username: 'shop', password: 'x' } }, { username: 'shop', password: 'x' }],
  ['docker.io', { 'https://index.docker.io/v1/': auth('shop:x') }, { username: 'shop', password: 'x' }],
  ['registry.example', { 'registry.example': auth('all:x'), 'registry.example/team': auth('team:y'), 'registry.example/tea': auth('no:z') }, { username: 'team', password: 'y' }],
])('of the registry %s they are those of its most exact entry', (registry, auths, expected) => {
  expect(credentialsOf(oci(registry), config(auths))).toEqual(expected);
});

test.each([
  ['another registry', oci('registry.example'), config({ 'other.example': auth('shop:x') }), 'IMAGE_ACCESS_DENIED'],
  ['a port of its own', oci('registry.example:5000'), config({ 'registry.example': auth('shop:x') }), 'IMAGE_ACCESS_DENIED'],
  ['no JSON', oci('registry.example'), [value('.dockerconfigjson', 'Canary0f')], 'IMAGE_ACCESS_DENIED'],
  ['no auths', oci('registry.example'), [value('.dockerconfigjson', '{}')], 'IMAGE_ACCESS_DENIED'],
  ['a line break', http, [value('username', 'shop'), value('password', 'Canary0f\n')], 'IMAGE_ACCESS_DENIED'],
  ['no value', http, [value('username', 'shop')], 'SECRET_UNAVAILABLE'],
])('a Secret with %s is refused, and never repeated', (_title, managed, kept, code) => {
  expect(() => credentialsOf(managed, kept)).toThrow(expect.objectContaining({ code, message: expect.not.stringContaining('Canary') as string }));
});
