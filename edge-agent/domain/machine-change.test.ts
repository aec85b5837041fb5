/** Live changes, restarts and nothing: the decision, held to the table of fields row by row. */
import { describe, expect, test } from 'vitest';
import { memoryStepBytes, type DesiredMicroVM, type DiskSpec, type NetworkSpec, type ProbeSpec } from '#api/model/microvm.ts';
import { testDesired, testNow, testRecord } from '#test/builders/edge-microvm.ts';
import { SimulatedHost } from '#test/fakes/simulated-host.ts';
import { decideNext } from './diff.ts';
import { fieldEffects, type FieldPath } from './field-effects.ts';
import { compareMachine, isSecretChanged, observedSizes, unknownMachine } from './machine-change.ts';
import { machineKey, machineOf, parseMachine } from './microvm-record.ts';
import { projectObservation } from './observation.ts';

const root: DiskSpec = { name: 'root', path: '/root.raw', readOnly: false };
const image = { url: 'https://example.com/a.raw', sha256: 'a'.repeat(64) };
const made: DiskSpec = { name: 'made', path: '', readOnly: false, sizeBytes: 2 ** 20, managed: { persistence: 'Persistent', isRetained: false, image } };
const card: NetworkSpec = { name: 'lan', kind: 'bridge', mac: '52:54:00:00:00:01', address: '10.0.0.5/24', gateway: '10.0.0.1', bridgeName: 'br0', vlan: 7, ports: [{ name: 'web', protocol: 'tcp', hostPort: 8080, guestPort: 80 }] };
const [port] = card.ports;
const base = testDesired({
  cpuCount: 2, cpuMax: 4, memoryBytes: 2 * memoryStepBytes, memoryMaxBytes: 4 * memoryStepBytes, disks: [root, made], networks: [card],
  boot: { kind: 'kernel', path: '/boot/guest', cmdline: 'idle', initramfsPath: '/boot/initramfs' },
  lease: { stopOnHostAfterMs: 60_000 }, images: { bytesPerSecond: 1_000, allowedRegistries: [] }, secrets: [{ name: 'a', key: 'b', resourceVersion: '1' }],
});
const withRoot = (change: Partial<DiskSpec>): Partial<DesiredMicroVM> => ({ disks: [{ ...root, ...change }, made] });
const withMade = (change: Partial<DiskSpec>): Partial<DesiredMicroVM> => ({ disks: [root, { ...made, ...change }] });
const withCard = (change: Partial<NetworkSpec>): Partial<DesiredMicroVM> => ({ networks: [{ ...card, ...change }] });
const withPort = (change: Partial<NetworkSpec['ports'][number]>): Partial<DesiredMicroVM> => withCard({ ports: port === undefined ? [] : [{ ...port, ...change }] });
const managed = made.managed ?? { persistence: 'Persistent', isRetained: false };

const cloudInit = { hostName: 'a', userData: 'b', networkData: 'c', sshAuthorizedKeys: ['d'] };
const withSeed = (change: Partial<NonNullable<DesiredMicroVM['cloudInit']>>): Partial<DesiredMicroVM> => ({ cloudInit: { ...cloudInit, ...change } });
const baseOf = (field: FieldPath): DesiredMicroVM => ({
  ...base,
  ...(field.startsWith('cloud_init.') ? { cloudInit } : {}),
  ...(field.startsWith('probes.') ? { probes: { readiness: probe } } : {}),
});

const probe: ProbeSpec = { action: { kind: 'tcp', port: 80 }, initialDelayMs: 0, periodMs: 1_000, timeoutMs: 1_000, successThreshold: 1, failureThreshold: 3 };
const withProbe = (change: Partial<ProbeSpec>): Partial<DesiredMicroVM> => ({ probes: { readiness: { ...probe, ...change } } });

