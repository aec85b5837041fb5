import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { vmmOverheadBytes } from '#api/model/capacity.ts';
import { microVMId } from '#api/model/ids.ts';
import { chooseUser, isMapped, parseUserRange } from '../../domain/user-range.ts';
import { unitArguments } from '../cloud-hypervisor/reaper.ts';
import { limitFiles, parseCgroupHost } from './cgroup-host.ts';
import { createCgroups, memoryLimitBytes } from './cgroups.ts';
import { landlockOf } from './host-isolation.ts';
import { unitOf, unitOomFiles } from './units.ts';

const id = microVMId('00000000-0000-4000-8000-000000000001');
const other = microVMId('00000000-0000-4000-8000-000000000002');
const size = { memoryBytes: 100 * 2 ** 20, cpuCount: 2 };

describe('users of VMMs', () => {
  test('come from a range that holds no user of people or services', () => {
    expect(parseUserRange('2000-2999')).toEqual({ first: 2000, last: 2999 });
    expect(['', '5', '999-2000', '3000-2000', '2000-4294967294', 'a-b', '-1-5'].map(parseUserRange)).toEqual(Array.from({ length: 7 }, () => null));
  });

  test('are not given twice, and the range has an end', () => {
    const range = { first: 2000, last: 2002 };
    expect(chooseUser(range, 4, new Set())).toBe(2001);
    expect(chooseUser(range, 4, new Set([2001]))).toBe(2002);
    expect(chooseUser(range, 4, new Set([2001, 2002]))).toBe(2000);
    expect(chooseUser(range, 4, new Set([2000, 2001, 2002]))).toBeNull();
  });

  test('have to exist in the user namespace of the agent', () => {
    const range = { first: 2000, last: 2999 };
    expect(isMapped(range, '         0          0 4294967295\n')).toBe(true);
    expect(isMapped(range, '         0     100000      65536\n')).toBe(true);
    expect(isMapped({ first: 1_900_000_000, last: 1_900_000_001 }, '         0     100000      65536\n')).toBe(false);
    expect(isMapped(range, '')).toBe(false);
  });
});

describe('control groups of a host', () => {
  const v2 = '24 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n';
  const v1 = '30 1 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n31 1 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n32 1 0:32 /docker/x /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n';
  const unified = '33 1 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n';

  test('are of version 2, 1, both or none; groups of VMMs lie beside the own group or below it', () => {
    expect(parseCgroupHost(v2, '0::/system.slice/nkudo-edge.service\n')).toEqual({ layout: 'v2', v1: {}, v2: '/sys/fs/cgroup/system.slice' });
    expect(parseCgroupHost(v2, '0::/\n')).toEqual({ layout: 'v2', v1: {}, v2: '/sys/fs/cgroup' });
    expect(parseCgroupHost(v1, '4:memory:/a\n3:cpu,cpuacct:/\n2:pids:/docker/x\n')).toEqual({ layout: 'v1', v1: { memory: '/sys/fs/cgroup/memory/a', cpu: '/sys/fs/cgroup/cpu,cpuacct', pids: '/sys/fs/cgroup/pids' } });
    expect(parseCgroupHost(v1 + unified, '4:memory:/a\n0::/\n')).toEqual({ layout: 'hybrid', v1: { memory: '/sys/fs/cgroup/memory/a' }, v2: '/sys/fs/cgroup/unified' });
    expect(parseCgroupHost('', '')).toEqual({ layout: 'none', v1: {} });
  });

  test('limit memory, processor and processes in both versions', () => {
    const all = (version: 'v1' | 'v2') => (['memory', 'cpu', 'pids'] as const).flatMap((controller) => limitFiles(version, controller, { memoryBytes: 7, cpuCount: 2 })).map(({ file, text }) => `${file} ${text}`);
    expect(all('v2')).toEqual(['memory.max 7', 'cpu.weight 200', 'cpu.max 300000 100000', 'pids.max 264']);
    expect(all('v1')).toEqual(['memory.limit_in_bytes 7', 'cpu.shares 2048', 'cpu.cfs_period_us 100000', 'cpu.cfs_quota_us 300000', 'pids.max 264']);
  });
});

