/**
 * Statements on the audit chain, under the chainer's own role: it reads all rows, appends links and checkpoints, and can
 * change neither. What a hash covers and what is bad about a chain is in `../audit-chain.ts`.
 *
 * Order: by transaction id, then row id, of transactions below the oldest one that still runs. No row can come later
 * below that line, so the order is final. Ids above every one of this cluster came with a restore from another one.
 */
import { AppError } from '#api/model/error-codes.ts';
import type { AuditChainStore, AuditRow, ChainHead, Checkpoint, LinkPass } from '#controller/ports/audit-chain.ts';
import { firstPreviousHash, linkHash, verifyChain, type AuditEventRow, type ChainLink, type ChainSource } from '../audit-chain.ts';
import { silentLog, type DatabaseLog } from '../log.ts';
import { createPool } from '../pool.ts';
import { createTransactions, type Statement, type Tx } from '../tx.ts';

/** One at work, one for a look from outside. */
const connections = 2;
/** Key of the advisory lock of whoever links; taken without waiting. */
const linkLock = 7_310_022_519;
const pageRows = 2_000;

export interface AuditStoreOptions {
  /** Connection string of role nkudo_chainer. */
  readonly url: string;
  readonly log?: DatabaseLog;
}

/** What the readers need: one statement; a plain client fits as well as a transaction. */
export type Query = (statement: Statement, values?: readonly unknown[]) => Promise<{ readonly rows: readonly Record<string, unknown>[] }>;

/** Opens no connection yet; the first call does. */
export function createAuditStore(options: AuditStoreOptions): AuditChainStore {
  const pool = createPool({ url: options.url, name: 'nkudo-chainer', max: connections, log: options.log ?? silentLog });
  // Everything here goes along an index, and in its order up to a limit; without fresh statistics Postgres may not see it.
  pool.on('connect', (client) => void client.query('set enable_seqscan = off; set enable_bitmapscan = off').catch(() => {})); // Else slower, no more.
  const transactions = createTransactions({ app: pool, system: pool });
  const query: Query = (statement, values) => transactions.systemQuery(statement, values);
  return {
    link: async (limit) => {
      const seen = await look(query);
      if (!seen.hasLinkable) return { linked: 0, isMore: false, unlinkedAgeMs: seen.ageMs };
      const linked = await transactions.system((tx) => linkBatch(tx, limit));
      const isThrough = linked.linked > 0 && !linked.isMore;
      return { ...linked, unlinkedAgeMs: isThrough ? (await look(query)).ageMs : seen.ageMs };
    },
    unsignedHeads: () => readUnsignedHeads(query),
    addCheckpoints: (checkpoints) => (checkpoints.length === 0 ? Promise.resolve() : transactions.system((tx) => insertCheckpoints(tx, checkpoints))),
    tenants: () => readTenants(query),
    checkpoints: (tenantId) => readCheckpoints(query, tenantId),
    rows: (tenantId) => readRows(query, tenantId),
    verify: async (tenantId, exported, isSigned) => verifyChain(tenantId, await openChainSource(query, tenantId, exported), isSigned),
    // Both pools of `transactions` are this one.
    close: () => pool.end(),
  };
}

/** Reads what {@link verifyChain} needs. Checkpoints come first: links that are read later can only be more. */
export async function openChainSource(query: Query, tenantId: string, exported: readonly Checkpoint[]): Promise<ChainSource> {
  const checkpoints: Checkpoint[] = [];
  for await (const checkpoint of readCheckpoints(query, tenantId)) checkpoints.push(checkpoint);
  return { links: readLinks(query, tenantId), checkpoints, exported: exported.filter((checkpoint) => checkpoint.tenantId === tenantId), unlinked: () => readUnlinked(query, tenantId) };
}

// ---------------------------------------------------------------------------------------------------- linking

/** Where unlinked rows are looked for, in this snapshot. */
interface Bounds {
  /** Every row of an earlier transaction is linked. After a restore into a cluster with lower ids: 0, everything is looked at. */
  readonly from: string;
  /** Oldest transaction that still runs. */
  readonly xmin: string;
}

/**
 * Read by itself, so that the next statement is planned for these very values: then it takes the index, and costs the
 * same whatever the number of linked rows. Rows that are committed in between are of transactions at or above xmin.
 */
