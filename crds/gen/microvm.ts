/**
 * Generated from crds/v1alpha1/microvm.yaml by hack/generate-crd-types.ts; do not edit.
 * Times are RFC 3339 strings, as the API server sends them. Fields with a default are present on
 * every object that was read from the API server; they are optional here because writers may leave them out.
 */
import type { Condition, ListMeta, ObjectMeta } from './kubernetes.ts';

/**
 * MicroVM is one Cloud Hypervisor virtual machine on a host of a Site.
 */
export interface MicroVM {
  apiVersion: 'nkudo.dev/v1alpha1';
  kind: 'MicroVM';
  metadata: ObjectMeta;
  spec: MicroVMSpec;
  status?: MicroVMStatus;
}
/**
 * What the user wants to run.
 */
export interface MicroVMSpec {
  siteRef: MicroVMSiteRef;
  /**
   * Name of a MicroVMClass of this namespace that gives what cpu and memory leave out.
   */
  className?: string;
  placement?: MicroVMPlacement;
  /**
   * Always: runs whatever ended it. RerunOnFailure: runs again unless the guest shut itself down. Once: one boot, any end is final, a guest reboot included. Manual: keeps the state it is in until an explicit start or stop. Halted: does not run.
   *
   * Default: "Always".
   */
  runPolicy?: 'Always' | 'RerunOnFailure' | 'Once' | 'Manual' | 'Halted';
  /**
   * true: the virtual CPUs stand still, memory is kept.
   *
   * Default: false.
   */
  paused?: boolean;
  /**
   * Any change of this number asks for one restart; add one to it.
   */
  restartNonce?: number;
  restart?: MicroVMRestart;
  cpu?: MicroVMCpu;
  memory?: MicroVMMemory;
  boot: MicroVMBoot;
  /**
   * Disks, attached in this order.
   */
  disks?: MicroVMDisk[];
  /**
   * Network interfaces, attached in this order. Addresses and ports of the host that are left out are chosen by n-kudo and shown in the status.
   */
  networks?: MicroVMNetwork[];
  cloudInit?: MicroVMCloudInit;
  vsock?: MicroVMVsock;
  console?: MicroVMConsole;
  probes?: MicroVMProbes;
  /**
   * Time between the power button and the kill.
   *
   * Default: "30s".
   */
  terminationGracePeriod?: string;
  disconnect?: MicroVMDisconnect;
  /**
   * What a drain does with it. Stop: it is shut down and started again on the same host afterwards. Move: it is shut down and started on another host, or as with Stop when it keeps data on its host. None: the drain waits for an operator.
   *
   * Default: "Stop".
   */
  evictionStrategy?: 'None' | 'Stop' | 'Move';
  /**
   * When a change that a running microVM can not take over takes effect. OnRestart: at its next start, and RestartRequired is True until then. Recreate: it is restarted at once. Window: it is restarted in the next maintenance window of the Site. While hold of the Site is true neither restarts it.
   *
   * Default: "OnRestart".
   */
  updateStrategy?: 'OnRestart' | 'Recreate' | 'Window';
}
/**
 * The site that it runs at. It can not be changed: delete the microVM and create it there.
 */
export interface MicroVMSiteRef {
  /**
   * Name of the Site, in the same namespace.
   */
  name: string;
}
/**
 * Where at the site it may run; any Ready host with room when left out. A microVM that is bound stays on its host.
 */
export interface MicroVMPlacement {
  /**
   * Name of the one Host that it may run on.
   */
  hostName?: string;
  hostSelector?: MicroVMPlacementHostSelector;
  /**
   * Higher goes first when there is not room for all, and may have microVMs of a lower priority moved away that keep no data on their host; 0 when left out.
   */
  priority?: number;
  /**
   * Taints of hosts that do not keep it away.
   */
  tolerations?: MicroVMPlacementToleration[];
  affinity?: MicroVMPlacementAffinity;
  /**
   * Spread such microVMs evenly. Read when the microVM is placed, not afterwards.
   */
  topologySpread?: MicroVMPlacementTopologySpread[];
}
/**
 * Labels that the Host must have. Read when the microVM is placed, not afterwards.
 */
