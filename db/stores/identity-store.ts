/**
 * Identities that outlived the cluster of their objects. Rows keep the ids that hosts and certificates know; here is which
 * newer object stands for them.
 */
import { microVMId, tenantId, type TenantId } from '#api/model/ids.ts';
import type { Actor } from '#controller/ports/audit.ts';
import type { IdentityStore, ObjectIdentity, Rebound } from '#controller/ports/identity-store.ts';
import { appendAudit, type AuditEntry } from '../audit.ts';
import type { LeaderTx, Transactions, Tx } from '../tx.ts';

type AdoptInput = Parameters<IdentityStore['adopt']>[0];
type RebindInput = Parameters<IdentityStore['rebind']>[0];

export function createIdentityStore(transactions: Transactions): IdentityStore {
  return {
    loadIdentities: async () => {
      const { rows } = await transactions.systemQuery<{ kind: ObjectIdentity['kind']; object_uid: string; uid: string; generation_base: number }>({
        name: 'load-identities',
        text: `select 'Namespace' as kind, namespace_uid as object_uid, tenant_id as uid, 0::bigint as generation_base from nkudo.tenants where namespace_uid is not null
          union all select 'Site', object_uid, id, generation_base from nkudo.sites where object_uid is not null and deleted_at is null
          union all select 'MicroVM', object_uid, id, generation_base from nkudo.adoptions`,
      });
      return rows.map((row) => ({ kind: row.kind, objectUid: row.object_uid, uid: row.uid, generationBase: row.generation_base }));
    },
    findNamesakes: async (namespace, name) => {
      const { rows } = await transactions.systemQuery<{ tenant_id: string; id: string }>(
        {
          name: 'find-namesakes',
          isHot: true,
          text: `select m.tenant_id, m.id from nkudo.tenants t join nkudo.microvms m on m.tenant_id = t.tenant_id
            where t.namespace = $1 and m.name = $2 and m.released_at is null`,
        },
        [namespace, name],
      );
      return rows.map((row) => ({ tenantId: tenantId(row.tenant_id), microvmId: microVMId(row.id) }));
    },
    adopt: (input, epoch, actor) => transactions.leader<ObjectIdentity | null>(input.tenantId, epoch, { work: (tx) => adopt(tx, input, actor) }),
    listTenants: async (namespace) => {
      const { rows } = await transactions.systemQuery<{ tenant_id: string; namespace_uid: string | null; hosts: number; microvms: number }>(
        {
          name: 'list-tenants-of-namespace',
          text: `select t.tenant_id, t.namespace_uid,
              (select count(*) from nkudo.hosts h where h.tenant_id = t.tenant_id and h.revoked_at is null) as hosts,
              (select count(*) from nkudo.microvms m where m.tenant_id = t.tenant_id and m.released_at is null) as microvms
            from nkudo.tenants t where t.namespace = $1 order by t.created_at`,
        },
        [namespace],
      );
      return rows.map((row) => ({ tenantId: tenantId(row.tenant_id), namespaceUid: row.namespace_uid, hosts: row.hosts, microvms: row.microvms }));
    },
    rebind: (input, actor) => transactions.tenant(input.tenantId, (tx) => rebind(tx, input, actor)),
  };
}

