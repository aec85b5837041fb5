/**
 * What is held back after the database was restored or failed over with a loss. The database is then older than the
 * hosts: which microVM runs where is known again only once the hosts have said it. The incarnation (first part of every
 * fencing epoch) rises with each recovery; a host has reported when it opened a session under the present one.
 */
import type { Epoch } from '#api/model/epoch.ts';
import type { HostId, MicroVMId, SiteId, TenantId } from '#api/model/ids.ts';
import type { Actor } from './audit.ts';

/** A microVM that a host reports and that is not bound to it here. */
export interface Sighting {
  readonly hostId: HostId;
  readonly hostName: string;
  readonly epoch: Epoch;
  readonly revision: number;
  readonly isLive: boolean;
}

export interface AwaitedHost {
  readonly tenantId: TenantId;
  readonly namespace: string;
  readonly siteId: SiteId;
  readonly siteName: string;
  readonly hostId: HostId;
  readonly name: string;
}

export interface RecoveryStore {
  /**
   * True from the recovery until every host of the site that is not revoked has reported or was confirmed by an
   * operator. While it is true, no microVM of the site is replaced, and none that was bound before is placed. Reads only.
   */
  isReplacementHeld(site: { readonly tenantId: TenantId; readonly siteId: SiteId }): Promise<boolean>;
  /** Hosts that the site waits for, by name, at most 100. Reads only. */
  listAwaited(site: { readonly tenantId: TenantId; readonly siteId: SiteId }): Promise<readonly { readonly hostId: HostId; readonly name: string }[]>;
  /** Where hosts see a microVM that is not bound to them, the highest epoch first. Reads only. */
  listSightings(tenantId: TenantId, microvmId: MicroVMId): Promise<readonly Sighting[]>;
  /** Microvms that some host sees and that are not bound to it, over all tenants. Reads only. */
  listAllSighted(): Promise<readonly { readonly tenantId: TenantId; readonly microvmId: MicroVMId }[]>;
  /**
   * Makes the row of a microVM that is being deleted and that only a host knows, bound to that host, so that the deletion can be
   * published. Idempotent; audited. False when no host has it.
   */
  adoptForDeletion(input: {
    readonly tenantId: TenantId;
    readonly siteId: SiteId;
    readonly microvmId: MicroVMId;
    readonly name: string;
    readonly generation: number;
  }, epoch: number, actor: Actor): Promise<boolean>;
  /**
   * An operator's word that nothing of the host's runs any more, or that what runs there is known: the site does not wait for it.
   * Idempotent; audited. True when it changed something.
   */
  confirmHost(input: { readonly tenantId: TenantId; readonly hostId: HostId; readonly incarnation: number }, epoch: number, actor: Actor): Promise<boolean>;
  /** Hosts of all tenants that are waited for; empty when no recovery is under way. Reads only. */
  listAllAwaited(): Promise<readonly AwaitedHost[]>;
  /** Incarnation of the database, from 1. Reads only. */
  incarnation(): Promise<number>;
}