describe('the groups of VMMs', () => {
  const folders: string[] = [];
  afterEach(() => {
    for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
  });
  const folder = (): string => {
    const made = mkdtempSync(join(tmpdir(), 'nkudo-groups-'));
    folders.push(made);
    return made;
  };

  test('get the controllers of version 2 passed on, and their limits', () => {
    const [parent, vm] = [folder(), folder()];
    writeFileSync(join(parent, 'cgroup.controllers'), 'cpuset cpu io memory pids\n');
    writeFileSync(join(parent, 'cgroup.subtree_control'), 'cpu memory pids\n');
    const groups = createCgroups({ layout: 'v2', v1: {}, v2: parent }, 'me');
    expect(groups).toMatchObject({ usable: ['memory', 'cpu', 'pids'], problem: '' });
    const group = join(parent, `nkudo-me-${id}`);
    expect(groups.make(id, vm, size)).toEqual({ directories: [group], oomFiles: [join(group, 'memory.events')] });
    expect(readFileSync(join(group, 'memory.max'), 'utf8')).toBe(String(memoryLimitBytes(size)));
    expect(readFileSync(join(group, 'cpu.max'), 'utf8')).toBe('300000 100000');
    expect(readFileSync(join(vm, 'vmm.cgroups'), 'utf8')).toBe(`${group}\n`);
  });

  test('say what can not be limited where a controller is not there', () => {
    const parent = folder();
    writeFileSync(join(parent, 'cgroup.controllers'), 'memory\n');
    writeFileSync(join(parent, 'cgroup.subtree_control'), 'memory\n');
    expect(createCgroups({ layout: 'v2', v1: {}, v2: parent }, 'me')).toMatchObject({ usable: ['memory'], problem: 'no limit of cpu, pids: the host has no such control group' });
    expect(createCgroups({ layout: 'none', v1: {} }, 'me')).toMatchObject({ usable: [], problem: 'no limit of memory, cpu, pids: the host has no such control group' });
    expect(createCgroups({ layout: 'v1', v1: { memory: join(parent, 'cgroup.controllers') } }, 'me').problem).toMatch(/^no limit of memory, cpu, pids: /);
  });

  test('are removed when their microVM is gone, those of other agents and of live microVMs never', () => {
    const [parent, vm] = [folder(), folder()];
    writeFileSync(join(parent, 'cgroup.controllers'), '');
    writeFileSync(join(parent, 'cgroup.subtree_control'), '');
    // Without controllers nothing is written into the groups, so that this file system lets them go as a kernel would.
    const memory = join(parent, 'memory');
    mkdirSync(memory);
    const groups = createCgroups({ layout: 'v1', v1: { memory } }, 'me');
    for (const name of [`nkudo-me-${id}`, `nkudo-me-${other}`, `nkudo-you-${other}`, 'nkudo-me-probe2', 'system.slice']) mkdirSync(join(memory, name));
    expect(groups.usable).toEqual(['memory']);
    expect(groups.sweep(new Set([id]))).toEqual([`nkudo-me-${other}`]);
    writeFileSync(join(vm, 'vmm.cgroups'), `${join(memory, `nkudo-you-${other}`)}\nnot a path\n/sys/fs/cgroup/system.slice\n`);
    groups.remove(id, vm);
    expect([`nkudo-me-${id}`, `nkudo-you-${other}`, 'system.slice'].map((name) => existsSync(join(memory, name)))).toEqual([false, false, true]);
  });
});

describe('a VMM as a service of systemd', () => {
  test('has the limits of the guest, and a name by which it is found', () => {
    const { name, properties } = unitOf(id, size);
    expect(name).toBe(`nkudo-vmm-${id}.service`);
    expect(properties).toEqual(expect.arrayContaining(['Type=exec', 'Slice=nkudo.slice', 'CollectMode=inactive-or-failed', 'OOMPolicy=continue', 'CPUWeight=200', 'CPUQuota=300%', 'TasksMax=264']));
    const memoryMax = Number(properties.find((property) => property.startsWith('MemoryMax='))?.slice('MemoryMax='.length));
    expect(memoryMax).toBeGreaterThan(size.memoryBytes + vmmOverheadBytes);
    const ofSystemd = (mounts: string, own: string) => unitOomFiles(parseCgroupHost(mounts, own), id);
    expect(ofSystemd('24 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n', '0::/init.scope\n')).toEqual([`/sys/fs/cgroup/nkudo.slice/${name}/memory.events`]);
    expect(ofSystemd('24 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n', '0::/box/init.scope\n')).toEqual([`/sys/fs/cgroup/box/nkudo.slice/${name}/memory.events`]);
    const memory = '30 1 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n';
    for (const own of ['4:memory:/\n', '4:memory:/init.scope\n']) expect(ofSystemd(memory, own)).toEqual([`/sys/fs/cgroup/memory/nkudo.slice/${name}/memory.oom_control`]);
  });

  test('is asked for with words that systemd and the shell take as they are', () => {
    const command = { vmDirectory: '/state/vms/$HOME %n', confinement: { cgroups: [], oomFiles: ['/x'] }, command: ['setpriv', '--no-new-privs', '/bin/ch', '${PATH}'], environment: { PATH: '/bin' } };
    const words = unitArguments(command, { name: 'u.service', properties: ['Type=exec'] });
    expect(words.slice(0, 9)).toEqual(['--quiet', '--collect', '--no-ask-password', '--unit=u.service', '--property=Type=exec', '--setenv=PATH=/bin', '--', '/bin/sh', '/state/vms/$$HOME %n/vmm.reaper']);
    expect(words.slice(-9)).toEqual(['/state/vms/$$HOME %n', '', '', '', '/x', 'setpriv', '--no-new-privs', '/bin/ch', '$${PATH}']);
  });
});

test('Landlock is there when the kernel lists it, and unknown where it shows no list', () => {
  expect(['capability,landlock,yama', 'capability\n', ''].map(landlockOf)).toEqual(['yes', 'no', 'unknown']);
});
