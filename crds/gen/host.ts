/**
 * Generated from crds/v1alpha1/host.yaml by hack/generate-crd-types.ts; do not edit.
 * Times are RFC 3339 strings, as the API server sends them. Fields with a default are present on
 * every object that was read from the API server; they are optional here because writers may leave them out.
 */
import type { Condition, ListMeta, ObjectMeta } from './kubernetes.ts';

/**
 * Host is a machine at a Site that runs microVMs. Enrollment makes it; it may also be declared before.
 */
export interface Host {
  apiVersion: 'nkudo.dev/v1alpha1';
  kind: 'Host';
  metadata: ObjectMeta;
  spec: HostSpec;
  status?: HostStatus;
}
/**
 * What an operator wants of the host.
 */
export interface HostSpec {
  siteRef: HostSiteRef;
  /**
   * true: the host may run microVMs at a Site with enrollment.requireApproval; at other sites it has no meaning.
   *
   * Default: false.
   */
  approved?: boolean;
  /**
   * Range of the addresses that guests with nat networks get on this host; that of the Site when left out. Guests keep the addresses that they have when it changes.
   */
  natSubnet?: string;
  /**
   * true: no new microVM is placed here; those that run stay.
   *
   * Default: false.
   */
  unschedulable?: boolean;
  reserved?: HostReserved;
  /**
   * Keeps microVMs away that do not tolerate it.
   */
  taints?: HostTaint[];
  overcommit?: HostOvercommit;
  drain?: HostDrain;
  agent?: HostAgent;
}
/**
 * The site that the host belongs to. It can not be changed: enroll the machine again instead.
 */
export interface HostSiteRef {
  /**
   * Name of the Site, in the same namespace.
   */
  name: string;
}
/**
 * Kept back from microVMs, for the host itself.
 */
export interface HostReserved {
  /**
   * CPUs.
   */
  cpus?: number;
  /**
   * Memory.
   */
  memory?: number | string;
}
/**
 * One taint.
 */
export interface HostTaint {
  /**
   * Label key.
   */
  key: string;
  /**
   * Label value.
   */
  value?: string;
  /**
   * NoSchedule: none is placed here. NoExecute: those that run are also stopped or moved away, each by its evictionStrategy.
   */
  effect: 'NoSchedule' | 'NoExecute';
}
/**
 * How much more than the host has may be promised to microVMs, in percent; 100 is exactly what it has.
 */
export interface HostOvercommit {
  /**
   * CPUs; 1600 when left out.
   */
  cpuPercent?: number;
  /**
   * Memory; 100 when left out.
   */
  memoryPercent?: number;
}
/**
 * Empties the host, and keeps it empty until the field is removed.
 */
export interface HostDrain {
  /**
   * When what is still here is stopped, whatever its strategy says.
   */
  deadline?: string;
  /**
   * Evict, also when left out: each microVM is handled by its evictionStrategy. StopAll: every one is stopped and stays bound to this host.
   */
  mode?: 'Evict' | 'StopAll';
}
/**
 * Which agent the host runs; what it has, or a rollout brings, when left out.
 */
export interface HostAgent {
  /**
   * Version to run, such as 0.4.1; rollouts leave a host that has one alone. The host fetches it, takes it only when a key that it trusts signed it, and goes back by itself when it does not get ready. A version that failed is tried again when this field was changed meanwhile.
   */
  version?: string;
  /**
   * URL of the signed manifest of that version; its signature and the files lie beside it. The one that the control plane knows for every version when left out.
   */
  manifestURL?: string;
  /**
   * true: rollouts leave this host alone.
   */
  pinned?: boolean;
  /**
   * Ring in which rollouts reach this host, whatever their rings select.
   */
  ring?: string;
}
/**
 * What n-kudo sees of the host. Written by the controller only, on transitions.
 */