export interface MicroVMPlacementHostSelector {
  /**
   * Labels that must all be present with these values.
   */
  matchLabels?: Record<string, string>;
}
/**
 * One toleration.
 */
export interface MicroVMPlacementToleration {
  /**
   * Key of the taint; every key when left out.
   */
  key?: string;
  /**
   * Equal compares the value, Exists does not.
   *
   * Default: "Equal".
   */
  operator?: 'Equal' | 'Exists';
  /**
   * Value of the taint.
   */
  value?: string;
  /**
   * Effect of the taint; every effect when left out.
   */
  effect?: 'NoSchedule' | 'NoExecute';
}
/**
 * Nearness to other microVMs of the site. Read when the microVM is placed, not afterwards.
 */
export interface MicroVMPlacementAffinity {
  /**
   * Place it where such microVMs are.
   */
  together?: MicroVMPlacementAffinityTogether[];
  /**
   * Place it where no such microVMs are.
   */
  apart?: MicroVMPlacementAffinityApart[];
}
/**
 * One term.
 */
export interface MicroVMPlacementAffinityTogether {
  labelSelector: MicroVMPlacementAffinityTogetherLabelSelector;
  /**
   * Label of hosts; hosts with the same value are one place. nkudo.dev/hostname makes each host a place.
   */
  topologyKey: string;
  /**
   * Required: the microVM waits otherwise. Preferred: a wish.
   *
   * Default: "Required".
   */
  mode?: 'Required' | 'Preferred';
}
/**
 * Which microVMs are meant.
 */
export interface MicroVMPlacementAffinityTogetherLabelSelector {
  /**
   * Labels that must all be present with these values.
   */
  matchLabels?: Record<string, string>;
}
/**
 * One term.
 */
export interface MicroVMPlacementAffinityApart {
  labelSelector: MicroVMPlacementAffinityApartLabelSelector;
  /**
   * Label of hosts; hosts with the same value are one place. nkudo.dev/hostname makes each host a place.
   */
  topologyKey: string;
  /**
   * Required: the microVM waits otherwise. Preferred: a wish.
   *
   * Default: "Required".
   */
  mode?: 'Required' | 'Preferred';
}
/**
 * Which microVMs are meant.
 */
export interface MicroVMPlacementAffinityApartLabelSelector {
  /**
   * Labels that must all be present with these values.
   */
  matchLabels?: Record<string, string>;
}
/**
 * One rule.
 */
export interface MicroVMPlacementTopologySpread {
  /**
   * Label of hosts; hosts with the same value are one place. nkudo.dev/hostname makes each host a place.
   */
  topologyKey: string;
  /**
   * Largest difference between two places.
   */
  maxSkew: number;
  /**
   * What to do when it can not be kept.
   *
   * Default: "DoNotSchedule".
   */
  whenUnsatisfiable?: 'DoNotSchedule' | 'ScheduleAnyway';
  labelSelector: MicroVMPlacementTopologySpreadLabelSelector;
}
/**
 * Which microVMs are counted.
 */
export interface MicroVMPlacementTopologySpreadLabelSelector {
  /**
   * Labels that must all be present with these values.
   */
  matchLabels?: Record<string, string>;
}
/**
 * How often an ended microVM is started again.
 *
 * Default: {}.
 */
export interface MicroVMRestart {
  /**
   * Wait before the first restart; it doubles with each failure inside the window.
   *
   * Default: "1s".
   */
  initialBackoff?: string;
  /**
   * The longest wait between two restarts.
   *
   * Default: "5m".
   */
  maxBackoff?: string;
  /**
   * More failures than this inside the window set CrashLooping; from then on every restart waits maxBackoff.
   *
   * Default: 5.
   */
  maxRetries?: number;
  /**
   * Time in which failures are counted.
   *
   * Default: "10m".
   */
  window?: string;
}
/**
 * Virtual CPUs.
 */
export interface MicroVMCpu {
  /**
   * Number of virtual CPUs. Up to max a running guest is given more or has to let go of some.
   */
  count: number;
  /**
   * The most that count can be raised to while the guest runs; what it starts with when left out. The guest sees this many places for CPUs. A change needs a restart.
   */
  max?: number;
}
/**
 * Memory of the guest.
 */
