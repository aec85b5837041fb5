/**
 * Turns the spec of a MicroVM object into the neutral desired state that plans, the wire and hosts speak.
 * The CRD's bounds were checked by the API server; what it can't see, and an object stored under older rules,
 * becomes a problem with a code, never a guess.
 *
 * Invariant: pure and total; equal specs give equal desired states.
 */
import type { ErrorCode } from '#api/model/error-codes.ts';
import { microVMId } from '#api/model/ids.ts';
import { deriveMac } from '#api/model/mac.ts';
import { deriveVsockCid } from '#api/model/vsock-cid.ts';
import { memoryStepBytes, probeRoles, secretsMax, type BootSource, type CloudInit, type DesiredMicroVM, type DiskSpec, type ImagePolicy, type NetworkRequest, type OciImage, type ProbeAction, type ProbeSpec, type ProbeSpecs, type RestartSpec } from '#api/model/microvm.ts';
import { parseOciReference } from '#api/model/oci-reference.ts';
import type { MicroVM, MicroVMDisk, MicroVMNetwork, MicroVMSpec } from '#crds/gen/microvm.ts';
import type { MicroVMClass } from '#crds/gen/microvmclass.ts';
import type { Site } from '#crds/gen/site.ts';
import { parseDurationMs, parseWholeQuantity } from '#crds/scalar-values.ts';
import { secretKeysOf } from './secret-keys.ts';

/** The schema of all three roles is the same. */
type MicroVMProbe = NonNullable<NonNullable<MicroVMSpec['probes']>['readiness']>;

export interface SpecProblem {
  readonly code: Extract<ErrorCode, 'CLASS_NOT_FOUND' | 'SPEC_REFUSED'>;
  readonly message: string;
}

export type DerivedMicroVM =
  /** The desired state is without networks: their addresses and ports are given where the microVM is bound. */
  | { readonly ok: true; readonly desired: DesiredMicroVM; readonly networks: readonly NetworkRequest[] }
  | { readonly ok: false; readonly problem: SpecProblem };

/** Defaults as in crds/v1alpha1/microvm.yaml; the API server fills them in, and an older object may lack them. */
const defaults = {
  restart: { initialBackoff: '1s', maxBackoff: '5m', maxRetries: 5, window: '10m' },
  terminationGracePeriod: '30s',
  probe: { initialDelay: '0s', period: '10s', timeout: '1s', successThreshold: 1, failureThreshold: 3 },
} as const;

class Refusal extends Error {
  readonly problem: SpecProblem;
  constructor(problem: SpecProblem) {
    super(problem.message);
    this.problem = problem;
  }
}

/** Sizes that the microVM takes where it writes none itself. */
export type ClassSizes = Pick<MicroVMClass['spec'], 'cpu' | 'memory'>;

/** What the Site says of images. */
export type SiteImages = NonNullable<Site['spec']>['images'];

/**
 * @param sizes of the class that spec.className names; null when there is no such class
 * @param images of the Site; only a microVM with an image is told of it
 */
export function deriveDesired(microvm: Pick<MicroVM, 'metadata' | 'spec'>, sizes: ClassSizes | null = null, images?: SiteImages): DerivedMicroVM {
  try {
    const derived = derive(microvm, sizes);
    const hasImage = derived.disks.some(({ managed }) => managed?.image !== undefined || managed?.oci !== undefined);
    const desired = hasImage && images !== undefined ? { ...derived, images: deriveImagePolicy(images) } : derived;
    const { metadata, spec } = microvm;
    const secrets = secretKeysOf(spec).length;
    if (secrets > secretsMax) throw refused(`it needs ${secrets} values of Secrets, and a host takes ${secretsMax}: let disks share a Secret`);
    return { ok: true, desired, networks: (spec.networks ?? []).map((network) => deriveNetwork(network, metadata.uid)) };
  } catch (error) {
    if (error instanceof Refusal) return { ok: false, problem: error.problem };
    throw error;
  }
}

function derive({ metadata, spec }: Pick<MicroVM, 'metadata' | 'spec'>, sizes: ClassSizes | null): DesiredMicroVM {
  if (spec.className !== undefined && sizes === null) {
    throw new Refusal({ code: 'CLASS_NOT_FOUND', message: `there is no MicroVMClass ${spec.className} in this namespace; make it, or write cpu.count and memory.size and remove className` });
  }
  const cpu = spec.cpu ?? sizes?.cpu;
  const memory = spec.memory ?? sizes?.memory;
  if (cpu === undefined) throw refused('cpu.count is missing');
  if (memory === undefined) throw refused('memory.size is missing');
  return {
    name: metadata.name,
    namespace: metadata.namespace,
    runPolicy: spec.runPolicy ?? 'Always',
    paused: spec.paused ?? false,
    restartNonce: spec.restartNonce ?? 0,
    restart: deriveRestart(spec),
    ...deriveSizes(spec, cpu.count, bytes('memory.size', memory.size)),
    boot: deriveBoot(spec),
    disks: (spec.disks ?? []).map(deriveDisk),
    serialLog: (spec.console?.serial ?? 'Log') !== 'Off',
    ...(spec.console?.serial === 'Interactive' ? { serialInteractive: true } : {}),
    ...(spec.vsock === undefined ? {} : { vsock: { cid: spec.vsock.cid ?? deriveVsockCid(microVMId(metadata.uid)) } }),
    ...deriveProbes(spec),
    ...(spec.cloudInit === undefined ? {} : { cloudInit: deriveCloudInit(spec.cloudInit, metadata.name) }),
    terminationGracePeriodMs: duration('terminationGracePeriod', spec.terminationGracePeriod ?? defaults.terminationGracePeriod),
  };
}

