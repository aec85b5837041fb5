/**
 * Between the messages of nkudo.edge.v1 and the model, in both directions. Total: every message
 * either becomes a model value or INVALID_REQUEST with the name of the field. Unknown enum numbers
 * are refused, never passed on.
 */
import {
  DesiredMicroVM as DesiredMessage,
  DesiredMicroVM_RunPolicy,
  DiskSpec as DiskMessage,
  ExecutionReport as ExecutionReportMessage,
  ExecutionReport_Status,
  HostFacts as HostFactsMessage,
  HardwareFacts as HardwareMessage,
  HypervisorFacts_Kind,
  IsolationFacts as IsolationMessage,
  ImagePolicy as ImagePolicyMessage,
  ManagedDisk as ManagedDiskMessage,
  LogStream_Source,
  NetworkSpec as NetworkMessage,
  NetworkSpec_Kind,
  NetworkSpec_MacvtapMode,
  OciImage as OciImageMessage,
  Observation as ObservationMessage,
  Observation_ExitReason,
  Observation_Readiness,
  Observation_State,
  Operation as OperationMessage,
  Operation_Kind,
  OperationReceipt_Disposition,
  PortForward_Protocol,
  type CloudInit as CloudInitMessage,
  Probe as ProbeMessage,
  Probe_Role,
  type SecretReference as SecretReferenceMessage,
  SiteOrder as SiteOrderMessage,
  SiteOrder_Kind,
  SiteOverride as SiteOverrideMessage,
  SiteOverride_Kind,
  type SiteOperator as SiteOperatorMessage,
  type KnownMicroVM as KnownMicroVMMessage,
} from '../gen/nkudo/edge/v1/edge.pb.ts';
import { hardwareMax, type HardwareFacts, type HostFacts, type HypervisorFacts, type IsolationFacts } from '../model/host.ts';
import { executionId, microVMId, operationId, planId, type HostId } from '../model/ids.ts';
import {
  hugepageSizes,
  memoryStepBytes,
  probeRoles,
  secretsMax,
  secretValueMax,
  type BootSource,
  type CloudInit,
  type DesiredMicroVM,
  type DiskSpec,
  type ExitReason,
  type ImagePolicy,
  type MacvtapMode,
  type ManagedDisk,
  type MicroVMObservation,
  type NetworkKind,
  type NetworkSpec,
  type ObservedState,
  type OciImage,
  type PortForward,
  type ProbeAction,
  type ProbeRole,
  type ProbeSpec,
  type ProbeSpecs,
  type ReadinessStatus,
  type RunPolicy,
  type SecretKey,
  type SecretReference,
  type SecretValue,
} from '../model/microvm.ts';
import { parseOciReference } from '../model/oci-reference.ts';
import type { ExecutionReport, ExecutionStatus, Operation, OperationKind } from '../model/plan.ts';
import { siteOrdersMax, siteUserMax, type SiteForce, type SiteOperator, type SiteOrder, type SiteOverride, type SiteOverrideKind } from '../model/site-orders.ts';
import { decodeOptionalTimestamp, decodeTimestamp, encodeOptionalTimestamp, encodeTimestamp } from './timestamp.ts';
import { atMost, enumMap, epoch, id, integer, invalid, present, text } from './validate.ts';

/** Longest path of a file on a host, as in the custom resource. */
const pathMax = 1024;
const cmdlineMax = 4096;
const messageMax = 1024;
const disksMax = 16;
const registriesMax = 32;
const urlMax = 2048;
const urlPattern = /^https?:\/\/[^\s]+$/;
const sha256Pattern = /^[0-9a-f]{64}$/;
/** As in the custom resource. */
const userDataMax = 32_768;
const networkDataMax = 16_384;
const sshKeysMax = 32;
const sshKeyMax = 2_048;
const secretKeyPattern = /^[-._a-zA-Z0-9]+$/;
const labelPattern = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/;
const networksMax = 8;
const portsMax = 32;
/** Longest name of a network device on Linux. */
const deviceNameMax = 15;
const warningsMax = 8;
const knownMax = 4096;

const runPolicyMap = enumMap<RunPolicy>({
  Always: DesiredMicroVM_RunPolicy.ALWAYS,
  RerunOnFailure: DesiredMicroVM_RunPolicy.RERUN_ON_FAILURE,
  Once: DesiredMicroVM_RunPolicy.ONCE,
  Manual: DesiredMicroVM_RunPolicy.MANUAL,
  Halted: DesiredMicroVM_RunPolicy.HALTED,
});

const macvtapModeMap = enumMap<MacvtapMode>({
  bridge: NetworkSpec_MacvtapMode.BRIDGE,
  private: NetworkSpec_MacvtapMode.PRIVATE,
  vepa: NetworkSpec_MacvtapMode.VEPA,
});
const networkKindMap = enumMap<NetworkKind>({
  nat: NetworkSpec_Kind.NAT,
  bridge: NetworkSpec_Kind.BRIDGE,
  mesh: NetworkSpec_Kind.MESH,
  macvtap: NetworkSpec_Kind.MACVTAP,
});

const protocolMap = enumMap<PortForward['protocol']>({
  tcp: PortForward_Protocol.TCP,
  udp: PortForward_Protocol.UDP,
});

const operationKindMap = enumMap<OperationKind>({
  Create: Operation_Kind.CREATE,
  Update: Operation_Kind.UPDATE,
  Start: Operation_Kind.START,
  Stop: Operation_Kind.STOP,
  Pause: Operation_Kind.PAUSE,
  Resume: Operation_Kind.RESUME,
  Restart: Operation_Kind.RESTART,
  Delete: Operation_Kind.DELETE,
});

const executionStatusMap = enumMap<ExecutionStatus>({
  Running: ExecutionReport_Status.RUNNING,
  Succeeded: ExecutionReport_Status.SUCCEEDED,
  Failed: ExecutionReport_Status.FAILED,
  Expired: ExecutionReport_Status.EXPIRED,
  Dropped: ExecutionReport_Status.DROPPED,
  OutcomeUnknown: ExecutionReport_Status.OUTCOME_UNKNOWN,
});