export interface MicroVMMemory {
  /**
   * Memory that the guest starts with. Up to max a running guest is given more and has to let go of what it was given; below what it started with it needs a restart.
   */
  size: number | string;
  /**
   * The most that size can be raised to while the guest runs, by virtio-mem; what it starts with when left out. A change needs a restart.
   */
  max?: number | string;
  /**
   * true: other processes of the host can map it, as vhost-user devices need. A change needs a restart.
   */
  shared?: boolean;
  /**
   * Size of the huge pages that hold it; ordinary pages when left out. The host must have set that many aside, else the microVM is not started. A change needs a restart.
   */
  hugepages?: '2Mi' | '1Gi';
}
/**
 * What the guest starts from: exactly one of kernel and firmware.
 */
export interface MicroVMBoot {
  kernel?: MicroVMBootKernel;
  firmware?: MicroVMBootFirmware;
}
/**
 * Boots a Linux kernel (or another PVH guest) directly.
 */
export interface MicroVMBootKernel {
  /**
   * Kernel file on the host: an uncompressed ELF file with a PVH entry, or a bzImage.
   */
  path: string;
  /**
   * Command line of the kernel, printable ASCII.
   *
   * Default: "".
   */
  cmdline?: string;
  /**
   * Initramfs file on the host.
   */
  initramfs?: string;
}
/**
 * Boots a firmware, which then boots from a disk.
 */
export interface MicroVMBootFirmware {
  /**
   * Firmware file on the host.
   */
  path: string;
}
/**
 * One disk. Exactly one of path, oci, http, blank and snapshot says where it comes from.
 */
export interface MicroVMDisk {
  /**
   * Unique within the microVM.
   */
  name: string;
  /**
   * Raw or qcow2 file on the host, used in place.
   */
  path?: string;
  /**
   * true: the guest can not write to it, and several microVMs may share it.
   *
   * Default: false.
   */
  readOnly?: boolean;
  /**
   * Order in which the firmware tries disks, lowest first; disks without one come after, in the order of the list. With boot.firmware only: a kernel sees disks in the order of the list. A change needs a restart.
   */
  bootIndex?: number;
  oci?: MicroVMDiskOci;
  http?: MicroVMDiskHttp;
  blank?: MicroVMDiskBlank;
  snapshot?: MicroVMDiskSnapshot;
  /**
   * Digest that the fetched content must have, of oci that of the manifest or index. Only content with this digest is ever given to a guest.
   */
  digest?: string;
  /**
   * Size that the guest sees; that of the image when left out. It may grow, never shrink, and takes effect at the next start.
   */
  size?: number | string;
  /**
   * Persistent: kept over restarts. Ephemeral: made anew at every start. A path disk is always the file as it is.
   */
  persistence?: 'Persistent' | 'Ephemeral';
  /**
   * What happens to a Persistent disk when the microVM is deleted; Delete when left out. A retained one lies below retained-disks in the state directory of the host. A path disk always stays.
   */
  deletePolicy?: 'Delete' | 'Retain';
  rateLimit?: MicroVMDiskRateLimit;
}
/**
 * Image in an OCI registry, fetched once for each host: a disk image as an artifact or in a container image (/disk), or a container image, whose files become an ext4 file system. Needs a digest, in image or in digest.
 */
export interface MicroVMDiskOci {
  /**
   * Reference of the image, such as registry.example/team/app:1.2@sha256:… A tag is for people only.
   */
  image: string;
  pullSecretRef?: MicroVMDiskOciPullSecretRef;
}
/**
 * Secret with the credentials, of the type kubernetes.io/dockerconfigjson; it carries the label nkudo.dev/guest: "true".
 */
export interface MicroVMDiskOciPullSecretRef {
  /**
   * Name of the Secret, in the same namespace.
   */
  name: string;
}
/**
 * Disk image behind a URL, raw or qcow2, fetched once for each host. Needs digest.
 */
