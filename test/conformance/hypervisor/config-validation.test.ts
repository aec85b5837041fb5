/**
 * Configuration is checked at boot, not at create, and a refused boot leaves states that a client must
 * know. Each case: answers of create, boot and a second boot, and the state afterwards. Measured on
 * cloud-hypervisor v53.0-246; 1 PiB of memory is left out, since it takes the whole host's.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { makeQcow2 } from '#test/integration/edge-agent/qcow2.ts';
import { countCells, describeOnTargets, type Target } from './targets.ts';
import { chainOf, startVmm, stopVmmsAfterEach, type VmmUnderTest } from './vmm-under-test.ts';

stopVmmsAfterEach();

/** A status with the chain below "Error from API" and the call's own message; 204 without one. */
type Expected = readonly [status: number, ...chain: (string | RegExp)[]];

interface Case {
  readonly name: string;
  readonly config: (vmm: VmmUnderTest, target: Target) => Promise<Record<string, unknown>> | Record<string, unknown>;
  readonly create?: Expected;
  readonly boot: Expected;
  readonly again: Expected;
  readonly state: 'Created' | 'Running';
}

const invalid = 'Failed to validate config';
const notBootable = 'Payload configuration is not bootable';
const noSuchFile = 'No such file or directory (os error 2)';
const already: Expected = [500, 'VM is already created'];
const consoleFailure = ['Error creating console devices', 'Error creating console device'] as const;

/** Refused in the same way each time. */
const always = (boot: Expected) => ({ boot, again: boot, state: 'Created' as const });
/** Refused once; a second boot runs without the device. */
const losesDevice = (boot: Expected) => ({ boot, again: [204] as const, state: 'Running' as const });
/** Leaves a VM object behind. */
const leavesObject = (boot: Expected) => ({ boot, again: already, state: 'Created' as const });
const boots = { boot: [204] as const, again: already, state: 'Running' as const };