const stateMap = enumMap<ObservedState>({
  absent: Observation_State.ABSENT,
  preparing: Observation_State.PREPARING,
  booting: Observation_State.BOOTING,
  running: Observation_State.RUNNING,
  paused: Observation_State.PAUSED,
  stopping: Observation_State.STOPPING,
  stopped: Observation_State.STOPPED,
  backoff: Observation_State.BACKOFF,
  failed: Observation_State.FAILED,
  removing: Observation_State.REMOVING,
  unknown: Observation_State.UNKNOWN,
});

const exitReasonMap = enumMap<ExitReason>({
  GuestShutdown: Observation_ExitReason.GUEST_SHUTDOWN,
  GuestReboot: Observation_ExitReason.GUEST_REBOOT,
  GuestPanic: Observation_ExitReason.GUEST_PANIC,
  VMMCrash: Observation_ExitReason.VMM_CRASH,
  HostReboot: Observation_ExitReason.HOST_REBOOT,
  OOM: Observation_ExitReason.OOM,
  Operator: Observation_ExitReason.OPERATOR,
  Unhealthy: Observation_ExitReason.UNHEALTHY,
  Unknown: Observation_ExitReason.UNKNOWN,
});

const readinessMap = enumMap<ReadinessStatus>({
  pending: Observation_Readiness.PENDING,
  succeeded: Observation_Readiness.SUCCEEDED,
  failed: Observation_Readiness.FAILED,
  notProbed: Observation_Readiness.NOT_PROBED,
  impossible: Observation_Readiness.IMPOSSIBLE,
});

const probeRoleMap = enumMap<ProbeRole>({
  startup: Probe_Role.STARTUP,
  readiness: Probe_Role.READINESS,
  liveness: Probe_Role.LIVENESS,
});

const hypervisorKindMap = enumMap<HypervisorFacts['kind']>({
  'cloud-hypervisor': HypervisorFacts_Kind.CLOUD_HYPERVISOR,
  simulated: HypervisorFacts_Kind.SIMULATED,
  none: HypervisorFacts_Kind.NONE,
});

const siteOverrideKindMap = enumMap<SiteOverrideKind>({
  Stopped: SiteOverride_Kind.STOPPED,
  Held: SiteOverride_Kind.HELD,
  ForcedStart: SiteOverride_Kind.FORCED_START,
});

const siteOrderKindMap = enumMap<SiteOrder['kind']>({
  Stop: SiteOrder_Kind.STOP,
  Start: SiteOrder_Kind.START,
  Restart: SiteOrder_Kind.RESTART,
  Hold: SiteOrder_Kind.HOLD,
  Release: SiteOrder_Kind.RELEASE,
  OpenConsole: SiteOrder_Kind.OPEN_CONSOLE,
  ReadConsole: SiteOrder_Kind.READ_CONSOLE,
  TakeConsole: SiteOrder_Kind.TAKE_CONSOLE,
});

export type Disposition = 'Accepted' | 'Refused' | 'Dropped' | 'TooLate';

export const dispositionMap = enumMap<Disposition>({
  Accepted: OperationReceipt_Disposition.ACCEPTED,
  Refused: OperationReceipt_Disposition.REFUSED,
  Dropped: OperationReceipt_Disposition.DROPPED,
  TooLate: OperationReceipt_Disposition.TOO_LATE,
});

export const logSourceMap = enumMap<'serial' | 'vmm'>({
  serial: LogStream_Source.SERIAL,
  vmm: LogStream_Source.VMM,
});

export function encodeHostFacts(facts: HostFacts): HostFactsMessage {
  const { hypervisor, hardware, isolation, clockSkewMs, ...rest } = facts;
  return {
    ...rest,
    hypervisor: { ...hypervisor, kind: hypervisorKindMap.encode(hypervisor.kind) as HypervisorFacts_Kind },
    hardware: hardware === undefined ? undefined : encodeHardware(hardware),
    isolation: isolation === undefined ? undefined : { ...isolation, limits: [...isolation.limits], problems: [...isolation.problems] },
    clockSkewMs: clockSkewMs ?? 0,
  };
}

function encodeHardware(hardware: HardwareFacts): HardwareMessage {
  return {
    ...hardware,
    cpuFlags: hardware.cpuFlags.slice(0, hardwareMax.cpuFlags),
    numaNodes: hardware.numaNodes.slice(0, hardwareMax.numaNodes).map((node) => ({ ...node })),
    hugepages: hardware.hugepages.slice(0, hardwareMax.hugepages).map((pages) => ({ ...pages })),
    disks: hardware.disks.slice(0, hardwareMax.disks).map((disk) => ({ ...disk })),
    nics: hardware.nics.slice(0, hardwareMax.nics).map((nic) => ({ ...nic })),
    gpus: hardware.gpus.slice(0, hardwareMax.gpus).map((gpu) => ({ ...gpu })),
  };
}

/** @throws INVALID_REQUEST */
export function decodeHostFacts(field: string, message: HostFactsMessage | undefined): HostFacts {
  const facts = present(field, message);
  const hypervisor = present(`${field}.hypervisor`, facts.hypervisor);
  const short = (name: string, value: string): string => text(`${field}.${name}`, value, { max: 253, allowEmpty: true });
  return {
    hostName: short('host_name', facts.hostName),
    machineId: short('machine_id', facts.machineId),
    bootId: text(`${field}.boot_id`, facts.bootId, { max: 64 }),
    kernel: short('kernel', facts.kernel),
    architecture: short('architecture', facts.architecture),
    cpuModel: short('cpu_model', facts.cpuModel),
    cpuCount: integer(`${field}.cpu_count`, facts.cpuCount, 1, 65_536),
    memoryBytes: integer(`${field}.memory_bytes`, facts.memoryBytes, 1),
    hasKvm: facts.hasKvm,
    agentVersion: short('agent_version', facts.agentVersion),
    hypervisor: {
      kind: hypervisorKindMap.decode(`${field}.hypervisor.kind`, hypervisor.kind),
      version: short('hypervisor.version', hypervisor.version),
      problem: text(`${field}.hypervisor.problem`, hypervisor.problem, { max: messageMax, allowEmpty: true }),
    },
    ...(facts.hardware === undefined ? {} : { hardware: decodeHardware(`${field}.hardware`, facts.hardware) }),
    ...(facts.isolation === undefined ? {} : { isolation: decodeIsolation(`${field}.isolation`, facts.isolation) }),
    ...(facts.clockSkewMs === 0 ? {} : { clockSkewMs: integer(`${field}.clock_skew_ms`, facts.clockSkewMs, Number.MIN_SAFE_INTEGER) }),
  };
}

