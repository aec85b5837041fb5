/**
 * Data for cloud-init on the whole product: what each field puts on the guest's seed disk, what becomes of a microVM whose
 * Secret is not there, not for guests or not as the spec says, and that guests boot without a connection.
 */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import type { KubernetesObject } from '#hack/stack/kubernetes-client.ts';
import { until } from '#test/harness/until.ts';
import { hasSeedReader, readSeed } from './seed-reader.ts';
import { conditionOf, createWorld, type TestHost, type World } from './world.ts';

let world: World;
let host: TestHost;

beforeAll(async () => {
  world = await createWorld();
  await world.startController();
  await world.createSite();
  host = await world.addHost('edge-1');
});

const secretPath = (name: string): string => `/api/v1/namespaces/${world.namespace}/secrets/${name}`;

async function putSecret(name: string, values: Readonly<Record<string, string>>, labels: Readonly<Record<string, string>> = { 'nkudo.dev/guest': 'true' }): Promise<void> {
  await world.kubernetes.client.apply(secretPath(name), { apiVersion: 'v1', kind: 'Secret', metadata: { name, namespace: world.namespace, labels }, stringData: values });
}

async function deleteSecret(name: string): Promise<void> {
  expect((await world.kubernetes.client.request('DELETE', secretPath(name))).status).toBe(200);
}

const fromSecret = (name: string, key = 'user-data') => ({ cloudInit: { userDataSecretRef: { name, key } } });
const seedOf = (object: KubernetesObject): string => join(host.stateDirectory, 'vms', String(object.metadata.uid), 'seed.iso');
const keptOf = (object: KubernetesObject): string => join(host.stateDirectory, 'secrets', `${String(object.metadata.uid)}.json`);
const modeOf = (path: string): string => (statSync(path).mode & 0o777).toString(8);
const pidOf = (object: KubernetesObject): number | undefined => host.vmms().find(({ directory }) => directory.includes(String(object.metadata.uid)))?.pid;

async function run(name: string, spec: Readonly<Record<string, unknown>>): Promise<KubernetesObject> {
  await world.applyMicroVM(name, spec);
  return world.waitForCondition('microvms', name, { type: 'Running', status: 'True' });
}

async function remove(object: KubernetesObject): Promise<void> {
  await world.deleteObject('microvms', object.metadata.name);
  await world.waitUntilGone('microvms', object.metadata.name);
  expect([existsSync(seedOf(object)), existsSync(keptOf(object))]).toEqual([false, false]);
}

const sshKey = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLEE ada';

describe.runIf(hasSeedReader)('the seed disk of a guest', () => {
  it('[E2] has what cloudInit.hostName, userData, networkData and sshAuthorizedKeys say, for the agent and its VMM alone', async () => {
    const object = await run('full', { cloudInit: { hostName: 'till', userData: '#cloud-config\npackages: [till]\n', networkData: 'version: 2\n', sshAuthorizedKeys: [sshKey] } });
    const seed = readSeed(seedOf(object));
    expect(Object.keys(seed).toSorted()).toEqual(['meta-data', 'network-config', 'user-data']);
    expect(parse(seed['meta-data'] ?? '')).toEqual({ 'instance-id': expect.stringContaining(String(object.metadata.uid)), 'local-hostname': 'till', 'public-keys': [sshKey] });
    expect([seed['user-data'], seed['network-config']]).toEqual(['#cloud-config\npackages: [till]\n', 'version: 2\n']);
    expect(modeOf(seedOf(object))).toMatch(/^[64][40]0$/);
    await remove(object);
  });

  it('[E2] has the user data of cloudInit.userDataSecretRef, and the name of the microVM without cloudInit.hostName', async () => {
    await putSecret('init', { 'user-data': '#cloud-config\npassword: of-the-secret\n' });
    const object = await run('secretly', fromSecret('init'));
    const seed = readSeed(seedOf(object));
    expect(seed['user-data']).toBe('#cloud-config\npassword: of-the-secret\n');
    expect(parse(seed['meta-data'] ?? '')).toMatchObject({ 'local-hostname': 'secretly' });
    expect([modeOf(seedOf(object)), modeOf(keptOf(object)), modeOf(join(host.stateDirectory, 'secrets'))]).toEqual([expect.stringMatching(/^[64][40]0$/), '600', '700']);
    await remove(object);
  });

  it('[E2] is none without cloudInit, goes with the start after cloudInit was removed, and the guest is told apart by its instance-id', async () => {
    const object = await run('changing', { cloudInit: { userData: 'first' } });
    const first = parse(readSeed(seedOf(object))['meta-data'] ?? '') as Record<string, unknown>; // Its fields are compared.
    await world.patchMicroVM('changing', { cloudInit: { userData: 'second' } });
    await world.waitForCondition('microvms', 'changing', { type: 'RestartRequired', status: 'True' });
    expect(readSeed(seedOf(object))['user-data']).toBe('first');
    await world.patchMicroVM('changing', { restartNonce: 1 });
    // Between its two lives a guest needs no restart either, so the condition tells nothing here.
    await until(() => readSeed(seedOf(object))['user-data'] === 'second', 'the seed of the next start');
    await world.waitForCondition('microvms', 'changing', { type: 'RestartRequired', status: 'False' });
    expect(parse(readSeed(seedOf(object))['meta-data'] ?? '')).not.toMatchObject({ 'instance-id': first['instance-id'] });
    await world.patchMicroVM('changing', { cloudInit: null, restartNonce: 2 });
    await until(() => !existsSync(seedOf(object)), 'the seed to go');
    await world.waitForCondition('microvms', 'changing', { type: 'RestartRequired', status: 'False' });
    await remove(object);
  });
});

