/** From a Site and what is kept of its hosts to what its mesh should hold, and the orders to the hosts. Pure. */
import type { Site } from '#crds/gen/site.ts';
import type { MeshOrder } from '#api/model/mesh.ts';
import { siteId } from '#api/model/ids.ts';
import type { DesiredHost, DesiredMesh, DesiredPolicy } from '#controller/domain/mesh/model.ts';
import type { MeshScope } from '#controller/domain/mesh/names.ts';
import type { MeshHostRecord } from '#controller/ports/mesh-store.ts';

const defaultManagementUrl = 'https://api.netbird.io';
/** Outside 100.64.0.0/10, which NetBird uses, and large enough for 4096 hosts. */
const defaultSubnetPool = '10.96.0.0/12';
/** Longest life of a setup key: it is used within seconds, or made anew. */
export const setupKeyTtlSeconds = 600;
/** A DNS label. */
const nameMax = 63;

export function isMeshed(site: Site): boolean {
  return site.spec.mesh?.provider === 'NetBird';
}

export interface MeshSettings {
  readonly managementUrl: string;
  /** Empty when none is named. */
  readonly secretName: string;
  readonly subnetPool: string;
}

export function meshSettings(site: Site): MeshSettings {
  const { managementURL, secretRef, subnetPool } = site.spec.mesh ?? {};
  return { managementUrl: managementURL ?? defaultManagementUrl, secretName: secretRef?.name ?? '', subnetPool: subnetPool ?? defaultSubnetPool };
}

export function meshScope(site: Site, installationId: string): MeshScope {
  const { uid, namespace, name } = site.metadata;
  return { installationId, siteUid: siteId(uid), namespace, siteName: name };
}

/** What the host calls itself in the mesh: its own name, then the site's, cut to a DNS label. */
export function peerName(hostName: string, siteName: string): string {
  const label = `${hostName}-${siteName}`.toLowerCase().replaceAll(/[^a-z0-9-]+/g, '-').slice(0, nameMax);
  return label.replaceAll(/^-+|-+$/g, '');
}

export function orderFor(record: MeshHostRecord, site: Site): Omit<MeshOrder, 'revision'> {
  return { join: true, managementUrl: meshSettings(site).managementUrl, hostName: peerName(record.name, site.metadata.name) };
}

export const leaveOrder: Omit<MeshOrder, 'revision'> = { join: false, managementUrl: '', hostName: '' };

export function deriveDesired(site: Site, scope: MeshScope, records: readonly MeshHostRecord[]): DesiredMesh {
  return {
    scope,
    isDeleting: false,
    hosts: records.filter(({ mayJoin }) => mayJoin).map((record) => deriveHost(record, site)),
    policies: (site.spec.mesh?.policies ?? []).map(derivePolicy),
    extraGroups: site.spec.mesh?.groups ?? [],
    setupKeyTtlSeconds,
  };
}

export function deriveLeaving(scope: MeshScope): DesiredMesh {
  return { scope, isDeleting: true, hosts: [], policies: [], extraGroups: [], setupKeyTtlSeconds };
}

function deriveHost(record: MeshHostRecord, site: Site): DesiredHost {
  const address = record.report?.address ?? '';
  return {
    hostId: record.hostId,
    peerName: peerName(record.name, site.metadata.name),
    knownPeerId: record.peerId,
    reportedAddress: address === '' ? null : address,
    // Routed once there is a peer to route through, and from then on also while it is away.
    subnets: record.subnet === null || record.peerId === null ? [] : [record.subnet],
    // Keys are made where the stream of the host is; here they are only cleared away.
    key: { isWanted: false, heldId: isJoined(record) ? null : record.keyId },
  };
}

/** The last key did its work. */
export function isJoined(record: MeshHostRecord): boolean {
  return record.report?.state === 'Connected' && !record.report.wantsKey;
}

function derivePolicy(policy: NonNullable<NonNullable<Site['spec']['mesh']>['policies']>[number]): DesiredPolicy {
  return { name: policy.name, peers: policy.peers, direction: policy.direction ?? 'In', protocol: policy.protocol ?? 'all', ports: policy.ports ?? [] };
}