const nameMax = 64;

function decodeHardware(field: string, message: HardwareMessage): HardwareFacts {
  const name = (place: string, value: string): string => text(`${field}.${place}`, value, { max: nameMax, allowEmpty: true });
  const size = (place: string, value: number): number => integer(`${field}.${place}`, value, 0);
  return {
    cpuFlags: atMost(`${field}.cpu_flags`, message.cpuFlags, hardwareMax.cpuFlags).map((flag) => name('cpu_flags', flag)),
    numaNodes: atMost(`${field}.numa_nodes`, message.numaNodes, hardwareMax.numaNodes).map(({ id, cpus, memoryBytes }) => ({
      id: size('numa_nodes.id', id),
      cpus: text(`${field}.numa_nodes.cpus`, cpus, { max: messageMax, allowEmpty: true }),
      memoryBytes: size('numa_nodes.memory_bytes', memoryBytes),
    })),
    hugepages: atMost(`${field}.hugepages`, message.hugepages, hardwareMax.hugepages).map(({ pageBytes, total, free }) => ({ pageBytes: size('hugepages.page_bytes', pageBytes), total: size('hugepages.total', total), free: size('hugepages.free', free) })),
    disks: atMost(`${field}.disks`, message.disks, hardwareMax.disks).map((disk) => ({ name: name('disks.name', disk.name), sizeBytes: size('disks.size_bytes', disk.sizeBytes), isRotational: disk.isRotational })),
    nics: atMost(`${field}.nics`, message.nics, hardwareMax.nics).map((nic) => ({ name: name('nics.name', nic.name), mac: name('nics.mac', nic.mac), speedMbps: size('nics.speed_mbps', nic.speedMbps), driver: name('nics.driver', nic.driver), isUp: nic.isUp })),
    gpus: atMost(`${field}.gpus`, message.gpus, hardwareMax.gpus).map((gpu) => ({ address: name('gpus.address', gpu.address), vendor: name('gpus.vendor', gpu.vendor), device: name('gpus.device', gpu.device), driver: name('gpus.driver', gpu.driver) })),
    stateTotalBytes: size('state_total_bytes', message.stateTotalBytes),
    stateFreeBytes: size('state_free_bytes', message.stateFreeBytes),
  };
}

const cgroupLayouts = ['v2', 'v1', 'hybrid', 'none'] as const;
const landlockWords = ['yes', 'no', 'unknown'] as const;
const isolationListMax = 16;

function decodeIsolation(field: string, message: IsolationMessage): IsolationFacts {
  return {
    users: message.users,
    limits: atMost(`${field}.limits`, message.limits, isolationListMax).map((limit) => text(`${field}.limits`, limit, { max: nameMax })),
    cgroups: oneOf(`${field}.cgroups`, message.cgroups, cgroupLayouts),
    systemd: message.systemd,
    landlock: oneOf(`${field}.landlock`, message.landlock, landlockWords),
    problems: atMost(`${field}.problems`, message.problems, isolationListMax).map((problem) => text(`${field}.problems`, problem, { max: messageMax })),
  };
}

function oneOf<Word extends string>(field: string, value: string, words: readonly Word[]): Word {
  const found = words.find((word) => word === value);
  if (found === undefined) throw invalid(field, `must be one of ${words.join(', ')}`);
  return found;
}

export interface KnownMicroVM {
  readonly microvmId: string;
  readonly epoch: number;
  readonly revision: number;
  readonly isLive: boolean;
  readonly isOrphan: boolean;
}

/** @throws INVALID_REQUEST */
export function decodeKnown(field: string, messages: readonly KnownMicroVMMessage[]): readonly KnownMicroVM[] {
  return atMost(field, messages, knownMax).map((message) => ({
    microvmId: id(`${field}.microvm_id`, microVMId, message.microvmId),
    epoch: message.isOrphan ? integer(`${field}.epoch`, message.epoch, 0) : epoch(`${field}.epoch`, message.epoch),
    revision: integer(`${field}.revision`, message.revision, 0),
    isLive: message.isLive,
    isOrphan: message.isOrphan,
  }));
}

function encodeBoot(boot: BootSource): DesiredMessage['boot'] {
  if (boot.kind === 'firmware') return { $case: 'firmware', value: { path: boot.path } };
  return { $case: 'kernel', value: { path: boot.path, cmdline: boot.cmdline, initramfsPath: boot.initramfsPath } };
}

function decodePath(field: string, value: string): string {
  text(field, value, { max: pathMax });
  if (!value.startsWith('/')) throw invalid(field, 'must be an absolute path');
  return value;
}

function decodeBoot(field: string, boot: DesiredMessage['boot']): BootSource {
  const source = present(field, boot);
  switch (source.$case) {
    case 'firmware':
      return { kind: 'firmware', path: decodePath(`${field}.firmware.path`, source.value.path) };
    case 'kernel': {
      const { path, cmdline, initramfsPath } = source.value;
      return {
        kind: 'kernel',
        path: decodePath(`${field}.kernel.path`, path),
        cmdline: text(`${field}.kernel.cmdline`, cmdline, { max: cmdlineMax, allowEmpty: true }),
        ...(initramfsPath === undefined ? {} : { initramfsPath: decodePath(`${field}.kernel.initramfs_path`, initramfsPath) }),
      };
    }
    default:
      throw invalid(field, 'is of an unknown kind');
  }
}

