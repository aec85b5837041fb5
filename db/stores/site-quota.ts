/**
 * The check of a Site's quota inside the transaction that binds a microVM or changes its size. The row of the site is
 * locked when it has a quota, so that publishers at one site take turns; without one nothing is locked.
 */
import { decideQuota, nothingUsed, quotaUseOf, quotaUseOfBinding, type QuotaUse, type SiteQuota } from '#api/model/quota.ts';
import type { MicroVMId, SiteId, TenantId } from '#api/model/ids.ts';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import type { Tx } from '../tx.ts';

interface UseRow {
  readonly microvm_id: string;
  readonly desired: DesiredMicroVM | null;
  readonly cpu_count: number;
  readonly memory_bytes: number;
}

/** Null when the quota has room, else one sentence. */
export async function deniedByQuota(tx: Tx, input: { readonly tenantId: TenantId; readonly siteId: SiteId; readonly microvmId: MicroVMId; readonly desired: DesiredMicroVM }): Promise<string | null> {
  const sites = await tx.query<{ name: string; quota: SiteQuota }>(
    {
      name: 'lock-site-quota',
      isHot: true,
      text: 'select name, quota from nkudo.sites where tenant_id = $1 and id = $2 and quota is not null for no key update',
    },
    [input.tenantId, input.siteId],
  );
  const [site] = sites.rows;
  if (site === undefined) return null;
  // Read after the lock, in a statement of its own, so that it sees what the last holder committed.
  const { rows } = await tx.query<UseRow>(
    {
      name: 'read-quota-use',
      isHot: true,
      text: `select m.id as microvm_id, m.desired, b.cpu_count, b.memory_bytes
        from nkudo.microvms m join nkudo.bindings b on b.tenant_id = m.tenant_id and b.microvm_id = m.id and b.released_at is null
        where m.tenant_id = $1 and m.site_id = $2 and m.released_at is null`,
    },
    [input.tenantId, input.siteId],
  );
  const useOf = (row: UseRow): QuotaUse => (row.desired === null ? quotaUseOfBinding({ cpuCount: row.cpu_count, memoryBytes: row.memory_bytes }) : quotaUseOf(row.desired));
  const own = rows.find((row) => row.microvm_id === input.microvmId);
  const others = rows.filter((row) => row.microvm_id !== input.microvmId).map(useOf).reduce(add, nothingUsed);
  return decideQuota({ siteName: site.name, quota: site.quota, others, before: own === undefined ? nothingUsed : useOf(own), asked: quotaUseOf(input.desired) });
}

const add = (left: QuotaUse, right: QuotaUse): QuotaUse => ({
  microvms: left.microvms + right.microvms,
  vcpus: left.vcpus + right.vcpus,
  memoryBytes: left.memoryBytes + right.memoryBytes,
  diskBytes: left.diskBytes + right.diskBytes,
});
