/**
 * [E5] Disks from OCI images: a real agent, a registry over HTTP, the simulated Cloud Hypervisor, and the real
 * mkfs.ext4; what a disk holds is read back with debugfs and judged by e2fsck, without mounting it.
 */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { MicroVMId } from '#api/model/ids.ts';
import type { DesiredMicroVM, DiskSpec } from '#api/model/microvm.ts';
import { createKeptSecrets } from '#edge-agent/adapters/guest-secrets/kept-secrets.ts';
import { createAgentFixture, newMicroVM, type AgentFixture } from './agent-fixture.ts';
import { startSlowLink, type SlowLink } from './image-server.ts';
import { makeLayer, pushArtifact, pushContainer, pushIndex, sha256, startTestRegistry, type TestEntry, type TestRegistry } from './oci-registry.ts';
import { makeQcow2 } from './qcow2.ts';

const linkBytesPerSecond = 5_000_000 / 8;
const observeMs = 5;
const isRoot = process.getuid?.() === 0;
if (!isRoot) process.stdout.write('skipped: file systems with files of several owners: needs root\n');

let fixture: AgentFixture;
let registry: TestRegistry;
let link: SlowLink | undefined;
const ports = new Set<number>();

beforeEach(async () => {
  fixture = await createAgentFixture();
  registry = await startTestRegistry();
  ports.clear();
  ports.add(registry.port);
});
afterEach(async () => {
  link?.close();
  link = undefined;
  registry.close();
  await fixture.close();
});

function ociDisk(digest: string, change: Partial<DiskSpec> & { readonly port?: number } = {}): DiskSpec {
  const { port = registry.port, ...rest } = change;
  return { name: 'root', path: '', readOnly: false, managed: { persistence: 'Persistent', isRetained: false, oci: { registry: `127.0.0.1:${port}`, repository: 'team/app', sha256: digest } }, ...rest };
}

const start = (environment: Record<string, string> = {}): ReturnType<AgentFixture['start']> => fixture.start({ NKUDO_EDGE_IMAGES_PLAIN_HTTP_REGISTRIES: [...ports].map((port) => `127.0.0.1:${port}`).join(','), ...environment });
const diskFile = (id: MicroVMId, name = 'root.raw'): string => join(fixture.directory(id), 'disks', name);
const isRunning = (id: MicroVMId): boolean => fixture.record(id).run.phase === 'started' && fixture.vmmPids(id).length === 1;
const problemOf = (id: MicroVMId): string => fixture.record(id).problem?.code ?? '';

/** Looks at the process table all the time; tells whether any of them ever had a VMM. */
function observe(ids: readonly MicroVMId[]): { readonly end: () => number } {
  let seen = 0;
  const timer = setInterval(() => {
    for (const id of ids) seen += fixture.vmmPids(id).length;
  }, observeMs);
  return { end: () => (clearInterval(timer), seen) };
}

