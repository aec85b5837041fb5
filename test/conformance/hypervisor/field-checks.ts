/**
 * What checks each row of the table of fields (edge-agent/domain/field-effects.ts). A row that speaks of the VMM has
 * cases here, which field-effects.test.ts runs through the agent's worker on every target; an effect that the host has
 * beside the VMM is checked by tests elsewhere, which the row names. A row without a check does not compile.
 */
import type { CloudInit, DesiredMicroVM, DiskSpec, ManagedDisk, NetworkSpec } from '#api/model/microvm.ts';
import type { FieldPath } from '#edge-agent/domain/field-effects.ts';
import { digestOf, images, type Change, type Files } from './worker-under-test.ts';

/** A guest that is started with `from`, and what becomes of it, and of what a VMM is told at a start, with `to`. */
export interface VmmCase {
  readonly from: Change;
  readonly to: Change;
  /** Members that change at a start beside those of the row. */
  readonly also?: readonly string[];
  /** Of a live change: members in which the guest then differs from one that was started with `to`. */
  readonly leaves?: readonly string[];
  /** Of a live change: it can not be taken back. */
  readonly isOneWay?: boolean;
  /** State of a guest that has `to`; default: Running. */
  readonly state?: 'Running' | 'Paused';
  /** It ends the VMM by these calls, and whether there is another one afterwards. */
  readonly ends?: { readonly calls: readonly string[]; readonly startsAgain: boolean };
  /** Only what a VMM is told at a start is looked at: under a running guest another row has its say. */
  readonly isOnlyAtStart?: boolean;
  /** The VMM makes a tap, for which it needs a network of its own. */
  readonly needsTap?: boolean;
  /** The VMM is given the configuration and not booted: the machine may not have what it asks for. */
  readonly isNotBooted?: boolean;
}

/** A test elsewhere, by file and name as they are written; `word`: what the file calls the field, by default its last part in the model's spelling. */
export interface NamedTest {
  readonly file: string;
  readonly test: string;
  readonly word?: string;
}

export interface FieldCheck {
  readonly vmm?: readonly VmmCase[];
  readonly tests?: readonly NamedTest[];
}

const mebibyte = 2 ** 20;
const plain: Change = () => ({});
const of = (change: Partial<DesiredMicroVM>): Change => () => change;

const root = ({ disk }: Files): DiskSpec => ({ name: 'root', path: disk, readOnly: false });
const withRoot = (change: (files: Files) => Partial<DiskSpec>): Change => (files) => ({ disks: [{ ...root(files), ...change(files) }] });
const withDisk = withRoot(() => ({}));
const blank: ManagedDisk = { persistence: 'Persistent', isRetained: false };
const withMade = (managed: Partial<ManagedDisk>, sizeBytes: number | undefined = mebibyte): Change => of({ disks: [{ name: 'root', path: '', readOnly: false, ...(sizeBytes === undefined ? {} : { sizeBytes }), managed: { ...blank, ...managed } }] });
const withBlank = withMade({});
const http = (content: Buffer): Partial<ManagedDisk> => ({ image: { url: 'https://images.example/root', sha256: digestOf(content) } });
const oci = (content: Buffer): Partial<ManagedDisk> => ({ oci: { registry: 'registry.example', repository: 'root', sha256: digestOf(content) } });

const lan: NetworkSpec = { name: 'lan', kind: 'nat', mac: '52:54:00:00:00:01', address: '10.0.0.5/24', gateway: '10.0.0.1', ports: [] };
const second: NetworkSpec = { ...lan, name: 'second', mac: '52:54:00:00:00:02', address: '10.0.0.6/24' };
const withLan = (change: Partial<NetworkSpec>): Change => of({ networks: [{ ...lan, ...change }] });

const withSeed = (change: Partial<CloudInit>): Change => of({ cloudInit: { hostName: 'guest', sshAuthorizedKeys: [], ...change }, secrets: [{ name: 'data', key: 'a', resourceVersion: '1' }, { name: 'data', key: 'b', resourceVersion: '1' }, { name: 'other', key: 'a', resourceVersion: '1' }] });
const seeded = withSeed({});
const secret = (name: string, key: string): Change => withSeed({ userDataSecret: { name, key } });
const withSecret = secret('data', 'a');

const memory = { memoryBytes: 128 * mebibyte, memoryMaxBytes: 512 * mebibyte };
const halted = { runPolicy: 'Halted' } as const;
/** It has all the time that it needs. */
const patient = { terminationGracePeriodMs: 60_000 };
/** It is given none, so that its power button is not pressed. */
const hasty = { terminationGracePeriodMs: 0 };

