/**
 * Membership of a host in the mesh: what a site orders and what the host reports. The value of a setup key is
 * never part of an order that is kept; it travels beside it, once.
 */

export const meshStates = ['NotConfigured', 'Missing', 'Stopped', 'NeedsLogin', 'Connecting', 'Connected', 'Failed', 'Unknown'] as const;
/**
 * `NotConfigured`: no order to join, and not a member through the agent. `Missing`: no netbird command. `Stopped`: its
 * service does not answer. `Failed`: see the problem. `Unknown`: NetBird says something that is not known here.
 */
export type MeshState = (typeof meshStates)[number];

/** What a host is to do. Equal orders have equal revisions. */
export interface MeshOrder {
  /** True: be a member. False: leave, if the agent ever joined. */
  readonly join: boolean;
  /** Management server, without a path; empty without `join`. */
  readonly managementUrl: string;
  /** Name of the host in the mesh; empty without `join`. */
  readonly hostName: string;
  /** Rises with every change, from 1. */
  readonly revision: number;
}

/** What a host sees. Sent when it changed, and again while a key is wanted. */
export interface MeshReport {
  readonly state: MeshState;
  /** The state in NetBird's own words; empty when it gave none. */
  readonly rawState: string;
  /** Id of the peer when NetBird tells it; empty otherwise. */
  readonly peerId: string;
  /** WireGuard public key; empty when not told. */
  readonly publicKey: string;
  /** Address in the mesh without prefix length; empty when there is none. It proves nothing: any host can claim one. */
  readonly address: string;
  readonly fqdn: string;
  readonly isManagementConnected: boolean;
  readonly isSignalConnected: boolean;
  /** Peers reached through a relay now. Connections are made on demand: 0 is healthy. */
  readonly peersRelayed: number;
  /** Peers reached directly now. */
  readonly peersDirect: number;
  /** For a person; empty when nothing is wrong; never a secret. */
  readonly problem: string;
  /** A key would let the host join now. */
  readonly wantsKey: boolean;
  /** Revision of the order that the report is about; 0: none yet. */
  readonly orderRevision: number;
  /** Highest memory of the service since it started, bytes, rounded up to a power of two; 0: small or not known. */
  readonly daemonMemoryBytes: number;
}

/** Longest texts of a report, characters. */
export const meshReportLimits = { rawState: 64, peerId: 128, publicKey: 128, address: 45, fqdn: 253, problem: 1024 } as const;

/** Management servers that a host may be sent to: TLS, or this machine. */
export function isManagementUrl(text: string): boolean {
  return /^(https:\/\/(\[[0-9a-fA-F:]+\]|[A-Za-z0-9][A-Za-z0-9.-]*)|http:\/\/(127\.\d{1,3}\.\d{1,3}\.\d{1,3}|localhost|\[::1\]))(:\d{1,5})?$/.test(text);
}

/** Names that a host may give itself in the mesh: a DNS-1123 label. */
export function isMeshHostName(text: string): boolean {
  return /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(text);
}
