/**
 * [E5] Images and disks with a real agent, a real HTTP server and the simulated Cloud Hypervisor. An
 * observer outside the agent samples the process table: what must not boot is never seen.
 */
import { createHash, randomBytes } from 'node:crypto';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { MicroVMId } from '#api/model/ids.ts';
import type { DesiredMicroVM, DiskSpec } from '#api/model/microvm.ts';
import { createKeptSecrets } from '#edge-agent/adapters/guest-secrets/kept-secrets.ts';
import { createAgentFixture, newMicroVM, type AgentFixture } from './agent-fixture.ts';
import { makeQcow2 } from './qcow2.ts';
import { startImageServer, startSlowLink, type ImageServer, type SlowLink } from './image-server.ts';

const sha256 = (content: Uint8Array): string => createHash('sha256').update(content).digest('hex');
const linkBytesPerSecond = 5_000_000 / 8;
const observeMs = 5;

let fixture: AgentFixture;
let server: ImageServer;
let link: SlowLink | undefined;
let mounted: string | undefined;

beforeEach(async () => {
  fixture = await createAgentFixture();
  server = await startImageServer();
});
afterEach(async () => {
  link?.close();
  link = undefined;
  server.close();
  if (mounted !== undefined) execFileSync('umount', ['-l', mounted]);
  mounted = undefined;
  await fixture.close();
});

const url = (path: string, port = server.port): string => `http://127.0.0.1:${port}${path}`;

function imageDisk(content: Uint8Array | string, path: string, change: Partial<DiskSpec> & { readonly port?: number } = {}): DiskSpec {
  const { port, ...rest } = change;
  const digest = typeof content === 'string' ? content : sha256(content);
  return { name: 'root', path: '', readOnly: false, managed: { persistence: 'Persistent', isRetained: false, image: { url: url(path, port), sha256: digest } }, ...rest };
}

const diskFile = (id: MicroVMId, name = 'root.raw'): string => join(fixture.directory(id), 'disks', name);
const cached = (digest: string): string => join(fixture.stateDirectory, 'images', 'sha256', digest);
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

