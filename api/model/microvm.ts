/**
 * What a host is told to make true for one microVM, and what it reports seeing.
 * These are the neutral types between the custom resource, the wire and the agent; the defaults of
 * the custom resource are already filled in, so nothing here is optional without a meaning.
 */
import type { Epoch } from './epoch.ts';
import type { HostId, MicroVMId } from './ids.ts';
import type { SiteOrder, SiteOverride } from './site-orders.ts';

export const runPolicies = ['Always', 'RerunOnFailure', 'Once', 'Manual', 'Halted'] as const;
/**
 * Always: runs whatever ended it. RerunOnFailure: runs again unless the guest shut itself down.
 * Once: one boot; any end, a guest reboot included, is final. Manual: keeps the state it is in, only
 * an explicit start or stop changes it. Halted: does not run.
 */
export type RunPolicy = (typeof runPolicies)[number];

export const exitReasons = [
  'GuestShutdown',
  'GuestReboot',
  'GuestPanic',
  'VMMCrash',
  'HostReboot',
  'OOM',
  'Operator',
  'Unhealthy',
  'Unknown',
] as const;
/** Operator: on request. Unhealthy: a startup or liveness probe failed and the host ended it. */
export type ExitReason = (typeof exitReasons)[number];

export type BootSource =
  | { readonly kind: 'kernel'; readonly path: string; readonly cmdline: string; readonly initramfsPath?: string }
  | { readonly kind: 'firmware'; readonly path: string };

export interface DiskSpec {
  /** Unique within the microVM, DNS-1123 label. */
  readonly name: string;
  /** Absolute path of a raw or qcow2 file on the host; empty for a managed disk, whose place is the host's. */
  readonly path: string;
  readonly readOnly: boolean;
  /** Present for a disk that the host makes and keeps. */
  readonly managed?: ManagedDisk;
  /** Size of a managed disk, bytes; absent: that of its image. */
  readonly sizeBytes?: number;
  readonly rateLimit?: RateLimit;
  /** Place in the order in which firmware tries disks, lowest first; disks without one come after. With firmware only. */
  readonly bootIndex?: number;
}

/** The most that a guest may read and write on one disk, with bursts of up to a second's worth. An absent part has no bound. */
export interface RateLimit {
  /** > 0. */
  readonly bytesPerSecond?: number;
  /** > 0. */
  readonly opsPerSecond?: number;
}

export interface ManagedDisk {
  /** Persistent: kept over restarts. Ephemeral: made anew at every start of the VMM. */
  readonly persistence: 'Persistent' | 'Ephemeral';
  /** It stays on the host when the microVM is deleted. */
  readonly isRetained: boolean;
  /** At most one of `image` and `oci`; without either it is empty at first. */
  readonly image?: HttpImage;
  readonly oci?: OciImage;
  /** Secret with the credentials for its image, see `credentialKeys`; absent: none. */
  readonly secretName?: string;
}

/** Keys of the Secret that credentials for an image are in: those of the types kubernetes.io/basic-auth and kubernetes.io/dockerconfigjson. */
export const credentialKeys = { http: ['username', 'password'], oci: ['.dockerconfigjson'] } as const;

/** An image in an OCI registry: a disk image as an artifact or in a container image, or a container image as a root disk. */
export interface OciImage {
  /** `host` or `host:port`, lower case. */
  readonly registry: string;
  readonly repository: string;
  /** Digest of the manifest, or of an index of manifests: 64 lower-case hexadecimal digits. */
  readonly sha256: string;
}

/** Content behind a URL, known by its digest: other content is never used. */
export interface HttpImage {
  /** http or https. */
  readonly url: string;
  /** 64 lower-case hexadecimal digits. */
  readonly sha256: string;
}

/** How the hosts of a site get images. */
export interface ImagePolicy {
  /** The most that the downloads of one host use together; absent: no bound. */
  readonly bytesPerSecond?: number;
  /** `host`, `host:port`, or either with the beginning of a path; empty: every server. */
  readonly allowedRegistries: readonly string[];
}

export const networkKinds = ['nat', 'bridge', 'mesh', 'macvtap'] as const;
/**
 * nat: behind the address of the host, apart from all other guests. bridge: a port of a bridge that the
 * host has. mesh: a subnet of the host that the mesh of the site routes. macvtap: beside the host on one
 * of its interfaces, with a hardware address of its own there.
 */