/** For each field a change of it alone, inside the bounds of a live one. */
const changes: Readonly<Record<FieldPath, Partial<DesiredMicroVM>>> = {
  name: { name: 'other' },
  namespace: { namespace: 'other' },
  run_policy: { runPolicy: 'RerunOnFailure' },
  paused: { paused: true },
  restart_nonce: { restartNonce: 1 },
  'restart.initial_backoff_ms': { restart: { ...base.restart, initialBackoffMs: 7 } },
  'restart.max_backoff_ms': { restart: { ...base.restart, maxBackoffMs: 7 } },
  'restart.max_retries': { restart: { ...base.restart, maxRetries: 7 } },
  'restart.window_ms': { restart: { ...base.restart, windowMs: 7 } },
  cpu_count: { cpuCount: 4 },
  cpu_max: { cpuMax: 5 },
  memory_bytes: { memoryBytes: 3 * memoryStepBytes },
  memory_max_bytes: { memoryMaxBytes: 5 * memoryStepBytes },
  memory_shared: { memoryShared: true },
  memory_hugepage_bytes: { memoryHugepageBytes: 2 * 2 ** 20 },
  'kernel.path': { boot: { ...base.boot, path: '/boot/other' } },
  'kernel.cmdline': { boot: { kind: 'kernel', path: '/boot/guest', cmdline: 'tick', initramfsPath: '/boot/initramfs' } },
  'kernel.initramfs_path': { boot: { kind: 'kernel', path: '/boot/guest', cmdline: 'idle' } },
  'firmware.path': { boot: { kind: 'firmware', path: '/boot/firmware' } },
  'disks.name': { disks: [root] },
  'disks.path': withRoot({ path: '/other.raw' }),
  'disks.read_only': withRoot({ readOnly: true }),
  'disks.managed.ephemeral': withMade({ managed: { ...managed, persistence: 'Ephemeral' } }),
  'disks.managed.retain': withMade({ managed: { ...managed, isRetained: true } }),
  'disks.managed.image.url': withMade({ managed: { ...managed, image: { ...image, url: 'https://example.com/b.raw' } } }),
  'disks.managed.image.sha256': withMade({ managed: { ...managed, image: { ...image, sha256: 'b'.repeat(64) } } }),
  'disks.size_bytes': withMade({ sizeBytes: 2 ** 21 }),
  'disks.rate_limit.bytes_per_second': withRoot({ rateLimit: { bytesPerSecond: 2 ** 20 } }),
  'disks.rate_limit.ops_per_second': withRoot({ rateLimit: { opsPerSecond: 100 } }),
  'disks.boot_index': withRoot({ bootIndex: 1 }),
  'networks.name': { networks: [card, { ...card, name: 'other', mac: '52:54:00:00:00:02' }] },
  'networks.kind': withCard({ kind: 'nat' }),
  'networks.mac': withCard({ mac: '52:54:00:00:00:03' }),
  'networks.address': withCard({ address: '10.0.0.6/24' }),
  'networks.gateway': withCard({ gateway: '10.0.0.2' }),
  'networks.bridge_name': withCard({ bridgeName: 'br1' }),
  'networks.vlan': withCard({ vlan: 8 }),
  'networks.ports.name': withPort({ name: 'other' }),
  'networks.ports.protocol': withPort({ protocol: 'udp' }),
  'networks.ports.host_port': withPort({ hostPort: 8081 }),
  'networks.ports.guest_port': withPort({ guestPort: 81 }),
  'networks.parent': withCard({ parent: 'eth1' }),
  'networks.macvtap_mode': withCard({ macvtapMode: 'private' }),
  serial_log: { serialLog: false },
  serial_interactive: { serialInteractive: true },
  'vsock.cid': { vsock: { cid: 77 } },
  'probes.role': { probes: { startup: probe } },
  'probes.tcp.port': withProbe({ action: { kind: 'tcp', port: 81 } }),
  'probes.http.port': withProbe({ action: { kind: 'http', port: 81, path: '/', isTls: false } }),
  'probes.http.path': withProbe({ action: { kind: 'http', port: 80, path: '/ready', isTls: false } }),
  'probes.http.tls': withProbe({ action: { kind: 'http', port: 80, path: '/', isTls: true } }),
  'probes.console.contains': withProbe({ action: { kind: 'console', contains: 'ready' } }),
  'probes.vsock.port': withProbe({ action: { kind: 'vsock', port: 81 } }),
  'probes.initial_delay_ms': withProbe({ initialDelayMs: 7 }),
  'probes.period_ms': withProbe({ periodMs: 7 }),
  'probes.timeout_ms': withProbe({ timeoutMs: 7 }),
  'probes.success_threshold': withProbe({ successThreshold: 7 }),
  'probes.failure_threshold': withProbe({ failureThreshold: 7 }),
  termination_grace_period_ms: { terminationGracePeriodMs: 7 },
  'lease.stop_on_host_after_ms': { lease: { stopOnHostAfterMs: 7 } },
  'images.bytes_per_second': { images: { bytesPerSecond: 7, allowedRegistries: [] } },
  'images.allowed_registries': { images: { bytesPerSecond: 1_000, allowedRegistries: ['example.com'] } },
  'secrets.name': { secrets: [{ name: 'c', key: 'b', resourceVersion: '1' }] },
  'secrets.key': { secrets: [{ name: 'a', key: 'c', resourceVersion: '1' }] },
  overruled_site_order: { overruledSiteOrder: 1 },
  'disks.managed.oci.registry': withMade({ managed: { ...managed, oci: { registry: 'a.example', repository: 'b', sha256: 'a'.repeat(64) } } }),
  'disks.managed.oci.repository': withMade({ managed: { ...managed, oci: { registry: 'a.example', repository: 'c', sha256: 'a'.repeat(64) } } }),
  'disks.managed.oci.sha256': withMade({ managed: { ...managed, oci: { registry: 'a.example', repository: 'b', sha256: 'b'.repeat(64) } } }),
  'disks.managed.secret_name': withMade({ managed: { ...managed, secretName: 'login' } }),
  'cloud_init.host_name': withSeed({ hostName: 'e' }),
  'cloud_init.user_data': withSeed({ userData: 'e' }),
  'cloud_init.user_data_secret.name': withSeed({ userDataSecret: { name: 'a', key: 'b' } }),
  'cloud_init.user_data_secret.key': withSeed({ userDataSecret: { name: 'a', key: 'c' } }),
  'cloud_init.network_data': withSeed({ networkData: 'e' }),
  'cloud_init.ssh_authorized_keys': withSeed({ sshAuthorizedKeys: ['e'] }),
  'secrets.resource_version': { secrets: [{ name: 'a', key: 'b', resourceVersion: '2' }] },
};

