/**
 * What the mesh of one site should hold, what an account was seen to hold, and the calls that lead from one to the
 * other. Pure data: `plan-mesh.ts` decides, the port `controller/ports/mesh.ts` lists and performs.
 */
import type { HostId } from '#api/model/ids.ts';
import type { MeshScope } from './names.ts';

export type MeshProtocol = 'all' | 'tcp' | 'udp' | 'icmp';

export interface DesiredPolicy {
  /** Unique in the site. */
  readonly name: string;
  /** Names of groups that others made; those that do not exist are reported and left out. */
  readonly peers: readonly string[];
  /** `In`: the peers may reach the site. `Both`: also the other way round. */
  readonly direction: 'In' | 'Both';
  readonly protocol: MeshProtocol;
  /** Ports 1 to 65535; empty: all. Only with tcp and udp. */
  readonly ports: readonly number[];
}

export interface DesiredHost {
  readonly hostId: HostId;
  /** The name of the host's peer; repaired when somebody changed it. */
  readonly peerName: string;
  /** Id of the peer as it was last found; null: never seen. */
  readonly knownPeerId: string | null;
  /** Mesh address that the agent reports, without prefix length; it only confirms, it never claims. */
  readonly reportedAddress: string | null;
  /** Guest subnets (CIDR, in canonical form) that are reachable through this host. */
  readonly subnets: readonly string[];
  /**
   * Whether a key is to be made when there is none, and the id of the key whose value is known still. Any other key of
   * the host is deleted: a value that nobody knows can not be read again.
   */
  readonly key: { readonly isWanted: boolean; readonly heldId: string | null };
}

/** Everything that one site wants. A site that goes away wants no host and `isDeleting`. */
export interface DesiredMesh {
  readonly scope: MeshScope;
  /** True: the site's objects all go. */
  readonly isDeleting: boolean;
  readonly hosts: readonly DesiredHost[];
  readonly policies: readonly DesiredPolicy[];
  /** Names of groups that others made and that the hosts also join. */
  readonly extraGroups: readonly string[];
  /** Life of a setup key in seconds, 60 to 3600. */
  readonly setupKeyTtlSeconds: number;
}

/** A group of peers and resources. */
export interface ListedGroup {
  readonly id: string;
  readonly name: string;
  readonly peerIds: readonly string[];
  readonly resources: readonly { readonly id: string; readonly type: string }[];
}

export interface ListedPolicy {
  readonly id: string;
  readonly name: string;
  readonly description: string;
  readonly isEnabled: boolean;
  readonly postureCheckIds: readonly string[];
  readonly rules: readonly ListedRule[];
}

export interface ListedRule {
  readonly id: string;
  readonly isEnabled: boolean;
  readonly action: string;
  readonly isBidirectional: boolean;
  readonly protocol: string;
  readonly ports: readonly string[];
  /** True when it has something that n-kudo never sets: port ranges, single resources, authorised groups. */
  readonly hasOther: boolean;
  readonly sourceIds: readonly string[];
  readonly destinationIds: readonly string[];
}

export interface ListedSetupKey {
  readonly id: string;
  readonly name: string;
  /** False when expired, revoked or used up. */
  readonly isValid: boolean;
  readonly isEphemeral: boolean;
  readonly autoGroupIds: readonly string[];
}

export interface ListedPeer {
  readonly id: string;
  readonly name: string;
  /** IPv4 address in the mesh, without prefix length. */
  readonly address: string;
  readonly isConnected: boolean;
  /** Epoch milliseconds. */
  readonly createdAtMs: number;
  readonly groupIds: readonly string[];
  /** Sent back unchanged when the peer is renamed. */
  readonly settings: PeerSettings;
}

export interface PeerSettings {
  readonly isSshEnabled: boolean;
  readonly isLoginExpirationEnabled: boolean;
  readonly isInactivityExpirationEnabled: boolean;
}

/** A network with its parts. Parts are listed for networks of this site only; of others they are empty. */
export interface ListedNetwork {
  readonly id: string;
  readonly name: string;
  readonly description: string;
  readonly resources: readonly ListedResource[];
  readonly routers: readonly ListedRouter[];
}