function encodeNetwork(network: NetworkSpec): NetworkMessage {
  const { name, kind, mac, address, gateway, bridgeName, vlan, parent, macvtapMode, ports } = network;
  return {
    name,
    kind: networkKindMap.encode(kind) as NetworkSpec_Kind,
    mac,
    address,
    gateway,
    bridgeName,
    vlan,
    parent,
    macvtapMode: macvtapMode === undefined ? NetworkSpec_MacvtapMode.UNSPECIFIED : (macvtapModeMap.encode(macvtapMode) as NetworkSpec_MacvtapMode),
    ports: ports.map((port) => ({ ...port, protocol: protocolMap.encode(port.protocol) as PortForward_Protocol })),
  };
}

const macPattern = /^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/;
const ipPattern = /^[0-9a-f.:]{2,45}$/;
const cidrPattern = /^[0-9a-f.:]{2,45}\/\d{1,3}$/;
const deviceNamePattern = /^[A-Za-z0-9_][A-Za-z0-9_.-]*$/;

function matching(field: string, value: string, pattern: RegExp, shape: string): string {
  if (!pattern.test(value)) throw invalid(field, `must be ${shape}`);
  return value;
}

function decodeNetwork(field: string, message: NetworkMessage): NetworkSpec {
  const { address, gateway, bridgeName, vlan, parent, macvtapMode } = message;
  return {
    name: text(`${field}.name`, message.name, { max: 63 }),
    kind: networkKindMap.decode(`${field}.kind`, message.kind),
    mac: matching(`${field}.mac`, message.mac, macPattern, 'a unicast hardware address in lower case'),
    ...(address === undefined ? {} : { address: matching(`${field}.address`, address, cidrPattern, 'an address with a prefix length') }),
    ...(gateway === undefined ? {} : { gateway: matching(`${field}.gateway`, gateway, ipPattern, 'an address') }),
    ...(bridgeName === undefined ? {} : { bridgeName: matching(`${field}.bridge_name`, text(`${field}.bridge_name`, bridgeName, { max: deviceNameMax }), deviceNamePattern, 'the name of a device') }),
    ...(vlan === undefined ? {} : { vlan: integer(`${field}.vlan`, vlan, 1, 4094) }),
    ...(parent === undefined ? {} : { parent: matching(`${field}.parent`, text(`${field}.parent`, parent, { max: deviceNameMax }), deviceNamePattern, 'the name of a device') }),
    ...(macvtapMode === NetworkSpec_MacvtapMode.UNSPECIFIED ? {} : { macvtapMode: macvtapModeMap.decode(`${field}.macvtap_mode`, macvtapMode) }),
    ports: atMost(`${field}.ports`, message.ports, portsMax).map((port, index) => ({
      name: text(`${field}.ports[${index}].name`, port.name, { max: 63 }),
      protocol: protocolMap.decode(`${field}.ports[${index}].protocol`, port.protocol),
      hostPort: integer(`${field}.ports[${index}].host_port`, port.hostPort, 1, 65_535),
      guestPort: integer(`${field}.ports[${index}].guest_port`, port.guestPort, 1, 65_535),
    })),
  };
}

function encodeDisk({ name, path, readOnly, managed, sizeBytes, rateLimit, bootIndex }: DiskSpec): DiskMessage {
  return {
    name,
    path,
    readOnly,
    sizeBytes,
    rateLimit: rateLimit === undefined ? undefined : { bytesPerSecond: rateLimit.bytesPerSecond, opsPerSecond: rateLimit.opsPerSecond },
    bootIndex,
    managed: managed === undefined ? undefined : encodeManaged(managed),
  };
}

function encodeManaged({ persistence, isRetained, image, oci, secretName }: ManagedDisk): ManagedDiskMessage {
  return { secretName, ephemeral: persistence === 'Ephemeral', retain: isRetained, image: image === undefined ? undefined : { ...image }, oci: oci === undefined ? undefined : { ...oci } };
}

/** A managed disk has no path: the host chooses it, and no message can point it elsewhere. */
function decodeDisk(field: string, disk: DiskMessage): DiskSpec {
  const name = text(`${field}.name`, disk.name, { max: 63 });
  const { managed, sizeBytes, readOnly } = disk;
  const attached = { readOnly, ...decodeAttachment(field, disk) };
  if (managed === undefined) return { name, path: decodePath(`${field}.path`, disk.path), ...attached };
  // It becomes the name of a file.
  matching(`${field}.name`, name, labelPattern, 'a DNS-1123 label');
  if (disk.path !== '') throw invalid(`${field}.path`, 'must be empty for a managed disk');
  const { image, oci } = managed;
  if (image !== undefined && oci !== undefined) throw invalid(`${field}.managed`, 'must have one image');
  if (image === undefined && oci === undefined && sizeBytes === undefined) throw invalid(`${field}.size_bytes`, 'must be there for a disk without an image');
  return {
    name,
    path: '',
    ...attached,
    ...(sizeBytes === undefined ? {} : { sizeBytes: integer(`${field}.size_bytes`, sizeBytes, 1) }),
    managed: {
      persistence: managed.ephemeral ? 'Ephemeral' : 'Persistent',
      isRetained: managed.retain,
      ...(image === undefined
        ? {}
        : {
            image: {
              url: matching(`${field}.managed.image.url`, text(`${field}.managed.image.url`, image.url, { max: urlMax }), urlPattern, 'an http or https URL'),
              sha256: matching(`${field}.managed.image.sha256`, image.sha256, sha256Pattern, 'a SHA-256 in hexadecimal'),
            },
          }),
      ...(oci === undefined ? {} : { oci: decodeOciImage(`${field}.managed.oci`, oci) }),
      ...(managed.secretName === undefined ? {} : { secretName: text(`${field}.managed.secret_name`, managed.secretName, { max: 253 }) }),
    },
  };
}

