import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DesiredMicroVM, ExecutionReport, HostFacts, Observation, Operation } from '../gen/nkudo/edge/v1/edge.pb.ts';
import { makeEpoch, parseEpoch, splitEpoch } from '../model/epoch.ts';
import { executionId, hostId, microVMId, operationId, planId } from '../model/ids.ts';
import { exitReasons, hugepageSizes, macvtapModes, memoryStepBytes, networkKinds, observedStates, runPolicies, type DesiredMicroVM as Desired, type MicroVMObservation, type NetworkSpec } from '../model/microvm.ts';
import { executionStatuses, operationKinds, type ExecutionReport as Report, type Operation as ModelOperation } from '../model/plan.ts';
import { siteOrderKinds, siteOverrideKinds, siteVisitKinds } from '../model/site-orders.ts';
import {
  decodeDesired,
  decodeExecution,
  decodeHostFacts,
  decodeObservation,
  decodeOperation,
  decodeSecretValues,
  encodeDesired,
  encodeExecution,
  encodeHostFacts,
  encodeObservation,
  encodeOperation,
} from './edge-codec.ts';
import { encodeEnrollmentToken, parseEnrollmentToken } from './enrollment-token.ts';

const uuid = fc.uuid().map((text) => text.toLowerCase());
const time = fc.integer({ min: 0, max: 253_402_300_799_000 });
const epoch = fc.tuple(fc.integer({ min: 1, max: 2 ** 20 }), fc.integer({ min: 1, max: 2 ** 32 - 1 })).map(([i, c]) => makeEpoch(i, c));
const path = fc.stringMatching(/^\/[a-z0-9/._-]{1,40}$/);
const count = fc.integer({ min: 0, max: 2 ** 31 - 1 });

const label = fc.stringMatching(/^[a-z][a-z0-9-]{0,10}$/);
const octet = fc.integer({ min: 0, max: 255 });
const ipv4 = fc.tuple(octet, octet, octet, octet).map((octets) => octets.join('.'));
const port = fc.integer({ min: 1, max: 65_535 });

const network: fc.Arbitrary<NetworkSpec> = fc.record(
  {
    name: label,
    kind: fc.constantFrom(...networkKinds),
    mac: fc.uint8Array({ minLength: 5, maxLength: 5 }).map((bytes) => ['52', ...[...bytes].map((byte) => byte.toString(16).padStart(2, '0'))].join(':')),
    address: fc.tuple(ipv4, fc.integer({ min: 0, max: 32 })).map(([address, prefix]) => `${address}/${prefix}`),
    gateway: ipv4,
    bridgeName: fc.stringMatching(/^[a-z][a-z0-9.-]{0,14}$/),
    vlan: fc.integer({ min: 1, max: 4094 }),
    parent: fc.stringMatching(/^[a-z][a-z0-9.-]{0,14}$/),
    macvtapMode: fc.constantFrom(...macvtapModes),
    ports: fc.array(fc.record({ name: label, protocol: fc.constantFrom('tcp' as const, 'udp' as const), hostPort: port, guestPort: port }), { maxLength: 32 }),
  },
  { requiredKeys: ['name', 'kind', 'mac', 'ports'] },
);

const diskName = fc.stringMatching(/^[a-z]{1,10}$/);
const sizeBytes = fc.integer({ min: 1, max: 2 ** 46 });
const persistence = fc.constantFrom('Persistent' as const, 'Ephemeral' as const);
const rateLimit = fc.record({ bytesPerSecond: fc.integer({ min: 1, max: 2 ** 40 }), opsPerSecond: fc.integer({ min: 1, max: 10_000_000 }) }, { requiredKeys: [] });
const httpImage = fc.record({ url: fc.stringMatching(/^https?:\/\/[a-z]{1,10}\/[a-z]{0,10}$/), sha256: fc.stringMatching(/^[0-9a-f]{64}$/) });
const imageDisk = fc.record(
  { name: diskName, path: fc.constant(''), readOnly: fc.boolean(), sizeBytes, managed: fc.record({ persistence, isRetained: fc.boolean(), image: httpImage }) },
  { requiredKeys: ['name', 'path', 'readOnly', 'managed'] },
);
const ociImage = fc.record({ registry: fc.stringMatching(/^[a-z]{1,10}\.[a-z]{1,10}(:[1-9][0-9]{0,3})?$/), repository: fc.stringMatching(/^[a-z]{1,10}\/[a-z]{1,10}$/), sha256: fc.stringMatching(/^[0-9a-f]{64}$/) });
const ociDisk = fc.record({ name: diskName, path: fc.constant(''), readOnly: fc.boolean(), managed: fc.record({ persistence, isRetained: fc.boolean(), oci: ociImage, secretName: diskName }, { requiredKeys: ['persistence', 'isRetained', 'oci'] }) });
const blankDisk = fc.record({ name: diskName, path: fc.constant(''), readOnly: fc.boolean(), sizeBytes, managed: fc.record({ persistence, isRetained: fc.boolean() }) });

