/**
 * Which peers of an account are a host's. Pure. A setup key puts its peer into the host's group and the site's group,
 * so membership says whose peer it is; the address that the agent reports only confirms it, because anybody can claim
 * an address.
 *
 * Invariant: a peer is given up for deletion only when it is in the host's group and in the site's group. A machine that
 * somebody put into one of them by hand is left alone.
 */
import type { DesiredHost, ListedPeer } from './model.ts';

export interface HostPeers {
  /** The peer that the host uses now; null: it has none yet. */
  readonly own: ListedPeer | null;
  /** Earlier peers of the host, left by a machine that was set up again. */
  readonly superseded: readonly ListedPeer[];
  /** True when the own peer was taken out of the host's group by somebody. */
  readonly isOutsideHostGroup: boolean;
}

export interface PeerGroups {
  readonly hostGroupId: string | null;
  readonly siteGroupId: string | null;
}

export function findHostPeers(host: DesiredHost, groups: PeerGroups, peers: readonly ListedPeer[]): HostPeers {
  const carriers = peers.filter((peer) => isIn(peer, groups.hostGroupId));
  const confirmed = carriers.find(({ address }) => address === host.reportedAddress);
  if (confirmed !== undefined) {
    const superseded = carriers.filter((peer) => peer !== confirmed && confirmed.isConnected && isSuperseded(peer, host, groups));
    return { own: confirmed, superseded, isOutsideHostGroup: false };
  }
  const strayed = peers.find(({ id, address }) => id === host.knownPeerId && address === host.reportedAddress);
  if (strayed !== undefined) return { own: strayed, superseded: [], isOutsideHostGroup: true };
  const likely = carriers.filter((peer) => peer.id === host.knownPeerId || isIn(peer, groups.siteGroupId)).toSorted((left, right) => rank(right, host) - rank(left, host) || right.createdAtMs - left.createdAtMs);
  return { own: likely[0] ?? null, superseded: [], isOutsideHostGroup: false };
}

/** Peers of a host that the site does not have any more. */
export function findPeersOfGoneHost(groups: PeerGroups, peers: readonly ListedPeer[]): readonly ListedPeer[] {
  return peers.filter((peer) => isIn(peer, groups.hostGroupId) && isIn(peer, groups.siteGroupId));
}

export function isIn(peer: ListedPeer, groupId: string | null): boolean {
  return groupId !== null && peer.groupIds.includes(groupId);
}

function isSuperseded(peer: ListedPeer, host: DesiredHost, groups: PeerGroups): boolean {
  return !peer.isConnected && peer.name === host.peerName && isIn(peer, groups.siteGroupId);
}

function rank(peer: ListedPeer, host: DesiredHost): number {
  return (peer.isConnected ? 2 : 0) + (peer.id === host.knownPeerId ? 1 : 0);
}