export interface HostStatus {
  /**
   * Generation of the spec that this status was derived from.
   */
  observedGeneration?: number;
  /**
   * Identity that the machine was given at enrollment, a UUID.
   */
  hostID?: string;
  /**
   * Pending: not enrolled or not approved. Quarantined: two machines use this identity. Ready: heard and able to run microVMs. Degraded: heard, but something is wrong (see conditions). Unreachable: silent. Draining, Drained: being emptied. Revoked: its identity was withdrawn.
   */
  phase?: 'Pending' | 'Quarantined' | 'Ready' | 'Degraded' | 'Unreachable' | 'Draining' | 'Drained' | 'Revoked';
  capacity?: HostStatusCapacity;
  allocatable?: HostStatusAllocatable;
  allocated?: HostStatusAllocated;
  facts?: HostStatusFacts;
  /**
   * Version of nkudo-edge.
   */
  agentVersion?: string;
  hypervisor?: HostStatusHypervisor;
  /**
   * Changes with every boot of the machine; tells a reboot from a cut link.
   */
  bootID?: string;
  certificate?: HostStatusCertificate;
  /**
   * Address of the host in the mesh.
   */
  meshAddress?: string;
  /**
   * Range of the guests of this host in the mesh.
   */
  meshSubnet?: string;
  /**
   * MicroVMs that were replaced on another host while this one was silent, newest first. What is left of them here is stopped when the host comes back; their disks stay.
   */
  displaced?: HostStatusDisplaced[];
  /**
   * MicroVMs on the host that belong to no object any more. They are listed, never stopped by n-kudo.
   */
  orphans?: HostStatusOrphan[];
  /**
   * When the host was last heard. Written when it falls silent, left out while it is reachable.
   */
  lastObservedTime?: string;
  /**
   * What is true of the object now, by type. The types and reasons are a closed list (crds/conditions.ts).
   */
  conditions?: Condition[];
}
/**
 * What the machine has.
 */
export interface HostStatusCapacity {
  /**
   * Virtual CPUs.
   */
  cpus?: number;
  /**
   * Memory in bytes, as a quantity.
   */
  memory?: number | string;
  /**
   * Number of microVMs.
   */
  microvms?: number;
}
/**
 * What microVMs may use: capacity without what is reserved.
 */
export interface HostStatusAllocatable {
  /**
   * Virtual CPUs.
   */
  cpus?: number;
  /**
   * Memory in bytes, as a quantity.
   */
  memory?: number | string;
  /**
   * Number of microVMs.
   */
  microvms?: number;
}
/**
 * What the microVMs bound to this host ask for.
 */
export interface HostStatusAllocated {
  /**
   * Virtual CPUs.
   */
  cpus?: number;
  /**
   * Memory in bytes, as a quantity.
   */
  memory?: number | string;
  /**
   * Number of microVMs.
   */
  microvms?: number;
}
/**
 * What the agent says about the machine.
 */
