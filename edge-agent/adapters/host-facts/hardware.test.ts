import { describe, expect, test } from 'vitest';
import { readMachine, tellFree, tellSkew, type SystemTree } from './hardware.ts';
import { systemTree } from './system-tree.ts';

/** A tree from its files; a value that begins with `-> ` is a symbolic link. */
function treeOf(files: Readonly<Record<string, string>>): SystemTree {
  return {
    text: (path) => files[path] ?? null,
    list: (path) => [...new Set(Object.keys(files).flatMap((file) => (file.startsWith(`${path}/`) ? [file.slice(path.length + 1).split('/')[0] ?? ''] : [])))],
    linkName: (path) => (files[path]?.startsWith('-> ') === true ? (files[path].split('/').at(-1) ?? null) : null),
  };
}

/** A server with two nodes, as its kernel shows it. */
const server = {
  '/proc/cpuinfo': 'processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu vmx avx2\nbugs\t\t:\n\nprocessor\t: 1\nflags\t\t: fpu\n',
  '/sys/devices/system/node/node1/cpulist': '2-3\n',
  '/sys/devices/system/node/node1/meminfo': 'Node 1 MemTotal:       2048 kB\nNode 1 MemFree:        1 kB\n',
  '/sys/devices/system/node/node0/cpulist': '0-1\n',
  '/sys/devices/system/node/node0/meminfo': 'Node 0 MemTotal:       1024 kB\n',
  '/sys/devices/system/node/possible': '0-1\n',
  '/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages': '0\n',
  '/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages': '0\n',
  '/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages': '64\n',
  '/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages': '60\n',
  '/sys/block/nvme0n1/device': '-> ../../nvme0',
  '/sys/block/nvme0n1/size': '2000\n',
  '/sys/block/nvme0n1/queue/rotational': '0\n',
  '/sys/block/nvme0n1/device/serial': 'S3CR3T\n',
  '/sys/block/sda/device': '-> ../../../2:0:0:0',
  '/sys/block/sda/size': '4000\n',
  '/sys/block/sda/queue/rotational': '1\n',
  '/sys/block/loop0/size': '8\n',
  '/sys/block/dm-0/size': '8\n',
  '/sys/class/net/lo/address': '00:00:00:00:00:00\n',
  '/sys/class/net/nkbr-nat/address': '52:54:00:00:00:09\n',
  '/sys/class/net/eno1/device': '-> ../../../0000:00:1f.6',
  '/sys/class/net/eno1/device/driver': '-> ../../../../bus/pci/drivers/e1000e',
  '/sys/class/net/eno1/address': '52:54:00:00:00:01\n',
  '/sys/class/net/eno1/speed': '1000\n',
  '/sys/class/net/eno1/operstate': 'up\n',
  '/sys/class/net/eno2/device': '-> ../../../0000:00:1f.7',
  '/sys/class/net/eno2/address': '52:54:00:00:00:02\n',
  '/sys/class/net/eno2/speed': '-1\n',
  '/sys/class/net/eno2/operstate': 'down\n',
  '/sys/bus/pci/devices/0000:01:00.0/class': '0x030200\n',
  '/sys/bus/pci/devices/0000:01:00.0/vendor': '0x10de\n',
  '/sys/bus/pci/devices/0000:01:00.0/device': '0x1eb8\n',
  '/sys/bus/pci/devices/0000:01:00.0/driver': '-> ../../../../bus/pci/drivers/vfio-pci',
  '/sys/bus/pci/devices/0000:00:1f.6/class': '0x020000\n',
};

describe('the hardware of a host', () => {
  test('is read from /proc and /sys, without what is made of other devices and without serial numbers', () => {
    const machine = readMachine(treeOf(server));
    expect(machine).toEqual({
      cpuFlags: ['avx2', 'fpu', 'vmx'],
      numaNodes: [{ id: 0, cpus: '0-1', memoryBytes: 2 ** 20 }, { id: 1, cpus: '2-3', memoryBytes: 2 ** 21 }],
      hugepages: [{ pageBytes: 2 ** 21, total: 64, free: 60 }, { pageBytes: 2 ** 30, total: 0, free: 0 }],
      disks: [{ name: 'nvme0n1', sizeBytes: 1_024_000, isRotational: false }, { name: 'sda', sizeBytes: 2_048_000, isRotational: true }],
      nics: [
        { name: 'eno1', mac: '52:54:00:00:00:01', speedMbps: 1000, driver: 'e1000e', isUp: true },
        { name: 'eno2', mac: '52:54:00:00:00:02', speedMbps: 0, driver: '', isUp: false },
      ],
      gpus: [{ address: '0000:01:00.0', vendor: '10de', device: '1eb8', driver: 'vfio-pci' }],
    });
    expect(JSON.stringify(machine)).not.toContain('S3CR3T');
  });

  test('is empty where the kernel shows nothing', () => {
    expect(readMachine(treeOf({}))).toEqual({ cpuFlags: [], numaNodes: [], hugepages: [], disks: [], nics: [], gpus: [] });
  });

  test('of this machine reads the same twice', () => {
    expect(readMachine(systemTree)).toEqual(readMachine(systemTree));
    expect(readMachine(systemTree).cpuFlags.length).toBeGreaterThan(0);
  });
});

test('free space is told again only when a twentieth of the whole has come or gone', () => {
  expect(tellFree(1000, 500, undefined)).toBe(500);
  expect(tellFree(1000, 549, 500)).toBe(500);
  expect(tellFree(1000, 450, 500)).toBe(450);
});

test('the clock is told in steps of ten seconds, and not at all while it is nearly right', () => {
  expect([undefined, 4_999, -4_999, 5_000, -61_000].map(tellSkew)).toEqual([undefined, undefined, undefined, 10_000, -60_000]);
});