const desiredFields = {
  name: fc.stringMatching(/^[a-z]{1,20}$/),
  namespace: fc.stringMatching(/^[a-z]{1,20}$/),
  runPolicy: fc.constantFrom(...runPolicies),
  paused: fc.boolean(),
  restartNonce: count,
  restart: fc.record({ initialBackoffMs: count, maxBackoffMs: count, maxRetries: count, windowMs: count }),
  cpuCount: fc.integer({ min: 1, max: 255 }),
  memoryBytes: fc.integer({ min: 4096, max: 2 ** 42 }),
  boot: fc.oneof(
    fc.record({ kind: fc.constant('firmware' as const), path }),
    fc.record({ kind: fc.constant('kernel' as const), path, cmdline: fc.string({ maxLength: 80 }), initramfsPath: path }, { requiredKeys: ['kind', 'path', 'cmdline'] }),
  ),
  disks: fc.array(fc.oneof(fc.record({ name: diskName, path, readOnly: fc.boolean(), rateLimit, bootIndex: fc.integer({ min: 0, max: 15 }) }, { requiredKeys: ['name', 'path', 'readOnly'] }), imageDisk, ociDisk, blankDisk), { maxLength: 16 }),
  images: fc.record({ bytesPerSecond: fc.integer({ min: 1, max: 2 ** 40 }), allowedRegistries: fc.array(fc.stringMatching(/^[a-z]{1,10}(:[1-9][0-9]{0,3})?$/), { maxLength: 32 }) }, { requiredKeys: ['allowedRegistries'] }),
  networks: fc.array(network, { minLength: 1, maxLength: 8 }),
  cloudInit: fc.record(
    {
      hostName: label.filter((name) => !name.endsWith('-')),
      userData: fc.string({ maxLength: 100 }),
      userDataSecret: fc.record({ name: label, key: label }),
      networkData: fc.string({ maxLength: 100 }),
      sshAuthorizedKeys: fc.array(fc.string({ minLength: 1, maxLength: 100 }), { maxLength: 32 }),
    },
    { requiredKeys: ['hostName', 'sshAuthorizedKeys'] },
  ),
  secrets: fc.array(fc.record({ name: label, key: fc.stringMatching(/^[-._a-zA-Z0-9]{1,20}$/), resourceVersion: fc.stringMatching(/^[1-9][0-9]{0,9}$/) }), { minLength: 1, maxLength: 32 }),
  serialLog: fc.boolean(),
  terminationGracePeriodMs: count,
  overruledSiteOrder: fc.integer({ min: 1, max: 2 ** 45 }),
  cpuMax: fc.constant(255),
  memoryShared: fc.constant(true as const),
  memoryHugepageBytes: fc.constantFrom(...hugepageSizes),
};
const { networks: _networks, images: _images, secrets: _secrets, cloudInit: _cloudInit, overruledSiteOrder: _overruled, cpuMax: _cpuMax, memoryShared: _shared, memoryHugepageBytes: _pages, ...alwaysThere } = desiredFields;
const desired: fc.Arbitrary<Desired> = fc
  .tuple(fc.record(desiredFields, { requiredKeys: Object.keys(alwaysThere) as (keyof typeof alwaysThere)[] }), fc.option(fc.integer({ min: 0, max: 1024 }))) // Object.keys loses the key type.
  .map(([fields, steps]) => (steps === null ? fields : { ...fields, memoryMaxBytes: fields.memoryBytes + steps * memoryStepBytes }));

const problem = fc.record({ code: fc.constantFrom('KERNEL_NOT_FOUND', 'INTERNAL'), message: fc.string({ maxLength: 100 }) });