export interface MicroVMDiskHttp {
  /**
   * https or http URL.
   */
  url: string;
  secretRef?: MicroVMDiskHttpSecretRef;
}
/**
 * Secret with the keys username and password (kubernetes.io/basic-auth); it carries the label nkudo.dev/guest: "true". Needs https.
 */
export interface MicroVMDiskHttpSecretRef {
  /**
   * Name of the Secret, in the same namespace.
   */
  name: string;
}
/**
 * An empty disk of the given size.
 */
export interface MicroVMDiskBlank {}
/**
 * A snapshot that n-kudo took. Reserved.
 */
export interface MicroVMDiskSnapshot {
  /**
   * Name of the snapshot, in the same namespace.
   */
  name: string;
}
/**
 * The most that the guest may read and write, with bursts of up to a second's worth. A change needs a restart.
 */
export interface MicroVMDiskRateLimit {
  /**
   * Bytes per second.
   */
  bandwidth?: number | string;
  /**
   * Operations per second.
   */
  iops?: number;
}
/**
 * One network interface. Exactly one of nat, bridge, macvtap and mesh says how it is connected.
 */
export interface MicroVMNetwork {
  /**
   * Unique within the microVM.
   */
  name: string;
  nat?: MicroVMNetworkNat;
  bridge?: MicroVMNetworkBridge;
  macvtap?: MicroVMNetworkMacvtap;
  mesh?: MicroVMNetworkMesh;
  /**
   * Hardware address; derived from the UID and the name when left out.
   */
  mac?: string;
  /**
   * IPv4 address of the guest with its prefix length. With nat and mesh it is of the subnet that the host has for such guests, and given by n-kudo when left out. With bridge and macvtap nobody gives one; a guest that has one here can use no other.
   */
  address?: string;
  /**
   * Ports of the host that lead to the guest; with nat only.
   */
  ports?: MicroVMNetworkPort[];
}
/**
 * Behind the address of the host, apart from all other guests.
 */
export interface MicroVMNetworkNat {}
/**
 * On a bridge of the host.
 */
export interface MicroVMNetworkBridge {
  /**
   * Name of the bridge.
   */
  name: string;
  /**
   * VLAN of the port.
   */
  vlan?: number;
}
/**
 * Beside the host on one of its interfaces, under a hardware address of its own. Guest and host do not reach each other there.
 */
export interface MicroVMNetworkMacvtap {
  /**
   * Name of the interface.
   */
  parent: string;
  /**
   * How guests on one interface reach each other. Bridge: directly. Private: not at all. VEPA: by way of the switch outside, if that sends frames back.
   *
   * Default: "Bridge".
   */
  mode?: 'Bridge' | 'Private' | 'VEPA';
}
/**
 * On the mesh of the site (spec.mesh of the Site), in the subnet that the host has for such guests.
 */
export interface MicroVMNetworkMesh {
  /**
   * Mesh groups of the guest. Reserved.
   */
  groups?: string[];
}
/**
 * One port.
 */
export interface MicroVMNetworkPort {
  /**
   * Unique within the interface.
   */
  name: string;
  /**
   * Protocol.
   *
   * Default: "TCP".
   */
  protocol?: 'TCP' | 'UDP';
  /**
   * Port on the host, once for each protocol; one from 20000 to 29999 is chosen when left out.
   */
  hostPort?: number;
  /**
   * Port in the guest.
   */
  guestPort: number;
}
/**
 * Data for cloud-init in the guest, on a read-only disk after the disks of the spec (NoCloud, label cidata). A change takes effect at the next start of the guest.
 */
export interface MicroVMCloudInit {
  /**
   * Host name of the guest; the name of the microVM when left out.
   */
  hostName?: string;
  /**
   * User data without secrets; what is written here can be read by whoever may read the object.
   */
  userData?: string;
  userDataSecretRef?: MicroVMCloudInitUserDataSecretRef;
  /**
   * Network configuration of cloud-init, version 1 or 2. Left out, it is made from spec.networks, with the addresses that n-kudo gave.
   */
  networkData?: string;
  /**
   * Public keys of SSH that may log in as the default user of the image, beside those in the user data.
   */
  sshAuthorizedKeys?: string[];
}
/**
 * User data in a Secret of this namespace that carries the label nkudo.dev/guest: "true"; at most 64 KiB. Only the host of the microVM is given the value.
 */
