/** Read side of the tenants' API. Every read runs as the tenant, so that the database itself keeps others' rows out. */
import { tenantId, type PlanId, type TenantId } from '#api/model/ids.ts';
import type { FleetStore, HostView, MicroVMView, PlanView, SiteView } from '#controller/ports/fleet-store.ts';
import type { Transactions, Tx } from '../tx.ts';
import { createFleetLists } from './fleet-lists.ts';
import { hostsStatement, microvmsStatement, sitesStatement } from './fleet-statements.ts';
import { boundedSize, decodeCursor, toPage } from './page-cursor.ts';
import { planColumns, withParts, type PlanRow } from './plan-views.ts';

export function createFleetStore(transactions: Transactions): FleetStore {
  return {
    findTenant: async (namespace) => {
      // A namespace that was made again is another tenant: the newest has the name now.
      const { rows } = await transactions.systemQuery<{ tenant_id: string }>(
        { name: 'find-tenant', isHot: true, text: 'select tenant_id from nkudo.tenants where namespace = $1 order by coalesce(rebound_at, created_at) desc limit 1' },
        [namespace],
      );
      return rows[0] === undefined ? null : tenantId(rows[0].tenant_id);
    },
    loadPlan: (tenant, id) => transactions.tenant(tenant, (tx) => loadPlan(tx, tenant, id)),
    listPlans: (tenant, siteName, sinceMs) => transactions.tenant(tenant, (tx) => listPlans(tx, { tenant, siteName, sinceMs })),
    listSites: (tenant, siteName, silentBeforeMs) =>
      transactions.tenant(tenant, async (tx) => {
        const { rows } = await tx.query<SiteView>(sitesStatement, [tenant, siteName, new Date(silentBeforeMs)]);
        return rows;
      }),
    listHosts: (tenant, siteName, silentBeforeMs) =>
      transactions.tenant(tenant, async (tx) => {
        const { rows } = await tx.query<HostView>(hostsStatement, [tenant, siteName, new Date(silentBeforeMs)]);
        return rows;
      }),
    listMicroVMs: (tenant, siteName, page) =>
      transactions.tenant(tenant, async (tx) => {
        const after = page.cursor === null ? null : decodeCursor(page.cursor);
        const size = boundedSize(page.size);
        const { rows } = await tx.query<MicroVMView>(microvmsStatement, [tenant, siteName, after?.[0] ?? null, after?.[1] ?? null, size + 1]);
        return toPage(rows, size, (row) => [row.name, row.id]);
      }),
    ...createFleetLists(transactions),
  };
}

async function loadPlan(tx: Tx, tenant: TenantId, id: PlanId): Promise<PlanView | null> {
  const { rows } = await tx.query<PlanRow>(
    {
      name: 'load-plan',
      isHot: true,
      text: `select ${planColumns} from nkudo.plans p join nkudo.sites s on s.tenant_id = p.tenant_id and s.id = p.site_id
        where p.tenant_id = $1 and p.id = $2`,
    },
    [tenant, id],
  );
  return (await withParts(tx, tenant, rows))[0] ?? null;
}

/** Most plans of one look of a watch. */
const plansMax = 500;

async function listPlans(tx: Tx, input: { readonly tenant: TenantId; readonly siteName: string | null; readonly sinceMs: number }): Promise<readonly PlanView[]> {
  const { rows } = await tx.query<PlanRow>(
    {
      name: 'list-plans',
      isHot: true,
      text: `select ${planColumns} from nkudo.plans p join nkudo.sites s on s.tenant_id = p.tenant_id and s.id = p.site_id
        where p.tenant_id = $1 and p.origin = 'caller' and ($2::text is null or s.name = $2) and (p.finished_at is null or p.finished_at >= $3 or p.created_at >= $3)
        order by p.created_at desc limit ${plansMax}`,
    },
    [input.tenant, input.siteName, new Date(input.sinceMs)],
  );
  return withParts(tx, input.tenant, rows);
}