export type NetworkKind = (typeof networkKinds)[number];

export const macvtapModes = ['bridge', 'private', 'vepa'] as const;
/** bridge: guests of one interface reach each other. private: they do not. vepa: by way of the switch outside, if that sends frames back. */
export type MacvtapMode = (typeof macvtapModes)[number];

export interface PortForward {
  /** Unique within the network, DNS-1123 label. */
  readonly name: string;
  readonly protocol: 'tcp' | 'udp';
  /** Port of the host, 1..65535, unique on the host for its protocol. */
  readonly hostPort: number;
  /** Port of the guest, 1..65535. */
  readonly guestPort: number;
}

/** One network interface of the guest. Addresses and host ports were allocated before the host hears of it. */
export interface NetworkSpec {
  /** Unique within the microVM, DNS-1123 label. */
  readonly name: string;
  readonly kind: NetworkKind;
  /** Unicast, six lower-case bytes with colons; see `deriveMac`. */
  readonly mac: string;
  /** Address of the guest with its prefix length, such as 10.87.3.5/24. Absent only where the host does not give it: `bridge`, `macvtap`. */
  readonly address?: string;
  /** Address of the host in the guest's subnet, without a prefix length; with `nat` and `mesh`. */
  readonly gateway?: string;
  /** Bridge of the host; with `bridge` only. */
  readonly bridgeName?: string;
  /** VLAN of the port, 1..4094; with `bridge` only. */
  readonly vlan?: number;
  /** Interface of the host that the guest is on; with `macvtap` only. */
  readonly parent?: string;
  /** With `macvtap` only; absent: Bridge. */
  readonly macvtapMode?: MacvtapMode;
  /** With `nat` only. */
  readonly ports: readonly PortForward[];
}

export interface PortRequest extends Omit<PortForward, 'hostPort'> {
  /** Absent: any free one of the host. */
  readonly hostPort?: number;
}

/** One network interface as a spec asks for it. What it leaves open is given in the transaction that binds the microVM. */
export interface NetworkRequest extends Omit<NetworkSpec, 'gateway' | 'ports'> {
  readonly ports: readonly PortRequest[];
}

/** Names one value of a Secret in the namespace of the microVM, never the value itself. */
export interface SecretReference {
  readonly name: string;
  readonly key: string;
  /** Version of the Secret that the desired state was made for. */
  readonly resourceVersion: string;
}

/** Where a spec points at a value: what it can say before anybody has looked for the Secret. */
export type SecretKey = Pick<SecretReference, 'name' | 'key'>;

/** A value on its way to the one host that needs it. */
export interface SecretValue extends SecretKey {
  /** A function, so that no logger or encoder prints the secret by accident. */
  readonly reveal: () => Uint8Array;
}

/** The most references of one microVM: one for each disk, and as many for everything else. */
export const secretsMax = 32;
/** Longest value, bytes: with {@link secretsMax} of them a message stays below what gRPC takes. */
export const secretValueMax = 65_536;

/** Two references to one value, whatever its version. */
export function isSameSecret(a: SecretKey, b: SecretKey): boolean {
  return a.name === b.name && a.key === b.key;
}

/** Data for cloud-init in the guest. */
export interface CloudInit {
  readonly hostName: string;
  /** Absent without any, or when it comes from a Secret. */
  readonly userData?: string;
  /** One of {@link DesiredMicroVM.secrets}. */
  readonly userDataSecret?: SecretKey;
  /** Absent: made from the addresses of the networks. */
  readonly networkData?: string;
  /** Lines of an authorized_keys file. */
  readonly sshAuthorizedKeys: readonly string[];
}

export interface RestartSpec {
  /** First delay before a restart, milliseconds, ≥ 0. It doubles with each failure in the window. */
  readonly initialBackoffMs: number;
  readonly maxBackoffMs: number;
  /** Failures within the window after which the microVM is CrashLooping and waits maxBackoffMs each time. */
  readonly maxRetries: number;
  readonly windowMs: number;
}