async function readBounds(query: Query): Promise<Bounds> {
  const { rows } = await query({
    name: 'read-chain-bounds',
    isHot: true,
    text: `select s.xmin::text as xmin, (case when c.linked_below > s.xmax then '0'::xid8 else c.linked_below end)::text as from_xact
      from nkudo.audit_chain c, (select pg_snapshot_xmin(pg_current_snapshot()) as xmin, pg_snapshot_xmax(pg_current_snapshot()) as xmax) s`,
  });
  const [row] = rows;
  if (row === undefined) throw new AppError('INTERNAL', 'the row of the audit chain is missing: run the migrator');
  return { from: String(row['from_xact']), xmin: String(row['xmin']) };
}

// Counted row by row: as an anti-join it could become a scan of all links.
const unlinked = `e.xact >= $1::xid8 and (select count(*) from nkudo.audit_links l where l.tenant_id = e.tenant_id and l.event_id = e.id) = 0`;
// An id that this statement's own snapshot does not know yet came with a restore.
const isLinkable = '(e.xact < $2::xid8 or e.xact >= pg_snapshot_xmax(pg_current_snapshot()))';

async function look(query: Query): Promise<{ readonly hasLinkable: boolean; readonly ageMs: number | null }> {
  const { from, xmin } = await readBounds(query);
  const { rows } = await query(
    {
      name: 'look-for-unlinked',
      text: `select coalesce(bool_or(is_linkable), false) as has_linkable, (extract(epoch from clock_timestamp() - min(at)) * 1000)::double precision as age_ms
        from (select e.at, ${isLinkable} as is_linkable from nkudo.audit_events e where ${unlinked} order by e.xact limit ${pageRows}) waiting`,
    },
    [from, xmin],
  );
  const age = rows[0]?.['age_ms'];
  return { hasLinkable: rows[0]?.['has_linkable'] === true, ageMs: typeof age === 'number' ? Math.max(0, age) : null };
}

const eventColumns = `e.id::text as id, e.xact::text as xact, (extract(epoch from e.at) * 1000000)::bigint::text as at_us, e.actor_kind, e.actor_name,
  e.actor_from, e.action, e.subject_kind, e.subject_id::text as subject_id, e.before_hash, e.after_hash`;

type FoundEvent = AuditEventRow & { readonly tenant_id: string };

async function linkBatch(tx: Tx, limit: number): Promise<Omit<LinkPass, 'unlinkedAgeMs'>> {
  const nothing = { linked: 0, isMore: false };
  const lock = await tx.query<{ held: boolean }>({ name: 'lock-audit-chain', text: `select pg_try_advisory_xact_lock(${linkLock}) as held` });
  if (lock.rows[0]?.held !== true) return nothing;
  const bounds = await readBounds((statement, values) => tx.query(statement, values));
  const { rows: events } = await tx.query<FoundEvent>(
    {
      name: 'read-unlinked',
      text: `select e.tenant_id::text as tenant_id, ${eventColumns} from nkudo.audit_events e where ${unlinked} and ${isLinkable} order by e.xact, e.id limit $3`,
    },
    [bounds.from, bounds.xmin, limit],
  );
  const last = events.at(-1);
  if (last === undefined) return nothing;
  const isFull = events.length === limit;
  await insertLinks(tx, events);
  // Where a full batch ends, rows of the same transaction may wait: they are found again from its id on.
  await tx.query(
    {
      name: 'advance-audit-chain',
      text: `update nkudo.audit_chain set linked_below = $1::xid8
        where $1::xid8 > linked_below or (linked_below > pg_snapshot_xmax(pg_current_snapshot()) and not $2)`,
    },
    [isFull ? last.xact : bounds.xmin, isFull],
  );
  return { linked: events.length, isMore: isFull };
}

