import { expect, test } from 'vitest';
import { parseOciReference } from './oci-reference.ts';

const hex = 'a'.repeat(64);

test.each([
  ['alpine', { registry: 'docker.io', repository: 'library/alpine' }],
  ['team/app:1', { registry: 'docker.io', repository: 'team/app', tag: '1' }],
  ['docker.io/alpine', { registry: 'docker.io', repository: 'library/alpine' }],
  ['localhost/app', { registry: 'localhost', repository: 'app' }],
  [`registry.example:5000/team/my-app_v2:1.2-rc.1@sha256:${hex}`, { registry: 'registry.example:5000', repository: 'team/my-app_v2', tag: '1.2-rc.1', sha256: hex }],
  [`Registry.Example/a/b/c/d@sha256:${hex}`, { registry: 'registry.example', repository: 'a/b/c/d', sha256: hex }],
  ['127.0.0.1:5000/app', { registry: '127.0.0.1:5000', repository: 'app' }],
])('%s is read', (text, expected) => {
  expect(parseOciReference(text)).toEqual(expected);
});

test.each(['', '/', 'registry.example/', 'registry.example/App', 'registry.example//app', 'registry.example/../app', 'registry.example/a/.', 'app:', 'app@sha256:abc', `app@sha512:${hex}`, `app@sha256:${hex}@sha256:${hex}`, `registry.example/${'a'.repeat(255)}`, 'app:a/b', '-a/b', 'registry-.example/a'])('%s is none', (text) => {
  expect(parseOciReference(text)).toBeNull();
});