function settle(host: SimulatedHost, turnsMax = 200): void {
  for (let turns = 0; turns < turnsMax && host.turn(); turns += 1);
}

/** A host whose guest runs with that and is then desired to be otherwise. */
function changed(to: Partial<DesiredMicroVM>, from: DesiredMicroVM = base): SimulatedHost {
  const host = new SimulatedHost(testRecord({ desired: from }), testNow);
  settle(host);
  host.record = { ...host.record, desired: { ...from, ...to }, revision: 2 };
  return host;
}

const isRestartRequired = (host: SimulatedHost): boolean => projectObservation(host.view(), 'running').isRestartRequired;

describe('[E2] a change of', () => {
  test.each(fieldEffects.map(({ field, change }) => ({ field, change })))('$field is $change', ({ field, change }) => {
    const host = changed(changes[field], baseOf(field));
    const incarnation = host.record.run.incarnation;
    const state = compareMachine(host.record, host.machine);
    if (change === 'restart') expect(state).toEqual({ kind: 'restart' });
    else if (change === 'live' && field !== 'paused') expect(state).toMatchObject({ kind: 'live', changes: [expect.anything()] });
    else expect(state).toEqual({ kind: 'same' });
    settle(host);
    expect(isRestartRequired(host)).toBe(change === 'restart');
    // Only the nonce, which asks for it, starts it anew.
    expect([host.spawned, host.record.run.incarnation - incarnation]).toEqual(field === 'restart_nonce' ? [2, 1] : [1, 0]);
    if (change === 'live' && field !== 'paused') expect([host.record.run.startedWith, host.record.run.changingTo]).toEqual([machineKey({ ...baseOf(field), ...changes[field] }), undefined]);
  });
});

describe('outside of its bounds a live change needs a restart', () => {
  test.each([
    { what: 'more processors than there are places for', to: { cpuCount: 5, cpuMax: 5 } },
    { what: 'less memory than it was started with', to: { memoryBytes: memoryStepBytes } },
    { what: 'memory without room for it', from: testDesired(), to: { memoryBytes: 2 * memoryStepBytes } },
    { what: 'the disk that it booted from goes', to: { disks: [made] } },
    { what: 'another disk takes the first place', to: { disks: [{ ...root, name: 'first' }, root, made] } },
    { what: 'another order of disks', from: { ...base, disks: [root, made, { ...root, name: 'more' }] }, to: { disks: [root, { ...root, name: 'more' }, made] } },
    { what: 'a smaller disk', to: withMade({ sizeBytes: 2 ** 19 }) },
    { what: 'a disk of its image that is to have a size of its own', from: { ...base, disks: [root, { ...made, readOnly: true }] }, to: withMade({ readOnly: true, sizeBytes: 2 ** 21 }) },
    { what: 'a live change beside one that is not', to: { cpuCount: 4, serialLog: false } },
  ] satisfies { what: string; from?: DesiredMicroVM; to: Partial<DesiredMicroVM> }[])('$what', ({ from = base, to }) => {
    const host = changed(to, from);
    const before = JSON.stringify(host.machine);
    settle(host);
    expect([isRestartRequired(host), host.spawned, JSON.stringify(host.machine)]).toEqual([true, 1, before]);
    host.disturb('vmmKilled');
    settle(host);
    expect([isRestartRequired(host), host.spawned]).toEqual([false, 2]);
  });
});

