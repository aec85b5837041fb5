/**
 * API keys: their hashes and what they are good for. Writes are the leader's, except the note of a use, which any
 * replica makes at most once in an hour for a key.
 */
import { apiKeyId, isUuid, tenantId, type ApiKeyId, type TenantId } from '#api/model/ids.ts';
import type { ApiKeyRecord, ApiKeyRegistration, ApiKeyRole, ApiKeyState, ApiKeyStore, SiteObject } from '#controller/ports/api-key-store.ts';
import type { Actor } from '#controller/ports/audit.ts';
import { appendAudit, type AuditEntry } from '../audit.ts';
import type { LeaderTx, Transactions, Tx } from '../tx.ts';
import { saveTenant } from './site-store.ts';

/** Between two notes of uses of one key, milliseconds. */
const noteIntervalMs = 3_600_000;

export function createApiKeyStore(transactions: Transactions): ApiKeyStore {
  return {
    find: async (keyId) => {
      const { rows } = await transactions.systemQuery<FoundRow>(findStatement, [keyId]);
      const [row] = rows;
      return row === undefined ? null : toRecord(row, keyId);
    },
    noteUsed: async (tenant, keyId, atMs) => {
      await transactions.tenant(tenant, (tx) =>
        tx.query(
          {
            name: 'note-api-key-use',
            text: `update nkudo.api_keys set last_used_at = $3
              where tenant_id = $1 and id = $2 and (last_used_at is null or last_used_at <= $4)`,
          },
          [tenant, keyId, new Date(atMs), new Date(atMs - noteIntervalMs)],
        ),
      );
    },
    siteOf: (tenant, object) => transactions.tenant(tenant, (tx) => siteOf(tx, tenant, object)),
    register: async (input, epoch, actor) => {
      await transactions.leader(input.tenantId, epoch, {
        settled: async (tx) => (isRegistered(await readKey(tx, input.tenantId, input.keyId), input) ? true : undefined),
        work: (tx) => register(tx, input, actor),
      });
    },
    load: (tenant, keyId) =>
      transactions.tenant<ApiKeyState | null>(tenant, async (tx) => {
        const row = await readKey(tx, tenant, keyId);
        return row === undefined ? null : { expiresAtMs: row.expires_at, isRevoked: row.is_revoked, lastUsedAtMs: row.last_used_at };
      }),
    revoke: async (tenant, keyId, epoch, actor) => {
      await transactions.leader(tenant, epoch, {
        settled: async (tx) => ((await readKey(tx, tenant, keyId))?.is_revoked ?? true ? true : undefined),
        work: (tx) => revoke(tx, tenant, keyId, actor),
      });
    },
  };
}

interface FoundRow {
  readonly tenant_id: string;
  readonly namespace: string;
  readonly name: string;
  readonly key_hash: Buffer;
  readonly access: ApiKeyRole;
  readonly site_name: string | null;
  readonly expires_at: number;
  readonly is_revoked: boolean;
  readonly last_used_at: number | null;
}

const findStatement = {
  name: 'find-api-key',
  isHot: true,
  // A namespace that was made again is another tenant: keys of the old one are good for nothing.
  text: `select k.tenant_id, t.namespace, k.name, k.key_hash, k.access, k.site_name, k.expires_at, k.revoked_at is not null as is_revoked, k.last_used_at
    from nkudo.api_keys k join nkudo.tenants t on t.tenant_id = k.tenant_id
    where k.id = $1
      and t.tenant_id = (select n.tenant_id from nkudo.tenants n where n.namespace = t.namespace order by coalesce(n.rebound_at, n.created_at) desc limit 1)`,
};

function toRecord(row: FoundRow, keyId: ApiKeyId): ApiKeyRecord {
  return {
    tenantId: tenantId(row.tenant_id), namespace: row.namespace, keyId, name: row.name, secretHash: row.key_hash, role: row.access, siteName: row.site_name,
    expiresAtMs: row.expires_at, isRevoked: row.is_revoked, lastUsedAtMs: row.last_used_at,
  };
}

const siteStatements = {
  plan: 'select s.name from nkudo.plans p join nkudo.sites s on s.tenant_id = p.tenant_id and s.id = p.site_id where p.tenant_id = $1 and p.id = $2::uuid',
  microvm: `select s.name from nkudo.microvms m join nkudo.sites s on s.tenant_id = m.tenant_id and s.id = m.site_id
    where m.tenant_id = $1 and (m.id = $2::uuid or (m.name = $3 and m.released_at is null))`,
  host: `select s.name from nkudo.hosts h join nkudo.sites s on s.tenant_id = h.tenant_id and s.id = h.site_id
    where h.tenant_id = $1 and (h.id = $2::uuid or (h.name = $3 and h.revoked_at is null))`,
  execution: `select s.name from nkudo.execution_records e
    join nkudo.operations o on o.tenant_id = e.tenant_id and o.id = e.operation_id
    join nkudo.plans p on p.tenant_id = o.tenant_id and p.id = o.plan_id
    join nkudo.sites s on s.tenant_id = p.tenant_id and s.id = p.site_id where e.tenant_id = $1 and e.id = $2::uuid`,
} as const;