const cases: readonly Case[] = [
  { name: 'more boot vCPUs than the maximum', config: (vmm) => vmm.config({ cpus: { boot_vcpus: 4, max_vcpus: 2 } }), ...always([400, invalid, 'Max CPUs (2) lower than boot CPUs (4)']) },
  { name: 'no payload', config: () => ({ serial: { mode: 'Null' }, console: { mode: 'Off' } }), ...always([400, invalid, notBootable, 'No bootitem provided: neither firmware nor kernel']) },
  { name: 'an empty payload', config: (vmm) => vmm.config({ payload: {} }), ...always([400, invalid, notBootable, 'No bootitem provided: neither firmware nor kernel']) },
  { name: 'firmware and kernel', config: (vmm, target) => vmm.config({ payload: { firmware: target.guest, kernel: target.guest } }), ...always([400, invalid, notBootable, 'Specifying a kernel is not supported when a firmware is provided']) },
  {
    name: 'the same id twice',
    config: async (vmm) => vmm.config({ disks: [{ id: 'a', path: await vmm.makeDisk('a') }, { id: 'a', path: await vmm.makeDisk('b') }] }),
    ...always([409, invalid, 'Identifier a is not unique']),
  },
  { name: 'an id of the VMM itself', config: async (vmm) => vmm.config({ disks: [{ id: '__a', path: await vmm.makeDisk() }] }), ...always([400, invalid, 'Identifier __a is not valid']) },
  { name: 'a special vsock cid', config: (vmm) => vmm.config({ vsock: { cid: 2, socket: 'vsock.sock' } }), ...always([400, invalid, '2 is a special VSOCK CID']) },
  { name: 'more queues than vCPUs', config: async (vmm) => vmm.config({ disks: [{ path: await vmm.makeDisk(), num_queues: 4 }] }), ...always([400, invalid, 'Queue count (4) must not exceed boot vCPUs (1)']) },
  { name: 'no memory', config: (vmm) => vmm.config({ memory: { size: 0 } }), ...always([500, 'Memory manager error', 'No memory zones found']) },
  { name: 'one byte of memory', config: (vmm) => vmm.config({ memory: { size: 1 } }), ...always([500, 'Memory manager error', 'Memory size is misaligned with default page size or its hugepage size']) },
  { name: 'a missing kernel', config: (vmm) => vmm.config({ payload: { kernel: '/nonexistent/kernel' } }), ...leavesObject([500, 'Cannot open kernel file', noSuchFile]) },
  {
    name: 'a kernel that is text',
    config: async (vmm) => {
      await writeFile(vmm.file('text'), 'x'.repeat(2000));
      return vmm.config({ payload: { kernel: vmm.file('text') } });
    },
    ...leavesObject([500, 'Cannot load the kernel into memory', /^Kernel Loader: failed to load bzImage kernel image/, /^Kernel Loader: /]),
  },
  {
    name: 'an empty kernel file',
    config: async (vmm) => {
      await writeFile(vmm.file('empty'), '');
      return vmm.config({ payload: { kernel: vmm.file('empty') } });
    },
    ...leavesObject([500, 'Cannot load the kernel into memory', /^Kernel Loader: failed to load bzImage kernel image/, /^Kernel Loader: /]),
  },
  { name: 'a missing firmware', config: (vmm) => vmm.config({ payload: { firmware: '/nonexistent/firmware' } }), ...leavesObject([500, 'Error manipulating firmware file', noSuchFile]) },
  { name: 'a missing initramfs', config: (vmm, target) => vmm.config({ payload: { kernel: target.guest, initramfs: '/nonexistent/initramfs', cmdline: 'idle' } }), ...always([500, 'Cannot open initramfs file', noSuchFile]) },
  { name: 'a missing disk', config: (vmm) => vmm.config({ disks: [{ path: '/nonexistent/disk' }] }), ...losesDevice([500, 'Error from device manager', 'Cannot open disk path', 'I/O error (path=/nonexistent/disk op=open)', noSuchFile]) },
  { name: 'a disk that is a directory', config: (vmm) => vmm.config({ disks: [{ path: vmm.directory }] }), ...losesDevice([500, 'Error from device manager', 'Cannot open disk path', /^I\/O error \(path=.* op=open\)$/, 'Is a directory (os error 21)']) },
  { name: 'a disk without a path', config: (vmm) => vmm.config({ disks: [{}] }), ...losesDevice([500, 'Error from device manager', 'No disk path was specified when one was expected']) },
  {
    name: 'a disk of another format than it is told',
    config: async (vmm) => {
      await writeFile(vmm.file('qcow2'), makeQcow2(1024 * 1024));
      return vmm.config({ disks: [{ path: vmm.file('qcow2'), image_type: 'Raw' }] });
    },
    ...losesDevice([500, 'Error from device manager', 'Disk image type does not match expected type: specified = raw, detected = qcow2']),
  },
  {
    name: 'a raw disk that is told to be qcow2',
    config: async (vmm) => vmm.config({ disks: [{ path: await vmm.makeDisk(), image_type: 'Qcow2' }] }),
    ...losesDevice([500, 'Error from device manager', 'Disk image type does not match expected type: specified = qcow2, detected = raw']),
  },
  { name: 'a tap name of 20 characters', config: (vmm) => vmm.config({ net: [{ tap: 'abcdefghijklmnopqrst' }] }), ...losesDevice([500, 'Error from device manager', 'Cannot create virtio-net device', 'Failed to open taps', 'Open tap device failed', 'Interface name too long (max length is 15): abcdefghijklmnopqrst']) },
  {
    name: 'a vsock path that exists',
    config: async (vmm) => {
      await writeFile(vmm.file('vsock'), '');
      return vmm.config({ vsock: { cid: 5, socket: vmm.file('vsock') } });
    },
    ...losesDevice([500, 'Error from device manager', 'Cannot create virtio-vsock backend', 'Error binding to the host-side Unix socket', 'Address already in use (os error 98)']),
  },
  {
    name: 'the same disk file twice',
    config: async (vmm) => {
      const path = await vmm.makeDisk();
      return vmm.config({ disks: [{ path }, { path }] });
    },
    ...leavesObject([500, 'Error locking disk images: Another instance likely holds a lock', 'Cannot lock images of all block devices', /^Failed to get Write lock for disk image: /, 'The file is already locked']),
  },
  {
    name: 'a serial file in a missing directory',
    config: (vmm) => vmm.config({ serial: { mode: 'File', file: vmm.file('missing/serial') } }),
    create: [500, ...consoleFailure, noSuchFile],
    ...always([500, ...consoleFailure, noSuchFile]),
  },
  {
    name: 'a serial socket whose path exists',
    config: async (vmm) => {
      await writeFile(vmm.file('taken'), '');
      return vmm.config({ serial: { mode: 'Socket', socket: vmm.file('taken') } });
    },
    create: [500, ...consoleFailure, 'Address already in use (os error 98)'],
    ...always([500, ...consoleFailure, 'Address already in use (os error 98)']),
  },
  { name: 'a console socket', config: (vmm) => vmm.config({ console: { mode: 'Socket', socket: vmm.file('console') } }), create: [500, 'Error creating console devices', 'No socket option support for console device'], ...always([500, 'Error creating console devices', 'No socket option support for console device']) },
  { name: 'no vCPUs', config: (vmm) => vmm.config({ cpus: { boot_vcpus: 0, max_vcpus: 0 } }), ...boots },
  { name: 'the guest as firmware', config: (vmm, target) => vmm.config({ payload: { firmware: target.guest, cmdline: 'idle' } }), ...boots },
  { name: 'a disk', config: async (vmm) => vmm.config({ disks: [{ path: await vmm.makeDisk() }] }), ...boots },
  {
    name: 'a qcow2 disk',
    config: async (vmm) => {
      await writeFile(vmm.file('qcow2'), makeQcow2(1024 * 1024));
      return vmm.config({ disks: [{ path: vmm.file('qcow2'), image_type: 'Qcow2' }] });
    },
    ...boots,
  },
  { name: 'a read-only disk', config: async (vmm) => vmm.config({ disks: [{ path: await vmm.makeDisk(), readonly: true }] }), ...boots },
];