async function insertLinks(tx: Tx, events: readonly FoundEvent[]): Promise<void> {
  const heads = await readHeads(tx, [...new Set(events.map((event) => event.tenant_id))]);
  const links = events.map((event) => {
    const head = heads.get(event.tenant_id) ?? { position: 0, hash: firstPreviousHash };
    const position = head.position + 1;
    const hash = linkHash({ tenantId: event.tenant_id, position, previousHash: head.hash }, event);
    heads.set(event.tenant_id, { position, hash });
    return { tenantId: event.tenant_id, position, eventId: event.id, previousHash: head.hash, hash };
  });
  await tx.query(
    {
      name: 'append-links',
      text: `insert into nkudo.audit_links (tenant_id, position, event_id, previous_hash, hash)
        select l.tenant, l.position, l.event, decode(l.previous, 'hex'), decode(l.hash, 'hex')
        from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[], $5::text[]) as l (tenant, position, event, previous, hash)`,
    },
    [links.map((link) => link.tenantId), links.map((link) => link.position), links.map((link) => link.eventId), links.map((link) => link.previousHash), links.map((link) => link.hash)],
  );
}

async function readHeads(tx: Tx, tenantIds: readonly string[]): Promise<Map<string, { readonly position: number; readonly hash: string }>> {
  const { rows } = await tx.query<{ tenant_id: string; position: number; hash: string }>(
    {
      name: 'read-heads',
      text: `select t.id::text as tenant_id, h.position, h.hash from unnest($1::uuid[]) as t (id),
        lateral (select position, encode(hash, 'hex') as hash from nkudo.audit_links l where l.tenant_id = t.id order by position desc limit 1) h`,
    },
    [tenantIds],
  );
  return new Map(rows.map((row) => [row.tenant_id, { position: row.position, hash: row.hash }]));
}

// ---------------------------------------------------------------------------------------------------- checkpoints

/** Distinct tenants of a table by steps along its primary key, which begins with the tenant. */
const tenantsOf = (table: string): string => `(
    with recursive step as (
      (select tenant_id from nkudo.${table} order by tenant_id limit 1)
      union all
      select (select n.tenant_id from nkudo.${table} n where n.tenant_id > step.tenant_id order by n.tenant_id limit 1) from step where step.tenant_id is not null
    ) select tenant_id from step where tenant_id is not null
  )`;

async function readUnsignedHeads(query: Query): Promise<readonly ChainHead[]> {
  const { rows } = await query({
    name: 'read-unsigned-heads',
    text: `select t.tenant_id::text as tenant_id, h.position::text as position, encode(h.hash, 'hex') as root, coalesce(c.position, 0)::text as previous
      from ${tenantsOf('audit_links')} t
      cross join lateral (select position, hash from nkudo.audit_links l where l.tenant_id = t.tenant_id order by position desc limit 1) h
      left join lateral (select position from nkudo.audit_checkpoints k where k.tenant_id = t.tenant_id order by position desc limit 1) c on true
      where h.position > coalesce(c.position, 0)`,
  });
  return rows.map((row) => ({ tenantId: String(row['tenant_id']), position: Number(row['position']), root: String(row['root']), previousPosition: Number(row['previous']) }));
}

async function insertCheckpoints(tx: Tx, checkpoints: readonly Checkpoint[]): Promise<void> {
  await tx.query(
    {
      name: 'append-checkpoints',
      text: `insert into nkudo.audit_checkpoints (tenant_id, position, root, signature, key_id, made_at, previous_position)
        select c.tenant, c.position, decode(c.root, 'hex'), decode(c.signature, 'base64'), c.key_id, to_timestamp(c.made_at_ms / 1000.0), c.previous
        from unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[])
          as c (tenant, position, root, signature, key_id, made_at_ms, previous)
        on conflict (tenant_id, position) do nothing`,
    },
    [
      checkpoints.map((checkpoint) => checkpoint.tenantId), checkpoints.map((checkpoint) => checkpoint.position), checkpoints.map((checkpoint) => checkpoint.root),
      checkpoints.map((checkpoint) => checkpoint.signature), checkpoints.map((checkpoint) => checkpoint.keyId), checkpoints.map((checkpoint) => checkpoint.madeAtMs),
      checkpoints.map((checkpoint) => checkpoint.previousPosition),
    ],
  );
}

// ---------------------------------------------------------------------------------------------------- reading

async function readTenants(query: Query): Promise<readonly string[]> {
  const tables = ['audit_events', 'audit_links', 'audit_checkpoints'].map((table) => `select tenant_id from ${tenantsOf(table)} as ${table}`);
  const { rows } = await query({ name: 'read-audit-tenants', text: `select tenant_id::text as tenant_id from (${tables.join(' union ')}) t order by 1` });
  return rows.map((row) => String(row['tenant_id']));
}