export interface MicroVMCloudInitUserDataSecretRef {
  /**
   * Name of the Secret.
   */
  name: string;
  /**
   * Key in the Secret.
   */
  key: string;
}
/**
 * A socket between host and guest, vsock.sock in the directory of the microVM on its host.
 */
export interface MicroVMVsock {
  /**
   * Context id of the guest; derived from the UID of the microVM when left out. Two guests of one host may have the same one.
   */
  cid?: number;
}
/**
 * Consoles of the guest.
 *
 * Default: {}.
 */
export interface MicroVMConsole {
  /**
   * Log: what the guest prints on its serial port is kept and can be read from the control plane. Interactive: that, and somebody at the host can type. Off: it is dropped.
   *
   * Default: "Log".
   */
  serial?: 'Log' | 'Off' | 'Interactive';
}
/**
 * How n-kudo finds out whether the guest works. Without probes Ready follows Running.
 */
export interface MicroVMProbes {
  startup?: MicroVMProbesStartup;
  readiness?: MicroVMProbesReadiness;
  liveness?: MicroVMProbesLiveness;
}
/**
 * The other probes begin after this one succeeded; the microVM is restarted when it fails. Exactly one of tcp, http, console and vsock.
 */
export interface MicroVMProbesStartup {
  tcp?: MicroVMProbesStartupTcp;
  http?: MicroVMProbesStartupHttp;
  console?: MicroVMProbesStartupConsole;
  vsock?: MicroVMProbesStartupVsock;
  /**
   * Wait after the start.
   *
   * Default: "0s".
   */
  initialDelay?: string;
  /**
   * Time between two tries.
   *
   * Default: "10s".
   */
  period?: string;
  /**
   * How long one try may take.
   *
   * Default: "1s".
   */
  timeout?: string;
  /**
   * Successes in a row that count as success.
   *
   * Default: 1.
   */
  successThreshold?: number;
  /**
   * Failures in a row that count as failure.
   *
   * Default: 3.
   */
  failureThreshold?: number;
}
/**
 * Succeeds when the port accepts a connection.
 */
export interface MicroVMProbesStartupTcp {
  /**
   * Port in the guest.
   */
  port: number;
}
/**
 * Succeeds with a status from 200 to 399.
 */
export interface MicroVMProbesStartupHttp {
  /**
   * Port in the guest.
   */
  port: number;
  /**
   * Path of the request.
   *
   * Default: "/".
   */
  path?: string;
  /**
   * Scheme.
   *
   * Default: "HTTP".
   */
  scheme?: 'HTTP' | 'HTTPS';
}
/**
 * Succeeds once the serial console printed the text.
 */
export interface MicroVMProbesStartupConsole {
  /**
   * Text, printable ASCII.
   */
  contains: string;
}
/**
 * Succeeds when the port of the guest's vsock accepts a connection.
 */
export interface MicroVMProbesStartupVsock {
  /**
   * Port in the guest.
   */
  port: number;
}
/**
 * Ready is True only while this one succeeds. Exactly one of tcp, http, console and vsock.
 */
export interface MicroVMProbesReadiness {
  tcp?: MicroVMProbesReadinessTcp;
  http?: MicroVMProbesReadinessHttp;
  console?: MicroVMProbesReadinessConsole;
  vsock?: MicroVMProbesReadinessVsock;
  /**
   * Wait after the start.
   *
   * Default: "0s".
   */
  initialDelay?: string;
  /**
   * Time between two tries.
   *
   * Default: "10s".
   */
  period?: string;
  /**
   * How long one try may take.
   *
   * Default: "1s".
   */
  timeout?: string;
  /**
   * Successes in a row that count as success.
   *
   * Default: 1.
   */
  successThreshold?: number;
  /**
   * Failures in a row that count as failure.
   *
   * Default: 3.
   */
  failureThreshold?: number;
}
/**
 * Succeeds when the port accepts a connection.
 */