const siteFields = {
  number: fc.integer({ min: 1, max: 2 ** 45 }),
  by: fc.record({ user: fc.stringMatching(/^[a-z]{1,64}$/), uid: fc.integer({ min: 0, max: 2 ** 32 - 1 }) }),
  atMs: time,
  acceptsTwoCopies: fc.constant(true as const),
  isAgainstSpec: fc.constant(true as const),
};
const siteOverride = fc.record({ kind: fc.constantFrom(...siteOverrideKinds), ...siteFields }, { requiredKeys: ['kind', 'number', 'by', 'atMs'] });
const siteOrder = fc.record({ kind: fc.constantFrom(...siteOrderKinds, ...siteVisitKinds), ...siteFields }, { requiredKeys: ['kind', 'number', 'by', 'atMs'] });

const observation: fc.Arbitrary<MicroVMObservation> = fc.record(
  {
    microvmId: uuid.map(microVMId),
    epoch,
    revision: count,
    generation: count,
    sequence: fc.integer({ min: 1, max: 2 ** 40 }),
    state: fc.constantFrom(...observedStates),
    observedAtMs: time,
    bootedAtMs: time,
    restarts: count,
    isCrashLooping: fc.boolean(),
    isRestartRequired: fc.boolean(),
    isSecretChanged: fc.constant(true as const),
    lastExit: fc.record(
      { reason: fc.constantFrom(...exitReasons), atMs: time, code: fc.integer({ min: 0, max: 255 }), signal: fc.constantFrom('SIGKILL', 'SIGTERM') },
      { requiredKeys: ['reason', 'atMs'] },
    ),
    problem,
    cpuCount: fc.integer({ min: 1, max: 255 }),
    memoryBytes: count,
    warnings: fc.array(fc.record({ code: fc.constantFrom('DHCP_UNAVAILABLE', 'LATER'), message: fc.string({ maxLength: 100 }) }), { minLength: 1, maxLength: 8 }),
    siteOverride,
    siteOrders: fc.array(siteOrder, { minLength: 1, maxLength: 16 }),
    siteOrdersLost: fc.integer({ min: 1, max: 1_000 }),
  },
  { requiredKeys: ['microvmId', 'epoch', 'revision', 'generation', 'sequence', 'state', 'observedAtMs', 'restarts', 'isCrashLooping', 'isRestartRequired'] },
);

const report: fc.Arbitrary<Report> = fc.record(
  {
    executionId: uuid.map(executionId),
    operationId: uuid.map(operationId),
    attempt: fc.integer({ min: 1, max: 1000 }),
    status: fc.constantFrom(...executionStatuses),
    startedAtMs: time,
    finishedAtMs: time,
    error: problem,
    isFinal: fc.boolean(),
  },
  { requiredKeys: ['executionId', 'operationId', 'attempt', 'status', 'startedAtMs', 'isFinal'] },
);

const host = hostId('00000000-0000-4000-8000-000000000001');

const operation: fc.Arbitrary<ModelOperation> = fc
  .record({ id: uuid.map(operationId), planId: uuid.map(planId), microvmId: uuid.map(microVMId), kind: fc.constantFrom(...operationKinds), epoch, revision: fc.integer({ min: 1, max: 1e9 }), generation: count, desired, startWithinMs: fc.option(count, { nil: undefined }) })
  .map(({ kind, desired: state, startWithinMs, ...rest }) => ({
    ...rest,
    kind,
    hostId: host,
    ...(kind === 'Delete' ? {} : { desired: state }),
    ...(startWithinMs === undefined ? {} : { startWithinMs }),
  }));

