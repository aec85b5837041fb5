/** Tenants and sites: copies of the Namespace and the Site object. Saving what is there already writes nothing. */
import { isDeepStrictEqual } from 'node:util';
import { AppError } from '#api/model/error-codes.ts';
import type { SiteQuota } from '#api/model/quota.ts';
import type { SiteCounts, SiteRecord, SiteStore } from '#controller/ports/site-store.ts';
import { appendAudit, type AuditEntry } from '../audit.ts';
import type { Transactions, Tx } from '../tx.ts';

interface SiteRow {
  readonly namespace: string;
  readonly name: string | null;
  readonly generation: number | null;
  readonly require_approval: boolean | null;
  readonly deleted: boolean | null;
  readonly quota: SiteQuota | null;
}

export function createSiteStore(transactions: Transactions): SiteStore {
  return {
    save: async (site, epoch, actor) => {
      await transactions.leader(site.tenantId, epoch, {
        settled: async (tx) => (isSaved(await readSite(tx, site), site) ? true : undefined),
        work: async (tx) => {
          const found = await readSite(tx, site);
          if (!isSaved(found, site)) await appendAudit(tx, site.tenantId, actor, await writeSite(tx, site, found));
          return true;
        },
      });
    },
    counts: (tenantId, siteId, { silentBeforeMs }) =>
      transactions.tenant(tenantId, async (tx) => {
        const { rows } = await tx.query<SiteCountsRow>(countsStatement, [tenantId, siteId, new Date(silentBeforeMs)]);
        return toCounts(rows[0]);
      }),
    remove: async (tenantId, siteId, epoch, actor) => {
      await transactions.leader(tenantId, epoch, {
        settled: async (tx) => ((await isGone(tx, tenantId, siteId)) ? true : undefined),
        work: async (tx) => {
          const { rows } = await tx.query<{ deleted: boolean; hosts: number; microvms: number }>(
            {
              name: 'remove-site-check',
              text: `select s.deleted_at is not null as deleted,
                  (select count(*) from nkudo.hosts h where h.tenant_id = s.tenant_id and h.site_id = s.id and h.revoked_at is null) as hosts,
                  (select count(*) from nkudo.microvms m where m.tenant_id = s.tenant_id and m.site_id = s.id and m.released_at is null) as microvms
                from nkudo.sites s where s.tenant_id = $1 and s.id = $2 for update of s`,
            },
            [tenantId, siteId],
          );
          const [row] = rows;
          if (row === undefined || row.deleted) return true;
          if (row.hosts > 0 || row.microvms > 0) {
            throw new AppError('CONFLICT', `the site still has ${row.hosts} hosts and ${row.microvms} microvms`, {
              details: { hosts: row.hosts, microvms: row.microvms },
            });
          }
          await tx.query({ name: 'remove-site', text: 'update nkudo.sites set deleted_at = now() where tenant_id = $1 and id = $2' }, [tenantId, siteId]);
          await appendAudit(tx, tenantId, actor, [{ action: 'removed', subject: 'site', id: siteId, before: { siteId }, after: null }]);
          return true;
        },
      });
    },
  };
}

/** Undefined when not even the tenant is known. */
async function readSite(tx: Tx, site: SiteRecord): Promise<SiteRow | undefined> {
  const { rows } = await tx.query<SiteRow>(
    {
      name: 'read-site',
      isHot: true,
      text: `select t.namespace, s.name, s.generation, s.require_approval, s.deleted_at is not null as deleted, s.quota
        from nkudo.tenants t left join nkudo.sites s on s.tenant_id = t.tenant_id and s.id = $2
        where t.tenant_id = $1`,
    },
    [site.tenantId, site.siteId],
  );
  return rows[0];
}

/** True also for an older generation than the stored one: it must not overwrite. */
function isSaved(found: SiteRow | undefined, site: SiteRecord): boolean {
  if (found === undefined || found.generation === null || found.namespace !== site.namespace) return false;
  if (found.generation > site.generation) return true;
  return found.generation === site.generation && found.name === site.name && found.require_approval === site.requireApproval && found.deleted === false && isSameQuota(found.quota, site.quota ?? null);
}