export interface MicroVMProbesReadinessTcp {
  /**
   * Port in the guest.
   */
  port: number;
}
/**
 * Succeeds with a status from 200 to 399.
 */
export interface MicroVMProbesReadinessHttp {
  /**
   * Port in the guest.
   */
  port: number;
  /**
   * Path of the request.
   *
   * Default: "/".
   */
  path?: string;
  /**
   * Scheme.
   *
   * Default: "HTTP".
   */
  scheme?: 'HTTP' | 'HTTPS';
}
/**
 * Succeeds once the serial console printed the text.
 */
export interface MicroVMProbesReadinessConsole {
  /**
   * Text, printable ASCII.
   */
  contains: string;
}
/**
 * Succeeds when the port of the guest's vsock accepts a connection.
 */
export interface MicroVMProbesReadinessVsock {
  /**
   * Port in the guest.
   */
  port: number;
}
/**
 * The microVM is restarted when this one fails. Exactly one of tcp, http, console and vsock.
 */
export interface MicroVMProbesLiveness {
  tcp?: MicroVMProbesLivenessTcp;
  http?: MicroVMProbesLivenessHttp;
  console?: MicroVMProbesLivenessConsole;
  vsock?: MicroVMProbesLivenessVsock;
  /**
   * Wait after the start.
   *
   * Default: "0s".
   */
  initialDelay?: string;
  /**
   * Time between two tries.
   *
   * Default: "10s".
   */
  period?: string;
  /**
   * How long one try may take.
   *
   * Default: "1s".
   */
  timeout?: string;
  /**
   * Successes in a row that count as success.
   *
   * Default: 1.
   */
  successThreshold?: number;
  /**
   * Failures in a row that count as failure.
   *
   * Default: 3.
   */
  failureThreshold?: number;
}
/**
 * Succeeds when the port accepts a connection.
 */
export interface MicroVMProbesLivenessTcp {
  /**
   * Port in the guest.
   */
  port: number;
}
/**
 * Succeeds with a status from 200 to 399.
 */
export interface MicroVMProbesLivenessHttp {
  /**
   * Port in the guest.
   */
  port: number;
  /**
   * Path of the request.
   *
   * Default: "/".
   */
  path?: string;
  /**
   * Scheme.
   *
   * Default: "HTTP".
   */
  scheme?: 'HTTP' | 'HTTPS';
}
/**
 * Succeeds once the serial console printed the text.
 */
export interface MicroVMProbesLivenessConsole {
  /**
   * Text, printable ASCII.
   */
  contains: string;
}
/**
 * Succeeds when the port of the guest's vsock accepts a connection.
 */
export interface MicroVMProbesLivenessVsock {
  /**
   * Port in the guest.
   */
  port: number;
}
/**
 * What happens when the host can not reach the control plane; what is left out follows the Site.
 */
export interface MicroVMDisconnect {
  /**
   * How long a host may be silent before the control plane may start a replacement; 10m when neither is written.
   */
  lostAfter?: string;
  /**
   * How long a host may be without an acknowledged heartbeat before it stops the microVM by itself, so that a replacement can never run beside it; 9m when neither is written.
   */
  stopOnHostAfter?: string;
  /**
   * false: a lost host keeps its microVMs, and starts them again by itself after a power cut. true: they run under a lease of the host only, end there after stopOnHostAfter without one, and are started on another host after lostAfter.
   */
  replace?: boolean;
  /**
   * Which copy goes on when a replaced host comes back. KeepNew: the replacement; KeepOriginal: the one on the old host; Manual: an operator chooses, the replacement runs meanwhile. The loser is stopped, its disks stay where they are and are listed in the status of the Host. Only KeepNew works in this version.
   */
  reconcile?: 'KeepNew' | 'KeepOriginal' | 'Manual';
  /**
   * Keep: refuse to replace a microVM that would lose a local disk. Discard: accept that the replacement starts without the data of its local disks.
   */
  data?: 'Keep' | 'Discard';
}
/**
 * What n-kudo sees of the microVM. Written by the controller only.
 */