describe('edge codec', () => {
  it('gives back every desired state after a round trip over the wire bytes', () => {
    fc.assert(fc.property(desired, (value) => {
      expect(decodeDesired('d', DesiredMicroVM.decode(DesiredMicroVM.encode(encodeDesired(value)).finish()))).toEqual(value);
    }));
  });

  it('gives back every observation after a round trip over the wire bytes', () => {
    fc.assert(fc.property(observation, (value) => {
      expect(decodeObservation(Observation.decode(Observation.encode(encodeObservation(value)).finish()))).toEqual(value);
    }));
  });

  it('gives back every execution report after a round trip over the wire bytes', () => {
    fc.assert(fc.property(report, (value) => {
      expect(decodeExecution(ExecutionReport.decode(ExecutionReport.encode(encodeExecution(value)).finish()))).toEqual(value);
    }));
  });

  it('gives back every operation after a round trip over the wire bytes', () => {
    fc.assert(fc.property(operation, (value) => {
      expect(decodeOperation(Operation.decode(Operation.encode(encodeOperation(value)).finish()), host)).toEqual(value);
    }));
  });

  it('carries values of Secrets beside an operation, and never as part of it', () => {
    const [base] = fc.sample(operation, { numRuns: 1, seed: 1 });
    if (base === undefined) throw new Error('no sample');
    const value = { name: 'guest', key: 'user-data', reveal: () => Buffer.from('canary') };
    const message = Operation.decode(Operation.encode(encodeOperation(base, [value])).finish());
    expect(decodeSecretValues(message).map(({ name, key, reveal }) => [name, key, Buffer.from(reveal()).toString()])).toEqual([['guest', 'user-data', 'canary']]);
    expect(decodeOperation(message, host)).toEqual(base);
    expect(JSON.stringify([decodeOperation(message, host), decodeSecretValues(message)])).not.toMatch(/canary|[0-9]+,[0-9]+,[0-9]+/);
  });

  it.each([
    ['a key that is a path', { name: 'guest', key: '../x', value: Buffer.alloc(1) }, /secrets\[0\]\.key must be a key of a Secret/],
    ['no name', { name: '', key: 'k', value: Buffer.alloc(1) }, /secrets\[0\]\.name must not be empty/],
    ['a value that is too large', { name: 'guest', key: 'k', value: Buffer.alloc(65_537) }, /secrets\[0\]\.value must have at most 65536 bytes/],
  ])('refuses a Secret with %s', (_what, secret, message) => {
    expect(() => decodeSecretValues({ ...Operation.create(), secrets: [secret] })).toThrow(message);
  });

  it('names the field of an empty message of each kind', () => {
    expect(() => decodeDesired('desired', undefined)).toThrow(/desired is missing/);
    expect(() => decodeDesired('desired', DesiredMicroVM.create())).toThrow(/desired\.restart is missing/);
    expect(() => decodeObservation(Observation.create())).toThrow(/observation\.microvm_id must be/);
    expect(() => decodeExecution(ExecutionReport.create())).toThrow(/execution\.execution_id must be/);
    expect(() => decodeOperation(Operation.create(), host)).toThrow(/operation\.kind has the unknown value 0/);
    expect(() => decodeHostFacts('facts', HostFacts.create())).toThrow(/facts\.hypervisor is missing/);
  });

  it('refuses enum numbers of a newer version instead of passing them on', () => {
    const wire = encodeOperation({ id: operationId('00000000-0000-4000-8000-000000000002'), planId: planId('00000000-0000-4000-8000-000000000003'), microvmId: microVMId('00000000-0000-4000-8000-000000000004'), hostId: host, kind: 'Delete', epoch: makeEpoch(1, 1), revision: 1, generation: 1 });
    expect(() => decodeOperation({ ...wire, kind: 99 as never }, host)).toThrow(/unknown value 99/);
  });

  it('refuses networks whose parts are no addresses, devices or ports', () => {
    const good: NetworkSpec = { name: 'lan', kind: 'nat', mac: '52:54:00:00:00:01', address: '10.0.0.5/24', gateway: '10.0.0.1', ports: [{ name: 'web', protocol: 'tcp', hostPort: 80, guestPort: 80 }] };
    const [base] = fc.sample(desired, { numRuns: 1, seed: 1 });
    if (base === undefined) throw new Error('no sample');
    const decode = (networks: readonly NetworkSpec[]) => () => decodeDesired('d', encodeDesired({ ...base, networks }));
    expect(decode([good])().networks).toEqual([good]);
    expect(decode([{ ...good, mac: '53:54:00:00:00:01' }])).toThrow(/d\.networks\[0\]\.mac must be a unicast/);
    expect(decode([{ ...good, address: '10.0.0.5' }])).toThrow(/address must be an address with a prefix/);
    expect(decode([{ ...good, gateway: '10.0.0.1; drop' }])).toThrow(/gateway must be an address/);
    expect(decode([{ ...good, bridgeName: 'br0 ' }])).toThrow(/bridge_name must be the name of a device/);
    expect(decode([{ ...good, bridgeName: 'a-name-of-sixteen' }])).toThrow(/at most 15/);
    expect(decode([{ ...good, ports: [{ name: 'web', protocol: 'tcp', hostPort: 0, guestPort: 80 }] }])).toThrow(/ports\[0\]\.host_port/);
    expect(decode(Array.from({ length: 9 }, () => good))).toThrow(/at most 8 items/);
  });

  it('gives back hardware, isolation and clock skew, and refuses what is longer than its bound', () => {
    const base = { hostName: 'h', machineId: 'm', bootId: 'b', kernel: '6', architecture: 'x86_64', cpuModel: 'c', cpuCount: 2, memoryBytes: 1024, hasKvm: true, agentVersion: '0.1.0', hypervisor: { kind: 'simulated' as const, version: '54.0.0', problem: '' } };
    const hardware = {
      cpuFlags: ['vmx', 'avx2'],
      numaNodes: [{ id: 0, cpus: '0-1', memoryBytes: 1024 }],
      hugepages: [{ pageBytes: 2 ** 21, total: 4, free: 1 }],
      disks: [{ name: 'sda', sizeBytes: 2 ** 40, isRotational: true }],
      nics: [{ name: 'eno1', mac: '52:54:00:00:00:01', speedMbps: 1000, driver: 'e1000e', isUp: true }],
      gpus: [{ address: '0000:01:00.0', vendor: '10de', device: '1eb8', driver: 'vfio-pci' }],
      stateTotalBytes: 2 ** 40,
      stateFreeBytes: 2 ** 39,
    };
    const isolation = { users: true, limits: ['memory'], cgroups: 'v2' as const, systemd: false, landlock: 'yes' as const, problems: ['one'] };
    const facts = { ...base, hardware, isolation, clockSkewMs: -20_000 };
    const wire = HostFacts.decode(HostFacts.encode(encodeHostFacts(facts)).finish());
    expect(decodeHostFacts('facts', wire)).toEqual(facts);
    expect(() => decodeHostFacts('facts', { ...wire, isolation: { ...isolation, landlock: 'maybe' } })).toThrow(/facts\.isolation\.landlock must be one of/);
    expect(() => decodeHostFacts('facts', { ...wire, hardware: { ...hardware, disks: Array.from({ length: 129 }, () => ({ name: 'sda', sizeBytes: 1, isRotational: false })) } })).toThrow(/at most 128/);
  });

  it('gives back host facts', () => {
    const facts = { hostName: 'h', machineId: 'm', bootId: 'b', kernel: '6', architecture: 'x86_64', cpuModel: 'c', cpuCount: 2, memoryBytes: 1024, hasKvm: true, agentVersion: '0.1.0', hypervisor: { kind: 'simulated' as const, version: '54.0.0', problem: '' } };
    expect(decodeHostFacts('facts', HostFacts.decode(HostFacts.encode(encodeHostFacts(facts)).finish()))).toEqual(facts);
  });
});