/** Null also when a name stands for objects of several sites: which one is meant is then not known. */
async function siteOf(tx: Tx, tenant: TenantId, object: SiteObject): Promise<string | null> {
  const named = object.kind === 'microvm' || object.kind === 'host';
  const values = [tenant, 'id' in object && isUuid(object.id) ? object.id : null, ...(named ? ['name' in object ? object.name : ''] : [])];
  const { rows } = await tx.query<{ name: string }>({ name: `find-site-of-${object.kind}`, text: siteStatements[object.kind] }, values);
  const names = new Set(rows.map((row) => row.name));
  const [only] = names;
  return names.size === 1 ? (only ?? null) : null;
}

interface KeyRow {
  readonly key_hash: Buffer;
  readonly expires_at: number;
  readonly is_revoked: boolean;
  readonly last_used_at: number | null;
}

async function readKey(tx: Tx, tenant: TenantId, keyId: ApiKeyId): Promise<KeyRow | undefined> {
  const { rows } = await tx.query<KeyRow>(
    {
      name: 'read-api-key',
      isHot: true,
      text: 'select key_hash, expires_at, revoked_at is not null as is_revoked, last_used_at from nkudo.api_keys where tenant_id = $1 and id = $2',
    },
    [tenant, keyId],
  );
  return rows[0];
}

/** What it is good for never changes, so that the hash alone tells. A revoked key stays as it is. */
function isRegistered(found: KeyRow | undefined, input: ApiKeyRegistration): boolean {
  return found !== undefined && (found.is_revoked || found.key_hash.equals(input.secretHash));
}

async function register(tx: LeaderTx, input: ApiKeyRegistration, actor: Actor): Promise<true> {
  const found = await readKey(tx, input.tenantId, input.keyId);
  if (isRegistered(found, input)) return true;
  const entries: AuditEntry[] = [];
  const tenant = await tx.query({ name: 'find-tenant-of-api-key', text: 'select from nkudo.tenants where tenant_id = $1' }, [input.tenantId]);
  if (tenant.rowCount === 0) entries.push(await saveTenant(tx, input.tenantId, { before: null, namespace: input.namespace }));
  // An object that was made again under its name while the old row stands: its finalizer was taken off by hand.
  const replaced = await tx.query<{ id: string }>(
    {
      name: 'revoke-replaced-api-key',
      text: 'update nkudo.api_keys set revoked_at = now() where tenant_id = $1 and name = $2 and id <> $3 and revoked_at is null returning id',
    },
    [input.tenantId, input.name, input.keyId],
  );
  entries.push(...replaced.rows.map((row) => revoked(apiKeyId(row.id))));
  await tx.query(
    {
      name: 'register-api-key',
      text: `insert into nkudo.api_keys (tenant_id, id, name, key_hash, access, site_name, expires_at) values ($1, $2, $3, $4, $5, $6, $7)
        on conflict (tenant_id, id) do update set key_hash = excluded.key_hash`,
    },
    [input.tenantId, input.keyId, input.name, Buffer.from(input.secretHash), input.role, input.siteName, new Date(input.expiresAtMs)],
  );
  const after = { name: input.name, role: input.role, siteName: input.siteName, expiresAtMs: input.expiresAtMs };
  entries.push({ action: found === undefined ? 'registered' : 'replaced', subject: 'apiKey', id: input.keyId, before: found === undefined ? null : after, after });
  await appendAudit(tx, input.tenantId, actor, entries);
  return true;
}

const revoked = (keyId: ApiKeyId): AuditEntry => ({ action: 'revoked', subject: 'apiKey', id: keyId, before: { isRevoked: false }, after: { isRevoked: true } });

async function revoke(tx: LeaderTx, tenant: TenantId, keyId: ApiKeyId, actor: Actor): Promise<true> {
  const { rowCount } = await tx.query(
    { name: 'revoke-api-key', text: 'update nkudo.api_keys set revoked_at = now() where tenant_id = $1 and id = $2 and revoked_at is null' },
    [tenant, keyId],
  );
  if (rowCount === 1) await appendAudit(tx, tenant, actor, [revoked(keyId)]);
  return true;
}
