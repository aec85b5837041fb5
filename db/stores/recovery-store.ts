/**
 * Which hosts have told what they know since the last recovery of the database. The report itself is part of the
 * transaction that opens a session (sightings.ts).
 */
import { hostId, isUuid, microVMId, siteId, tenantId, type HostId, type SiteId, type TenantId } from '#api/model/ids.ts';
import { AppError } from '#api/model/error-codes.ts';
import type { RecoveryStore } from '#controller/ports/recovery.ts';
import { appendAudit } from '../audit.ts';
import type { Transactions, Tx } from '../tx.ts';
import { adoptForDeletion } from './recovery-binding.ts';
import { readSightings } from './sightings.ts';

/** Hosts that one look gives; far more than a person reads. */
const awaitedMax = 10_000;
/** Hosts that are named for one site. */
const namedMax = 100;

export function createRecoveryStore(transactions: Transactions): RecoveryStore {
  return {
    isReplacementHeld: async (site) => (await transactions.tenant(site.tenantId, (tx) => readAwaited(tx, site, 1))).length > 0,
    listAwaited: (site) => transactions.tenant(site.tenantId, (tx) => readAwaited(tx, site, namedMax)),
    listAllAwaited: async () => {
      const { rows } = await transactions.systemQuery<AwaitedRow>(allAwaitedStatement);
      return rows.map((row) => ({
        tenantId: tenantId(row.tenant_id), namespace: row.namespace, siteId: siteId(row.site_id), siteName: row.site_name, hostId: hostId(row.id), name: row.name,
      }));
    },
    listSightings: (tenant, microvmId) => transactions.tenant(tenant, (tx) => readSightings(tx, tenant, microvmId)),
    listAllSighted: async () => {
      const { rows } = await transactions.systemQuery<{ tenant_id: string; microvm_id: string }>(allSightedStatement);
      return rows.filter((row) => isUuid(row.microvm_id)).map((row) => ({ tenantId: tenantId(row.tenant_id), microvmId: microVMId(row.microvm_id) }));
    },
    adoptForDeletion: (input, epoch, actor) => transactions.leader(input.tenantId, epoch, { work: (tx) => adoptForDeletion(tx, input, actor) }),
    confirmHost: (input, epoch, actor) =>
      transactions.leader<boolean>(input.tenantId, epoch, {
        settled: async (tx) => ((await isAwaited(tx, input)) ? undefined : false),
        work: async (tx) => {
          if (input.incarnation !== tx.incarnation) return false;
          const { rowCount } = await tx.query(
            {
              name: 'confirm-host',
              text: `update nkudo.hosts set recovered_incarnation = $3, changed_at = now() where tenant_id = $1 and id = $2 and recovered_incarnation < $3`,
            },
            [input.tenantId, input.hostId, input.incarnation],
          );
          if (rowCount === 0) return false;
          await appendAudit(tx, input.tenantId, actor, [
            { action: 'confirmed', subject: 'host', id: input.hostId, before: { isAwaited: true }, after: { isAwaited: false, incarnation: input.incarnation } },
          ]);
          return true;
        },
      }),
    incarnation: async () => {
      const { rows } = await transactions.systemQuery<{ incarnation: number }>({ name: 'read-incarnation', isHot: true, text: 'select incarnation from nkudo.installation' });
      const [row] = rows;
      if (row === undefined) throw new AppError('INTERNAL', 'the installation row is missing: run the migrator');
      return row.incarnation;
    },
  };
}

interface AwaitedRow {
  readonly tenant_id: string;
  readonly namespace: string;
  readonly site_id: string;
  readonly site_name: string;
  readonly id: string;
  readonly name: string;
}

const allAwaitedStatement = {
  name: 'list-all-awaited',
  isHot: true,
  text: `select h.tenant_id, t.namespace, h.site_id, s.name as site_name, h.id, h.name
    from nkudo.hosts h
    join nkudo.tenants t on t.tenant_id = h.tenant_id
    join nkudo.sites s on s.tenant_id = h.tenant_id and s.id = h.site_id
    where h.revoked_at is null and h.recovered_incarnation < (select incarnation from nkudo.installation)
    order by h.tenant_id, h.name limit ${awaitedMax}`,
};

const allSightedStatement = {
  name: 'list-all-sighted',
  isHot: true,
  text: `select h.tenant_id, s ->> 'microvmId' as microvm_id from nkudo.hosts h cross join lateral jsonb_array_elements(h.sightings) s
    where h.sightings <> '[]' and h.revoked_at is null limit ${awaitedMax}`,
};

async function readAwaited(tx: Tx, site: { readonly tenantId: TenantId; readonly siteId: SiteId }, limit: number): Promise<readonly { readonly hostId: HostId; readonly name: string }[]> {
  const { rows } = await tx.query<{ id: string; name: string }>(
    {
      name: 'list-awaited',
      isHot: true,
      text: `select id, name from nkudo.hosts
        where tenant_id = $1 and site_id = $2 and revoked_at is null and recovered_incarnation < (select incarnation from nkudo.installation)
        order by name limit $3`,
    },
    [site.tenantId, site.siteId, limit],
  );
  return rows.map((row) => ({ hostId: hostId(row.id), name: row.name }));
}

async function isAwaited(tx: Tx, input: { readonly tenantId: TenantId; readonly hostId: HostId; readonly incarnation: number }): Promise<boolean> {
  const { rowCount } = await tx.query(
    { name: 'is-host-awaited', text: 'select from nkudo.hosts where tenant_id = $1 and id = $2 and revoked_at is null and recovered_incarnation < $3' },
    [input.tenantId, input.hostId, input.incarnation],
  );
  return rowCount === 1;
}