describe('images', () => {
  test('[E5] come over a 5 Mbit/s link that breaks half-way once for ten microVMs, resumed, with at most 1.05 times the bytes', async () => {
    const image = randomBytes(4 * 2 ** 20);
    server.files.set('/root.raw', image);
    link = await startSlowLink(server.port, linkBytesPerSecond);
    const ids = Array.from({ length: 10 }, newMicroVM);
    for (const id of ids) fixture.seed(id, fixture.desired({ disks: [imageDisk(image, '/root.raw', { port: link.port })] }));
    const observer = observe(ids);
    await fixture.start();
    await link.untilCarried(image.length / 2);
    link.cut();
    await link.untilCarried(image.length * 0.9);
    expect(observer.end()).toBe(0);
    await fixture.until('ten guests', () => ids.every(isRunning));

    expect(link.carried() / image.length).toBeGreaterThanOrEqual(1);
    expect(link.carried() / image.length).toBeLessThanOrEqual(1.05);
    process.stdout.write(`[E5] the link carried ${(link.carried() / image.length).toFixed(4)} times the image in ${server.requests.length} requests\n`);
    expect(server.requests).toEqual(['GET /root.raw', expect.stringMatching(/^GET \/root\.raw bytes=\d{7,}-$/)]);
    for (const id of ids) expect(sha256(readFileSync(diskFile(id)))).toBe(sha256(image));
    expect(readdirSync(join(fixture.stateDirectory, 'images', 'partial'))).toEqual([]);
  });

  test('[E5] go on where they were when the agent is killed half-way', async () => {
    const image = randomBytes(2 * 2 ** 20);
    server.files.set('/root.raw', image);
    link = await startSlowLink(server.port, linkBytesPerSecond * 2);
    const id = newMicroVM();
    fixture.seed(id, fixture.desired({ disks: [imageDisk(image, '/root.raw', { port: link.port })] }));
    const agent = await fixture.start();
    await link.untilCarried(image.length / 2);
    await agent.kill('SIGKILL');
    await fixture.start();
    await fixture.until('the guest', () => isRunning(id));
    // What a killed process had not read from its socket is lost, so no share of bytes is asserted: only that it goes on.
    expect(server.requests).toEqual(['GET /root.raw', expect.stringMatching(/^GET \/root\.raw bytes=[1-9]\d{4,}-$/)]);
    expect(sha256(readFileSync(diskFile(id)))).toBe(sha256(image));
  });

  test('[E5] that are wrong, missing, forbidden or no disk become a condition, and nothing boots', async () => {
    const image = randomBytes(256 * 1024);
    server.files.set('/root.raw', image);
    const backed = makeQcow2(2 ** 20);
    backed.writeBigUInt64BE(512n, 8);
    server.files.set('/backed.qcow2', backed);
    const outside = join(fixture.stateDirectory, '..', 'outside.raw');
    writeFileSync(outside, image);
    const withPolicy = (allowedRegistries: string[]): Partial<DesiredMicroVM> => ({ disks: [imageDisk(image, '/root.raw')], images: { allowedRegistries } });
    const cases: readonly (readonly [string, Partial<DesiredMicroVM>])[] = [
      ['IMAGE_DIGEST_MISMATCH', { disks: [imageDisk('0'.repeat(64), '/root.raw')] }],
      ['IMAGE_NOT_FOUND', { disks: [imageDisk('1'.repeat(64), '/nothing.raw')] }],
      ['REGISTRY_NOT_ALLOWED', withPolicy(['images.example'])],
      ['IMAGE_REFUSED', { disks: [imageDisk(backed, '/backed.qcow2')] }],
      ['IMAGE_REFUSED', { disks: [imageDisk(image, '/root.raw', { sizeBytes: 4096 })] }],
      ['PATH_NOT_ALLOWED', { disks: [{ name: 'root', path: outside, readOnly: false }] }],
    ];
    const seeded = cases.map(([code, change]) => ({ code, id: newMicroVM(), change }));
    for (const { id, change } of seeded) fixture.seed(id, fixture.desired(change));
    const good = newMicroVM();
    fixture.seed(good, fixture.desired(withPolicy([`127.0.0.1:${server.port}`])));
    const observer = observe(seeded.map(({ id }) => id));
    await fixture.start({}, [], ['--allow-path', join(fixture.guestPath, '..')]);
    await fixture.until('all conditions', () => seeded.every(({ id, code }) => problemOf(id) === code));
    await fixture.until('the one that is right', () => isRunning(good));
    expect(observer.end()).toBe(0);
    expect(existsSync(cached('0'.repeat(64)))).toBe(false);
  });

  test('[E5] of a server that wants credentials come with those of the Secret, and only with those', async () => {
    const image = randomBytes(50_000);
    server.files.set('/root.raw', image);
    server.authorization = `Basic ${Buffer.from('shop:CANARY-77').toString('base64')}`;
    const disk = imageDisk(image, '/root.raw');
    const withSecret = { ...disk, managed: { persistence: 'Persistent', isRetained: false, ...disk.managed, secretName: 'login' } } as const;
    const references = ['username', 'password'].map((key) => ({ name: 'login', key, resourceVersion: '1' }));
    const [none, right] = [newMicroVM(), newMicroVM()];
    fixture.seed(none, fixture.desired({ disks: [imageDisk('2'.repeat(64), '/root.raw')] }));
    fixture.seed(right, fixture.desired({ disks: [withSecret], secrets: references }));
    createKeptSecrets(fixture.stateDirectory).save(right, references.map((reference) => ({ ...reference, reveal: () => Buffer.from(reference.key === 'username' ? 'shop' : 'CANARY-77') })));
    const observer = observe([none]);
    const agent = await fixture.start();
    await fixture.until('the condition', () => problemOf(none) === 'IMAGE_ACCESS_DENIED');
    await fixture.until('the guest', () => isRunning(right));
    expect(observer.end()).toBe(0);
    expect(agent.log()).not.toContain('CANARY');
    expect(agent.log()).not.toContain(server.authorization.slice('Basic '.length));
  });

  test('[E5] with a flipped byte in the cache never boot: the image is thrown away and fetched anew', async () => {
    const image = randomBytes(512 * 1024);
    server.files.set('/root.raw', image);
    const [first, second] = [newMicroVM(), newMicroVM()];
    fixture.seed(first, fixture.desired({ disks: [imageDisk(image, '/root.raw')] }));
    const agent = await fixture.start();
    await fixture.until('the first guest', () => isRunning(first));
    await agent.kill('SIGKILL');
    const flipped = readFileSync(cached(sha256(image)));
    flipped[1000] = (flipped[1000] ?? 0) ^ 1;
    writeFileSync(cached(sha256(image)), flipped);
    server.files.delete('/root.raw');
    fixture.seed(second, fixture.desired({ disks: [imageDisk(image, '/root.raw')] }));
    const observer = observe([second]);
    await fixture.start();
    await fixture.until('the condition', () => problemOf(second) === 'IMAGE_NOT_FOUND');
    expect(observer.end()).toBe(0);
    expect(existsSync(cached(sha256(image)))).toBe(false);
    server.files.set('/root.raw', image);
    await fixture.until('the second guest', () => isRunning(second));
    expect(sha256(readFileSync(diskFile(second)))).toBe(sha256(image));
  });

  test('[E5] that do not fit on the disk become a condition, nothing boots, and it goes on when space returns', async (context) => {
    const images = join(fixture.stateDirectory, 'images');
    mkdirSync(images);
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', images], { stdio: 'pipe' });
      mounted = images;
    } catch {
      process.stdout.write('skipped: a full disk: no file system can be mounted here\n');
      return context.skip();
    }
    const image = randomBytes(2 * 2 ** 20);
    server.files.set('/root.raw', image);
    const id = newMicroVM();
    fixture.seed(id, fixture.desired({ disks: [imageDisk(image, '/root.raw')] }));
    const observer = observe([id]);
    await fixture.start({ NKUDO_EDGE_IMAGES_RESERVE_BYTES: '0' });
    await fixture.until('the condition', () => problemOf(id) === 'DISK_FULL');
    expect(observer.end()).toBe(0);
    execFileSync('mount', ['-o', 'remount,size=16m', images]);
    await fixture.until('the guest', () => isRunning(id));
  });
});

