/**
 * The event monitor's form, and devices: ids, slots, counters, hot-plug and removal, resizing.
 * Measured on cloud-hypervisor v53.0-246.
 */
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { expect, test } from 'vitest';
import { countCells, describeOnTargets } from './targets.ts';
import { chainOf, startVmm, stopVmmsAfterEach, type VmmUnderTest } from './vmm-under-test.ts';

stopVmmsAfterEach();

const unusedLatency = '18446744073709551615';

interface Info {
  readonly config: { readonly disks?: readonly { readonly id?: string; readonly path?: string }[]; readonly vsock?: { readonly id?: string } };
  readonly device_tree?: Readonly<Record<string, { readonly pci_bdf?: string }>>;
}

async function infoOf(vmm: VmmUnderTest): Promise<Info> {
  // Only the fields named above are looked at.
  return JSON.parse((await vmm.get('vm.info')).body) as Info;
}

describeOnTargets('events and devices', (target) => {
  const cells = countCells(target, 'events and devices');

  test('writes pretty-printed records separated by blank lines, the first before the socket answers', async () => {
    const vmm = await startVmm(target);
    const text = await readFile(vmm.file('events'), 'utf8');
    expect(text).toMatch(/^\{\n {2}"timestamp": \{\n {4}"secs": 0,\n {4}"nanos": \d+\n {2}\},\n {2}"source": "vmm",\n {2}"event": "starting",\n {2}"properties": null\n\}\n\n$/);
    cells.add();
  });

  test('writes to an inherited descriptor too', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'nkudo-ch-'));
    const child = spawn(target.binary, ['--api-socket', 'api.sock', '--event-monitor', 'fd=3'], { cwd: directory, stdio: ['ignore', 'ignore', 'ignore', 'pipe'] });
    const ended = new Promise((resolve) => child.once('exit', resolve));
    const pipe = child.stdio[3];
    if (!(pipe instanceof Readable)) throw new Error('descriptor 3 is a pipe');
    const first = await new Promise<Buffer>((resolve) => pipe.once('data', resolve));
    expect(first.toString('utf8')).toContain('"event": "starting"');
    child.kill('SIGKILL');
    await ended;
    await rm(directory, { recursive: true });
    cells.add();
  });

  test('names devices by one counter in creation order and numbers their slots', async () => {
    const vmm = await startVmm(target);
    const disks = [{ path: await vmm.makeDisk('a') }, { id: 'mine', path: await vmm.makeDisk('b') }, { path: await vmm.makeDisk('c') }];
    await vmm.put('vm.create', vmm.config({ disks, vsock: { cid: 5, socket: vmm.file('vsock') } }));
    expect((await infoOf(vmm)).config.disks?.map((disk) => disk.id)).toEqual([undefined, 'mine', undefined]);
    await vmm.put('vm.boot');
    const info = await infoOf(vmm);
    expect(info.config.disks?.map((disk) => disk.id)).toEqual(['_disk0', 'mine', '_disk1']);
    expect(info.config.vsock?.id).toBe('_vsock2');
    const slots = ['_disk0', 'mine', '_disk1', '__rng', '_vsock2'].map((id) => info.device_tree?.[`_virtio-pci-${id}`]?.pci_bdf);
    expect(slots).toEqual(['0000:00:01.0', '0000:00:02.0', '0000:00:03.0', '0000:00:04.0', '0000:00:05.0']);
    await vmm.put('vm.shutdown');
    const after = await infoOf(vmm);
    expect(after.config.disks?.map((disk) => disk.id)).toEqual(['_disk0', 'mine', '_disk1']);
    expect(after.device_tree).toBeUndefined();
    cells.add(4);
  });

  test('counts what the guest reads and writes, from zero again after a reboot', async () => {
    const vmm = await startVmm(target);
    const path = await vmm.makeDisk();
    await vmm.put('vm.create', vmm.config({ payload: { kernel: target.guest, cmdline: 'tick' }, disks: [{ path }] }));
    await vmm.put('vm.boot');
    await vmm.untilSerial('NKUDO-BLK read 0');
    await vmm.untilEvents((events) => events.includes('virtio-device:activated'));
    const counters = (await vmm.get('vm.counters')).body;
    expect(JSON.parse(counters)).toMatchObject({ _disk0: { read_ops: 1, read_bytes: 512 } });
    // As text, since a JSON number of this size is not kept exactly.
    expect(counters).toContain(`"write_latency_min":${unusedLatency}`);
    const text = await vmm.untilSerial('NKUDO-TICK 1\r\n');
    expect(text).toContain('NKUDO-ACPI ready\r\nNKUDO-BLK ready slot 1\r\nNKUDO-BLK read 0\r\nNKUDO-TICK 1\r\n');
    await vmm.put('vm.reboot');
    await vmm.untilSerial('NKUDO-BLK read 0\r\n');
    expect(JSON.parse((await vmm.get('vm.counters')).body)).toMatchObject({ _disk0: { read_ops: 1, write_ops: 0 } });
    cells.add(4);
  });

  test('plugs disks into a running VM and frees them when the guest has ejected them', async () => {
    const vmm = await startVmm(target);
    await vmm.bringTo('running');
    const path = await vmm.makeDisk();
    expect((await vmm.put('vm.add-disk', { id: 'extra', path })).body).toBe('{"id":"extra","bdf":"0000:00:02.0"}');
    expect((await vmm.put('vm.add-disk', { id: 'extra', path: await vmm.makeDisk('b') })).status).toBe(409);
    const locked = await vmm.put('vm.add-disk', { path });
    expect(locked.status).toBe(500);
    expect(chainOf(locked).at(-1)).toBe('The file is already locked');
    expect((await vmm.put('vm.add-disk', { path: '/nonexistent/disk' })).status).toBe(500);
    expect((await vmm.put('vm.remove-device', { id: 'extra' })).status).toBe(204);
    expect((await infoOf(vmm)).config.disks ?? []).toEqual([]);
    await vmm.untilEvents((events) => events.includes('vm:device-removed'));
    await vmm.untilSerial('NKUDO-EJECT slot 2\r\n');
    expect(chainOf(await vmm.put('vm.remove-device', { id: 'extra' })).at(-1)).toBe('Failed to find device corresponding to the given identifier: extra');
    // Refused disks have used up ids too.
    expect((await vmm.put('vm.add-disk', { path })).body).toBe('{"id":"_disk2","bdf":"0000:00:02.0"}');
    cells.add(9);
  });

  test('accepts a repeated removal until the guest has ejected the device', async () => {
    const vmm = await startVmm(target);
    await vmm.bringTo('running');
    await vmm.put('vm.add-disk', { id: 'extra', path: await vmm.makeDisk() });
    // A paused guest ejects nothing.
    await vmm.put('vm.pause');
    expect((await vmm.put('vm.remove-device', { id: 'extra' })).status).toBe(204);
    expect((await vmm.put('vm.remove-device', { id: 'extra' })).status).toBe(204);
    expect((await infoOf(vmm)).device_tree).toHaveProperty('extra');
    cells.add(3);
  });

  test('refuses to remove what is built in', async () => {
    const vmm = await startVmm(target);
    await vmm.bringTo('running');
    expect(chainOf(await vmm.put('vm.remove-device', { id: '__serial' })).at(-1)).toBe('Could not find the node in the device tree');
    expect(chainOf(await vmm.put('vm.remove-device', { id: '__rng' })).at(-1)).toBe('Not allowed to remove this type of device from the VM: rng');
    cells.add(2);
  });

  test('removes a disk from a configuration that is not booted', async () => {
    const vmm = await startVmm(target);
    await vmm.put('vm.create', vmm.config({ disks: [{ id: 'a', path: await vmm.makeDisk() }] }));
    expect((await vmm.put('vm.remove-device', { id: 'a' })).status).toBe(204);
    expect((await infoOf(vmm)).config.disks ?? []).toEqual([]);
    cells.add(2);
  });

  test('takes one vsock, removes its socket with the guest', async () => {
    const vmm = await startVmm(target);
    await vmm.bringTo('running');
    expect((await vmm.put('vm.add-vsock', { cid: 3, socket: vmm.file('vsock') })).status).toBe(200);
    expect((await stat(vmm.file('vsock'))).isSocket()).toBe(true);
    expect(chainOf(await vmm.put('vm.add-vsock', { cid: 4, socket: vmm.file('vsock2') })).at(-1)).toBe('Too many virtio-vsock devices');
    await vmm.put('vm.shutdown');
    await expect(stat(vmm.file('vsock'))).rejects.toThrow('ENOENT');
    cells.add(4);
  });

  test.each([
    { wanted: { desired_vcpus: 0 }, last: 'Requested zero vCPUs' },
    { wanted: { desired_vcpus: 2 }, last: 'Requested vCPUs exceed maximum' },
    { wanted: { desired_ram: 128 * 1024 * 1024 }, last: 'The requested hotplug memory addition is not a valid size' },
    { wanted: { desired_balloon: 1 }, last: "Missing virtio-balloon, can't proceed as expected" },
  ])('refuses to resize to $wanted', async ({ wanted, last }) => {
    const vmm = await startVmm(target);
    await vmm.bringTo('running');
    const answer = await vmm.put('vm.resize', wanted);
    expect(answer.status).toBe(500);
    expect(chainOf(answer).at(-1)).toBe(last);
    expect((await vmm.untilEvents((events) => events.includes('vm:resizing'))).at(-1)).toBe('vm:resizing');
    cells.add();
  });

  test('extends a raw disk at once', async () => {
    const vmm = await startVmm(target);
    const path = await vmm.makeDisk();
    await vmm.put('vm.create', vmm.config({ disks: [{ id: 'a', path }] }));
    await vmm.put('vm.boot');
    expect((await vmm.put('vm.resize-disk', { id: 'a', desired_size: 2 * 1024 * 1024 })).status).toBe(204);
    expect((await stat(path)).size).toBe(2 * 1024 * 1024);
    cells.add();
  });

  test('shows a pty as the serial file from create on', async () => {
    const vmm = await startVmm(target);
    expect((await vmm.put('vm.create', vmm.config({ serial: { mode: 'Pty' } }))).status).toBe(204);
    expect((await vmm.get('vm.info')).body).toMatch(/"serial":\{"file":"\/dev\/pts\/\d+","mode":"Pty"\}/);
    cells.add();
  });
});