export interface HostStatusFacts {
  /**
   * Host name of the machine.
   */
  hostName?: string;
  /**
   * x86_64 or aarch64.
   */
  architecture?: string;
  /**
   * Name of the CPU.
   */
  cpuModel?: string;
  /**
   * Release of the kernel.
   */
  kernelVersion?: string;
  /**
   * Name of the distribution.
   */
  osImage?: string;
  /**
   * Content of /etc/machine-id.
   */
  machineID?: string;
  /**
   * /dev/kvm can be opened.
   */
  hasKVM?: boolean;
  /**
   * Parts of the memory with the processors near them.
   */
  numaNodes?: HostStatusFactsNumaNode[];
  /**
   * Large pages that are set aside, by their size.
   */
  hugepages?: HostStatusFactsHugepage[];
  /**
   * Real disks.
   */
  disks?: HostStatusFactsDisk[];
  /**
   * Real network devices.
   */
  networkDevices?: HostStatusFactsNetworkDevice[];
  /**
   * PCI devices of the display class.
   */
  gpus?: HostStatusFactsGpu[];
  /**
   * Size of the file system that the agent keeps its state and its guests' disks on.
   */
  stateSize?: string;
  /**
   * What is free there; small changes are not told.
   */
  stateFree?: string;
  /**
   * How far the clock of the host is ahead of the control plane's, in steps of 10; left out when it is right.
   */
  clockSkewSeconds?: number;
  isolation?: HostStatusFactsIsolation;
}
export interface HostStatusFactsNumaNode {
  /**
   * Number of the node.
   */
  id: number;
  /**
   * Its logical processors, such as 0-3,8-11.
   */
  cpus?: string;
  /**
   * Its memory.
   */
  memory?: string;
}
export interface HostStatusFactsHugepage {
  /**
   * Size of one page.
   */
  pageSize: string;
  /**
   * Pages that are set aside.
   */
  total?: number;
  /**
   * Of those, pages that nobody uses.
   */
  free?: number;
}
export interface HostStatusFactsDisk {
  /**
   * Name of the device.
   */
  name: string;
  /**
   * Its size.
   */
  size?: string;
  /**
   * It has spinning parts.
   */
  rotational?: boolean;
}
export interface HostStatusFactsNetworkDevice {
  /**
   * Name of the device.
   */
  name: string;
  /**
   * Its hardware address.
   */
  mac?: string;
  /**
   * Megabits per second; left out without a link.
   */
  speedMbps?: number;
  /**
   * Driver of the kernel.
   */
  driver?: string;
  /**
   * It has a link.
   */
  up?: boolean;
}
export interface HostStatusFactsGpu {
  /**
   * PCI address.
   */
  address: string;
  /**
   * PCI vendor, four hexadecimal digits.
   */
  vendor?: string;
  /**
   * PCI device, four hexadecimal digits.
   */
  device?: string;
  /**
   * Driver that has it now.
   */
  driver?: string;
}
/**
 * How far microVMs are kept apart from each other and from the host.
 */
export interface HostStatusFactsIsolation {
  /**
   * Each VMM has a user of its own.
   */
  users?: boolean;
  /**
   * What of each microVM is limited: memory, cpu, pids.
   */
  limits?: string[];
  /**
   * Version of control groups.
   */
  cgroups?: string;
  /**
   * Each VMM is a service of systemd.
   */
  systemd?: boolean;
  /**
   * VMMs confine themselves to their files: yes, no, or unknown before the first one.
   */
  landlock?: string;
  /**
   * What is not as it should be.
   */
  problems?: string[];
}
/**
 * The VMM that the agent starts.
 */
export interface HostStatusHypervisor {
  /**
   * cloud-hypervisor, simulated when the VMM says so of itself, none when there is no usable one.
   */
  kind?: 'cloud-hypervisor' | 'simulated' | 'none';
  /**
   * Version that the VMM prints.
   */
  version?: string;
  /**
   * Why no VMM can be used.
   */
  problem?: string;
}
/**
 * The certificate that the host uses now.
 */
export interface HostStatusCertificate {
  /**
   * Serial number, hexadecimal.
   */
  serial?: string;
  /**
   * End of its validity.
   */
  notAfter?: string;
}
/**
 * One of them.
 */
export interface HostStatusDisplaced {
  /**
   * UID of the MicroVM.
   */
  uid: string;
  /**
   * Name of the MicroVM.
   */
  name?: string;
  /**
   * When it was replaced.
   */
  since: string;
  /**
   * The host has confirmed that nothing of it runs there any more.
   */
  stopped: boolean;
  /**
   * Paths of its writable disks on this host. n-kudo neither uses nor removes them any more.
   *
   * Items: A path.
   */
  orphanedDisks?: string[];
}
/**
 * One of them.
 */
export interface HostStatusOrphan {
  /**
   * UID of the MicroVM.
   */
  uid: string;
  /**
   * Name that the host knows it by.
   */
  name?: string;
  /**
   * What the host sees.
   */
  state?: string;
  /**
   * When it was first seen without an object.
   */
  since?: string;
  /**
   * What can be done.
   */
  message?: string;
}

export interface HostList {
  apiVersion: 'nkudo.dev/v1alpha1';
  kind: 'HostList';
  metadata: ListMeta;
  items: Host[];
}
