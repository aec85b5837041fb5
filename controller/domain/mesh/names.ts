/**
 * Names and markers of everything that n-kudo makes in a mesh account. Owns how an object is recognised as ours:
 * by its whole name and, where the account keeps a description, by the marker in it. Ids play no part, so that an
 * object is found again after a crash between its creation and the note of its id.
 *
 * Invariant: two sites never share a name. A namespace has no dot, so `<namespace>.<site>` is read one way only, and
 * the first eight digits of the site's UID tell a site from a deleted one with the same name.
 */
import type { HostId, SiteId } from '#api/model/ids.ts';

/** The site whose objects are meant. */
export interface MeshScope {
  /** UUID that tells this n-kudo from others in the same account. */
  readonly installationId: string;
  readonly siteUid: SiteId;
  readonly namespace: string;
  readonly siteName: string;
}

const shortLength = 8;

const short = (uuid: string): string => uuid.slice(0, shortLength);

/** Every name of this installation begins so. */
export function namePrefix(scope: Pick<MeshScope, 'installationId'>): string {
  return `nkudo-${short(scope.installationId)}-`;
}

/** In the description of every object that has one, and the name of setup keys. */
export function siteMarker(scope: MeshScope): string {
  return `nkudo:${scope.installationId}:${scope.siteUid}`;
}

/** As {@link siteMarker}, for what belongs to one host. */
export function hostMarker(scope: MeshScope, hostId: HostId): string {
  return `${siteMarker(scope)}:${hostId}`;
}

/** The group of all hosts of the site, and of their guest subnets. */
export function siteGroupName(scope: MeshScope): string {
  return `${namePrefix(scope)}site-${scope.namespace}.${scope.siteName}-${short(scope.siteUid)}`;
}

/** The group that one host's setup key puts its peer into: the peer in it is the host's. */
export function hostGroupName(scope: MeshScope, hostId: HostId): string {
  return `${namePrefix(scope)}host-${hostId}-${short(scope.siteUid)}`;
}

/** The marker of one policy: a renamed policy is still known. */
export function policyMarker(scope: MeshScope, policyName: string | null): string {
  return policyName === null ? `${siteMarker(scope)}:hosts` : `${siteMarker(scope)}:policy:${policyName}`;
}

/** Setup keys have no description: their name is the marker. */
export function setupKeyName(scope: MeshScope, hostId: HostId): string {
  return hostMarker(scope, hostId);
}

/** The policy that lets the hosts of the site talk to each other. */
export function intraSitePolicyName(scope: MeshScope): string {
  return siteGroupName(scope);
}

/** A policy of the Site's `spec.mesh.policies`. */
export function sitePolicyName(scope: MeshScope, policyName: string): string {
  return `${siteGroupName(scope)}-${policyName}`;
}

/** The network that carries one host's guest subnets, and its resources. */
export function hostNetworkName(scope: MeshScope, hostId: HostId): string {
  return hostGroupName(scope, hostId);
}

/** Resource names are unique in the whole account. */
export function subnetResourceName(scope: MeshScope, hostId: HostId, subnet: string): string {
  return `${hostGroupName(scope, hostId)}-${subnet}`;
}

/** The host id in the name of a host group of this site, or null for any other name. */
export function hostIdOfGroupName(scope: MeshScope, name: string): string | null {
  const prefix = `${namePrefix(scope)}host-`;
  const suffix = `-${short(scope.siteUid)}`;
  if (!name.startsWith(prefix) || !name.endsWith(suffix)) return null;
  return name.slice(prefix.length, name.length - suffix.length);
}

/** True when the name can only be of a group that this installation made for this site. */
export function isOwnGroupName(scope: MeshScope, name: string): boolean {
  return name === siteGroupName(scope) || hostIdOfGroupName(scope, name) !== null;
}

/** True when the text is the marker of the site or of one of its hosts. */
export function isOwnMarker(scope: MeshScope, text: string): boolean {
  const marker = siteMarker(scope);
  return text === marker || text.startsWith(`${marker}:`);
}