describe('epoch', () => {
  it('orders by incarnation, then by counter, and splits again', () => {
    expect(makeEpoch(2, 1)).toBeGreaterThan(makeEpoch(1, 2 ** 32 - 1));
    expect(splitEpoch(parseEpoch(makeEpoch(3, 7)))).toEqual({ incarnation: 3, counter: 7 });
    expect(() => parseEpoch(7)).toThrow(RangeError);
  });
});

describe('enrollment token', () => {
  const token = { endpoints: ['127.0.0.1:8443', '[::1]:8443'], pins: ['a'.repeat(64)], secret: 'x'.repeat(43) };

  it('survives a round trip with white space around it', () => {
    expect(parseEnrollmentToken(` ${encodeEnrollmentToken(token)}\n`)).toEqual(token);
  });

  it('is refused with a message that does not hold the text when it is altered', () => {
    for (const bad of ['', 'nkudo1.', 'nkudo1.!!!', encodeEnrollmentToken({ ...token, pins: ['zz'] }), encodeEnrollmentToken({ ...token, secret: 'short' }), encodeEnrollmentToken(token).slice(0, -9)]) {
      expect(() => parseEnrollmentToken(bad)).toThrow(expect.objectContaining({ code: 'TOKEN_MALFORMED', message: 'the text is not an enrollment token' }));
    }
  });
});