async function adopt(tx: LeaderTx, input: AdoptInput, actor: Actor): Promise<ObjectIdentity | null> {
  const { rows } = await tx.query<{ generation: number; object_uid: string | null; generation_base: number | null }>(
    {
      name: 'lock-microvm-to-adopt',
      text: `select m.generation, a.object_uid, a.generation_base from nkudo.microvms m
        left join nkudo.adoptions a on a.tenant_id = m.tenant_id and a.id = m.id
        where m.tenant_id = $1 and m.id = $2 and m.name = $3 and m.site_id = $4 and m.released_at is null and not m.is_deleting for no key update of m`,
    },
    [input.tenantId, input.microvmId, input.name, input.siteId],
  );
  const [row] = rows;
  if (row === undefined) return null;
  const identity = (generationBase: number): ObjectIdentity => ({ kind: 'MicroVM', objectUid: input.objectUid, uid: input.microvmId, generationBase });
  if (row.object_uid === input.objectUid) return identity(row.generation_base ?? 0);
  await tx.query(
    {
      name: 'adopt-microvm',
      text: `insert into nkudo.adoptions (tenant_id, id, object_uid, generation_base) values ($1, $2, $3, $4)
        on conflict (tenant_id, id) do update set object_uid = excluded.object_uid, generation_base = excluded.generation_base, adopted_at = now()`,
    },
    [input.tenantId, input.microvmId, input.objectUid, row.generation],
  );
  await appendAudit(tx, input.tenantId, actor, [
    { action: 'adopted', subject: 'microvm', id: input.microvmId, before: { objectUid: row.object_uid ?? input.microvmId }, after: { objectUid: input.objectUid, generationBase: row.generation } },
  ]);
  return identity(row.generation);
}

async function rebind(tx: Tx, input: RebindInput, actor: Actor): Promise<Rebound> {
  const tenant = await tx.query<{ namespace_uid: string | null }>(
    { name: 'lock-tenant-to-rebind', text: 'select namespace_uid from nkudo.tenants where tenant_id = $1 for no key update' },
    [input.tenantId],
  );
  const before = tenant.rows[0]?.namespace_uid ?? null;
  const entries: AuditEntry[] = [];
  if (before !== input.namespaceUid) {
    await tx.query({ name: 'rebind-tenant', text: 'update nkudo.tenants set namespace_uid = $2, rebound_at = now() where tenant_id = $1' }, [input.tenantId, input.namespaceUid]);
    entries.push({ action: 'rebound', subject: 'tenant', id: input.tenantId, before: { namespaceUid: before ?? input.tenantId }, after: { namespaceUid: input.namespaceUid } });
  }
  entries.push(...(await rebindSites(tx, input)));
  await appendAudit(tx, input.tenantId, actor, entries);
  return { sites: await reboundSites(tx, input.tenantId), microvms: await unadopted(tx, input.tenantId) };
}

async function rebindSites(tx: Tx, input: RebindInput): Promise<readonly AuditEntry[]> {
  const { rows } = await tx.query<{ id: string; object_uid: string; generation_base: number }>(
    {
      name: 'rebind-sites',
      text: `update nkudo.sites s set object_uid = o.object_uid, generation_base = s.generation
        from unnest($2::text[], $3::uuid[]) as o (name, object_uid)
        where s.tenant_id = $1 and s.name = o.name and s.deleted_at is null and s.id <> o.object_uid and s.object_uid is distinct from o.object_uid
        returning s.id, s.object_uid, s.generation_base`,
    },
    [input.tenantId, input.sites.map(({ name }) => name), input.sites.map(({ objectUid }) => objectUid)],
  );
  return rows.map((row) => ({ action: 'rebound', subject: 'site', id: row.id, before: null, after: { objectUid: row.object_uid, generationBase: row.generation_base } }));
}

async function reboundSites(tx: Tx, tenant: TenantId): Promise<readonly string[]> {
  const { rows } = await tx.query<{ name: string }>(
    { name: 'list-rebound-sites', text: 'select name from nkudo.sites where tenant_id = $1 and object_uid is not null and deleted_at is null order by name' },
    [tenant],
  );
  return rows.map(({ name }) => name);
}

async function unadopted(tx: Tx, tenant: TenantId): Promise<Rebound['microvms']> {
  const { rows } = await tx.query<{ name: string; id: string }>(
    {
      name: 'list-unadopted',
      text: `select m.name, m.id from nkudo.microvms m where m.tenant_id = $1 and m.released_at is null and not m.is_deleting
        and not exists (select from nkudo.adoptions a where a.tenant_id = m.tenant_id and a.id = m.id) order by m.name`,
    },
    [tenant],
  );
  return rows.map((row) => ({ name: row.name, microvmId: microVMId(row.id) }));
}
