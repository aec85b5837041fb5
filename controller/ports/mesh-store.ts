/**
 * What is kept of the mesh: which hosts are asked to join, with which subnet, ids of their objects in the account, and
 * what they report. Ids are notes that save requests, never proofs; values of keys and tokens are not kept at all.
 */
import type { MeshOrder, MeshReport } from '#api/model/mesh.ts';
import type { HostId, SiteId, TenantId } from '#api/model/ids.ts';
import type { Actor } from './audit.ts';
import type { MeshHost, MeshReports } from './mesh-orders.ts';

export interface MeshHostRecord extends MeshHost {
  readonly siteId: SiteId;
  /** Name of the Host object. */
  readonly name: string;
  /** False when it was revoked, or waits for an approval: it is to leave. */
  readonly mayJoin: boolean;
  /** Null until the host was first asked to join. */
  readonly order: MeshOrder | null;
  /** CIDR; null while none is allocated. */
  readonly subnet: string | null;
  readonly groupId: string | null;
  readonly peerId: string | null;
  /** The key that was handed out last and may still be used. */
  readonly keyId: string | null;
  /** A replica makes a key at this moment. */
  readonly isKeyBeingMade: boolean;
  readonly report: MeshReport | null;
}

export interface MeshSiteRecord {
  readonly managementUrl: string;
  readonly secretName: string;
  /** Name to id. */
  readonly groupIds: Readonly<Record<string, string>>;
}

/** What a replica needs to make a key for a host. */
export interface MeshKeyClaim {
  readonly namespace: string;
  readonly siteId: SiteId;
  readonly siteName: string;
  readonly site: MeshSiteRecord;
  readonly groupId: string;
  readonly order: MeshOrder;
}

/** Changes of one host; what is left out stays. */
export interface MeshHostChange extends MeshHost {
  readonly siteId: SiteId;
  /** The revision rises when it differs. */
  readonly order?: Omit<MeshOrder, 'revision'>;
  /** Null releases it. */
  readonly subnet?: string | null;
  readonly groupId?: string | null;
  readonly peerId?: string | null;
  /** Forgets this key; does nothing when another one was handed out since. */
  readonly forgetKeyId?: string;
}

export interface MeshStore extends MeshReports {
  /** UUID of this installation; constant. */
  installationId(): Promise<string>;
  /** Hosts of the site that are enrolled, and those that left and still have something in the mesh. Reads only. */
  listBySite(tenantId: TenantId, siteId: SiteId): Promise<readonly MeshHostRecord[]>;
  load(tenantId: TenantId, hostId: HostId): Promise<MeshHostRecord | null>;
  /** The lowest /24 of the pool that no host of any tenant has; null when it is full. Reads only; taken by {@link saveHost}. */
  findFreeSubnet(pool: string): Promise<string | null>;
  /** Writes nothing when equal. @throws CONFLICT when the subnet was taken meanwhile */
  saveHost(change: MeshHostChange, epoch: number, actor: Actor): Promise<void>;
  loadSite(tenantId: TenantId, siteId: SiteId): Promise<MeshSiteRecord | null>;
  /** Writes nothing when equal. */
  saveSite(tenantId: TenantId, siteId: SiteId, site: MeshSiteRecord, epoch: number, actor: Actor): Promise<void>;
  /** As in `MeshOrders`. One read. */
  loadOrders(hosts: readonly MeshHost[]): Promise<ReadonlyMap<HostId, MeshOrder>>;
  /**
   * Takes the right to make a key for the host until `ttlMs` later; a replica that comes back under its name takes its
   * own claim again. Null when the host has no order to join or no group yet, or another replica makes a key now.
   */
  claimKey(host: MeshHost, replica: string, ttlMs: number): Promise<MeshKeyClaim | null>;
  /** Ends the claim; with a key, notes its id. @throws CONFLICT when the claim was lost meanwhile */
  endClaim(host: MeshHost, replica: string, key: { readonly id: string; readonly ttlSeconds: number } | null, actor: Actor): Promise<void>;
}
