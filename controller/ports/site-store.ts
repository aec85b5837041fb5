/** Tenants and sites as rows: copies of the Namespace and the Site object with the generation they came from. */
import type { SiteId, TenantId } from '#api/model/ids.ts';
import type { SiteQuota } from '#api/model/quota.ts';
import type { Actor } from './audit.ts';

export interface SiteRecord {
  readonly tenantId: TenantId;
  readonly namespace: string;
  readonly siteId: SiteId;
  readonly name: string;
  readonly generation: number;
  readonly requireApproval: boolean;
  /** Absent or null: no quota. */
  readonly quota?: SiteQuota | null;
}

export interface SiteCounts {
  readonly hosts: number;
  readonly hostsOnline: number;
  readonly microvms: number;
  readonly microvmsRunning: number;
  readonly cpusUsed: number;
  readonly memoryBytesUsed: number;
}

export interface SiteStore {
  /** Makes or updates the rows of the tenant and the site; writes nothing when they are equal already. The generation never goes back. */
  save(site: SiteRecord, epoch: number, actor: Actor): Promise<void>;
  counts(tenantId: TenantId, siteId: SiteId, now: { readonly silentBeforeMs: number }): Promise<SiteCounts>;
  /** Marks the site as deleted once nothing refers to it. @throws CONFLICT while hosts or microVMs remain */
  remove(tenantId: TenantId, siteId: SiteId, epoch: number, actor: Actor): Promise<void>;
}