test('what a guest was given live it can be asked to give back, and no more than that', () => {
  const host = changed({ memoryBytes: 4 * memoryStepBytes, cpuCount: 4 });
  settle(host);
  expect(host.machine).toMatchObject({ memoryPresentBytes: 4 * memoryStepBytes, cpusPresent: 4 });
  host.record = { ...host.record, desired: { ...base, memoryBytes: 2 * memoryStepBytes, cpuCount: 1 }, revision: 3 };
  settle(host);
  expect([host.machine?.memoryPresentBytes, host.machine?.cpusPresent, isRestartRequired(host), host.spawned]).toEqual([2 * memoryStepBytes, 1, false, 1]);
});

test('a guest that ignores a change keeps what is behind it, and gets there by itself when it lets go', () => {
  const host = changed({ disks: [root], networks: [] });
  host.ignoresChanges = true;
  settle(host, 40);
  expect(host.machine?.disks).toContainEqual(expect.objectContaining({ name: 'made', isLeaving: true }));
  expect(host.networks).toEqual(['lan ']);
  expect(host.view().attempt.failed?.group).toBe('machine');
  expect(compareMachine(host.record, host.machine).kind).toBe('live');
  host.ignoresChanges = false;
  settle(host);
  expect([host.machine?.disks.map(({ name }) => name), host.machine?.networks, host.networks]).toEqual([['root'], [], []]);
});

test('a change is taken back in the middle: what came goes again', () => {
  const host = changed({ disks: [root, made, { ...root, name: 'more' }], networks: [card, { ...card, name: 'other' }] });
  while (host.machine?.disks.some(({ name }) => name === 'more') !== true) host.turn();
  host.disturb('agentRestarts');
  host.record = { ...host.record, desired: base, revision: 3 };
  settle(host);
  expect([host.machine?.disks.map(({ name }) => name), host.machine?.networks.map(({ name }) => name), host.record.run.startedWith]).toEqual([['root', 'made'], ['lan'], machineKey(base)]);
});

test('a disk that came in the middle of a change and is then another one needs a restart', () => {
  const host = changed({ disks: [root, made, { ...root, name: 'more' }], networks: [card, { ...card, name: 'other' }] });
  while (host.machine?.disks.some(({ name }) => name === 'more') !== true) host.turn();
  host.record = { ...host.record, desired: { ...base, disks: [root, made, { ...root, name: 'more', path: '/elsewhere.raw' }] }, revision: 3 };
  settle(host);
  expect(isRestartRequired(host)).toBe(true);
});

test('a VMM that has shut itself in is given no file of the host', () => {
  const host = changed({ disks: [root, made, { ...root, name: 'more' }] });
  const { vmm, machine } = host;
  if (vmm.kind !== 'live' || machine === undefined) throw new Error('it runs');
  host.vmm = { ...vmm, machine: { ...machine, isShutIn: true } };
  settle(host);
  expect([isRestartRequired(host), host.machine?.disks.map(({ name }) => name)]).toEqual([true, ['root', 'made']]);
  host.record = { ...host.record, desired: { ...base, disks: [root, made, { ...made, name: 'more' }] }, revision: 3 };
  settle(host);
  expect([isRestartRequired(host), host.machine?.disks.map(({ name }) => name)]).toEqual([false, ['root', 'made', 'more']]);
});

test('of devices that no specification named none is touched', () => {
  const host = changed({ cpuCount: 3 });
  const { vmm, machine } = host;
  if (vmm.kind !== 'live' || machine === undefined) throw new Error('it runs');
  host.vmm = { ...vmm, machine: { ...machine, disks: [...machine.disks, { name: 'seed', isLeaving: false }] } };
  settle(host);
  expect(host.machine?.disks.map(({ name }) => name)).toEqual(['root', 'made', 'seed']);
});