/** On what terms a microVM that may be replaced on another host runs; see docs/disconnect.md. */
export interface LeaseTerms {
  /** From the moment its host sent the last beat whose lease was extended until no VMM may live there, milliseconds, > 0. */
  readonly stopOnHostAfterMs: number;
}

export type ProbeAction =
  /** Succeeds when the port of the guest's address accepts a connection. */
  | { readonly kind: 'tcp'; readonly port: number }
  /** Succeeds with a status from 200 to 399; redirects are not followed, certificates not looked at. */
  | { readonly kind: 'http'; readonly port: number; readonly path: string; readonly isTls: boolean }
  /** Succeeds once the serial console printed the text in this boot. */
  | { readonly kind: 'console'; readonly contains: string }
  /** Succeeds when the port of the guest's vsock accepts a connection. */
  | { readonly kind: 'vsock'; readonly port: number };

export interface ProbeSpec {
  readonly action: ProbeAction;
  /** Wait after the start of the guest, milliseconds, ≥ 0. */
  readonly initialDelayMs: number;
  /** Between two tries, milliseconds, ≥ 1. */
  readonly periodMs: number;
  readonly timeoutMs: number;
  /** Successes in a row that count as success, ≥ 1. */
  readonly successThreshold: number;
  readonly failureThreshold: number;
}

export const probeRoles = ['startup', 'readiness', 'liveness'] as const;
/** startup: gates the others, its failure restarts. readiness: decides Ready. liveness: its failure restarts. */
export type ProbeRole = (typeof probeRoles)[number];
export type ProbeSpecs = { readonly [Role in ProbeRole]?: ProbeSpec };

/** The resolved desired state of one microVM at one generation. */
export interface DesiredMicroVM {
  readonly name: string;
  readonly namespace: string;
  readonly runPolicy: RunPolicy;
  readonly paused: boolean;
  /** A change of this number asks for one restart. */
  readonly restartNonce: number;
  readonly restart: RestartSpec;
  readonly cpuCount: number;
  readonly memoryBytes: number;
  readonly boot: BootSource;
  readonly disks: readonly DiskSpec[];
  /** Network interfaces in the order in which the guest sees them; absent: none. */
  readonly networks?: readonly NetworkSpec[];
  /** Whether the serial console is logged (`console.serial: Log` and `Interactive`). */
  readonly serialLog: boolean;
  /** True: it takes input as well (`console.serial: Interactive`). Absent: it does not. */
  readonly serialInteractive?: true;
  /** Present: the guest has a socket to its host under this context id. */
  readonly vsock?: { readonly cid: number };
  /** Absent: whether the guest works is not asked. */
  readonly probes?: ProbeSpecs;
  /** Time between the power button and the kill, milliseconds, ≥ 0. */
  readonly terminationGracePeriodMs: number;
  /** Present when it may be replaced: it runs only under a live lease of its host. */
  readonly lease?: LeaseTerms;
  /** Present only where a disk has an image. */
  readonly images?: ImagePolicy;
  /** Absent: the guest gets no disk for cloud-init. */
  readonly cloudInit?: CloudInit;
  /** Values of Secrets that it needs, each once; absent: none. At most {@link secretsMax}. */
  readonly secrets?: readonly SecretReference[];
  /** Number of the order of the site that this desired state lifts; absent: none. A later order stands. */
  readonly overruledSiteOrder?: number;
  /** Processors that a running guest can be given, ≥ cpuCount; absent: it keeps those it started with. */
  readonly cpuMax?: number;
  /** Memory that a running guest can be given: memoryBytes and a multiple of {@link memoryStepBytes} above it; absent: it keeps what it started with. */
  readonly memoryMaxBytes?: number;
  /** Other processes of the host can map its memory; absent: no. */
  readonly memoryShared?: true;
  /** Size of the huge pages that hold its memory; absent: ordinary pages. */
  readonly memoryHugepageBytes?: number;
}

/** Memory of a running guest changes by multiples of this: the memory block of Linux on x86-64. */
export const memoryStepBytes = 128 * 2 ** 20;

/** Sizes of huge pages that a spec may ask for, bytes. */
export const hugepageSizes: readonly number[] = [2 * 2 ** 20, 2 ** 30];

