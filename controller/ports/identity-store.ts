/**
 * Tenants, sites and microVMs whose objects were made anew in another cluster: under which identity n-kudo goes on with
 * them. Without a loss of a cluster there is nothing here.
 */
import type { MicroVMId, TenantId } from '#api/model/ids.ts';
import type { Actor } from './audit.ts';

/** An object that stands for something older than itself. */
export interface ObjectIdentity {
  readonly kind: 'Namespace' | 'Site' | 'MicroVM';
  /** UID that the API server gave. */
  readonly objectUid: string;
  /** UID that it had before, which hosts and rows know. */
  readonly uid: string;
  /** Its generations are counted from here: what was published before had this one at most. */
  readonly generationBase: number;
}

export interface Namesake {
  readonly tenantId: TenantId;
  readonly microvmId: MicroVMId;
}

export interface LostTenant {
  readonly tenantId: TenantId;
  readonly hosts: number;
  readonly microvms: number;
  /** The namespace UID that it was bound to again; null: never. */
  readonly namespaceUid: string | null;
}

export interface Rebound {
  /** Sites that go on under their old identity. */
  readonly sites: readonly string[];
  /** MicroVMs that wait for an object that adopts them. */
  readonly microvms: readonly { readonly name: string; readonly microvmId: MicroVMId }[];
}

export interface IdentityStore {
  /** All of them, over all tenants. Reads only. */
  loadIdentities(): Promise<readonly ObjectIdentity[]>;
  /** MicroVMs of that name that may still run somewhere, of every tenant that ever had the namespace. Reads only. */
  findNamesakes(namespace: string, name: string): Promise<readonly Namesake[]>;
  /**
   * The object takes the microVM over. Null when there is no such microVM of that name at that site, or it is being deleted.
   * Idempotent; another object that had it before gives it up.
   */
  adopt(input: { readonly tenantId: TenantId; readonly microvmId: MicroVMId; readonly objectUid: string; readonly name: string; readonly siteId: string }, epoch: number, actor: Actor): Promise<ObjectIdentity | null>;
  /** Every tenant that ever had that namespace. Reads only. */
  listTenants(namespace: string): Promise<readonly LostTenant[]>;
  /** The tenant goes on in the namespace with that UID, and its sites as the given objects. Idempotent, also with more sites. */
  rebind(input: { readonly tenantId: TenantId; readonly namespaceUid: string; readonly sites: readonly { readonly name: string; readonly objectUid: string }[] }, actor: Actor): Promise<Rebound>;
}
