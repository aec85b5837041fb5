import { expect, test } from 'vitest';
import type { VmSpec } from '../../ports/hypervisor.ts';
import { deriveVmConfig as derive, type VmPlace } from './vm-config.ts';

const place: VmPlace = { vmDirectory: '/state/vms/one', serialLog: 'run/serial.log', serialSocket: 'run/serial.sock', vsockSocket: 'run/vsock.sock' };
const deriveVmConfig = (given: VmSpec, at: VmPlace = place) => derive(given, at);

const spec = (replaced: Partial<VmSpec> = {}): VmSpec => ({
  cpuCount: 2,
  cpuMax: 4,
  memoryBytes: 256 * 1024 * 1024,
  boot: { kind: 'kernel', path: '/images/vmlinux', cmdline: 'console=ttyS0' },
  disks: [],
  serialLog: true,
  ...replaced,
});

test('translates a kernel boot with a logged serial console', () => {
  expect(deriveVmConfig(spec())).toEqual({
    cpus: { boot_vcpus: 2, max_vcpus: 4 },
    memory: { size: 268_435_456 },
    payload: { kernel: '/images/vmlinux', cmdline: 'console=ttyS0' },
    serial: { mode: 'File', file: 'run/serial.log' },
    console: { mode: 'Off' },
    pvpanic: true,
  });
});

test('translates initramfs, firmware, disks and a console that is not logged', () => {
  expect(deriveVmConfig(spec({ boot: { kind: 'kernel', path: '/k', cmdline: '', initramfsPath: '/i' } })).payload).toEqual({ kernel: '/k', cmdline: '', initramfs: '/i' });
  expect(deriveVmConfig(spec({ boot: { kind: 'firmware', path: '/fw' } })).payload).toEqual({ firmware: '/fw' });
  expect(deriveVmConfig(spec({ serialLog: false })).serial).toEqual({ mode: 'Null' });
  const disks = [{ name: 'root', path: '/d/root.raw', readOnly: false }, { name: '--x', path: '/d/x.raw', readOnly: true }];
  expect(deriveVmConfig(spec({ disks })).disks).toEqual([
    { id: 'disk-root', path: '/d/root.raw', readonly: false },
    { id: 'disk---x', path: '/d/x.raw', readonly: true },
  ]);
});

test('translates networks to cards on their taps, in their order', () => {
  expect(deriveVmConfig(spec({ networks: [] })).net).toBeUndefined();
  const networks = [{ name: 'lan', tap: 'nktaaaaaaabbbbb', mac: '52:54:00:00:00:01' }, { name: 'mesh', tap: 'nktaaaaaaaccccc', mac: '52:54:00:00:00:02' }];
  expect(deriveVmConfig(spec({ networks })).net).toEqual([
    { id: 'net-lan', tap: 'nktaaaaaaabbbbb', mac: '52:54:00:00:00:01' },
    { id: 'net-mesh', tap: 'nktaaaaaaaccccc', mac: '52:54:00:00:00:02' },
  ]);
});

test('names files inside the directory of the microVM relative to it, and others by their whole path', () => {
  const disks = [{ name: 'data', path: '/state/vms/one/disks/data.raw', readOnly: false }, { name: 'other', path: '/state/vms/one-more/x.raw', readOnly: true }];
  const config = deriveVmConfig(spec({ disks, boot: { kind: 'kernel', path: '/state/vms/one/kernel', cmdline: '', initramfsPath: '/state/vms/one/initramfs' } }));
  expect(config.disks?.map(({ path }) => path)).toEqual(['disks/data.raw', '/state/vms/one-more/x.raw']);
  expect(config.payload).toMatchObject({ kernel: 'kernel', initramfs: 'initramfs' });
});

test('asks for Landlock with the rules that it is given, and only then', () => {
  const config = deriveVmConfig(spec(), { ...place, landlock: [{ path: 'run', access: 'rw' }] });
  expect(config).toMatchObject({ landlock_enable: true, landlock_rules: [{ path: 'run', access: 'rw' }] });
  expect(Object.keys(deriveVmConfig(spec()))).not.toContain('landlock_enable');
});
