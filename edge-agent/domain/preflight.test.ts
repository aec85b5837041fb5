import { expect, test } from 'vitest';
import { judgeHost, type FoundHost } from './preflight.ts';

const nowMs = Date.UTC(2026, 5, 1);
const healthy: FoundHost = {
  architecture: 'x64',
  cpuFlags: ['fpu', 'vmx'],
  hypervisor: { path: 'cloud-hypervisor', version: 'v54.0' },
  isKvmPresent: true,
  isKvmUsable: true,
  isTunUsable: true,
  cgroups: 'v2',
  isolation: { usersProblem: '', landlock: 'yes' },
  programs: { ip: true, nft: true, dnsmasq: true, sh: true, flock: true, sleep: true, 'mkfs.ext4': true, debugfs: true, resize2fs: true, fallocate: true },
  stateDirectory: { path: '/var/lib/nkudo-edge', exists: true, isDirectory: true, isOwn: true, mode: 0o40700, isWritable: true },
  space: { freeBytes: 2 ** 36, totalBytes: 2 ** 38 },
  wallMs: nowMs,
  newestKnownMs: nowMs - 1,
  certificateEndsMs: nowMs + 86_400_000,
  endpoints: [{ endpoint: 'nkudo.example:8443', problem: null }],
};

test('a healthy host lacks nothing and nothing is to be done', () => {
  expect(judgeHost(healthy).filter(({ state, fix }) => state !== 'ok' || fix !== undefined)).toEqual([]);
});

const lacks: readonly (readonly [string, Partial<FoundHost>, string, 'missing' | 'warning', RegExp])[] = [
  ['no /dev/kvm', { isKvmPresent: false, isKvmUsable: false }, '/dev/kvm', 'missing', /modprobe/],
  ['a /dev/kvm of others', { isKvmUsable: false }, '/dev/kvm', 'missing', /root/],
  ['a CPU without virtualization', { cpuFlags: ['fpu'], isKvmUsable: false }, 'cpu', 'missing', /firmware/],
  ['no hypervisor', { hypervisor: { path: 'x', version: null } }, 'cloud-hypervisor', 'missing', /--hypervisor/],
  ['an old hypervisor', { hypervisor: { path: 'x', version: 'v52.1' } }, 'cloud-hypervisor', 'missing', /v53\.0 or later/],
  ['an unknown hypervisor', { hypervisor: { path: 'x', version: 'main' } }, 'cloud-hypervisor', 'warning', /v53\.0 or later/],
  ['VMMs that share the user of the agent', { isolation: { usersProblem: 'the agent does not run as root', landlock: 'yes' } }, 'isolation of microVMs', 'warning', /run the agent as root/],
  ['a kernel without Landlock', { isolation: { usersProblem: '', landlock: 'no' } }, 'isolation of microVMs', 'warning', /lsm=landlock/],
  ['no cgroups', { cgroups: 'none' }, 'cgroups', 'warning', /mount/],
  ['no tun', { isTunUsable: false }, '/dev/net/tun', 'warning', /modprobe tun/],
  ['no nft', { programs: { ...healthy.programs, nft: false } }, 'network programs', 'warning', /^install nftables$/],
  ['no resize2fs', { programs: { ...healthy.programs, resize2fs: false } }, 'image programs', 'warning', /e2fsprogs/],
  ['no fallocate', { programs: { ...healthy.programs, fallocate: false } }, 'log programs', 'warning', /util-linux/],
  ['no flock', { programs: { ...healthy.programs, flock: false } }, 'basic programs', 'missing', /util-linux/],
  ['no state directory', { stateDirectory: { ...healthy.stateDirectory, exists: false } }, 'state directory', 'warning', /enroll/],
  ['a file in its place', { stateDirectory: { ...healthy.stateDirectory, isDirectory: false } }, 'state directory', 'missing', /--state-dir/],
  ['a read-only state directory', { stateDirectory: { ...healthy.stateDirectory, isWritable: false } }, 'state directory', 'missing', /read-only/],
  ['an open state directory', { stateDirectory: { ...healthy.stateDirectory, mode: 0o40750 } }, 'state directory', 'warning', /chmod 700/],
  ['a state directory of others', { stateDirectory: { ...healthy.stateDirectory, isOwn: false } }, 'state directory', 'warning', /user of the agent/],
  ['a full disk', { space: { freeBytes: 2 ** 20, totalBytes: 2 ** 38 } }, 'disk space', 'missing', /free space/],
  ['a nearly full disk', { space: { freeBytes: 2 ** 30, totalBytes: 2 ** 38 } }, 'disk space', 'warning', /free space/],
  ['a clock that is behind', { newestKnownMs: nowMs + 3_600_000 }, 'clock', 'warning', /timedatectl/],
  ['no enrollment', { newestKnownMs: null, certificateEndsMs: null, endpoints: [] }, 'enrollment', 'warning', /enroll/],
  ['an expired certificate', { certificateEndsMs: nowMs }, 'enrollment', 'warning', /renew/],
  ['an unreachable control plane', { endpoints: [{ endpoint: 'a:1', problem: 'ENOTFOUND' }] }, 'control plane', 'warning', /DNS/],
];

test.for(lacks)('%s is explained, with what to do', ([, change, name, state, fix]) => {
  const wrong = judgeHost({ ...healthy, ...change }).filter((item) => item.state !== 'ok');
  expect(wrong).toContainEqual({ name, state, found: expect.any(String), fix: expect.stringMatching(fix) });
});

test('a KVM that can be used is enough, whatever the CPU shows', () => {
  expect(judgeHost({ ...healthy, cpuFlags: [] }).every(({ state }) => state === 'ok')).toBe(true);
});