/** Both names become part of a URL. */
function decodeOciImage(field: string, { registry, repository, sha256 }: OciImageMessage): OciImage {
  const parsed = parseOciReference(`${text(`${field}.registry`, registry, { max: 255 })}/${text(`${field}.repository`, repository, { max: 255 })}`);
  if (parsed?.registry !== registry || parsed.repository !== repository) throw invalid(field, 'must be a registry and a repository');
  return { registry, repository, sha256: matching(`${field}.sha256`, sha256, sha256Pattern, 'a SHA-256 in hexadecimal') };
}

function decodeAttachment(field: string, { rateLimit, bootIndex }: DiskMessage): Pick<DiskSpec, 'rateLimit' | 'bootIndex'> {
  const rate = (name: string, value: number | undefined): number | undefined => (value === undefined ? undefined : integer(`${field}.rate_limit.${name}`, value, 1));
  const [bytesPerSecond, opsPerSecond] = [rate('bytes_per_second', rateLimit?.bytesPerSecond), rate('ops_per_second', rateLimit?.opsPerSecond)];
  return {
    ...(rateLimit === undefined ? {} : { rateLimit: { ...(bytesPerSecond === undefined ? {} : { bytesPerSecond }), ...(opsPerSecond === undefined ? {} : { opsPerSecond }) } }),
    ...(bootIndex === undefined ? {} : { bootIndex: integer(`${field}.boot_index`, bootIndex, 0, 255) }),
  };
}

function decodeSizes(field: string, { cpuCount, cpuMax, memoryBytes, memoryMaxBytes, memoryShared, memoryHugepageBytes }: DesiredMessage): Pick<DesiredMicroVM, 'cpuMax' | 'memoryMaxBytes' | 'memoryShared' | 'memoryHugepageBytes'> {
  if (memoryMaxBytes !== undefined && (memoryMaxBytes - memoryBytes) % memoryStepBytes !== 0) throw invalid(`${field}.memory_max_bytes`, 'must be a multiple of 128 MiB above memory_bytes');
  if (memoryHugepageBytes !== undefined && !hugepageSizes.includes(memoryHugepageBytes)) throw invalid(`${field}.memory_hugepage_bytes`, 'must be 2 MiB or 1 GiB');
  return {
    ...(cpuMax === undefined ? {} : { cpuMax: integer(`${field}.cpu_max`, cpuMax, cpuCount, 255) }),
    ...(memoryMaxBytes === undefined ? {} : { memoryMaxBytes: integer(`${field}.memory_max_bytes`, memoryMaxBytes, memoryBytes) }),
    ...(memoryShared ? { memoryShared: true as const } : {}),
    ...(memoryHugepageBytes === undefined ? {} : { memoryHugepageBytes }),
  };
}

function decodeImagePolicy(field: string, { bytesPerSecond, allowedRegistries }: ImagePolicyMessage): ImagePolicy {
  return {
    ...(bytesPerSecond === undefined ? {} : { bytesPerSecond: integer(`${field}.bytes_per_second`, bytesPerSecond, 1) }),
    allowedRegistries: atMost(`${field}.allowed_registries`, allowedRegistries, registriesMax).map((registry, index) => text(`${field}.allowed_registries[${index}]`, registry, { max: 253 })),
  };
}

/** Both become part of what a host keeps, so neither may be anything but a name. */
function decodeSecretKey(field: string, { name, key }: SecretKey): SecretKey {
  return {
    name: text(`${field}.name`, name, { max: 253 }),
    key: matching(`${field}.key`, text(`${field}.key`, key, { max: 253 }), secretKeyPattern, 'a key of a Secret'),
  };
}

function encodeCloudInit({ hostName, userData, userDataSecret, networkData, sshAuthorizedKeys }: CloudInit): CloudInitMessage {
  return { hostName, userData, userDataSecret: userDataSecret === undefined ? undefined : { ...userDataSecret }, networkData, sshAuthorizedKeys: [...sshAuthorizedKeys] };
}

function decodeCloudInit(field: string, { hostName, userData, userDataSecret, networkData, sshAuthorizedKeys }: CloudInitMessage): CloudInit {
  return {
    hostName: matching(`${field}.host_name`, text(`${field}.host_name`, hostName, { max: 63 }), labelPattern, 'a DNS-1123 label'),
    ...(userData === undefined ? {} : { userData: text(`${field}.user_data`, userData, { max: userDataMax, allowEmpty: true }) }),
    ...(userDataSecret === undefined ? {} : { userDataSecret: decodeSecretKey(`${field}.user_data_secret`, userDataSecret) }),
    ...(networkData === undefined ? {} : { networkData: text(`${field}.network_data`, networkData, { max: networkDataMax, allowEmpty: true }) }),
    sshAuthorizedKeys: atMost(`${field}.ssh_authorized_keys`, sshAuthorizedKeys, sshKeysMax).map((key, index) => text(`${field}.ssh_authorized_keys[${index}]`, key, { max: sshKeyMax })),
  };
}

function decodeSecretReference(field: string, message: SecretReferenceMessage): SecretReference {
  return { ...decodeSecretKey(field, message), resourceVersion: text(`${field}.resource_version`, message.resourceVersion, { max: 64 }) };
}

/** The values that came with an operation. @throws INVALID_REQUEST, without a value in its text */
export function decodeSecretValues(message: OperationMessage): readonly SecretValue[] {
  return atMost('operation.secrets', message.secrets, secretsMax).map(({ name, key, value }, index) => {
    const field = `operation.secrets[${index}]`;
    if (value.byteLength > secretValueMax) throw invalid(`${field}.value`, `must have at most ${secretValueMax} bytes`);
    return { ...decodeSecretKey(field, { name, key }), reveal: () => value };
  });
}

function encodeProbe(role: ProbeRole, { action, ...rest }: ProbeSpec): ProbeMessage {
  return { ...rest, role: probeRoleMap.encode(role) as Probe_Role, action: encodeProbeAction(action) };
}

function encodeProbeAction(action: ProbeAction): ProbeMessage['action'] {
  switch (action.kind) {
    case 'tcp':
      return { $case: 'tcp', value: { port: action.port } };
    case 'http':
      return { $case: 'http', value: { port: action.port, path: action.path, tls: action.isTls } };
    case 'console':
      return { $case: 'console', value: { contains: action.contains } };
    case 'vsock':
      return { $case: 'vsock', value: { port: action.port } };
  }
}