/**
 * What the host sees: `absent` no trace of the microVM, `preparing` directories and files are being
 * made, `booting` a VMM process exists and the guest was not started yet, `running`, `paused`,
 * `stopping` on its way down, `stopped` no process and the desired state agrees or has to wait,
 * `backoff` it will be started again at a known time, `failed` it can't be made to run until
 * something changes, `removing` teardown is under way, `unknown` it could not be looked at.
 */
export const observedStates = [
  'absent',
  'preparing',
  'booting',
  'running',
  'paused',
  'stopping',
  'stopped',
  'backoff',
  'failed',
  'removing',
  'unknown',
] as const;
export type ObservedState = (typeof observedStates)[number];

export interface LastExit {
  readonly reason: ExitReason;
  readonly atMs: number;
  /** Exit code of the VMM process, absent when it was ended by a signal or left no record. */
  readonly code?: number;
  /** Name of the signal that ended the VMM, such as SIGKILL. */
  readonly signal?: string;
}

/**
 * Whether the startup and readiness probes show that the guest works. pending: none succeeded yet since
 * the guest was started. notProbed: the host has not tried since its own start. impossible: it can't be tried.
 */
export const readinessStatuses = ['pending', 'succeeded', 'failed', 'notProbed', 'impossible'] as const;
export type ReadinessStatus = (typeof readinessStatuses)[number];

/** One look at one microVM on its host. A later `sequence` replaces an earlier one. */
export interface MicroVMObservation {
  readonly microvmId: MicroVMId;
  readonly epoch: Epoch;
  /** Revision of the operation that the host's desired state came from. */
  readonly revision: number;
  /** Generation of the custom resource that the host's desired state came from. */
  readonly generation: number;
  /** Rises with every observation of this host, over restarts of the agent and reboots. */
  readonly sequence: number;
  readonly state: ObservedState;
  /** When the host looked, by the host's wall clock, epoch milliseconds. */
  readonly observedAtMs: number;
  /** When the running guest was booted, by the host's wall clock; absent when it does not run. */
  readonly bootedAtMs?: number;
  /** Restarts under the restart policy since the microVM was created. */
  readonly restarts: number;
  readonly isCrashLooping: boolean;
  /** The guest runs with an older specification than the desired one and needs a restart to take it over. */
  readonly isRestartRequired: boolean;
  /** A newer version of a Secret is among what the guest takes over with a restart; absent: none is. */
  readonly isSecretChanged?: true;
  readonly lastExit?: LastExit;
  /** Why it is not as desired: an error code of the catalogue and a sentence; absent when all is well. */
  readonly problem?: { readonly code: string; readonly message: string };
  /** What the guest has to do without although nothing failed; absent: nothing. */
  readonly warnings?: readonly ObservedWarning[];
  /** Present while a guest with such a probe runs. The message is of the moment of the last change. */
  readonly readiness?: { readonly status: ReadinessStatus; readonly message: string };
  /** What somebody at the site ordered, while it stands. */
  readonly siteOverride?: SiteOverride;
  /** Orders of people at the site that no control plane has acknowledged, oldest first; absent: none. */
  readonly siteOrders?: readonly SiteOrder[];
  /** How many orders before those were not kept; absent: none. */
  readonly siteOrdersLost?: number;
  /** Processors that the running guest has now; absent: it does not run, or its VMM does not say. */
  readonly cpuCount?: number;
  /** Memory that the running guest has now, bytes; absent as above. */
  readonly memoryBytes?: number;
}

/** Warning code of a microVM that waits for an image; the message says how far it is, in coarse steps. */
export const downloadingCode = 'IMAGE_DOWNLOADING';

export interface ObservedWarning {
  /** Such as DHCP_UNAVAILABLE; a host of a later version may send others. */
  readonly code: string;
  /** For people: what is missing and how to get it. */
  readonly message: string;
}

/**
 * Problem code of an observation that the control plane marked itself, because the host no longer remembers the
 * microVM. It goes with the next report of the host.
 */
export const forgottenCode = 'ORPHANED_VM';

/** Why a microVM has to leave its host and go on elsewhere. */
export type LeavingReason = 'Drain' | 'HostDeletion' | 'Taint' | 'Preemption';

/** Where a microVM is bound and under which fencing epoch. */
export interface Binding {
  readonly microvmId: MicroVMId;
  readonly hostId: HostId;
  readonly epoch: Epoch;
}