const policy = 'edge-agent/domain/restart-policy.test.ts';
const packets = 'test/integration/network/guest-networks.test.ts';
const tries = 'edge-agent/domain/probes.test.ts';
const prober = 'test/integration/edge-agent/prober.test.ts';
const keeper = 'edge-agent/supervisor/probe-keeper.test.ts';
const fetched = 'test/integration/edge-agent/images.test.ts';
const pulled = 'test/integration/edge-agent/oci-images.test.ts';
const seed = 'test/e2e/cloud-init.test.ts';
const files = 'edge-agent/domain/cloud-init.test.ts';
const kept = 'test/e2e/guest-secrets.test.ts';
const life = 'test/integration/edge-agent/microvm-life.test.ts';
const operator = 'test/integration/operator-commands/operator-commands.test.ts';
const ports: NamedTest = { file: packets, test: '[E6] ports of the host lead to the guest from outside and from the host itself, and no other way does' };
const inARow: NamedTest = { file: tries, test: 'judge by successes and failures in a row, and keep the message of the moment of the change' };
const onTime: NamedTest = { file: tries, test: 'are tried after the initial delay and then each on its own period, readiness and liveness at the same time' };

export const fieldChecks = {
  name: { tests: [{ file: operator, test: '[E10] status, vm ls and vm show in a terminal, with and without a running agent' }] },
  namespace: { tests: [{ file: operator, test: '[E10] status, vm ls and vm show in a terminal, with and without a running agent', word: 'shop/' }] },
  run_policy: {
    vmm: [
      { from: of(patient), to: of({ ...patient, ...halted }), ends: { calls: ['/vm.power-button'], startsAgain: false } },
      { from: of(hasty), to: of({ ...hasty, ...halted }), ends: { calls: ['/vmm.shutdown'], startsAgain: false } },
    ],
    tests: [{ file: 'test/e2e/restart-policy.test.ts', test: '[S3] Always: starts the guest again after it shut itself down' }, { file: life, test: 'Halted stops a running guest and keeps its directory; Always starts it again' }],
  },
  paused: { vmm: [{ from: plain, to: of({ paused: true }), state: 'Paused' }] },
  restart_nonce: {
    vmm: [
      { from: of(patient), to: of({ ...patient, restartNonce: 1 }), ends: { calls: ['/vm.power-button'], startsAgain: true } },
      { from: of(hasty), to: of({ ...hasty, restartNonce: 1 }), ends: { calls: ['/vmm.shutdown'], startsAgain: true } },
    ],
    tests: [{ file: 'edge-agent/domain/diff.test.ts', test: 'a change of the nonce restarts a running guest once, and is no restart of the restart policy' }],
  },
  'restart.initial_backoff_ms': { tests: [{ file: policy, test: 'after %i failures in the window the restart waits %i ms', word: 'restartDelayMs' }] },
  'restart.max_backoff_ms': { tests: [{ file: policy, test: 'after %i failures in the window the restart waits %i ms', word: 'restartDelayMs' }] },
  'restart.max_retries': { tests: [{ file: policy, test: 'more failures than allowed within the window are a crash loop, until the window has moved on', word: 'isCrashLooping' }] },
  'restart.window_ms': { tests: [{ file: policy, test: 'more failures than allowed within the window are a crash loop, until the window has moved on', word: 'crashLoopEndsAtMs' }] },
  cpu_count: { vmm: [{ from: of({ cpuCount: 1, cpuMax: 4 }), to: of({ cpuCount: 3, cpuMax: 4 }) }] },
  cpu_max: { vmm: [{ from: of({ cpuCount: 2, cpuMax: 3 }), to: of({ cpuCount: 2, cpuMax: 4 }) }] },
  memory_bytes: {
    vmm: [
      { from: of(memory), to: of({ ...memory, memoryBytes: 384 * mebibyte }), also: ['MemoryConfig.hotplug_size'], leaves: ['MemoryConfig.size', 'MemoryConfig.hotplug_size', 'MemoryConfig.hotplugged_size'] },
    ],
  },
  memory_max_bytes: {
    vmm: [{ from: of({ memoryBytes: 128 * mebibyte }), to: of(memory) }],
    tests: [{ file: 'test/conformance/hypervisor/port.test.ts', test: 'refuses what can not boot, by a code, before anything is made', word: 'memoryBytesMax' }],
  },
  memory_shared: { vmm: [{ from: plain, to: of({ memoryShared: true }) }] },
  memory_hugepage_bytes: {
    vmm: [{ from: plain, to: of({ memoryHugepageBytes: 2 * mebibyte }), isNotBooted: true }],
    tests: [{ file: 'edge-agent/adapters/cloud-hypervisor/hugepages.test.ts', test: '[E2] memory in huge pages needs enough free ones of that size for all that the guest may be given', word: 'hugepageBytes' }],
  },
  'kernel.path': { vmm: [{ from: plain, to: ({ otherGuest }) => ({ boot: { kind: 'kernel', path: otherGuest, cmdline: 'idle' } }) }], tests: [{ file: 'test/e2e/bad-input.test.ts', test: '[S6] names a missing kernel file, makes nothing, and runs once the file is there' }] },
  'kernel.cmdline': { vmm: [{ from: plain, to: ({ guest }) => ({ boot: { kind: 'kernel', path: guest, cmdline: 'idle quiet' } }) }] },
  'kernel.initramfs_path': { vmm: [{ from: plain, to: ({ guest, initramfs }) => ({ boot: { kind: 'kernel', path: guest, cmdline: 'idle', initramfsPath: initramfs } }) }] },
  'firmware.path': { vmm: [{ from: ({ guest }) => ({ boot: { kind: 'firmware', path: guest } }), to: ({ otherGuest }) => ({ boot: { kind: 'firmware', path: otherGuest } }) }] },
  'disks.name': {
    vmm: [
      { from: (given) => ({ disks: [root(given)] }), to: (given) => ({ disks: [root(given), { name: 'data', path: given.otherDisk, readOnly: true }] }), also: ['DiskConfig.path', 'DiskConfig.readonly'] },
    ],
  },
  'disks.path': { vmm: [{ from: withDisk, to: withRoot(({ otherDisk }) => ({ path: otherDisk })) }], tests: [{ file: 'test/e2e/bad-input.test.ts', test: '[S6] names a missing disk, and a kernel that is none' }] },
  'disks.read_only': { vmm: [{ from: withDisk, to: withRoot(() => ({ readOnly: true })) }] },
  'disks.managed.ephemeral': { vmm: [{ from: withBlank, to: withMade({ persistence: 'Ephemeral' }) }], tests: [{ file: fetched, test: 'of each kind are attached, grow with the next start, and are kept, made anew, removed or retained as asked', word: 'persistence' }] },
  'disks.managed.retain': { tests: [{ file: fetched, test: 'of each kind are attached, grow with the next start, and are kept, made anew, removed or retained as asked', word: 'retained-disks' }] },
  'disks.managed.image.url': { vmm: [{ from: withBlank, to: withMade(http(images.raw)) }], tests: [{ file: fetched, test: '[E5] come over a 5 Mbit/s link that breaks half-way once for ten microVMs, resumed, with at most 1.05 times the bytes' }] },
  'disks.managed.image.sha256': { vmm: [{ from: withMade(http(images.raw), undefined), to: withMade(http(images.qcow2), undefined) }], tests: [{ file: fetched, test: '[E5] that are wrong, missing, forbidden or no disk become a condition, and nothing boots' }] },
  'disks.managed.oci.registry': { vmm: [{ from: withBlank, to: withMade(oci(images.raw)) }], tests: [{ file: pulled, test: '[E5] comes raw, qcow2, gzip and zstd, from an index too, and as a file in the /disk of a container image' }] },
  'disks.managed.oci.repository': { vmm: [{ from: withBlank, to: withMade(oci(images.raw)) }], tests: [{ file: pulled, test: '[E5] comes raw, qcow2, gzip and zstd, from an index too, and as a file in the /disk of a container image' }] },
  'disks.managed.oci.sha256': { vmm: [{ from: withMade(oci(images.raw), undefined), to: withMade(oci(images.qcow2), undefined) }], tests: [{ file: pulled, test: '[E5] that is wrong at any level, forbidden or too large becomes a condition, and nothing boots' }] },
  'disks.managed.secret_name': {
    tests: [
      { file: fetched, test: '[E5] of a server that wants credentials come with those of the Secret, and only with those' },
      { file: pulled, test: '[E5] of a registry that wants credentials comes with those of the Secret, and only with those' },
    ],
  },
  'disks.size_bytes': { vmm: [{ from: withBlank, to: withMade({}, 2 * mebibyte), isOneWay: true }] },
  'disks.rate_limit.bytes_per_second': { vmm: [{ from: withDisk, to: withRoot(() => ({ rateLimit: { bytesPerSecond: mebibyte } })) }] },
  'disks.rate_limit.ops_per_second': { vmm: [{ from: withDisk, to: withRoot(() => ({ rateLimit: { opsPerSecond: 100 } })) }] },
  'disks.boot_index': {
    vmm: [
      {
        from: (given) => ({ boot: { kind: 'firmware', path: given.guest }, disks: [{ ...root(given), bootIndex: 1 }, { name: 'data', path: given.otherDisk, readOnly: false, bootIndex: 2 }] }),
        to: (given) => ({ boot: { kind: 'firmware', path: given.guest }, disks: [{ ...root(given), bootIndex: 3 }, { name: 'data', path: given.otherDisk, readOnly: false, bootIndex: 2 }] }),
      },
    ],
  },
  'networks.name': { vmm: [{ from: of({ networks: [lan] }), to: of({ networks: [lan, second] }), also: ['NetConfig.mac'], needsTap: true }] },
  'networks.kind': {
    vmm: [{ from: plain, to: of({ networks: [lan] }), also: ['NetConfig.id', 'NetConfig.mac'], needsTap: true, isOnlyAtStart: true }],
    tests: [
      { file: packets, test: '[E6] a guest behind nat reaches the world with the address of the host, and gives all back at its end' },
      { file: packets, test: '[E6] guests on the mesh and peers of the mesh see each other without translation, and the world behind the host' },
      { file: packets, test: '[E6] a guest on a bridge of the host is a machine of that LAN under its own hardware address' },
      { file: packets, test: '[E6] a guest on an interface of the host is a machine of that wire under its own hardware address, and nothing else gets onto it' },
    ],
  },
  'networks.mac': { vmm: [{ from: withLan({}), to: withLan({ mac: '52:54:00:00:00:07' }), needsTap: true }], tests: [{ file: packets, test: '[E6] a guest can send with no other hardware address, no other address, no tag and in no other role' }] },
  'networks.address': {
    tests: [
      { file: packets, test: '[E6] a guest can send with no other hardware address, no other address, no tag and in no other role' },
      { file: packets, test: '[E6] a guest gets its address, its gateway and the name servers by DHCP' },
    ],
  },
  'networks.gateway': { tests: [{ file: packets, test: '[E6] a guest gets its address, its gateway and the name servers by DHCP' }] },
  'networks.bridge_name': { tests: [{ file: packets, test: '[E6] a guest on a bridge of the host is a machine of that LAN under its own hardware address' }] },
  'networks.vlan': { tests: [{ file: packets, test: '[E6] a guest on a bridge of the host is a machine of that LAN under its own hardware address' }] },
  'networks.parent': { tests: [{ file: packets, test: '[E6] a guest on an interface of the host is a machine of that wire under its own hardware address, and nothing else gets onto it' }] },
  'networks.macvtap_mode': { tests: [{ file: packets, test: '[E6] guests on one interface reach each other in the mode bridge, not in the mode private, and never the host' }] },
  'networks.ports.name': { tests: [ports] },
  'networks.ports.protocol': { tests: [ports] },
  'networks.ports.host_port': { tests: [ports, { file: packets, test: '[E6] a port of the host that is taken is refused before anything changes' }] },
  'networks.ports.guest_port': { tests: [ports] },
  serial_log: { vmm: [{ from: plain, to: of({ serialLog: false }) }], tests: [{ file: 'test/e2e/life-of-a-microvm.test.ts', test: "[S1] shows the guest\\'s console in the database, each byte once", word: 'console' }] },
  serial_interactive: {
    vmm: [{ from: of({ serialLog: false }), to: of({ serialLog: false, serialInteractive: true }) }],
    tests: [{ file: 'test/conformance/hypervisor/port.test.ts', test: 'an interactive console goes both ways, over resets and without waiting for a reader' }],
  },
  'vsock.cid': {
    vmm: [{ from: plain, to: of({ vsock: { cid: 42 } }), also: ['VsockConfig.id'] }, { from: of({ vsock: { cid: 42 } }), to: of({ vsock: { cid: 43 } }) }],
    tests: [{ file: 'test/conformance/hypervisor/port.test.ts', test: 'gives the guest a vsock device, whose host side only its owner reaches' }],
  },
  'probes.role': { tests: [{ file: tries, test: 'wait for startup, and what startup needed is no failure of theirs', word: 'startup' }, { file: tries, test: 'a %s probe that fails asks for a restart, and nothing more is tried', word: 'liveness' }] },
  'probes.tcp.port': { tests: [{ file: prober, test: 'succeeds with a connection, takes nothing from it, and closes it' }] },
  'probes.http.port': { tests: [{ file: prober, test: 'a status of %i' }] },
  'probes.http.path': { tests: [{ file: prober, test: 'a status of %i' }] },
  'probes.http.tls': { tests: [{ file: prober, test: 'a status of %i', word: 'isTls' }] },
  'probes.console.contains': { tests: [{ file: keeper, test: 'looks for a text in what the console printed in pieces' }] },
  'probes.vsock.port': { tests: [{ file: prober, test: 'succeeds when the VMM says that the guest accepted' }] },
  'probes.initial_delay_ms': { tests: [onTime] },
  'probes.period_ms': { tests: [onTime] },
  'probes.timeout_ms': { tests: [onTime] },
  'probes.success_threshold': { tests: [inARow] },
  'probes.failure_threshold': { tests: [inARow] },
  termination_grace_period_ms: { tests: [{ file: life, test: 'a guest that ignores its power button is ended when its grace period is over' }] },
  overruled_site_order: { tests: [{ file: 'test/integration/operator-commands/site-kill-points.test.ts', test: '[E10] an order that holds no longer is lifted by the number that the control plane names, and a later one stands' }] },
  'lease.stop_on_host_after_ms': { tests: [{ file: 'edge-agent/domain/lease.test.ts', test: 'never lets a microVM live longer than the newest beat and the shorter of the two terms give' }, { file: 'test/chaos/fencing-processes.test.ts', test: '[C9] is replaced once its VMM is gone and never beside it, and with the default nothing moves', word: 'stopOnHostAfter' }] },
  'images.bytes_per_second': { tests: [{ file: 'edge-agent/adapters/images/pace.test.ts', test: '[E2] downloads share the bandwidth that a Site gives its hosts', word: 'limit' }] },
  'images.allowed_registries': { tests: [{ file: fetched, test: '[E5] that are wrong, missing, forbidden or no disk become a condition, and nothing boots' }, { file: pulled, test: '[E5] that is wrong at any level, forbidden or too large becomes a condition, and nothing boots' }] },
  'cloud_init.host_name': { vmm: [{ from: seeded, to: withSeed({ hostName: 'other' }) }], tests: [{ file: seed, test: '[E2] has what cloudInit.hostName, userData, networkData and sshAuthorizedKeys say, for the agent and its VMM alone' }] },
  'cloud_init.user_data': { vmm: [{ from: seeded, to: withSeed({ userData: '#cloud-config\n' }) }], tests: [{ file: seed, test: '[E2] has what cloudInit.hostName, userData, networkData and sshAuthorizedKeys say, for the agent and its VMM alone' }] },
  'cloud_init.user_data_secret.name': { vmm: [{ from: withSecret, to: secret('other', 'a') }], tests: [{ file: seed, test: '[E2] has the user data of cloudInit.userDataSecretRef, and the name of the microVM without cloudInit.hostName' }] },
  'cloud_init.user_data_secret.key': { vmm: [{ from: withSecret, to: secret('data', 'b') }], tests: [{ file: seed, test: '[E2] has the user data of cloudInit.userDataSecretRef, and the name of the microVM without cloudInit.hostName' }] },
  'cloud_init.network_data': { vmm: [{ from: seeded, to: withSeed({ networkData: 'version: 2\n' }) }], tests: [{ file: files, test: 'give the network configuration of the spec as it is' }] },
  'cloud_init.ssh_authorized_keys': {
    vmm: [
      { from: plain, to: withSeed({ sshAuthorizedKeys: ['ssh-ed25519 AAAA'] }), also: ['DiskConfig.id'] },
      { from: seeded, to: withSeed({ sshAuthorizedKeys: ['ssh-ed25519 AAAA'] }) },
    ],
    tests: [{ file: 'test/integration/edge-agent/real-seed.test.ts', test: '[E2] the guest reads it, can not write it, and finds it after all other disks' }, { file: files, test: 'put public keys beside the user data, which stays as it is' }],
  },
  'secrets.name': { tests: [{ file: kept, test: '[E7] are on its host, readable by the agent and its VMM alone' }] },
  'secrets.key': { tests: [{ file: kept, test: '[E7] are on its host, readable by the agent and its VMM alone' }] },
  'secrets.resource_version': { tests: [{ file: 'edge-agent/domain/diff.test.ts', test: 'another version of the Secret that cloud-init reads needs another start, and another one that it does not read needs none' }] },
} as const satisfies Readonly<Record<FieldPath, FieldCheck>>;