const probePathPattern = /^\/[!-~]*$/;
const consoleTextPattern = /^[ -~]+$/;
/** The highest is the wildcard of vsock addresses. */
const vsockNumberMax = 4_294_967_294;
/** 0 to 2 are the hypervisor's, the loopback's and the host's. */
const vsockCidMin = 3;
const probePathMax = 512;
const consoleTextMax = 256;
const thresholdMax = 100;
/** Far above every bound of the custom resource; timers of a host stay below 2^31 milliseconds. */
const probeTimeMax = 86_400_000;

function decodeProbeAction(field: string, action: ProbeMessage['action']): ProbeAction {
  const given = present(field, action);
  switch (given.$case) {
    case 'tcp':
      return { kind: 'tcp', port: integer(`${field}.tcp.port`, given.value.port, 1, 65_535) };
    case 'http': {
      const { port, path, tls } = given.value;
      return { kind: 'http', port: integer(`${field}.http.port`, port, 1, 65_535), path: matching(`${field}.http.path`, text(`${field}.http.path`, path, { max: probePathMax }), probePathPattern, 'a path without blanks'), isTls: tls };
    }
    case 'console': {
      const { contains } = given.value;
      return { kind: 'console', contains: matching(`${field}.console.contains`, text(`${field}.console.contains`, contains, { max: consoleTextMax }), consoleTextPattern, 'printable ASCII') };
    }
    case 'vsock':
      return { kind: 'vsock', port: integer(`${field}.vsock.port`, given.value.port, 1, vsockNumberMax) };
    default:
      throw invalid(field, 'is of an unknown kind');
  }
}

function decodeProbes(field: string, messages: readonly ProbeMessage[]): ProbeSpecs {
  const probes: { [Role in ProbeRole]?: ProbeSpec } = {};
  for (const [index, message] of atMost(field, messages, probeRoles.length).entries()) {
    const at = `${field}[${index}]`;
    const role = probeRoleMap.decode(`${at}.role`, message.role);
    if (probes[role] !== undefined) throw invalid(`${at}.role`, 'is there twice');
    probes[role] = {
      action: decodeProbeAction(`${at}.action`, message.action),
      initialDelayMs: integer(`${at}.initial_delay_ms`, message.initialDelayMs, 0, probeTimeMax),
      periodMs: integer(`${at}.period_ms`, message.periodMs, 1, probeTimeMax),
      timeoutMs: integer(`${at}.timeout_ms`, message.timeoutMs, 1, probeTimeMax),
      successThreshold: integer(`${at}.success_threshold`, message.successThreshold, 1, thresholdMax),
      failureThreshold: integer(`${at}.failure_threshold`, message.failureThreshold, 1, thresholdMax),
    };
  }
  return probes;
}

export function encodeDesired(desired: DesiredMicroVM): DesiredMessage {
  const { boot, runPolicy, disks, networks, restart, lease, images, secrets, cloudInit, overruledSiteOrder, memoryShared, vsock, probes, serialInteractive, ...rest } = desired;
  return {
    ...rest,
    cloudInit: cloudInit === undefined ? undefined : encodeCloudInit(cloudInit),
    memoryShared: memoryShared === true,
    vsock: vsock === undefined ? undefined : { ...vsock },
    probes: probeRoles.flatMap((role) => (probes?.[role] === undefined ? [] : [encodeProbe(role, probes[role])])),
    serialInteractive: serialInteractive === true,
    secrets: (secrets ?? []).map((reference) => ({ ...reference })),
    overruledSiteOrder: overruledSiteOrder ?? 0,
    lease: lease === undefined ? undefined : { ...lease },
    restart: { ...restart },
    disks: disks.map(encodeDisk),
    images: images === undefined ? undefined : { bytesPerSecond: images.bytesPerSecond, allowedRegistries: [...images.allowedRegistries] },
    networks: (networks ?? []).map(encodeNetwork),
    boot: encodeBoot(boot),
    runPolicy: runPolicyMap.encode(runPolicy) as DesiredMicroVM_RunPolicy,
  };
}

/** @throws INVALID_REQUEST */
export function decodeDesired(field: string, message: DesiredMessage | undefined): DesiredMicroVM {
  const desired = present(field, message);
  const restart = present(`${field}.restart`, desired.restart);
  return {
    name: text(`${field}.name`, desired.name, { max: 253 }),
    namespace: text(`${field}.namespace`, desired.namespace, { max: 63 }),
    runPolicy: runPolicyMap.decode(`${field}.run_policy`, desired.runPolicy),
    paused: desired.paused,
    restartNonce: integer(`${field}.restart_nonce`, desired.restartNonce, 0),
    restart: {
      initialBackoffMs: integer(`${field}.restart.initial_backoff_ms`, restart.initialBackoffMs, 0),
      maxBackoffMs: integer(`${field}.restart.max_backoff_ms`, restart.maxBackoffMs, 0),
      maxRetries: integer(`${field}.restart.max_retries`, restart.maxRetries, 0),
      windowMs: integer(`${field}.restart.window_ms`, restart.windowMs, 0),
    },
    cpuCount: integer(`${field}.cpu_count`, desired.cpuCount, 1, 255),
    memoryBytes: integer(`${field}.memory_bytes`, desired.memoryBytes, 4096),
    boot: decodeBoot(`${field}.boot`, desired.boot),
    disks: atMost(`${field}.disks`, desired.disks, disksMax).map((disk, index) => decodeDisk(`${field}.disks[${index}]`, disk)),
    ...(desired.networks.length === 0
      ? {}
      : { networks: atMost(`${field}.networks`, desired.networks, networksMax).map((network, index) => decodeNetwork(`${field}.networks[${index}]`, network)) }),
    serialLog: desired.serialLog,
    ...(desired.serialInteractive ? { serialInteractive: true } : {}),
    ...(desired.vsock === undefined ? {} : { vsock: { cid: integer(`${field}.vsock.cid`, desired.vsock.cid, vsockCidMin, vsockNumberMax) } }),
    ...(desired.probes.length === 0 ? {} : { probes: decodeProbes(`${field}.probes`, desired.probes) }),
    terminationGracePeriodMs: integer(`${field}.termination_grace_period_ms`, desired.terminationGracePeriodMs, 0),
    ...decodeSizes(field, desired),
    ...(desired.images === undefined ? {} : { images: decodeImagePolicy(`${field}.images`, desired.images) }),
    ...(desired.cloudInit === undefined ? {} : { cloudInit: decodeCloudInit(`${field}.cloud_init`, desired.cloudInit) }),
    ...(desired.secrets.length === 0 ? {} : { secrets: atMost(`${field}.secrets`, desired.secrets, secretsMax).map((reference, index) => decodeSecretReference(`${field}.secrets[${index}]`, reference)) }),
    ...(desired.lease === undefined ? {} : { lease: { stopOnHostAfterMs: integer(`${field}.lease.stop_on_host_after_ms`, desired.lease.stopOnHostAfterMs, 1) } }),
    ...(desired.overruledSiteOrder === 0 ? {} : { overruledSiteOrder: integer(`${field}.overruled_site_order`, desired.overruledSiteOrder, 1) }),
  };
}