/** What zstd:chunked keeps its index in. */
const skippedFrame = Buffer.from([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);

const canary = 'CANARY-5b1e';
const secretReference = { name: 'login', key: '.dockerconfigjson', resourceVersion: '1' };

const debugfs = (file: string, request: string): string => execFileSync('debugfs', ['-R', request, file], { stdio: ['ignore', 'pipe', 'ignore'], encoding: 'latin1', env: { PATH: `${process.env['PATH']}:/usr/sbin:/sbin` } });

describe('a disk of an OCI artifact', () => {
  test('[E5] comes raw, qcow2, gzip and zstd, from an index too, and as a file in the /disk of a container image', async () => {
    const raw = randomBytes(2 ** 20);
    const qcow2 = makeQcow2(8 * 2 ** 20);
    const container = pushContainer(registry, [makeLayer([{ path: 'disk', type: '5' }, { path: 'disk/image.qcow2', content: qcow2, uid: 107, gid: 107 }])]);
    const cases: readonly (readonly [string, string, Uint8Array])[] = [
      ['raw', pushArtifact(registry, raw), raw],
      ['qcow2', pushArtifact(registry, qcow2, 'disk.qcow2'), qcow2],
      ['raw', pushArtifact(registry, gzipSync(raw), 'disk.raw.gz'), raw],
      ['raw', pushArtifact(registry, Buffer.concat([zstdCompressSync(raw.subarray(0, 1000)), skippedFrame, zstdCompressSync(raw.subarray(1000))]), 'disk.raw.zst'), raw],
      ['qcow2', pushIndex(registry, container.manifest), qcow2],
    ];
    const seeded = cases.map(([format, digest, content]) => ({ id: newMicroVM(), format, digest, content }));
    for (const { id, digest } of seeded) fixture.seed(id, fixture.desired({ disks: [ociDisk(digest)] }));
    await start();
    await fixture.until('the guests', () => seeded.every(({ id }) => isRunning(id)));
    for (const { id, format, content } of seeded) expect(sha256(readFileSync(diskFile(id, `root.${format}`)))).toBe(sha256(content));
    expect(readdirSync(join(fixture.stateDirectory, 'images')).sort()).toEqual(['oci', 'partial', 'sha256']);
  });

  test('[E5] comes over a 5 Mbit/s link that breaks half-way once for ten microVMs, resumed, with at most 1.05 times the bytes', async () => {
    const image = randomBytes(2 * 2 ** 20);
    const digest = pushArtifact(registry, image);
    link = await startSlowLink(registry.port, linkBytesPerSecond);
    ports.add(link.port);
    const ids = Array.from({ length: 10 }, newMicroVM);
    for (const id of ids) fixture.seed(id, fixture.desired({ disks: [ociDisk(digest, { port: link.port })] }));
    const observer = observe(ids);
    await start();
    await link.untilCarried(image.length / 2);
    link.cut();
    await link.untilCarried(image.length * 0.9);
    expect(observer.end()).toBe(0);
    await fixture.until('ten guests', () => ids.every(isRunning));
    expect(link.carried() / image.length).toBeLessThanOrEqual(1.05);
    process.stdout.write(`[E5] OCI: the link carried ${(link.carried() / image.length).toFixed(4)} times the image in ${registry.requests.length} requests\n`);
    expect(registry.requests).toEqual([expect.stringContaining('/manifests/'), expect.stringMatching(/\/blobs\/\S+$/), expect.stringMatching(/\/blobs\/\S+ bytes=\d{7,}-$/)]);
    for (const id of ids) expect(sha256(readFileSync(diskFile(id)))).toBe(sha256(image));
  });

  test('[E5] that is wrong at any level, forbidden or too large becomes a condition, and nothing boots', async () => {
    const layer = makeLayer([{ path: 'etc/os-release', content: 'NAME=test\n' }]);
    const good = pushContainer(registry, [layer]);
    const other = Buffer.from('{"other":"content"}');
    const wrongManifest = sha256(randomBytes(8));
    registry.manifests.set(wrongManifest, { type: 'application/vnd.oci.image.manifest.v1+json', content: other });
    const wrongConfig = pushContainer(registry, [layer, makeLayer([{ path: 'one', content: '1' }])]);
    registry.blobs.set(wrongConfig.config, other);
    const flipped = pushArtifact(registry, Buffer.from('a disk of its own'));
    registry.blobs.set(sha256(Buffer.from('a disk of its own')), Buffer.from('a disk 0f its own'));
    const longer = pushArtifact(registry, Buffer.from('a disk that is short'));
    registry.blobs.set(sha256(Buffer.from('a disk that is short')), Buffer.from('a disk that is short, and goes on'));
    const bomb = pushArtifact(registry, gzipSync(Buffer.alloc(3 * 2 ** 20)), 'disk.raw.gz');
    const cut = pushArtifact(registry, gzipSync(randomBytes(2 ** 16)).subarray(0, 2 ** 15), 'disk.raw.gz');
    const cases: readonly (readonly [string, Partial<DesiredMicroVM>])[] = [
      ['IMAGE_NOT_FOUND', { disks: [ociDisk('1'.repeat(64))] }],
      ['IMAGE_DIGEST_MISMATCH', { disks: [ociDisk(wrongManifest)] }],
      ['IMAGE_DIGEST_MISMATCH', { disks: [ociDisk(wrongConfig.manifest)] }],
      ['IMAGE_DIGEST_MISMATCH', { disks: [ociDisk(flipped)] }],
      ['IMAGE_DIGEST_MISMATCH', { disks: [ociDisk(longer)] }],
      ['IMAGE_DIGEST_MISMATCH', { disks: [ociDisk(pushContainer(registry, [layer], { contents: ['2'.repeat(64)] }).manifest)] }],
      ['IMAGE_REFUSED', { disks: [ociDisk(bomb)] }],
      ['IMAGE_REFUSED', { disks: [ociDisk(cut)] }],
      ['IMAGE_REFUSED', { disks: [ociDisk(pushContainer(registry, [Buffer.from('no archive')], { compress: (content) => content }).manifest)] }],
      ['REGISTRY_NOT_ALLOWED', { disks: [ociDisk(good.manifest)], images: { allowedRegistries: [`127.0.0.1:${registry.port}/team/other`] } }],
    ];
    const seeded = cases.map(([code, change]) => ({ code, id: newMicroVM(), change }));
    for (const { id, change } of seeded) fixture.seed(id, fixture.desired(change));
    const observer = observe(seeded.map(({ id }) => id));
    await start({ NKUDO_EDGE_IMAGES_UNPACKED_MAX_BYTES: String(2 * 2 ** 20) });
    await fixture.until('all conditions', () => seeded.every(({ id, code }) => problemOf(id) === code));
    expect(observer.end()).toBe(0);
    expect(existsSync(join(fixture.stateDirectory, 'images', 'building'))).toBe(false);
  });

  test('[E5] of a registry that wants credentials comes with those of the Secret, and only with those', async () => {
    registry.login = { username: 'shop', password: canary };
    // Each an image of its own: what is on the host already is used without asking.
    const disk = (): DiskSpec => ociDisk(pushArtifact(registry, randomBytes(1_000)));
    const withSecret = (): DiskSpec => ({ ...disk(), managed: { persistence: 'Persistent', isRetained: false, ...disk().managed, secretName: 'login' } });
    const [none, wrong, missing, right] = [newMicroVM(), newMicroVM(), newMicroVM(), newMicroVM()];
    for (const id of [wrong, missing, right]) fixture.seed(id, fixture.desired({ disks: [withSecret()], secrets: [secretReference] }));
    fixture.seed(none, fixture.desired({ disks: [disk()] }));
    const kept = createKeptSecrets(fixture.stateDirectory);
    const auths = (password: string): Uint8Array => Buffer.from(JSON.stringify({ auths: { [`127.0.0.1:${registry.port}`]: { username: 'shop', password } } }));
    kept.save(wrong, [{ ...secretReference, reveal: () => auths(`not ${canary}`) }]);
    kept.save(right, [{ ...secretReference, reveal: () => auths(canary) }]);
    const observer = observe([none, wrong, missing]);
    const agent = await start();
    await fixture.until('the conditions', () => [problemOf(none), problemOf(wrong), problemOf(missing)].join() === 'IMAGE_ACCESS_DENIED,IMAGE_ACCESS_DENIED,SECRET_UNAVAILABLE');
    await fixture.until('the guest', () => isRunning(right));
    expect(observer.end()).toBe(0);
    expect(agent.log()).not.toContain(canary);
    expect(agent.log()).not.toContain(Buffer.from(`shop:${canary}`).toString('base64'));
  });

  test('[E5] comes from where a registry points to if the Site allows that as well, and the credentials do not go there', async () => {
    registry.login = { username: 'shop', password: canary };
    const authorizations: unknown[] = [];
    const elsewhere = createServer((request, response) => {
      authorizations.push(request.headers.authorization);
      response.end(registry.blobs.get((request.url ?? '').slice(-64)));
    });
    await new Promise<void>((resolve) => elsewhere.listen(0, '127.0.0.1', resolve));
    try {
      const { port } = elsewhere.address() as AddressInfo; // A TCP server that listens.
      registry.blobsAt = `http://127.0.0.1:${port}`;
      const disk = (): DiskSpec => ociDisk(pushArtifact(registry, randomBytes(1_000)));
      const withSecret = (): DiskSpec => ({ ...disk(), managed: { persistence: 'Persistent', isRetained: false, ...disk().managed, secretName: 'login' } });
      const own = `127.0.0.1:${registry.port}`;
      const [forbidden, allowed] = [newMicroVM(), newMicroVM()];
      for (const [id, allowedRegistries] of [[forbidden, [own]], [allowed, [own, `127.0.0.1:${port}`]]] as const) {
        fixture.seed(id, fixture.desired({ disks: [withSecret()], secrets: [secretReference], images: { allowedRegistries } }));
        createKeptSecrets(fixture.stateDirectory).save(id, [{ ...secretReference, reveal: () => Buffer.from(JSON.stringify({ auths: { [own]: { auth: Buffer.from(`shop:${canary}`).toString('base64') } } })) }]);
      }
      await start();
      await fixture.until('the condition', () => problemOf(forbidden) === 'REGISTRY_NOT_ALLOWED');
      await fixture.until('the guest', () => isRunning(allowed));
      expect(new Set(authorizations)).toEqual(new Set([undefined]));
    } finally {
      elsewhere.closeAllConnections();
      elsewhere.close();
    }
  });

  test('[E5] with a flipped byte in the cache never boots: what is wrong is thrown away and made anew', async () => {
    const raw = randomBytes(2 ** 20);
    const digest = pushArtifact(registry, gzipSync(raw), 'disk.raw.gz');
    const compressed = sha256(gzipSync(raw));
    const [first, second] = [newMicroVM(), newMicroVM()];
    fixture.seed(first, fixture.desired({ disks: [ociDisk(digest)] }));
    const agent = await start();
    await fixture.until('the first guest', () => isRunning(first));
    await agent.kill('SIGKILL');
    for (const blob of [sha256(raw), compressed]) {
      const path = join(fixture.stateDirectory, 'images', 'sha256', blob);
      const content = readFileSync(path);
      content[5000] = (content[5000] ?? 0) ^ 1;
      writeFileSync(path, content);
    }
    registry.requests.length = 0;
    fixture.seed(second, fixture.desired({ disks: [ociDisk(digest)] }));
    await start();
    await fixture.until('the second guest', () => isRunning(second));
    expect(sha256(readFileSync(diskFile(second)))).toBe(sha256(raw));
    // Of the manifest nothing was wrong; the blob came again.
    expect(registry.requests).toEqual([expect.stringContaining(`/blobs/sha256:${compressed}`)]);
  });
});

describe.skipIf(!isRoot)('a container image as a root disk', () => {
  const capability = Buffer.from([1, 0, 0, 2, 0, 0x20, 0x80, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
  const long = `usr/share/${'long-'.repeat(30)}/${'name-'.repeat(20)}`;
  const lower: readonly TestEntry[] = [
    { path: './', type: '5', mode: 0o755 },
    { path: 'usr/', type: '5' },
    { path: 'usr/bin/', type: '5' },
    { path: 'usr/bin/tool', content: '#!/bin/sh\necho tool\n', mode: 0o4755, uid: 0 },
    { path: 'usr/bin/same', type: '1', link: 'usr/bin/tool' },
    { path: 'usr/bin/ping', content: 'ping', mode: 0o755, pax: { 'SCHILY.xattr.security.capability': capability, 'SCHILY.xattr.user.a "quoted" name': 'no name for it', 'SCHILY.xattr.user.note': 'ümlaut' } },
    { path: 'bin', type: '2', link: 'usr/bin' },
    { path: 'home/guest/', type: '5', mode: 0o700, uid: 1000, gid: 1001 },
    { path: 'home/guest/file with "quotes" und Ümlaut', content: 'mine', uid: 1000, gid: 1001, mode: 0o600 },
    { path: 'etc/old', content: 'old' },
    { path: 'etc/kept', content: 'kept' },
    { path: 'cache/a', content: 'a' },
    { path: 'cache/deep/b', content: 'b' },
    { path: 'var/data', content: 'of the lower layer' },
    { path: long, content: 'far away' },
    { path: 'zero', content: '' },
    { path: 'sparse', content: Buffer.alloc(300_000) },
  ];
  const upper: readonly TestEntry[] = [
    { path: 'bin/added', content: 'through a link of the lower layer', mode: 0o755 },
    { path: 'etc/.wh.old' },
    { path: 'cache/c', content: 'c' },
    { path: 'cache/.wh..wh..opq' },
    { path: 'var/data', type: '5' },
    { path: 'var/data/file', content: 'a directory now' },
    { path: 'tmp', type: '5', mode: 0o1777 },
    { path: 'absolute', type: '2', link: '/etc/kept' },
    { path: 'dangling', type: '2', link: '../../../../outside' },
  ];

  test('[E5] has the files of all its layers with owners, modes, links and attributes, and grows to the size of the disk', async () => {
    const image = pushContainer(registry, [makeLayer(lower), makeLayer(upper)]);
    const [small, large] = [newMicroVM(), newMicroVM()];
    fixture.seed(small, fixture.desired({ disks: [ociDisk(image.manifest)] }));
    fixture.seed(large, fixture.desired({ disks: [ociDisk(image.manifest, { sizeBytes: 2 ** 30 })] }));
    await start();
    await fixture.until('the guests', () => [small, large].every(isRunning));
    for (const id of [small, large]) {
      const file = diskFile(id);
      execFileSync('e2fsck', ['-fn', file], { stdio: 'pipe', env: { PATH: `${process.env['PATH']}:/usr/sbin:/sbin` } });
      const cat = (path: string): string => debugfs(file, `cat "${path}"`);
      const stat = (path: string): string => debugfs(file, `stat "${path}"`);
      expect([cat('/usr/bin/tool'), cat('/usr/bin/added'), cat('/etc/kept'), cat('/cache/c'), cat('/var/data/file'), cat(`/${long}`)]).toEqual(['#!/bin/sh\necho tool\n', 'through a link of the lower layer', 'kept', 'c', 'a directory now', 'far away']);
      expect([stat('/etc/old'), stat('/cache/a'), stat('/cache/deep'), stat('/etc/.wh.old')]).toEqual(['', '', '', '']);
      expect(stat('/usr/bin/tool')).toMatch(/Mode:\s+04755[\s\S]*User:\s+0\b[\s\S]*Links: 2/);
      expect(/Inode: (\d+)/.exec(stat('/usr/bin/same'))?.[1]).toBe(/Inode: (\d+)/.exec(stat('/usr/bin/tool'))?.[1]);
      expect(stat('/bin')).toMatch(/Type: symlink[\s\S]*"usr\/bin"/);
      expect(stat('/dangling')).toContain('"../../../../outside"');
      expect(stat('/home/guest')).toMatch(/Mode:\s+0700[\s\S]*User:\s+1000\s+Group:\s+1001/);
      expect(stat('/tmp')).toMatch(/Mode:\s+01777/);
      expect(stat('/usr/bin/tool')).toContain('2023'); // The year of its time.
      expect(debugfs(file, 'cat "/home/guest/file with ""quotes"" und Ümlaut"')).toBe('mine');
      const scratch = mkdtempSync(join(tmpdir(), 'nkudo-oci-'));
      try {
        const value = join(scratch, 'value');
        debugfs(file, `ea_get -f ${value} /usr/bin/ping security.capability`);
        expect(readFileSync(value)).toEqual(capability);
        debugfs(file, `ea_get -f ${value} /usr/bin/ping user.note`);
        expect(readFileSync(value, 'utf8')).toBe('ümlaut');
      } finally {
        rmSync(scratch, { recursive: true });
      }
    }
    expect(statSync(diskFile(large)).size).toBe(2 ** 30);
    expect(debugfs(diskFile(large), 'stats')).toMatch(/Block count:\s+262144\b/);
    // One image for both, made of blobs that stay for the next version of it; no file of the image ever lay outside.
    expect(registry.requests.filter((request) => request.includes('/blobs/'))).toHaveLength(3);
    expect(readdirSync(join(fixture.stateDirectory, 'images', 'sha256'))).toHaveLength(5);
  });

  test('[E5] that leads out of itself, or holds devices, becomes a condition; nothing is written outside, and nothing boots', async () => {
    const outside = join(fixture.stateDirectory, '..', 'outside');
    const layers: Readonly<Record<string, readonly TestEntry[]>> = {
      'a path with ..': [{ path: '../../../../outside', content: 'x' }],
      'a name of ..': [{ path: 'a/..', content: 'x' }],
      'a hard link out': [{ path: 'link', type: '1', link: '../../../../outside' }],
      'a hard link to nothing': [{ path: 'link', type: '1', link: '/etc/passwd' }],
      'links in a circle': [{ path: 'a', type: '2', link: 'b' }, { path: 'b', type: '2', link: 'a' }, { path: 'a/file', content: 'x' }],
      'a device': [{ path: 'dev/sda', type: '4' }],
      'a pipe': [{ path: 'run/pipe', type: '6' }],
      'a whiteout of ..': [{ path: 'a/.wh...' }],
      'a file as a directory': [{ path: 'a', content: 'x' }, { path: 'a/b', content: 'x' }],
      'a name that is too long': [{ path: 'n'.repeat(256), content: 'x' }],
      'attributes that are too large': [{ path: 'a', content: 'x', pax: { 'SCHILY.xattr.user.a': 'x'.repeat(5_000) } }],
    };
    const seeded = Object.entries(layers).map(([title, entries]) => ({ title, id: newMicroVM(), digest: pushContainer(registry, [makeLayer(entries)]).manifest }));
    for (const { id, digest } of seeded) fixture.seed(id, fixture.desired({ disks: [ociDisk(digest)] }));
    // Links that lead out are followed inside: as on the disk of the guest, where / is its own root.
    const inside = newMicroVM();
    fixture.seed(inside, fixture.desired({ disks: [ociDisk(pushContainer(registry, [makeLayer([{ path: 'up', type: '2', link: '../../../../..' }, { path: 'up/outside', content: 'inside' }, { path: 'abs', type: '2', link: '/tmp' }, { path: 'abs/nkudo-was-here', content: 'inside' }])]).manifest)] }));
    const observer = observe(seeded.map(({ id }) => id));
    await start();
    await fixture.until('all conditions', () => seeded.every(({ id }) => problemOf(id) === 'IMAGE_REFUSED'));
    await fixture.until('the one that is right', () => isRunning(inside));
    expect(observer.end()).toBe(0);
    expect([existsSync(outside), existsSync('/tmp/nkudo-was-here')]).toEqual([false, false]);
    expect([debugfs(diskFile(inside), 'cat /outside'), debugfs(diskFile(inside), 'cat /tmp/nkudo-was-here')]).toEqual(['inside', 'inside']);
  });

  test('[E5] is made anew when the agent is killed on the way', async () => {
    const image = pushContainer(registry, [makeLayer([{ path: 'file', content: randomBytes(2 ** 20) }])]);
    const id = newMicroVM();
    fixture.seed(id, fixture.desired({ disks: [ociDisk(image.manifest)] }));
    const tools = mkdtempSync(join(tmpdir(), 'nkudo-oci-tools-'));
    try {
      // An mkfs.ext4 that does not end: the agent is killed under it.
      writeFileSync(join(tools, 'mkfs.ext4'), `#!/bin/sh\necho $$ > ${tools}/pid\nexec sleep 600\n`, { mode: 0o755 });
      const agent = await start({ PATH: `${tools}:${process.env['PATH']}` });
      await fixture.until('the program', () => existsSync(join(tools, 'pid')) && readFileSync(join(tools, 'pid'), 'utf8') !== '');
      await agent.kill('SIGKILL');
      process.kill(Number(readFileSync(join(tools, 'pid'), 'utf8')), 'SIGKILL');
      expect(existsSync(join(fixture.stateDirectory, 'images', 'building'))).toBe(true);
      await start();
      await fixture.until('the guest', () => isRunning(id));
      expect(existsSync(join(fixture.stateDirectory, 'images', 'building'))).toBe(false);
    } finally {
      rmSync(tools, { recursive: true, force: true });
    }
  });
});
