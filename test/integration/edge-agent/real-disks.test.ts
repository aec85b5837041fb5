/**
 * Disks that the agent made, on a real Cloud Hypervisor: raw, qcow2 and blank ones boot, and a qcow2 header
 * that a guest wrote into its raw disk is refused before the VMM sees it, and by the VMM as well.
 */
import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { microVMId } from '#api/model/ids.ts';
import type { DiskSpec } from '#api/model/microvm.ts';
import { createCloudHypervisor } from '#edge-agent/adapters/cloud-hypervisor/cloud-hypervisor.ts';
import { createBlobStore } from '#edge-agent/adapters/images/blob-store.ts';
import { createGuestDisks } from '#edge-agent/adapters/images/guest-disks.ts';
import type { OpenTransfer } from '#edge-agent/adapters/images/http-transfer.ts';
import { createImageCache } from '#edge-agent/adapters/images/image-cache.ts';
import { createOciImages } from '#edge-agent/adapters/images/oci-images.ts';
import { createSystemClock, systemEntropy as entropy } from '#edge-agent/adapters/system/clock.ts';
import { createVmDirectories } from '#edge-agent/adapters/vm-directories/vm-directories.ts';
import { deriveVmSpec } from '#edge-agent/steps/vm-spec.ts';
import type { Hypervisor } from '#edge-agent/ports/hypervisor.ts';
import type { EnsuredDisks, GuestDisks } from '#edge-agent/ports/images.ts';
import { buildGuest } from '#hack/build-guest.ts';
import { realObstacle } from '#hack/demo/hypervisor.ts';
import { testDesired, testRecord } from '#test/builders/edge-microvm.ts';
import { makeQcow2 } from './qcow2.ts';

const binary = process.env['NKUDO_TEST_HYPERVISOR'] ?? 'cloud-hypervisor';
const obstacle = realObstacle(binary);
if (obstacle !== null) process.stdout.write(`skipped: disks on a real cloud-hypervisor: ${obstacle}\n`);

describe.skipIf(obstacle !== null)('a real VMM on disks of the agent', () => {
  const id = microVMId('00000000-0000-4000-8000-000000000051');
  const signal = AbortSignal.timeout(120_000);
  const contents = new Map<string, Buffer>([['raw', randomBytes(2 ** 20)], ['qcow2', makeQcow2(8 * 2 ** 20)]]);
  let base: string;
  let guest: string;
  let disks: GuestDisks;
  let hypervisor: Hypervisor;

  const disk = (name: string, change: Partial<DiskSpec> = {}): DiskSpec => {
    const content = contents.get(name);
    const image = content === undefined ? {} : { image: { url: `http://images.example/${name}`, sha256: createHash('sha256').update(content).digest('hex') } };
    return { name, path: '', readOnly: false, managed: { persistence: 'Persistent', isRetained: false, ...image }, ...change };
  };

  beforeAll(async () => {
    guest = (await buildGuest()).guest64;
    base = mkdtempSync(join(tmpdir(), 'nkudo-disks-'));
    const directories = createVmDirectories(base);
    const options = { stateDirectory: base, reserveBytes: 0, cacheMaxBytes: 2 ** 40, unpackedMaxBytes: 2 ** 40, pinned: () => Promise.resolve(new Set<string>()), clock: createSystemClock(), entropy, logger: pino({ level: 'silent' }) };
    const openTransfer: OpenTransfer = async ({ url }) => {
      const content = contents.get(new URL(url).pathname.slice(1)) ?? Buffer.alloc(0);
      return { isAppended: false, totalBytes: content.length, body: (async function* () { yield content; })() };
    };
    const store = createBlobStore(options);
    const oci = createOciImages({ ...options, store, openTransfer, plainHttpRegistries: [], path: process.env['PATH'], architecture: 'x64' });
    const cache = createImageCache({ ...options, store, oci, openTransfer });
    disks = createGuestDisks({ stateDirectory: base, directories, cache, path: process.env['PATH'], secrets: () => [] });
    hypervisor = createCloudHypervisor({ binaryPath: binary, environment: { PATH: process.env['PATH'] ?? '' } });
    mkdirSync(directories.path(id), { recursive: true });
  });
  afterAll(async () => {
    if (base === undefined) return;
    await hypervisor.kill(join(base, 'vms', id), signal).catch(() => {});
    rmSync(base, { recursive: true, force: true });
  });

  async function ensure(specs: readonly DiskSpec[], incarnation: number) {
    const desired = testDesired({ boot: { kind: 'kernel', path: guest, cmdline: 'idle' }, disks: specs });
    for (;;) {
      let onNews = (): void => {};
      const news = new Promise<void>((resolve) => (onNews = resolve));
      const found: EnsuredDisks = await disks.ensure({ microvmId: id, desired, incarnation }, onNews, signal);
      if (found.kind === 'made') return deriveVmSpec(testRecord({ desired }), found.disks);
      await news;
    }
  }

  async function boot(specs: readonly DiskSpec[], incarnation: number) {
    const directory = join(base, 'vms', id);
    const spec = await ensure(specs, incarnation);
    await hypervisor.spawn(directory, signal);
    await hypervisor.create(directory, spec, signal);
    await hypervisor.boot(directory, signal);
    const info = await hypervisor.info(directory, signal);
    await hypervisor.shutdownVmm(directory, signal);
    return info;
  }

  test('[E5] Cloud Hypervisor boots with raw, qcow2, blank, Ephemeral and shared disks', async () => {
    const specs = [disk('raw', { sizeBytes: 2 ** 21 }), disk('qcow2'), disk('blank', { sizeBytes: 2 ** 20 }), { ...disk('raw', { readOnly: true }), name: 'shared' }, { ...disk('blank', { sizeBytes: 2 ** 20 }), name: 'scratch', managed: { persistence: 'Ephemeral' as const, isRetained: false } }];
    const info = await boot(specs, 1);
    expect(info?.state).toBe('running');
    expect(info?.diskPaths.map((path) => path.split('/').at(-1))).toEqual(['raw.raw', 'qcow2.qcow2', 'blank.raw', 'shared.raw', 'scratch.1.raw']);
  });

  test('[E5] a raw disk into which its guest wrote the head of a qcow2 file with a backing file is opened by nobody', async () => {
    const evil = makeQcow2(2 ** 20);
    evil.writeBigUInt64BE(512n, 8);
    evil.writeUInt32BE(11, 16);
    evil.write('/etc/shadow', 512);
    writeFileSync(join(base, 'vms', id, 'disks', 'blank.raw'), evil.subarray(0, 4096), { flag: 'r+' });
    await expect(ensure([disk('blank', { sizeBytes: 2 ** 20 })], 2)).rejects.toMatchObject({ code: 'IMAGE_REFUSED' });
    const directory = join(base, 'vms', id);
    const spec = deriveVmSpec(testRecord({ desired: testDesired({ boot: { kind: 'kernel', path: guest, cmdline: 'idle' }, disks: [disk('blank', { sizeBytes: 2 ** 20 })] }) }), [{ name: 'blank', path: join(directory, 'disks', 'blank.raw'), format: 'raw' }]);
    await hypervisor.spawn(directory, signal);
    await hypervisor.create(directory, spec, signal);
    await expect(hypervisor.boot(directory, signal)).rejects.toThrow('Cannot open disk path');
    await hypervisor.shutdownVmm(directory, signal);
  });
});
