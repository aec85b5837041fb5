import { copyFileSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { fileScope } from '#test/harness/file-scope.ts';
import { conditionOf, createWorld, microVMSpec, statusOf, type TestHost, type World } from './world.ts';

let world: World;
let host: TestHost;

beforeAll(async () => {
  world = await createWorld();
  await world.startController();
  await world.createSite();
  host = await world.addHost('edge-1');
});

async function applyRefused(spec: Record<string, unknown>): Promise<string> {
  const manifest = { apiVersion: 'nkudo.dev/v1alpha1', kind: 'MicroVM', metadata: { name: 'bad' }, spec };
  const answer = await world.kubernetes.kubectl(['apply', '-f', '-'], { namespace: world.namespace, input: JSON.stringify(manifest), mayFail: true });
  expect(answer.code).not.toBe(0);
  return answer.stderr;
}

/** Nothing of it exists anywhere: no VMM, no bound row. */
async function expectNothingHalfMade(name: string): Promise<void> {
  expect(host.vmms()).toEqual([]);
  const uid = String((await world.get('microvms', name)).metadata.uid);
  const bound = await world.database.query('SELECT 1 FROM nkudo.bindings WHERE microvm_id = $1 AND released_at IS NULL', [uid]);
  expect(bound).toEqual([]);
}

async function remove(name: string): Promise<void> {
  await world.deleteObject('microvms', name);
  await world.waitUntilGone('microvms', name);
}

describe('bad input', () => {
  it.each([
    ['10^9 GiB of memory', { memory: { size: '1000000000Gi' } }, /memory/],
    ['a size that is no quantity', { memory: { size: 'lots' } }, /memory\.size|quantity/],
    ['a path that climbs', { boot: { kernel: { path: '/images/../../etc/shadow' } } }, /path/],
    ['a path with an option of the VMM in it', { disks: [{ name: 'd', path: '/images/d.raw,readonly=off' }] }, /path/],
    ['a path that looks like an option', { boot: { kernel: { path: '--kernel' } } }, /path/],
    ['two boot sources', { boot: { kernel: { path: '/k' }, firmware: { path: '/f' } } }, /kernel|firmware/],
    ['a field of another shape', { cloudInit: { userData: { secretRef: { name: 's' } } } }, /cloudInit/],
    ['a private key where a public one belongs', { cloudInit: { sshAuthorizedKeys: ['-----BEGIN OPENSSH PRIVATE KEY-----'] } }, /private key.*write the public one/],
  ])('[S6] refuses %s at apply, with a sentence about the field', async (_what, change, sentence) => {
    expect(await applyRefused(microVMSpec(world.guest, change))).toMatch(sentence);
    expect(await world.kubernetes.client.find(world.path('microvms', 'bad'))).toBeNull();
  });

  it('[S6] says that a named host does not exist, and starts the microVM nowhere', async () => {
    await world.applyMicroVM('lost', { placement: { hostName: 'nowhere' } });
    const object = await world.waitForCondition('microvms', 'lost', { type: 'Scheduled', status: 'False', reason: 'HostNotFound' });
    expect(conditionOf(object, 'Scheduled')?.message).toContain('nowhere');
    await expectNothingHalfMade('lost');
    await remove('lost');
  });

  it('[S6] says that no host has so much memory, and counts why', async () => {
    await world.applyMicroVM('huge', { memory: { size: '4Ti' } });
    const object = await world.waitForCondition('microvms', 'huge', { type: 'Scheduled', status: 'False', reason: 'NoHostFits' });
    expect(conditionOf(object, 'Scheduled')?.message).toMatch(/0 of 1 host.*memory/);
    await expectNothingHalfMade('huge');
    await remove('huge');
  });

  it('[S6] says that a class does not exist', async () => {
    await world.applyMicroVM('classy', { className: 'gold' });
    const object = await world.waitForCondition('microvms', 'classy', { type: 'Accepted', status: 'False', reason: 'ClassNotFound' });
    expect(conditionOf(object, 'Accepted')?.message).toContain('gold');
    await expectNothingHalfMade('classy');
    await remove('classy');
  });

  it('[S6] names a missing site, and goes on when it appears', async () => {
    await world.applyMicroVM('early', { siteRef: { name: 'shop-2' } });
    await world.waitForCondition('microvms', 'early', { type: 'Accepted', status: 'False', reason: 'SiteNotFound' });
    await expectNothingHalfMade('early');
    await world.createSite('shop-2');
    await world.waitForCondition('microvms', 'early', { type: 'Scheduled', status: 'False', reason: 'NoHostFits' });
    await remove('early');
  });

  it('[S6] names a missing kernel file, makes nothing, and runs once the file is there', async () => {
    const kernel = join(fileScope().makeDirectory('late'), 'kernel.elf');
    await world.applyMicroVM('late', { boot: { kernel: { path: kernel, cmdline: 'idle' } } });
    const object = await world.waitForCondition('microvms', 'late', { type: 'Provisioned', status: 'False', reason: 'KernelNotFound' });
    expect(conditionOf(object, 'Provisioned')?.message).toContain(kernel);
    expect(conditionOf(object, 'Running')?.status).toBe('False');
    expect(host.vmms()).toEqual([]);
    copyFileSync(world.guest, kernel);
    await world.waitForCondition('microvms', 'late', { type: 'Running', status: 'True' });
    await remove('late');
  });

  it('[S6] keeps files of the host that are none of its images out of reach, also through a link', async () => {
    const link = join(fileScope().makeDirectory('links'), 'disk.raw');
    symlinkSync('/etc/hostname', link);
    for (const [name, path] of [['direct', '/etc/hostname'], ['linked', link]] as const) {
      await world.applyMicroVM(name, { disks: [{ name: 'data', path, readOnly: true }] });
      const object = await world.waitForCondition('microvms', name, { type: 'Provisioned', status: 'False', reason: 'PathNotAllowed' });
      expect(conditionOf(object, 'Provisioned')?.message).toContain(path);
      await remove(name);
    }
    expect(host.vmms()).toEqual([]);
  });

  it('[S6] names a missing disk, and a kernel that is none', async () => {
    const directory = fileScope().makeDirectory('unfit');
    const disk = join(directory, 'no-such-disk.raw');
    const text = join(directory, 'kernel.txt');
    writeFileSync(text, 'not a kernel');
    await world.applyMicroVM('diskless', { disks: [{ name: 'data', path: disk }] });
    const diskless = await world.waitForCondition('microvms', 'diskless', { type: 'Provisioned', status: 'False', reason: 'DiskNotFound' });
    expect(conditionOf(diskless, 'Provisioned')?.message).toContain(disk);
    await world.applyMicroVM('texty', { boot: { kernel: { path: text, cmdline: 'idle' } } });
    await world.waitForCondition('microvms', 'texty', { type: 'Provisioned', status: 'False', reason: 'KernelNotBootable' });
    expect(statusOf(await world.get('microvms', 'texty'))['printableStatus']).not.toBe('Running');
    await remove('diskless');
    await remove('texty');
    expect(host.vmms()).toEqual([]);
    expect(readdirSync(join(host.stateDirectory, 'vms'))).toEqual([]);
  });
});