/** Pages by position until a page is not full. */
async function* pages(query: Query, statement: Statement, tenantId: string): AsyncGenerator<Record<string, unknown>> {
  for (let after = 0; ; ) {
    const { rows } = await query(statement, [tenantId, after, pageRows]);
    yield* rows;
    const last = rows.at(-1);
    if (last === undefined || rows.length < pageRows) return;
    after = Number(last['position']);
  }
}

async function* readCheckpoints(query: Query, tenantId: string): AsyncGenerator<Checkpoint> {
  const statement = {
    name: 'read-checkpoints',
    text: `select position::text as position, previous_position::text as previous, encode(root, 'hex') as root, encode(signature, 'base64') as signature, key_id,
        (extract(epoch from made_at) * 1000)::bigint::text as made_at_ms
      from nkudo.audit_checkpoints where tenant_id = $1 and position > $2 order by position limit $3`,
  };
  for await (const row of pages(query, statement, tenantId)) {
    yield {
      tenantId, position: Number(row['position']), previousPosition: Number(row['previous']), root: String(row['root']),
      signature: String(row['signature']).replaceAll('\n', ''), keyId: String(row['key_id']), madeAtMs: Number(row['made_at_ms']),
    };
  }
}

const linkStatement: Statement = {
  name: 'read-links',
  text: `select l.position::text as position, l.event_id::text as event_id, encode(l.previous_hash, 'hex') as previous_hash, encode(l.hash, 'hex') as hash,
      to_char(e.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as at, ${eventColumns}
    from nkudo.audit_links l left join nkudo.audit_events e on e.tenant_id = l.tenant_id and e.id = l.event_id
    where l.tenant_id = $1 and l.position > $2 order by l.position limit $3`,
};

async function* readLinks(query: Query, tenantId: string): AsyncGenerator<ChainLink> {
  for await (const row of pages(query, linkStatement, tenantId)) {
    yield {
      position: Number(row['position']), eventId: String(row['event_id']), previousHash: String(row['previous_hash']), hash: String(row['hash']),
      event: row['id'] === null ? null : eventOf(row),
    };
  }
}

function textOrNull(value: unknown): string | null {
  return typeof value === 'string' ? value : null;
}

function eventOf(row: Record<string, unknown>): AuditEventRow {
  const text = (name: string): string => String(row[name]);
  return {
    id: text('id'), xact: text('xact'), at_us: text('at_us'), actor_kind: text('actor_kind'), actor_name: text('actor_name'), actor_from: text('actor_from'),
    action: text('action'), subject_kind: text('subject_kind'), subject_id: text('subject_id'), before_hash: textOrNull(row['before_hash']), after_hash: textOrNull(row['after_hash']),
  };
}

async function* readRows(query: Query, tenantId: string): AsyncGenerator<AuditRow> {
  for await (const row of pages(query, linkStatement, tenantId)) {
    if (row['id'] === null) continue; // A row that is missing is for `verify` to tell.
    const event = eventOf(row);
    yield {
      tenantId, position: Number(row['position']), eventId: event.id, at: String(row['at']), actorKind: event.actor_kind, actorName: event.actor_name,
      actorFrom: event.actor_from, action: event.action, subjectKind: event.subject_kind, subjectId: event.subject_id, beforeHash: event.before_hash,
      afterHash: event.after_hash, previousHash: String(row['previous_hash']), hash: String(row['hash']),
    };
  }
}

async function readUnlinked(query: Query, tenantId: string): Promise<{ readonly count: number; readonly firstOverdueId: string | null }> {
  const { rows } = await query(
    {
      name: 'count-unlinked',
      text: `select count(*)::int as count, (min(e.id) filter (where e.xact < c.linked_below and c.linked_below <= pg_snapshot_xmax(pg_current_snapshot())))::text as overdue
        from nkudo.audit_events e, nkudo.audit_chain c
        where e.tenant_id = $1 and not exists (select from nkudo.audit_links l where l.tenant_id = e.tenant_id and l.event_id = e.id)`,
    },
    [tenantId],
  );
  return { count: Number(rows[0]?.['count'] ?? 0), firstOverdueId: textOrNull(rows[0]?.['overdue']) };
}