/** @param secrets revealed here, on the way to the stream of the one host, and nowhere else */
export function encodeOperation(operation: Operation, secrets: readonly SecretValue[] = []): OperationMessage {
  return {
    secrets: secrets.map(({ name, key, reveal }) => ({ name, key, value: Buffer.from(reveal()) })),
    operationId: operation.id,
    planId: operation.planId,
    microvmId: operation.microvmId,
    kind: operationKindMap.encode(operation.kind) as Operation_Kind,
    epoch: operation.epoch,
    revision: operation.revision,
    generation: operation.generation,
    desired: operation.desired === undefined ? undefined : encodeDesired(operation.desired),
    startWithinMs: operation.startWithinMs,
  };
}

/** The host that decodes is the host that the operation is for. @throws INVALID_REQUEST */
export function decodeOperation(message: OperationMessage, hostId: HostId): Operation {
  const kind = operationKindMap.decode('operation.kind', message.kind);
  if (kind !== 'Delete' && message.desired === undefined) throw invalid('operation.desired', 'is missing');
  return {
    id: id('operation.operation_id', operationId, message.operationId),
    planId: id('operation.plan_id', planId, message.planId),
    microvmId: id('operation.microvm_id', microVMId, message.microvmId),
    hostId,
    kind,
    epoch: epoch('operation.epoch', message.epoch),
    revision: integer('operation.revision', message.revision, 1),
    generation: integer('operation.generation', message.generation, 0),
    ...(kind === 'Delete' ? {} : { desired: decodeDesired('operation.desired', message.desired) }),
    ...(message.startWithinMs === undefined ? {} : { startWithinMs: integer('operation.start_within_ms', message.startWithinMs, 0) }),
  };
}

export function encodeExecution(report: ExecutionReport): ExecutionReportMessage {
  return {
    executionId: report.executionId,
    operationId: report.operationId,
    attempt: report.attempt,
    status: executionStatusMap.encode(report.status) as ExecutionReport_Status,
    startedAt: encodeTimestamp(report.startedAtMs),
    finishedAt: encodeOptionalTimestamp(report.finishedAtMs),
    errorCode: report.error?.code ?? '',
    errorMessage: report.error?.message.slice(0, messageMax) ?? '',
    isFinal: report.isFinal,
  };
}

/** @throws INVALID_REQUEST */
export function decodeExecution(message: ExecutionReportMessage): ExecutionReport {
  const finishedAtMs = decodeOptionalTimestamp('execution.finished_at', message.finishedAt);
  return {
    executionId: id('execution.execution_id', executionId, message.executionId),
    operationId: id('execution.operation_id', operationId, message.operationId),
    attempt: integer('execution.attempt', message.attempt, 1),
    status: executionStatusMap.decode('execution.status', message.status),
    startedAtMs: decodeTimestamp('execution.started_at', message.startedAt),
    ...(finishedAtMs === undefined ? {} : { finishedAtMs }),
    ...(message.errorCode === ''
      ? {}
      : { error: { code: text('execution.error_code', message.errorCode, { max: 64 }), message: text('execution.error_message', message.errorMessage, { max: messageMax, allowEmpty: true }) } }),
    isFinal: message.isFinal,
  };
}

export function encodeObservation(seen: MicroVMObservation): ObservationMessage {
  const exit = seen.lastExit;
  return {
    microvmId: seen.microvmId,
    epoch: seen.epoch,
    revision: seen.revision,
    generation: seen.generation,
    sequence: seen.sequence,
    state: stateMap.encode(seen.state) as Observation_State,
    observedAt: encodeTimestamp(seen.observedAtMs),
    bootedAt: encodeOptionalTimestamp(seen.bootedAtMs),
    restarts: seen.restarts,
    isCrashLooping: seen.isCrashLooping,
    isRestartRequired: seen.isRestartRequired,
    isSecretChanged: seen.isSecretChanged === true,
    lastExitReason: exit === undefined ? Observation_ExitReason.UNSPECIFIED : (exitReasonMap.encode(exit.reason) as Observation_ExitReason),
    lastExitAt: encodeOptionalTimestamp(exit?.atMs),
    lastExitCode: exit?.code,
    lastExitSignal: exit?.signal ?? '',
    problemCode: seen.problem?.code ?? '',
    problemMessage: seen.problem?.message.slice(0, messageMax) ?? '',
    cpuCount: seen.cpuCount,
    memoryBytes: seen.memoryBytes,
    readiness: seen.readiness === undefined ? Observation_Readiness.UNSPECIFIED : (readinessMap.encode(seen.readiness.status) as Observation_Readiness),
    readinessMessage: seen.readiness?.message.slice(0, messageMax) ?? '',
    warnings: (seen.warnings ?? []).slice(0, warningsMax).map(({ code, message }) => ({ code, message: message.slice(0, messageMax) })),
    siteOverride: seen.siteOverride === undefined ? undefined : encodeSiteOverride(seen.siteOverride),
    siteOrders: (seen.siteOrders ?? []).slice(-siteOrdersMax).map(encodeSiteOrder),
    siteOrdersLost: seen.siteOrdersLost ?? 0,
  };
}