test('while a guest is paused it is given what it need not take part in, and the rest waits for the end of the pause', () => {
  const host = changed({ paused: true, cpuCount: 4, disks: [root, { ...root, name: 'more' }] });
  settle(host);
  expect([host.machine?.cpusPresent, host.machine?.disks.map(({ name }) => name)]).toEqual([4, ['root', 'made', 'more']]);
  expect(decideNext(host.view())).toMatchObject({ kind: 'wait', for: 'guest' });
  host.record = { ...host.record, desired: { ...base, cpuCount: 4, disks: [root, { ...root, name: 'more' }] }, revision: 3 };
  settle(host);
  expect(host.machine?.disks.map(({ name }) => name)).toEqual(['root', 'more']);
});

test('an intent that came between the configuration of a VMM and the first sight of its guest is not claimed', () => {
  const host = new SimulatedHost(testRecord({ desired: testDesired() }), testNow);
  while (!(host.vmm.kind === 'live' && host.vmm.api === 'running')) host.turn();
  host.record = { ...host.record, desired: testDesired({ cpuCount: 2 }), revision: 2 };
  settle(host);
  expect([isRestartRequired(host), host.record.run.startedWith]).toEqual([true, machineKey(testDesired())]);
});

test.each<[string, Partial<DesiredMicroVM>, Partial<DesiredMicroVM>]>([
  ['more processors', {}, { cpuCount: 2 }],
  ['a disk less', { disks: [root, { ...root, name: 'more' }] }, { disks: [root] }],
  ['a card less', { networks: [card] }, { networks: [] }],
])('the same seen by an agent that did not configure it: %s', (_title, from, to) => {
  const host = new SimulatedHost(testRecord({ desired: testDesired(from) }), testNow);
  while (!(host.vmm.kind === 'live' && host.vmm.api === 'running')) host.turn();
  host.disturb('agentRestarts');
  host.record = { ...host.record, desired: testDesired({ ...from, ...to }), revision: 2 };
  settle(host);
  expect([isRestartRequired(host), host.record.run.startedWith]).toEqual([true, unknownMachine]);
});

test('a guest that came back from a reboot with less memory is waited for', () => {
  const host = changed({ memoryBytes: 4 * memoryStepBytes });
  settle(host);
  const { vmm, machine } = host;
  if (vmm.kind !== 'live' || machine === undefined) throw new Error('it runs');
  host.vmm = { ...vmm, machine: { ...machine, memoryPresentBytes: 2 * memoryStepBytes } };
  expect(observedSizes(base, host.machine)).toEqual({ cpuCount: 2, memoryBytes: 2 * memoryStepBytes });
  settle(host);
  expect(host.machine?.memoryPresentBytes).toBe(4 * memoryStepBytes);
});

test('another version of the Secret that cloud-init reads is told apart from other changes that await a restart', () => {
  const login = { name: 'login', key: 'user-data' };
  const withSecret = (resourceVersion: string, change: Partial<DesiredMicroVM> = {}): DesiredMicroVM => ({ ...base, cloudInit: { hostName: 'a', sshAuthorizedKeys: [], userDataSecret: login }, secrets: [{ ...login, resourceVersion }], ...change });
  const told = (to: DesiredMicroVM, from = withSecret('1')): boolean => {
    const host = changed(to, from);
    return compareMachine(host.record, host.machine).kind === 'restart' && isSecretChanged(host.record, host.machine);
  };
  expect(told(withSecret('2'))).toBe(true);
  expect(told(withSecret('2', { serialLog: false }))).toBe(true);
  expect(told(withSecret('1', { serialLog: false }))).toBe(false);
  expect(told({ ...base, serialLog: false }, base)).toBe(false);
});

test('what the guest has is told of every guest that runs: as it was configured where nothing can be given to it', () => {
  const host = changed({ cpuCount: 3 });
  const seen = host.machine;
  if (seen === undefined) throw new Error('it runs');
  const busy = { ...seen, cpuCount: 3, cpusPresent: 2 };
  expect(observedSizes(base, busy).cpuCount).toBe(2);
  const fixed = testDesired();
  expect(observedSizes(fixed, busy)).toEqual({ cpuCount: 3, memoryBytes: seen.memoryBytes });
  expect(observedSizes(fixed, undefined)).toEqual({});
});

test('a key is the machine, also one that an older journal holds', () => {
  expect(parseMachine(machineKey(base))).toEqual(machineOf(base));
  const { cpuCount, memoryBytes, boot, disks, serialLog } = testDesired();
  expect(machineKey(testDesired())).toBe(JSON.stringify([cpuCount, memoryBytes, { cmdline: 'idle', kind: 'kernel', path: '/boot/guest' }, disks, serialLog]));
  expect(parseMachine(JSON.stringify([cpuCount, memoryBytes, boot, disks, serialLog]))).toEqual(machineOf(testDesired()));
});
