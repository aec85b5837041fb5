import { expect, test } from 'vitest';
import { chooseManifest, isAllowedRegistry, parseChallenge, parseLayerContents, parseManifest } from './oci.ts';

const digest = (letter: string): string => `sha256:${letter.repeat(64)}`;
const layer = (letter: string, mediaType = 'application/vnd.oci.image.layer.v1.tar+gzip', title?: string): object => ({ mediaType, digest: digest(letter), size: 10, ...(title === undefined ? {} : { annotations: { 'org.opencontainers.image.title': title } }) });
const config = (mediaType: string): object => ({ mediaType, digest: digest('c'), size: 5 });
const refused = expect.objectContaining({ code: 'IMAGE_REFUSED' });

test.each(['application/vnd.oci.image.layer.v1.tar', 'application/vnd.oci.image.layer.v1.tar+zstd', 'application/vnd.docker.image.rootfs.diff.tar.gzip', 'application/vnd.oci.image.layer.nondistributable.v1.tar+gzip'])('layers of the type %s make a container image', (mediaType) => {
  expect(parseManifest(JSON.stringify({ config: config('application/vnd.oci.image.config.v1+json'), layers: [layer('a', mediaType), layer('b', mediaType)] }))).toMatchObject({ kind: 'container', config: { sha256: 'c'.repeat(64) }, layers: [{ sha256: 'a'.repeat(64), bytes: 10 }, { sha256: 'b'.repeat(64) }] });
});

test('an artifact is the one layer, or the one whose title names a disk image', () => {
  const artifact = (...layers: object[]): string => JSON.stringify({ config: config('application/vnd.oci.empty.v1+json'), artifactType: 'application/vnd.example', layers });
  expect(parseManifest(artifact(layer('a', 'anything')))).toEqual({ kind: 'artifact', disk: { sha256: 'a'.repeat(64), bytes: 10, mediaType: 'anything' } });
  expect(parseManifest(artifact(layer('a', 'x', 'README.md'), layer('b', 'x', 'disk.qcow2.zst')))).toMatchObject({ disk: { sha256: 'b'.repeat(64) } });
  expect(() => parseManifest(artifact(layer('a', 'x', 'a.raw'), layer('b', 'x', 'b.raw')))).toThrow(refused);
  expect(() => parseManifest(artifact(layer('a', 'x'), layer('b', 'x')))).toThrow(refused);
});

test.each([
  ['no JSON', 'x'],
  ['a list', '[]'],
  ['no layers', '{"layers":[]}'],
  ['too many layers', JSON.stringify({ config: config('application/vnd.oci.image.config.v1+json'), layers: Array.from({ length: 129 }, () => layer('a')) })],
  ['a layer of another kind', JSON.stringify({ config: config('application/vnd.oci.image.config.v1+json'), layers: [layer('a', 'application/vnd.in-toto+json')] })],
  ['a digest of another kind', JSON.stringify({ config: config('application/vnd.oci.image.config.v1+json'), layers: [{ mediaType: 'x', digest: 'md5:a', size: 1 }] })],
  ['a size that is none', JSON.stringify({ config: {}, layers: [{ mediaType: 'x', digest: digest('a'), size: -1 }] })],
])('a manifest with %s is refused', (_title, text) => {
  expect(() => parseManifest(text)).toThrow(refused);
});

test('of an index the manifest for this machine is taken, and none but that', () => {
  const entry = (letter: string, architecture: string, os = 'linux'): object => ({ digest: digest(letter), size: 10, mediaType: 'x', platform: { os, architecture } });
  const index = parseManifest(JSON.stringify({ manifests: [entry('a', 'amd64', 'windows'), entry('b', 'arm64'), entry('c', 'amd64'), entry('d', 'unknown', 'unknown')] }));
  if (index.kind !== 'index') throw new Error('no index');
  expect([chooseManifest(index, 'x64').sha256[0], chooseManifest(index, 'arm64').sha256[0]]).toEqual(['c', 'b']);
  expect(() => chooseManifest(index, 'riscv64')).toThrow(refused);
});

test('a configuration names the content of each layer', () => {
  expect(parseLayerContents(JSON.stringify({ rootfs: { diff_ids: [digest('a')] } }), 1)).toEqual(['a'.repeat(64)]);
  expect(() => parseLayerContents(JSON.stringify({ rootfs: { diff_ids: [digest('a')] } }), 2)).toThrow(refused);
  expect(() => parseLayerContents('{}', 1)).toThrow(refused);
});

test('what a registry asks for before it answers', () => {
  expect(parseChallenge('Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull"')).toEqual({ scheme: 'bearer', realm: 'https://auth.example/token', service: 'registry.example', scope: 'repository:a/b:pull' });
  expect(parseChallenge('basic realm="x"')).toEqual({ scheme: 'basic' });
  expect([parseChallenge(''), parseChallenge('Bearer realm="nothing"'), parseChallenge('Negotiate')]).toEqual([null, null, null]);
});

test.each([
  [[], true],
  [['registry.example:5000'], true],
  [['registry.example:5000/team'], true],
  [['registry.example:5000/team/app'], true],
  [['registry.example:5000/tea'], false],
  [['registry.example'], false],
  [['other.example', 'registry.example:5000/team/'], true],
])('an image of registry.example:5000/team/app with %j allowed: %s', (allowed, isAllowed) => {
  expect(isAllowedRegistry({ registry: 'registry.example:5000', repository: 'team/app' }, allowed)).toBe(isAllowed);
});