function encodeSiteOverride({ kind, number, by, atMs, acceptsTwoCopies, isAgainstSpec }: SiteOverride): SiteOverrideMessage {
  return {
    kind: siteOverrideKindMap.encode(kind) as SiteOverride_Kind,
    orderNumber: number,
    by: { ...by },
    at: encodeTimestamp(atMs),
    acceptsTwoCopies: acceptsTwoCopies === true,
    againstSpec: isAgainstSpec === true,
  };
}

function encodeSiteOrder({ kind, number, by, atMs, acceptsTwoCopies, isAgainstSpec }: SiteOrder): SiteOrderMessage {
  return { kind: siteOrderKindMap.encode(kind) as SiteOrder_Kind, number, by: { ...by }, at: encodeTimestamp(atMs), acceptsTwoCopies: acceptsTwoCopies === true, againstSpec: isAgainstSpec === true };
}

function decodeSiteOperator(field: string, message: SiteOperatorMessage | undefined): SiteOperator {
  const { user, uid } = present(field, message);
  return { user: text(`${field}.user`, user, { max: siteUserMax }), uid: integer(`${field}.uid`, uid, 0, 2 ** 32 - 1) };
}

function decodeForce({ acceptsTwoCopies, againstSpec }: { readonly acceptsTwoCopies: boolean; readonly againstSpec: boolean }): SiteForce {
  return { ...(acceptsTwoCopies ? { acceptsTwoCopies: true } : {}), ...(againstSpec ? { isAgainstSpec: true } : {}) };
}

function decodeSiteOverride(field: string, message: SiteOverrideMessage): SiteOverride {
  return {
    kind: siteOverrideKindMap.decode(`${field}.kind`, message.kind),
    number: integer(`${field}.order_number`, message.orderNumber, 1),
    by: decodeSiteOperator(`${field}.by`, message.by),
    atMs: decodeTimestamp(`${field}.at`, message.at),
    ...decodeForce(message),
  };
}

function decodeSiteOrder(field: string, message: SiteOrderMessage): SiteOrder {
  return {
    number: integer(`${field}.number`, message.number, 1),
    kind: siteOrderKindMap.decode(`${field}.kind`, message.kind),
    by: decodeSiteOperator(`${field}.by`, message.by),
    atMs: decodeTimestamp(`${field}.at`, message.at),
    ...decodeForce(message),
  };
}

function decodeLastExit(message: ObservationMessage): MicroVMObservation['lastExit'] {
  if (message.lastExitReason === Observation_ExitReason.UNSPECIFIED) return undefined;
  return {
    reason: exitReasonMap.decode('observation.last_exit_reason', message.lastExitReason),
    atMs: decodeTimestamp('observation.last_exit_at', message.lastExitAt),
    ...(message.lastExitCode === undefined ? {} : { code: message.lastExitCode }),
    ...(message.lastExitSignal === '' ? {} : { signal: text('observation.last_exit_signal', message.lastExitSignal, { max: 16 }) }),
  };
}

/** @throws INVALID_REQUEST */
export function decodeObservation(message: ObservationMessage): MicroVMObservation {
  const bootedAtMs = decodeOptionalTimestamp('observation.booted_at', message.bootedAt);
  const lastExit = decodeLastExit(message);
  return {
    microvmId: id('observation.microvm_id', microVMId, message.microvmId),
    epoch: epoch('observation.epoch', message.epoch),
    revision: integer('observation.revision', message.revision, 0),
    generation: integer('observation.generation', message.generation, 0),
    sequence: integer('observation.sequence', message.sequence, 1),
    state: stateMap.decode('observation.state', message.state),
    observedAtMs: decodeTimestamp('observation.observed_at', message.observedAt),
    ...(bootedAtMs === undefined ? {} : { bootedAtMs }),
    restarts: integer('observation.restarts', message.restarts, 0),
    isCrashLooping: message.isCrashLooping,
    isRestartRequired: message.isRestartRequired,
    ...(message.isSecretChanged ? { isSecretChanged: true } : {}),
    ...(lastExit === undefined ? {} : { lastExit }),
    ...(message.problemCode === ''
      ? {}
      : { problem: { code: text('observation.problem_code', message.problemCode, { max: 64 }), message: text('observation.problem_message', message.problemMessage, { max: messageMax, allowEmpty: true }) } }),
    ...(message.cpuCount === undefined ? {} : { cpuCount: integer('observation.cpu_count', message.cpuCount, 1, 255) }),
    ...(message.memoryBytes === undefined ? {} : { memoryBytes: integer('observation.memory_bytes', message.memoryBytes, 0) }),
    ...(message.warnings.length === 0
      ? {}
      : {
          warnings: atMost('observation.warnings', message.warnings, warningsMax).map((warning) => ({
            code: text('observation.warnings.code', warning.code, { max: 64 }),
            message: text('observation.warnings.message', warning.message, { max: messageMax, allowEmpty: true }),
          })),
        }),
    ...(message.readiness === Observation_Readiness.UNSPECIFIED
      ? {}
      : {
          readiness: {
            status: readinessMap.decode('observation.readiness', message.readiness),
            message: text('observation.readiness_message', message.readinessMessage, { max: messageMax, allowEmpty: true }),
          },
        }),
    ...(message.siteOverride === undefined ? {} : { siteOverride: decodeSiteOverride('observation.site_override', message.siteOverride) }),
    ...(message.siteOrders.length === 0 ? {} : { siteOrders: atMost('observation.site_orders', message.siteOrders, siteOrdersMax).map((order) => decodeSiteOrder('observation.site_orders', order)) }),
    ...(message.siteOrdersLost === 0 ? {} : { siteOrdersLost: integer('observation.site_orders_lost', message.siteOrdersLost, 1) }),
  };
}