/** Rules of the CRD hold here as well, for an object stored under older ones. */
function deriveSizes({ cpu, memory }: Pick<MicroVMSpec, 'cpu' | 'memory'>, cpuCount: number, memoryBytes: number): Pick<DesiredMicroVM, 'cpuCount' | 'cpuMax' | 'memoryBytes' | 'memoryMaxBytes' | 'memoryShared' | 'memoryHugepageBytes'> {
  const { max, shared, hugepages } = memory ?? {};
  const memoryMaxBytes = max === undefined ? undefined : bytes('memory.max', max);
  if (cpu?.max !== undefined && cpu.max < cpuCount) throw refused('cpu.max is smaller than cpu.count');
  if (memoryMaxBytes !== undefined && (memoryMaxBytes < memoryBytes || (memoryMaxBytes - memoryBytes) % memoryStepBytes !== 0)) throw refused('memory.max is no multiple of 128Mi above memory.size');
  return {
    cpuCount,
    memoryBytes,
    ...(cpu?.max === undefined ? {} : { cpuMax: cpu.max }),
    ...(memoryMaxBytes === undefined ? {} : { memoryMaxBytes }),
    ...(shared === true ? { memoryShared: true as const } : {}),
    ...(hugepages === undefined ? {} : { memoryHugepageBytes: bytes('memory.hugepages', hugepages) }),
  };
}

function deriveRestart({ restart = {} }: MicroVMSpec): RestartSpec {
  return {
    initialBackoffMs: duration('restart.initialBackoff', restart.initialBackoff ?? defaults.restart.initialBackoff),
    maxBackoffMs: duration('restart.maxBackoff', restart.maxBackoff ?? defaults.restart.maxBackoff),
    maxRetries: restart.maxRetries ?? defaults.restart.maxRetries,
    windowMs: duration('restart.window', restart.window ?? defaults.restart.window),
  };
}

/** No object without one of them changes its desired state. */
function deriveProbes({ probes = {} }: MicroVMSpec): { readonly probes?: ProbeSpecs } {
  const given = probeRoles.flatMap((role) => (probes[role] === undefined ? [] : [[role, deriveProbe(`probes.${role}`, probes[role])] as const]));
  return given.length === 0 ? {} : { probes: Object.fromEntries(given) };
}

function deriveProbe(field: string, probe: MicroVMProbe): ProbeSpec {
  return {
    action: deriveProbeAction(field, probe),
    initialDelayMs: duration(`${field}.initialDelay`, probe.initialDelay ?? defaults.probe.initialDelay),
    periodMs: duration(`${field}.period`, probe.period ?? defaults.probe.period),
    timeoutMs: duration(`${field}.timeout`, probe.timeout ?? defaults.probe.timeout),
    successThreshold: probe.successThreshold ?? defaults.probe.successThreshold,
    failureThreshold: probe.failureThreshold ?? defaults.probe.failureThreshold,
  };
}

function deriveProbeAction(field: string, { tcp, http, console: serial, vsock }: MicroVMProbe): ProbeAction {
  if (tcp !== undefined) return { kind: 'tcp', port: tcp.port };
  if (http !== undefined) return { kind: 'http', port: http.port, path: http.path ?? '/', isTls: http.scheme === 'HTTPS' };
  if (serial !== undefined) return { kind: 'console', contains: serial.contains };
  if (vsock !== undefined) return { kind: 'vsock', port: vsock.port };
  throw refused(`${field} has none of tcp, http, console and vsock`);
}

function deriveBoot({ boot }: MicroVMSpec): BootSource {
  if (boot.kernel !== undefined) {
    const { path, cmdline = '', initramfs } = boot.kernel;
    return { kind: 'kernel', path, cmdline, ...(initramfs === undefined ? {} : { initramfsPath: initramfs }) };
  }
  if (boot.firmware !== undefined) return { kind: 'firmware', path: boot.firmware.path };
  throw refused('boot has neither kernel nor firmware');
}

