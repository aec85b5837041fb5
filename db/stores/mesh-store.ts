/**
 * The mesh as rows: orders and subnets of hosts, what a key maker needs of a site, claims on making a key, reports.
 * A key's value passes nowhere here. Orders and free subnets are read across tenants, everything else under one.
 */
import { isDeepStrictEqual } from 'node:util';
import { AppError } from '#api/model/error-codes.ts';
import { hostId, siteId, type SessionId, type SiteId, type TenantId } from '#api/model/ids.ts';
import type { MeshOrder, MeshReport } from '#api/model/mesh.ts';
import type { Actor } from '#controller/ports/audit.ts';
import type { MeshHost } from '#controller/ports/mesh-orders.ts';
import type { MeshHostChange, MeshHostRecord, MeshKeyClaim, MeshSiteRecord, MeshStore } from '#controller/ports/mesh-store.ts';
import { appendAudit } from '../audit.ts';
import type { Transactions, Tx } from '../tx.ts';

export function createMeshStore(transactions: Transactions): MeshStore {
  let installation: string | null = null;
  return {
    installationId: async () => {
      installation ??= await transactions.systemQuery<{ id: string }>({ name: 'read-installation', text: 'select id from nkudo.installation' }).then(({ rows }) => rows[0]?.id ?? null);
      if (installation === null) throw new AppError('INTERNAL', 'the installation has no id');
      return installation;
    },
    listBySite: (tenant, site) => transactions.tenant(tenant, (tx) => readHosts(tx, bySite, tenant, site)),
    load: (tenant, host) => transactions.tenant(tenant, async (tx) => (await readHosts(tx, byHost, tenant, host))[0] ?? null),
    findFreeSubnet: async (pool) => {
      const { rows } = await transactions.systemQuery<{ subnet: string }>(freeSubnet, [pool]);
      return rows[0]?.subnet ?? null;
    },
    saveHost: async (change, epoch, actor) => {
      await transactions.leader(change.tenantId, epoch, {
        settled: async (tx) => (isSaved(await readRow(tx, change, ''), change) ? true : undefined),
        work: (tx) => saveHost(tx, change, actor),
      });
    },
    loadSite: (tenant, site) => transactions.tenant(tenant, (tx) => readSite(tx, tenant, site)),
    saveSite: async (tenant, site, record, epoch, actor) => {
      await transactions.leader(tenant, epoch, {
        settled: async (tx) => (isSameSite(await readSite(tx, tenant, site), record) ? true : undefined),
        work: (tx) => saveSite(tx, { tenant, site, record, actor }),
      });
    },
    loadOrders: async (hosts) => {
      if (hosts.length === 0) return new Map();
      const { rows } = await transactions.systemQuery<OrderRow>(orders, [hosts.map((host) => host.tenantId), hosts.map((host) => host.hostId)]);
      return new Map(rows.map((row) => [hostId(row.id), toOrder(row)]));
    },
    claimKey: (host, replica, ttlMs) => transactions.tenant(host.tenantId, (tx) => claimKey(tx, { host, replica, ttlMs })),
    endClaim: (host, replica, key, actor) => transactions.tenant(host.tenantId, (tx) => endClaim(tx, { host, replica, key, actor })),
    recordReport: (host, report) => transactions.tenant(host.tenantId, (tx) => recordReport(tx, host, report)),
  };
}

interface OrderRow {
  readonly id: string;
  readonly is_joined: boolean;
  readonly management_url: string;
  readonly host_name: string;
  readonly revision: number;
}

type Row = Omit<OrderRow, 'id'> & {
  readonly subnet: string | null;
  readonly group_id: string | null;
  readonly peer_id: string | null;
  readonly key_id: string | null;
};

interface ListedRow {
  readonly id: string;
  readonly site_id: string;
  readonly name: string;
  readonly may_join: boolean;
  readonly is_joined: boolean | null;
  readonly management_url: string | null;
  readonly host_name: string | null;
  readonly revision: number | null;
  readonly subnet: string | null;
  readonly group_id: string | null;
  readonly peer_id: string | null;
  readonly key_id: string | null;
  readonly is_claimed: boolean;
  readonly report: MeshReport | null;
}