export interface MicroVMStatus {
  /**
   * Generation of the spec that this status was derived from.
   */
  observedGeneration?: number;
  /**
   * Generation of the spec that the host has taken over.
   */
  hostObservedGeneration?: number;
  /**
   * One word for people, derived from the conditions; programs read the conditions.
   */
  printableStatus?:
    | 'Pending'
    | 'Rejected'
    | 'Unschedulable'
    | 'Scheduled'
    | 'Provisioning'
    | 'Starting'
    | 'Running'
    | 'Paused'
    | 'Stopping'
    | 'Stopped'
    | 'Restarting'
    | 'CrashLooping'
    | 'Failed'
    | 'Completed'
    | 'Deleting'
    | 'Unknown';
  binding?: MicroVMStatusBinding;
  /**
   * When the host was last heard. Written when it falls silent, left out while it is reachable.
   */
  lastObservedTime?: string;
  /**
   * When the running guest was booted, by the clock of the host.
   */
  bootedTime?: string;
  /**
   * Address of the guest that peers of the mesh reach it by.
   */
  meshAddress?: string;
  /**
   * Addresses of the guest, in the order of spec.networks, and the ports of the host that lead to them.
   */
  addresses?: MicroVMStatusAddress[];
  size?: MicroVMStatusSize;
  restarts?: MicroVMStatusRestarts;
  plan?: MicroVMStatusPlan;
  /**
   * What is true of the object now, by type. The types and reasons are a closed list (crds/conditions.ts).
   */
  conditions?: Condition[];
}
/**
 * The host that runs it. A copy: n-kudo never reads it back.
 */
export interface MicroVMStatusBinding {
  /**
   * Name of the Host.
   */
  hostName: string;
  /**
   * Identity of the host, a UUID.
   */
  hostID?: string;
  /**
   * Fencing epoch of the binding; rises with every binding.
   */
  epoch?: number;
}
/**
 * One address.
 */
export interface MicroVMStatusAddress {
  /**
   * Name of the network.
   */
  network?: string;
  /**
   * IP address.
   */
  address: string;
  /**
   * How the network is connected.
   */
  type?: 'NAT' | 'Bridge' | 'Mesh' | 'Macvtap';
  /**
   * Ports of the host that lead to the guest.
   */
  ports?: MicroVMStatusAddressPort[];
}
/**
 * One port.
 */
export interface MicroVMStatusAddressPort {
  /**
   * Name of the port in the spec.
   */
  name: string;
  /**
   * Protocol.
   */
  protocol?: 'TCP' | 'UDP';
  /**
   * Port on the host.
   */
  hostPort: number;
  /**
   * Port in the guest.
   */
  guestPort?: number;
}
/**
 * What the running guest has, as its host saw it last. It follows the spec when the guest has taken part; there is none while it does not run.
 */
export interface MicroVMStatusSize {
  /**
   * Virtual CPUs.
   */
  cpus?: number;
  /**
   * Memory in bytes, as a quantity.
   */
  memory?: number | string;
}
/**
 * Restarts under the restart policy.
 */
export interface MicroVMStatusRestarts {
  /**
   * Since the microVM was created.
   */
  count?: number;
  /**
   * How the last run ended.
   */
  lastExitReason?:
    | 'GuestShutdown'
    | 'GuestReboot'
    | 'GuestPanic'
    | 'VMMCrash'
    | 'HostReboot'
    | 'OOM'
    | 'Operator'
    | 'Unhealthy'
    | 'Unknown';
  /**
   * When the last run ended.
   */
  lastExitTime?: string;
}
/**
 * The plan that carries out this generation.
 */
export interface MicroVMStatusPlan {
  /**
   * Identity of the plan, a UUID.
   */
  id: string;
  /**
   * Status of the plan.
   */
  status?: 'Pending' | 'Dispatched' | 'Running' | 'Succeeded' | 'Failed' | 'Superseded' | 'Cancelled' | 'Expired';
}

export interface MicroVMList {
  apiVersion: 'nkudo.dev/v1alpha1';
  kind: 'MicroVMList';
  metadata: ListMeta;
  items: MicroVM[];
}