describeOnTargets('configuration', (target) => {
  const cells = countCells(target, 'configuration');

  test.each(cases)('boots or refuses $name', async ({ config, create, boot, again, state }) => {
    const vmm = await startVmm(target);
    const body = await config(vmm, target);
    await expectAnswer(vmm, 'vm.create', 'The VM could not be created', create ?? [204], body);
    await expectAnswer(vmm, 'vm.boot', 'The VM could not boot', boot);
    await expectAnswer(vmm, 'vm.boot', 'The VM could not boot', again);
    expect(await vmm.state()).toBe(state);
    cells.add(4);
  });

  test('leaves a VM object that pauses after a missing kernel, until vm.shutdown', async () => {
    const vmm = await startVmm(target);
    await vmm.put('vm.create', vmm.config({ payload: { kernel: '/nonexistent/kernel' } }));
    expect((await vmm.put('vm.boot')).status).toBe(500);
    expect((await vmm.get('vm.counters')).status).toBe(200);
    expect((await vmm.put('vm.pause')).status).toBe(204);
    expect((await vmm.put('vm.shutdown')).status).toBe(204);
    expect(chainOf(await vmm.put('vm.boot'))[2]).toBe('Cannot open kernel file');
    expect((await vmm.put('vm.delete')).status).toBe(204);
    await mkdir(vmm.file('sub'));
    expect((await vmm.put('vm.create', vmm.config())).status).toBe(204);
    expect((await vmm.put('vm.boot')).status).toBe(204);
    cells.add(7);
  });

  test('refuses a disk that another VMM has locked, until that one is killed', async () => {
    const [holder, other] = await Promise.all([startVmm(target), startVmm(target)]);
    const path = await holder.makeDisk();
    await holder.put('vm.create', holder.config({ disks: [{ path }] }));
    expect((await holder.put('vm.boot')).status).toBe(204);
    await other.put('vm.create', other.config({ disks: [{ path, readonly: true }] }));
    const refusal = await other.put('vm.boot');
    expect(refusal.status).toBe(500);
    expect(chainOf(refusal).at(-1)).toBe('The file is already locked');
    holder.process.kill('SIGKILL');
    await holder.ended;
    expect((await other.put('vm.shutdown')).status).toBe(204);
    expect((await other.put('vm.boot')).status).toBe(204);
    cells.add(5);
  });

  test.each([
    { name: 'File without a file', serial: { mode: 'File' } },
    { name: 'Socket without a socket', serial: { mode: 'Socket' } },
  ])('ends with code 1 and a stale socket on a serial $name', async ({ serial }) => {
    const vmm = await startVmm(target);
    // The answer may be lost with the process.
    const answer = await vmm.put('vm.create', vmm.config({ serial })).catch(() => null);
    if (answer !== null) expect(chainOf(answer)).toEqual(['Error from API', 'API response receive error', 'receiving on a closed channel']);
    expect(await vmm.ended).toEqual({ code: 1, signal: null });
    cells.add();
  });
});

async function expectAnswer(vmm: VmmUnderTest, call: string, what: string, expected: Expected, body?: unknown): Promise<void> {
  const answer = await vmm.put(call, body);
  const [status, ...chain] = expected;
  expect(`${call} ${answer.status}`, answer.body).toBe(`${call} ${status}`);
  if (status === 204) return;
  const seen = chainOf(answer);
  expect(seen.slice(0, 2)).toEqual(['Error from API', what]);
  expect(seen.slice(2)).toEqual(chain.map((part) => (typeof part === 'string' ? part : expect.stringMatching(part))));
}