const hostSelect = `select h.id, h.site_id, h.name, h.revoked_at is null and (h.is_approved or not s.require_approval) as may_join,
    m.is_joined, m.management_url, m.host_name, m.revision, m.subnet, m.group_id, m.peer_id,
    case when m.key_expires_at > now() then m.key_id end as key_id, coalesce(m.claimed_until > now(), false) as is_claimed, r.report
  from nkudo.hosts h
  join nkudo.sites s on s.tenant_id = h.tenant_id and s.id = h.site_id
  left join nkudo.mesh_hosts m on m.tenant_id = h.tenant_id and m.id = h.id
  left join nkudo.mesh_reports r on r.tenant_id = h.tenant_id and r.id = h.id`;

const byHost = { name: 'load-mesh-host', isHot: true, text: `${hostSelect} where h.tenant_id = $1 and h.id = $2` };
const bySite = {
  name: 'list-mesh-hosts',
  isHot: true,
  text: `${hostSelect} where h.tenant_id = $1 and h.site_id = $2
    and (h.revoked_at is null or m.is_joined or m.subnet is not null or m.group_id is not null) order by h.id`,
};

async function readHosts(tx: Tx, statement: typeof byHost, tenantId: TenantId, key: string): Promise<readonly MeshHostRecord[]> {
  const { rows } = await tx.query<ListedRow>(statement, [tenantId, key]);
  return rows.map((row) => ({
    tenantId,
    hostId: hostId(row.id),
    siteId: siteId(row.site_id),
    name: row.name,
    mayJoin: row.may_join,
    order: orderOf(row),
    subnet: row.subnet,
    groupId: row.group_id,
    peerId: row.peer_id,
    keyId: row.key_id,
    isKeyBeingMade: row.is_claimed,
    report: row.report,
  }));
}

function orderOf(row: ListedRow): MeshOrder | null {
  const { is_joined: join, management_url: managementUrl, host_name: hostName, revision } = row;
  return join === null || managementUrl === null || hostName === null || revision === null ? null : { join, managementUrl, hostName, revision };
}

const toOrder = (row: OrderRow): MeshOrder => ({ join: row.is_joined, managementUrl: row.management_url, hostName: row.host_name, revision: row.revision });

const orders = {
  name: 'load-mesh-orders',
  isHot: true,
  text: `select m.id, m.is_joined, m.management_url, m.host_name, m.revision
    from unnest($1::uuid[], $2::uuid[]) as k (tenant_id, id) join nkudo.mesh_hosts m on m.tenant_id = k.tenant_id and m.id = k.id`,
};

/** All subnets have one size, so that a free one is one that nobody has. */
const freeSubnet = {
  name: 'find-free-subnet',
  text: `select c.subnet from generate_series(0, (1 << (24 - masklen($1::cidr))) - 1) as n
    cross join lateral (select set_masklen(($1::cidr)::inet + n * 256, 24)::cidr as subnet) c
    where not exists (select from nkudo.mesh_hosts m where m.subnet = c.subnet) order by n limit 1`,
};

async function readRow(tx: Tx, host: MeshHost, lock: '' | 'for no key update'): Promise<Row | undefined> {
  const { rows } = await tx.query<Row>(
    {
      name: `read-mesh-host-${lock === '' ? 'now' : 'locked'}`,
      isHot: true,
      text: `select is_joined, management_url, host_name, revision, subnet, group_id, peer_id, key_id
        from nkudo.mesh_hosts where tenant_id = $1 and id = $2 ${lock}`,
    },
    [host.tenantId, host.hostId],
  );
  return rows[0];
}

const nobody: Row = { is_joined: false, management_url: '', host_name: '', revision: 0, subnet: null, group_id: null, peer_id: null, key_id: null };

function changed(row: Row, change: MeshHostChange): Row {
  const { order, forgetKeyId } = change;
  const isOrderSame = order === undefined || (order.join === row.is_joined && order.managementUrl === row.management_url && order.hostName === row.host_name);
  return {
    is_joined: order?.join ?? row.is_joined,
    management_url: order?.managementUrl ?? row.management_url,
    host_name: order?.hostName ?? row.host_name,
    revision: isOrderSame ? row.revision : row.revision + 1,
    subnet: change.subnet === undefined ? row.subnet : change.subnet,
    group_id: change.groupId === undefined ? row.group_id : change.groupId,
    peer_id: change.peerId === undefined ? row.peer_id : change.peerId,
    key_id: forgetKeyId !== undefined && forgetKeyId === row.key_id ? null : row.key_id,
  };
}