describe('a Secret of a guest', () => {
  it('that is not there, not for guests, lacks the key or is too large is a condition with what to do and nothing half made; the microVM starts by itself once it is right', async () => {
    await world.applyMicroVM('patient', fromSecret('late'));
    const expectRefused = async (reason: string, message: RegExp): Promise<void> => {
      const object = await world.waitForCondition('microvms', 'patient', { type: 'Accepted', status: 'False', reason });
      expect(conditionOf(object, 'Accepted')?.message).toMatch(message);
      expect(conditionOf(object, 'Ready')).toMatchObject({ status: 'False', reason });
      expect(await world.database.query('select from nkudo.microvms where id = $1', [object.metadata.uid])).toEqual([]);
      expect([existsSync(join(host.stateDirectory, 'vms', String(object.metadata.uid))), pidOf(object)]).toEqual([false, undefined]);
    };
    await expectRefused('SecretNotFound', /there is no Secret late in namespace .*: create it with the key user-data and the label/);
    await putSecret('late', { 'user-data': 'x' }, {});
    // Nobody follows Secrets that are not for guests, so this changes nothing by itself.
    await world.patchMicroVM('patient', { restart: { maxRetries: 19 } });
    await expectRefused('SecretNotForGuests', /kubectl -n .* label secret late nkudo\.dev\/guest=true/);
    await deleteSecret('late');
    await putSecret('late', { other: 'x' });
    await expectRefused('SecretKeyNotFound', /has no key user-data/);
    await putSecret('late', { other: 'x', 'user-data': 'x'.repeat(65_537) });
    await expectRefused('SecretTooLarge', /65537 bytes; at most 65536/);
    await putSecret('late', { other: 'x', 'user-data': 'x'.repeat(65_536) });
    const object = await world.waitForCondition('microvms', 'patient', { type: 'Running', status: 'True' });
    expect(conditionOf(object, 'Accepted')).toMatchObject({ status: 'True' });
    await remove(object);
  });

  it('of another namespace is not taken', async () => {
    const other = await world.kubernetes.createNamespace('elsewhere');
    await world.kubernetes.client.apply(`/api/v1/namespaces/${other}/secrets/foreign`, { apiVersion: 'v1', kind: 'Secret', metadata: { name: 'foreign', namespace: other, labels: { 'nkudo.dev/guest': 'true' } }, stringData: { 'user-data': 'x' } });
    await world.applyMicroVM('trespasser', fromSecret('foreign'));
    await remove(await world.waitForCondition('microvms', 'trespasser', { type: 'Accepted', status: 'False', reason: 'SecretNotFound' }));
  });

  it('that changes takes effect with the next start, and restarts nothing', async () => {
    await putSecret('rotating', { 'user-data': 'one' });
    const object = await run('rotated', fromSecret('rotating'));
    const pid = pidOf(object);
    await putSecret('rotating', { 'user-data': 'two' });
    await world.waitForCondition('microvms', 'rotated', { type: 'RestartRequired', status: 'True' });
    expect([pidOf(object), pid]).toEqual([pid, expect.any(Number)]);
    await world.patchMicroVM('rotated', { restartNonce: 1 });
    await until(() => readFileSync(seedOf(object)).includes('two'), 'the seed of the next start');
    await world.waitForCondition('microvms', 'rotated', { type: 'RestartRequired', status: 'False' });
    await until(() => ![undefined, pid].includes(pidOf(object)), 'the guest to run in another process');
    await remove(object);
  });

  it('that is deleted leaves the microVM as it is: it stops, starts and boots without a connection from what its host has', async () => {
    await putSecret('gone', { 'user-data': 'kept' });
    const object = await run('independent', fromSecret('gone'));
    await deleteSecret('gone');
    await world.patchMicroVM('independent', { runPolicy: 'Halted' });
    const halted = await world.waitForCondition('microvms', 'independent', { type: 'Running', status: 'False', reason: 'Halted' });
    expect(conditionOf(halted, 'Accepted')).toMatchObject({ status: 'True', message: expect.stringMatching(/goes on with the values that it has: there is no Secret gone/) });
    await world.patchMicroVM('independent', { runPolicy: 'Always' });
    await world.waitForCondition('microvms', 'independent', { type: 'Running', status: 'True' });
    await world.stopController();
    const pid = pidOf(object);
    await host.crashAgent();
    process.kill(pid ?? 0, 'SIGKILL');
    await host.startAgent();
    await until(() => pidOf(object) !== undefined && pidOf(object) !== pid, 'the guest to boot without a connection');
    if (hasSeedReader) expect(readSeed(seedOf(object))['user-data']).toBe('kept');
    await world.startController();
    await world.waitForCondition('hosts', 'edge-1', { type: 'Ready', status: 'True' });
    await remove(object);
  });
});