function deriveDisk(disk: MicroVMDisk): DiskSpec {
  const { name, path, http, oci, blank, digest, size, persistence, deletePolicy, readOnly = false } = disk;
  const attached = { readOnly, ...deriveAttachment(disk) };
  if (path !== undefined) return { name, path, ...attached };
  if (http === undefined && oci === undefined && blank === undefined) throw refused(`disks[${name}] has none of path, http, oci and blank`);
  const secret = http?.secretRef ?? oci?.pullSecretRef;
  // Nothing that holds a guest's data has a default that could lose it.
  if (persistence === undefined) throw refused(`disks[${name}] has no persistence`);
  if (blank !== undefined && size === undefined) throw refused(`disks[${name}] is blank and has no size`);
  if (http !== undefined && digest === undefined) throw refused(`disks[${name}] has no digest`);
  return {
    name,
    path: '',
    ...attached,
    ...(size === undefined ? {} : { sizeBytes: bytes(`disks[${name}].size`, size) }),
    managed: {
      persistence,
      isRetained: deletePolicy === 'Retain',
      ...(http === undefined || digest === undefined ? {} : { image: { url: http.url, sha256: digest.replace(/^sha256:/, '') } }),
      ...(oci === undefined ? {} : { oci: deriveOciImage(`disks[${name}]`, oci.image, digest) }),
      ...(secret === undefined ? {} : { secretName: secret.name }),
    },
  };
}

function deriveOciImage(field: string, text: string, digest: string | undefined): OciImage {
  const reference = parseOciReference(text);
  if (reference === null) throw refused(`${field}.oci.image is no reference of an image: ${text}`);
  const { registry, repository, sha256 = digest?.replace(/^sha256:/, '') } = reference;
  if (sha256 === undefined) throw refused(`${field} has no digest`);
  return { registry, repository, sha256 };
}

function deriveCloudInit({ hostName, userData, userDataSecretRef, networkData, sshAuthorizedKeys = [] }: NonNullable<MicroVMSpec['cloudInit']>, name: string): CloudInit {
  if (userData !== undefined && userDataSecretRef !== undefined) throw refused('cloudInit has both userData and userDataSecretRef');
  return {
    hostName: hostName ?? name,
    ...(userData === undefined ? {} : { userData }),
    ...(userDataSecretRef === undefined ? {} : { userDataSecret: { name: userDataSecretRef.name, key: userDataSecretRef.key } }),
    ...(networkData === undefined ? {} : { networkData }),
    sshAuthorizedKeys: [...sshAuthorizedKeys],
  };
}

function deriveAttachment({ name, rateLimit, bootIndex }: MicroVMDisk): Pick<DiskSpec, 'rateLimit' | 'bootIndex'> {
  const { bandwidth, iops } = rateLimit ?? {};
  const limit = {
    ...(bandwidth === undefined ? {} : { bytesPerSecond: bytes(`disks[${name}].rateLimit.bandwidth`, bandwidth) }),
    ...(iops === undefined ? {} : { opsPerSecond: iops }),
  };
  return { ...(Object.keys(limit).length === 0 ? {} : { rateLimit: limit }), ...(bootIndex === undefined ? {} : { bootIndex }) };
}

function deriveImagePolicy({ bandwidth, allowedRegistries = [] }: NonNullable<SiteImages>): ImagePolicy {
  return { ...(bandwidth === undefined ? {} : { bytesPerSecond: bytes('images.bandwidth of the Site', bandwidth) }), allowedRegistries: [...allowedRegistries] };
}

const macvtapModes = { Bridge: 'bridge', Private: 'private', VEPA: 'vepa' } as const;

function deriveNetwork(network: MicroVMNetwork, uid: string): NetworkRequest {
  const { name, bridge, macvtap, address } = network;
  const kinds = (['nat', 'bridge', 'mesh', 'macvtap'] as const).filter((kind) => network[kind] !== undefined);
  const [kind] = kinds;
  if (kind === undefined || kinds.length > 1) throw refused(`networks[${name}] is to have exactly one of nat, bridge, macvtap and mesh`);
  return {
    name,
    kind,
    mac: network.mac ?? deriveMac(microVMId(uid), name),
    ...(address === undefined ? {} : { address }),
    ...(bridge === undefined ? {} : { bridgeName: bridge.name, ...(bridge.vlan === undefined ? {} : { vlan: bridge.vlan }) }),
    ...(macvtap === undefined ? {} : { parent: macvtap.parent, macvtapMode: macvtapModes[macvtap.mode ?? 'Bridge'] }),
    ports: (network.ports ?? []).map(({ name: port, protocol, hostPort, guestPort }) => ({
      name: port, protocol: protocol === 'UDP' ? 'udp' : 'tcp', ...(hostPort === undefined ? {} : { hostPort }), guestPort,
    })),
  };
}

function refused(message: string): Refusal {
  return new Refusal({ code: 'SPEC_REFUSED', message });
}

function bytes(field: string, value: number | string): number {
  const parsed = parseWholeQuantity(value);
  if (parsed === null || !Number.isSafeInteger(parsed)) throw refused(`${field} is no whole number of bytes: ${value}`);
  return parsed;
}

function duration(field: string, text: string): number {
  const parsed = parseDurationMs(text);
  if (parsed === null) throw refused(`${field} is no duration: ${text}`);
  return parsed;
}