function isSaved(row: Row | undefined, change: MeshHostChange): boolean {
  const before = row ?? nobody;
  return isDeepStrictEqual(changed(before, change), before);
}

async function saveHost(tx: Tx, change: MeshHostChange, actor: Actor): Promise<true> {
  const found = await readRow(tx, change, 'for no key update');
  if (isSaved(found, change)) return true;
  // Guests have addresses in it: another host that got it would route their packets to itself.
  if (change.subnet === null && (await hasMeshGuests(tx, change))) return saveHost(tx, withoutSubnet(change), actor);
  const after = changed(found ?? nobody, change);
  const values = [change.tenantId, change.hostId, after.is_joined, after.management_url, after.host_name, Math.max(1, after.revision), after.subnet, after.group_id, after.peer_id];
  if (found === undefined) {
    await tx.query(
      {
        name: 'insert-mesh-host',
        text: `insert into nkudo.mesh_hosts (tenant_id, id, is_joined, management_url, host_name, revision, subnet, group_id, peer_id, site_id)
          values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
      },
      [...values, change.siteId],
    );
  } else {
    await tx.query(
      {
        name: 'update-mesh-host',
        text: `update nkudo.mesh_hosts set is_joined = $3, management_url = $4, host_name = $5, revision = $6, subnet = $7, group_id = $8, peer_id = $9,
            key_id = $10, key_expires_at = case when $10::text is null then null else key_expires_at end, changed_at = now()
          where tenant_id = $1 and id = $2`,
      },
      [...values, after.key_id],
    );
  }
  await appendAudit(tx, change.tenantId, actor, [{ action: 'saved', subject: 'meshHost', id: change.hostId, before: found ?? null, after }]);
  return true;
}

function withoutSubnet({ subnet: _kept, ...change }: MeshHostChange): MeshHostChange {
  return change;
}

async function hasMeshGuests(tx: Tx, host: MeshHost): Promise<boolean> {
  const { rowCount } = await tx.query(
    { name: 'find-mesh-guests', text: 'select from nkudo.guest_holds where tenant_id = $1 and host_id = $2 and is_mesh and released_at is null limit 1' },
    [host.tenantId, host.hostId],
  );
  return rowCount === 1;
}

async function readSite(tx: Tx, tenant: TenantId, site: SiteId): Promise<MeshSiteRecord | null> {
  const { rows } = await tx.query<{ management_url: string; secret_name: string; group_ids: Record<string, string> }>(
    { name: 'read-mesh-site', isHot: true, text: 'select management_url, secret_name, group_ids from nkudo.mesh_sites where tenant_id = $1 and id = $2' },
    [tenant, site],
  );
  const [row] = rows;
  return row === undefined ? null : { managementUrl: row.management_url, secretName: row.secret_name, groupIds: row.group_ids };
}

const isSameSite = (found: MeshSiteRecord | null, record: MeshSiteRecord): boolean => isDeepStrictEqual(found, record);

async function saveSite(tx: Tx, input: { readonly tenant: TenantId; readonly site: SiteId; readonly record: MeshSiteRecord; readonly actor: Actor }): Promise<true> {
  const { tenant, site, record, actor } = input;
  const found = await readSite(tx, tenant, site);
  if (isSameSite(found, record)) return true;
  await tx.query(
    {
      name: 'save-mesh-site',
      text: `insert into nkudo.mesh_sites (tenant_id, id, management_url, secret_name, group_ids) values ($1, $2, $3, $4, $5)
        on conflict (tenant_id, id) do update set management_url = excluded.management_url, secret_name = excluded.secret_name,
          group_ids = excluded.group_ids, changed_at = now()`,
    },
    [tenant, site, record.managementUrl, record.secretName, JSON.stringify(record.groupIds)],
  );
  await appendAudit(tx, tenant, actor, [{ action: 'saved', subject: 'meshSite', id: site, before: found, after: record }]);
  return true;
}

interface ClaimRow extends OrderRow {
  readonly namespace: string;
  readonly site_id: string;
  readonly site_name: string;
  readonly site_url: string;
  readonly secret_name: string;
  readonly group_ids: Record<string, string>;
  readonly group_id: string;
}

/** The row lock makes claimants take turns; the claim itself outlives the transaction, as requests do. */
async function claimKey(tx: Tx, input: { readonly host: MeshHost; readonly replica: string; readonly ttlMs: number }): Promise<MeshKeyClaim | null> {
  const { host, replica, ttlMs } = input;
  const { rows } = await tx.query<ClaimRow>(
    {
      name: 'claim-mesh-key',
      text: `update nkudo.mesh_hosts m set claimed_by = $3, claimed_until = now() + make_interval(secs => $4::double precision / 1000)
        from nkudo.mesh_sites k, nkudo.sites s, nkudo.tenants t, nkudo.hosts h
        where m.tenant_id = $1 and m.id = $2 and m.is_joined and m.group_id is not null
          and (m.claimed_until is null or m.claimed_until <= now() or m.claimed_by = $3)
          and k.tenant_id = m.tenant_id and k.id = m.site_id and s.tenant_id = m.tenant_id and s.id = m.site_id and t.tenant_id = m.tenant_id
          and h.tenant_id = m.tenant_id and h.id = m.id and h.revoked_at is null and h.quarantined_at is null
        returning m.id, m.is_joined, m.management_url, m.host_name, m.revision, m.group_id, m.site_id,
          t.namespace, s.name as site_name, k.management_url as site_url, k.secret_name, k.group_ids`,
    },
    [host.tenantId, host.hostId, replica, ttlMs],
  );
  const [row] = rows;
  if (row === undefined) return null;
  return {
    namespace: row.namespace,
    siteId: siteId(row.site_id),
    siteName: row.site_name,
    site: { managementUrl: row.site_url, secretName: row.secret_name, groupIds: row.group_ids },
    groupId: row.group_id,
    order: toOrder(row),
  };
}

interface EndClaimInput {
  readonly host: MeshHost;
  readonly replica: string;
  readonly key: { readonly id: string; readonly ttlSeconds: number } | null;
  readonly actor: Actor;
}

async function endClaim(tx: Tx, { host, replica, key, actor }: EndClaimInput): Promise<void> {
  const { rowCount } = await tx.query(
    {
      name: 'end-mesh-claim',
      text: `update nkudo.mesh_hosts set claimed_by = null, claimed_until = null, key_id = coalesce($4, key_id),
          key_expires_at = case when $4::text is null then key_expires_at else now() + make_interval(secs => $5) end
        where tenant_id = $1 and id = $2 and claimed_by = $3`,
    },
    [host.tenantId, host.hostId, replica, key?.id ?? null, key?.ttlSeconds ?? 0],
  );
  if (rowCount === 0 && key !== null) throw new AppError('CONFLICT', 'another replica makes a key for the host now');
  if (key !== null) await appendAudit(tx, host.tenantId, actor, [{ action: 'keyMade', subject: 'meshHost', id: host.hostId, before: null, after: { keyId: key.id } }]);
}

async function recordReport(tx: Tx, host: MeshHost & { readonly sessionId: SessionId }, report: MeshReport): Promise<boolean> {
  const values = [host.tenantId, host.hostId, host.sessionId, JSON.stringify(report)];
  const { rowCount } = await tx.query(
    {
      name: 'record-mesh-report',
      isHot: true,
      // The comparison is first, in a read: what is equal locks and writes nothing.
      text: `insert into nkudo.mesh_reports as r (tenant_id, id, report)
        select l.tenant_id, l.host_id, $4::jsonb from nkudo.host_liveness l
        where l.tenant_id = $1 and l.host_id = $2 and l.session_id = $3
          and not exists (select from nkudo.mesh_reports o where o.tenant_id = $1 and o.id = $2 and o.report = $4::jsonb)
        on conflict (tenant_id, id) do update set report = excluded.report, received_at = now() where r.report <> excluded.report`,
    },
    values,
  );
  return rowCount === 1;
}
