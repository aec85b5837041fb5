/**
 * Generated from crds/v1alpha1/site.yaml by hack/generate-crd-types.ts; do not edit.
 * Times are RFC 3339 strings, as the API server sends them. Fields with a default are present on
 * every object that was read from the API server; they are optional here because writers may leave them out.
 */
import type { Condition, ListMeta, ObjectMeta } from './kubernetes.ts';

/**
 * Site is a place with hosts: a shop, a factory, a cell site. Its namespace is the tenant.
 */
export interface Site {
  apiVersion: 'nkudo.dev/v1alpha1';
  kind: 'Site';
  metadata: ObjectMeta;
  spec: SiteSpec;
  status?: SiteStatus;
}
/**
 * What an operator wants of the site.
 */
export interface SiteSpec {
  /**
   * Range of the addresses that guests with nat networks get. Each host has all of it for itself, since such guests are behind the host's address; it must not be a network that the hosts or their guests use. 10.87.0.0/20 when left out; a Host can have its own.
   */
  natSubnet?: string;
  /**
   * IANA name of the time zone of the site, such as Europe/Berlin; maintenance windows are in it. UTC when left out.
   */
  timeZone?: string;
  /**
   * When n-kudo may restart microVMs whose updateStrategy is Window; never when left out.
   */
  maintenanceWindows?: SiteMaintenanceWindow[];
  /**
   * true: n-kudo restarts, moves and stops nothing at this site unasked (updates, preemption, taints) until it is false again; what a user asks of a microVM or a host is done.
   */
  hold?: boolean;
  disconnect?: SiteDisconnect;
  images?: SiteImages;
  mesh?: SiteMesh;
  quota?: SiteQuota;
  /**
   * Enabled, also when left out: a deletion of many microVMs at once (more than a fifth and at least 10 within 5 minutes), and of their namespace, waits for the annotation nkudo.dev/confirm-delete on the Site. Disabled: it does not.
   */
  massDeletionGuard?: 'Enabled' | 'Disabled';
  enrollment?: SiteEnrollment;
}
/**
 * One weekly window.
 */
export interface SiteMaintenanceWindow {
  /**
   * Unique within the site.
   */
  name: string;
  /**
   * Days of the week; every day when left out.
   */
  days?: ('Mon' | 'Tue' | 'Wed' | 'Thu' | 'Fri' | 'Sat' | 'Sun')[];
  /**
   * Begin, local time of the site, HH:MM.
   */
  start: string;
  /**
   * Length of the window.
   */
  duration: string;
}
/**
 * Defaults for the microVMs of this site when their host can not reach the control plane.
 */
export interface SiteDisconnect {
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
 * How images reach the hosts of the site.
 */
export interface SiteImages {
  /**
   * Bytes per second that image downloads of one host may use.
   */
  bandwidth?: number | string;
  /**
   * Servers that images may come from, as host, host:port or either with the beginning of a path; every server when left out. A redirect counts as well.
   */
  allowedRegistries?: string[];
  /**
   * Images that every host of the site keeps ready, each with its digest.
   */
  prePull?: string[];
}
/**
 * Private network between the hosts and microVMs of the site, and whoever is let in from outside.
 */
export interface SiteMesh {
  /**
   * None: no mesh, and what n-kudo made for the site in one is removed. NetBird: the account of the token in secretRef.
   *
   * Default: "None".
   */
  provider?: 'None' | 'NetBird';
  /**
   * Address of the management server. https://api.netbird.io when left out.
   */
  managementURL?: string;
  secretRef?: SiteMeshSecretRef;
  /**
   * Names of groups of the account that the hosts of the site also join. n-kudo never makes, changes or removes them; one that does not exist is named in condition MeshReady.
   */
  groups?: string[];
  /**
   * Who may reach the hosts and guest subnets of the site, beside the hosts of the site themselves, which always reach each other.
   */
  policies?: SiteMeshPolicie[];
  /**
   * Range from which each host of the site gets one /24 for its guests. A subnet is given to one host only in the whole installation. 10.96.0.0/12 when left out; a change holds for hosts that join later. Choose a range that nothing else at the sites uses.
   */
  subnetPool?: string;
}
/**
 * Secret with the API token of the mesh account, in its key token.
 */
export interface SiteMeshSecretRef {
  /**
   * Name of the Secret, in the same namespace.
   */
  name: string;
}
/**
 * One permission.
 */
export interface SiteMeshPolicie {
  /**
   * Unique within the site.
   */
  name: string;
  /**
   * Names of groups of the account; n-kudo never makes, changes or removes them.
   */
  peers: string[];
  /**
   * In, also when left out: the peers may reach the site. Both: the site may also reach the peers.
   */
  direction?: 'In' | 'Both';
  /**
   * What is let through; all when left out.
   */
  protocol?: 'all' | 'tcp' | 'udp' | 'icmp';
  /**
   * Ports of the site that are let through; every port when left out.
   */
  ports?: number[];
}
/**
 * The most that the microVMs of the site may ask for together; no limit for what is left out. It is asked when a microVM is bound to a host or grows; what is there already stays when a quota is lowered.
 */
export interface SiteQuota {
  /**
   * Number of microVMs.
   */
  microvms?: number;
  /**
   * Sum of cpu.count.
   */
  vcpus?: number;
  /**
   * Sum of memory.size.
   */
  memory?: number | string;
  /**
   * Sum of the sizes of the disks that n-kudo makes; files that are on the host already do not count.
   */
  disk?: number | string;
}
/**
 * How hosts join.
 */
export interface SiteEnrollment {
  /**
   * true: an enrolled host stays Pending, and runs nothing, until spec.approved of its Host is true.
   *
   * Default: false.
   */
  requireApproval?: boolean;
}
/**
 * What n-kudo sees of the site. Written by the controller only.
 */
export interface SiteStatus {
  /**
   * Generation of the spec that this status was derived from.
   */
  observedGeneration?: number;
  /**
   * Online: every enrolled host is heard. Partial: some are. Offline: none is. Left out while the site has no enrolled host.
   */
  connectivity?: 'Online' | 'Partial' | 'Offline';
  hosts?: SiteStatusHosts;
  microvms?: SiteStatusMicrovms;
  usedQuota?: SiteStatusUsedQuota;
  /**
   * What is true of the object now, by type. The types and reasons are a closed list (crds/conditions.ts).
   */
  conditions?: Condition[];
}
/**
 * Hosts of the site, counted.
 */
export interface SiteStatusHosts {
  /**
   * Hosts that exist.
   */
  total?: number;
  /**
   * In phase Ready.
   */
  ready?: number;
  /**
   * Not enrolled or not approved yet.
   */
  pending?: number;
  /**
   * Silent.
   */
  unreachable?: number;
}
/**
 * MicroVMs of the site, counted.
 */
export interface SiteStatusMicrovms {
  /**
   * MicroVMs that exist.
   */
  total?: number;
  /**
   * Condition Running is True.
   */
  running?: number;
  /**
   * On silent hosts.
   */
  unknown?: number;
}
/**
 * What the microVMs of the site ask for together.
 */
export interface SiteStatusUsedQuota {
  /**
   * Number of microVMs.
   */
  microvms?: number;
  /**
   * Sum of cpu.count.
   */
  vcpus?: number;
  /**
   * Sum of memory.size, bytes.
   */
  memory?: number | string;
  /**
   * Sum of disk sizes, bytes.
   */
  disk?: number | string;
}

export interface SiteList {
  apiVersion: 'nkudo.dev/v1alpha1';
  kind: 'SiteList';
  metadata: ListMeta;
  items: Site[];
}