describe('disks', () => {
  test('of each kind are attached, grow with the next start, and are kept, made anew, removed or retained as asked', async () => {
    const image = randomBytes(256 * 1024);
    const quick = makeQcow2(8 * 2 ** 20);
    server.files.set('/root.raw', image);
    server.files.set('/quick.qcow2', quick);
    const persistent = { persistence: 'Persistent', isRetained: false } as const;
    const blank = (sizeBytes: number): DiskSpec => ({ name: 'data', path: '', readOnly: false, sizeBytes, managed: { ...persistent, isRetained: true } });
    const scratch: DiskSpec = { name: 'scratch', path: '', readOnly: false, sizeBytes: 2 ** 20, managed: { persistence: 'Ephemeral', isRetained: false } };
    const shared = imageDisk(image, '/root.raw', { name: 'shared', readOnly: true });
    const disks = (size: number): DiskSpec[] => [imageDisk(image, '/root.raw', { sizeBytes: size }), imageDisk(quick, '/quick.qcow2', { name: 'quick' }), blank(size), scratch, shared];
    const id = newMicroVM();
    fixture.seed(id, fixture.desired({ disks: disks(2 ** 20) }));
    const first = await fixture.start();
    await fixture.until('the guest', () => isRunning(id));
    expect(readdirSync(join(fixture.directory(id), 'disks')).sort()).toEqual(['data.raw', 'quick.qcow2', 'retained.json', 'root.raw', 'scratch.1.raw', 'shared.raw']);
    expect(statSync(diskFile(id)).size).toBe(2 ** 20);
    expect(statSync(diskFile(id, 'data.raw'))).toMatchObject({ size: 2 ** 20, blocks: 0 });
    expect(statSync(diskFile(id, 'shared.raw')).ino).toBe(statSync(cached(sha256(image))).ino);

    await first.kill('SIGKILL');
    writeFileSync(diskFile(id, 'data.raw'), 'of the guest', { flag: 'r+' });
    writeFileSync(diskFile(id, 'scratch.1.raw'), 'of the guest', { flag: 'r+' });
    fixture.seed(id, fixture.desired({ disks: disks(2 ** 21), restartNonce: 1 }), 2);
    const second = await fixture.start();
    await fixture.until('the restart', () => fixture.record(id).run.appliedNonce === 1 && isRunning(id));
    expect(statSync(diskFile(id)).size).toBe(2 ** 21);
    expect([statSync(diskFile(id, 'data.raw')).size, readFileSync(diskFile(id, 'data.raw'), 'utf8').slice(0, 12)]).toEqual([2 ** 21, 'of the guest']);
    expect(existsSync(diskFile(id, 'scratch.1.raw'))).toBe(false);
    const { incarnation } = fixture.record(id).run;
    expect(readFileSync(diskFile(id, `scratch.${incarnation}.raw`)).every((byte) => byte === 0)).toBe(true);

    await second.kill('SIGKILL');
    fixture.seed(id, null, 3);
    await fixture.start();
    await fixture.until('the removal', () => fixture.record(id).isTombstone);
    expect(existsSync(fixture.directory(id))).toBe(false);
    const retained = join(fixture.stateDirectory, 'retained-disks', id);
    expect(readdirSync(retained)).toEqual(['data.raw']);
    expect(readFileSync(join(retained, 'data.raw'), 'utf8').slice(0, 12)).toBe('of the guest');
  });
});