/** The order of keys does not count: the database keeps its own. */
function isSameQuota(left: SiteQuota | null, right: SiteQuota | null): boolean {
  return left === right || (left !== null && right !== null && isDeepStrictEqual({ ...left }, { ...right }));
}

/** Makes or renames the row of a tenant. */
export async function saveTenant(tx: Tx, tenantId: string, names: { readonly before: string | null; readonly namespace: string }): Promise<AuditEntry> {
  await tx.query(
    {
      name: 'save-tenant',
      text: `insert into nkudo.tenants (tenant_id, namespace) values ($1, $2)
        on conflict (tenant_id) do update set namespace = excluded.namespace`,
    },
    [tenantId, names.namespace],
  );
  return { action: 'saved', subject: 'tenant', id: tenantId, before: names.before === null ? null : { namespace: names.before }, after: { namespace: names.namespace } };
}

async function writeSite(tx: Tx, site: SiteRecord, found: SiteRow | undefined): Promise<readonly AuditEntry[]> {
  const entries: AuditEntry[] = [];
  if (found?.namespace !== site.namespace) entries.push(await saveTenant(tx, site.tenantId, { before: found?.namespace ?? null, namespace: site.namespace }));
  await tx.query(
    {
      name: 'save-site',
      text: `insert into nkudo.sites (tenant_id, id, name, generation, require_approval, quota) values ($1, $2, $3, $4, $5, $6)
        on conflict (tenant_id, id) do update
        set name = excluded.name, generation = excluded.generation, require_approval = excluded.require_approval, quota = excluded.quota, deleted_at = null`,
    },
    [site.tenantId, site.siteId, site.name, site.generation, site.requireApproval, site.quota == null ? null : JSON.stringify(site.quota)],
  );
  entries.push({ action: 'saved', subject: 'site', id: site.siteId, before: found?.generation === null ? null : (found ?? null), after: site });
  return entries;
}

async function isGone(tx: Tx, tenantId: string, siteId: string): Promise<boolean> {
  const { rowCount } = await tx.query(
    { name: 'find-live-site', text: 'select from nkudo.sites where tenant_id = $1 and id = $2 and deleted_at is null' },
    [tenantId, siteId],
  );
  return rowCount === 0;
}

interface SiteCountsRow {
  readonly hosts: number;
  readonly hosts_online: number;
  readonly microvms: number;
  readonly microvms_running: number;
  readonly cpus_used: number;
  readonly memory_bytes_used: number;
}

const countsStatement = {
  name: 'count-site',
  isHot: true,
  text: `select h.hosts, h.hosts_online, m.microvms, m.microvms_running, m.cpus_used, m.memory_bytes_used
    from (
      select count(*) as hosts, count(*) filter (where l.last_beat_at >= $3) as hosts_online
      from nkudo.hosts h left join nkudo.host_liveness l on l.tenant_id = h.tenant_id and l.host_id = h.id
      where h.tenant_id = $1 and h.site_id = $2 and h.revoked_at is null
    ) h, (
      select count(*) as microvms, count(*) filter (where o.state = 'running') as microvms_running,
        coalesce(sum(b.cpu_count), 0)::bigint as cpus_used, coalesce(sum(b.memory_bytes), 0)::bigint as memory_bytes_used
      from nkudo.microvms m
      left join nkudo.bindings b on b.tenant_id = m.tenant_id and b.microvm_id = m.id and b.released_at is null
      left join nkudo.observations o on o.tenant_id = m.tenant_id and o.microvm_id = m.id
      where m.tenant_id = $1 and m.site_id = $2 and m.released_at is null
    ) m`,
};

function toCounts(row: SiteCountsRow | undefined): SiteCounts {
  if (row === undefined) throw new AppError('INTERNAL', 'the site counts gave no row');
  return {
    hosts: row.hosts,
    hostsOnline: row.hosts_online,
    microvms: row.microvms,
    microvmsRunning: row.microvms_running,
    cpusUsed: row.cpus_used,
    memoryBytesUsed: row.memory_bytes_used,
  };
}