export interface ListedResource {
  readonly id: string;
  readonly name: string;
  readonly description: string;
  /** CIDR. */
  readonly address: string;
  readonly isEnabled: boolean;
  readonly groupIds: readonly string[];
}

export interface ListedRouter {
  readonly id: string;
  readonly peerId: string;
  readonly peerGroupIds: readonly string[];
  readonly metric: number;
  readonly isMasquerading: boolean;
  readonly isEnabled: boolean;
}

/** One look at an account: all of it, also what others made. */
export interface MeshListing {
  readonly groups: readonly ListedGroup[];
  readonly policies: readonly ListedPolicy[];
  readonly setupKeys: readonly ListedSetupKey[];
  readonly peers: readonly ListedPeer[];
  readonly networks: readonly ListedNetwork[];
}

/**
 * One request that changes the account. Groups and networks are meant by name, because a plan is made before they
 * exist; {@link MeshNames} turns names into ids. Every create is an ensure: it looks for the name (and the marker)
 * first and makes nothing twice; every delete of what is gone succeeds.
 */
export type MeshCall =
  | { readonly kind: 'createGroup'; readonly name: string }
  /** Replaces the members; the resources are sent back as they were listed. */
  | { readonly kind: 'updateGroup'; readonly id: string; readonly name: string; readonly peerIds: readonly string[]; readonly resources: ListedGroup['resources'] }
  | { readonly kind: 'deleteGroup'; readonly id: string; readonly name: string }
  | { readonly kind: 'createPolicy'; readonly policy: PolicySpec }
  | { readonly kind: 'updatePolicy'; readonly id: string; readonly policy: PolicySpec }
  | { readonly kind: 'deletePolicy'; readonly id: string; readonly name: string }
  | { readonly kind: 'createSetupKey'; readonly hostId: HostId; readonly name: string; readonly groups: readonly string[]; readonly ttlSeconds: number }
  | { readonly kind: 'deleteSetupKey'; readonly id: string; readonly name: string }
  | { readonly kind: 'renamePeer'; readonly id: string; readonly name: string; readonly settings: PeerSettings }
  | { readonly kind: 'deletePeer'; readonly id: string; readonly name: string }
  | { readonly kind: 'createNetwork'; readonly name: string; readonly marker: string }
  | { readonly kind: 'updateNetwork'; readonly id: string; readonly name: string; readonly marker: string }
  | { readonly kind: 'deleteNetwork'; readonly id: string; readonly name: string }
  /** With `networkId` when the network was listed: a name alone could be somebody else's network. */
  | { readonly kind: 'createResource'; readonly network: string; readonly networkId: string | null; readonly resource: ResourceSpec }
  | { readonly kind: 'updateResource'; readonly networkId: string; readonly id: string; readonly resource: ResourceSpec }
  | { readonly kind: 'deleteResource'; readonly networkId: string; readonly id: string; readonly name: string }
  | { readonly kind: 'createRouter'; readonly network: string; readonly networkId: string | null; readonly router: RouterSpec }
  | { readonly kind: 'updateRouter'; readonly networkId: string; readonly id: string; readonly router: RouterSpec }
  | { readonly kind: 'deleteRouter'; readonly networkId: string; readonly id: string };

/** One policy with one rule: the account answers a second rule with the same group incompletely. */
export interface PolicySpec {
  readonly name: string;
  readonly marker: string;
  readonly sources: readonly string[];
  readonly destinations: readonly string[];
  readonly isBidirectional: boolean;
  readonly protocol: MeshProtocol;
  readonly ports: readonly string[];
}

export interface ResourceSpec {
  readonly name: string;
  readonly marker: string;
  /** CIDR. */
  readonly address: string;
  readonly groups: readonly string[];
}

export interface RouterSpec {
  readonly peerGroup: string;
  readonly metric: number;
}

/** What a call made: the id of the object it created or found, and the value of a new setup key. */
export interface MeshCallResult {
  readonly id: string;
  /** Only after `createSetupKey`. A function, so that no logger or encoder prints the secret by accident. */
  readonly revealKey?: () => string;
}

/** Names to ids of groups and networks: from a listing, and from what was created since. */
export interface MeshNames {
  readonly groupIds: ReadonlyMap<string, string>;
  readonly networkIds: ReadonlyMap<string, string>;
}
