/**
 * Images on the whole product: `kubectl apply` of disks that the host makes, what the conditions say while
 * and after they are fetched, and what an image that is not right becomes.
 */
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { fileScope } from '#test/harness/file-scope.ts';
import { startImageServer, type ImageServer } from '../integration/edge-agent/image-server.ts';
import { conditionOf, createWorld, siteName, type TestHost, type World } from './world.ts';

const image = randomBytes(2 ** 20);
const digest = `sha256:${createHash('sha256').update(image).digest('hex')}`;

let world: World;
let host: TestHost;
let server: ImageServer;

beforeAll(async () => {
  server = await startImageServer();
  fileScope().defer(() => server.close());
  server.files.set('/root.raw', image);
  world = await createWorld();
  await world.startController();
  await world.createSite(siteName, { images: { bandwidth: '64Mi', allowedRegistries: [`127.0.0.1:${server.port}`] } });
  host = await world.addHost('edge-1');
});

const disk = (fields: Readonly<Record<string, unknown>> = {}) => ({
  disks: [{ name: 'root', http: { url: `http://127.0.0.1:${server.port}/root.raw` }, digest, persistence: 'Persistent', ...fields }],
});

describe('images of disks', () => {
  it('[E5] are fetched once for the host, and the microVM runs with a disk of its own', async () => {
    for (const name of ['one', 'two']) await world.applyMicroVM(name, disk({ size: '2Mi' }));
    for (const name of ['one', 'two']) {
      const object = await world.waitForCondition('microvms', name, { type: 'Running', status: 'True' });
      expect(conditionOf(object, 'ImagesReady')).toMatchObject({ status: 'True', reason: 'FilesPresent' });
      const file = readFileSync(join(host.stateDirectory, 'vms', String(object.metadata.uid), 'disks', 'root.raw'));
      expect([file.length, file.subarray(0, image.length).equals(image)]).toEqual([2 * 2 ** 20, true]);
    }
    expect(server.requests.filter((request) => request.startsWith('GET /root.raw'))).toHaveLength(1);
  });

  it('[E5] that have another digest, lie elsewhere or are not there are a condition with what to do, and no VMM', async () => {
    const before = host.vmms().length;
    await world.applyMicroVM('wrong', disk({ digest: `sha256:${'0'.repeat(64)}` }));
    await world.applyMicroVM('missing', disk({ http: { url: `http://127.0.0.1:${server.port}/none.raw` }, digest: `sha256:${'1'.repeat(64)}` }));
    await world.applyMicroVM('forbidden', disk({ http: { url: 'http://images.example/root.raw' } }));
    for (const [name, reason] of [['wrong', 'ImageDigestMismatch'], ['missing', 'ImageNotFound'], ['forbidden', 'RegistryNotAllowed']] as const) {
      const object = await world.waitForCondition('microvms', name, { type: 'ImagesReady', status: 'False', reason });
      expect(conditionOf(object, 'Running')?.status).not.toBe('True');
      expect(existsSync(join(host.stateDirectory, 'vms', String(object.metadata.uid), 'disks', 'root.raw'))).toBe(false);
    }
    expect(host.vmms()).toHaveLength(before);
    await Promise.all(['wrong', 'missing', 'forbidden'].map((name) => world.deleteObject('microvms', name)));
    for (const name of ['wrong', 'missing', 'forbidden']) await world.waitUntilGone('microvms', name);
  });
});
