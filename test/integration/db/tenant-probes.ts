/**
 * Tries, as the application role and with plain SQL, to reach the rows of another tenant: every relation of the catalogue,
 * partitions and views too, every operation, every column. What comes from the stores' own filters is left out on purpose.
 * It also says when a tenant does not see its own rows, so that a policy which is not there can't look like a strict one.
 */
import pg from 'pg';
import type { TestDatabase } from '#test/harness/postgres.ts';

const permissionDenied = '42501';

export interface Relation {
  readonly name: string;
  /** `r` table, `p` partitioned table, `v` view, `m` materialised view, `f` foreign table. */
  readonly kind: string;
  readonly isPartition: boolean;
  readonly hasTenant: boolean;
  readonly columns: readonly { readonly name: string; readonly isIdentity: boolean; readonly isInsertable: boolean }[];
}

/** All relations of the schema that can hold or show rows. */
export async function readCatalogue(server: TestDatabase): Promise<readonly Relation[]> {
  const rows = await server.query(
    `select c.relname as name, c.relkind::text as kind, c.relispartition as is_partition,
       json_agg(json_build_object('name', a.attname, 'isIdentity', a.attidentity <> '', 'isInsertable', has_column_privilege('nkudo_app', c.oid, a.attnum, 'insert')) order by a.attnum) as columns
     from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
     where n.nspname = 'nkudo' and c.relkind in ('r', 'p', 'v', 'm', 'f') group by c.oid order by c.relname`,
  );
  return rows.map((row) => {
    const columns = row['columns'] as Relation['columns']; // Made by the statement above.
    return { name: String(row['name']), kind: String(row['kind']), isPartition: row['is_partition'] === true, hasTenant: columns.some((column) => column.name === 'tenant_id'), columns };
  });
}

export interface Findings {
  /** Statements that were tried. */
  readonly cells: number;
  /** What should not have been, each in one line. */
  readonly crossings: readonly string[];
}

export interface Probe {
  /** Connected as the application role. */
  readonly app: pg.Client;
  readonly server: TestDatabase;
  readonly mine: string;
  readonly theirs: string;
}

type Outcome = { readonly rowCount: number; readonly rows: readonly Record<string, unknown>[] } | string;

/** Runs under a tenant, `null` for none, and rolls back; the SQLSTATE when it was refused. */
export async function runAsTenant(app: pg.Client, tenant: string | null, sql: string): Promise<Outcome> {
  await app.query('begin');
  try {
    if (tenant !== null) await app.query(`select set_config('app.tenant_id', $1, true)`, [tenant]);
    const result = await app.query<Record<string, unknown>>(sql);
    return { rowCount: result.rowCount ?? 0, rows: result.rows };
  } catch (error) {
    return error instanceof pg.DatabaseError ? String(error.code) : 'no SQLSTATE';
  } finally {
    await app.query('rollback');
  }
}

const isRefused = (outcome: Outcome): boolean => outcome === permissionDenied;
const reachesNothing = (outcome: Outcome): boolean => isRefused(outcome) || (typeof outcome !== 'string' && outcome.rowCount === 0);
const shown = (outcome: Outcome): string => (typeof outcome === 'string' ? `SQLSTATE ${outcome}` : `${outcome.rowCount} rows`);

/** Tries everything on the relations that have rows of tenants. */
export async function probeTenants(probe: Probe, relations: readonly Relation[]): Promise<Findings> {
  let cells = 0;
  const crossings: string[] = [];
  for (const relation of relations.filter(({ hasTenant }) => hasTenant)) {
    const attempt = async (tenant: string | null, sql: string, isFine: (outcome: Outcome) => boolean): Promise<void> => {
      cells += 1;
      const outcome = await runAsTenant(probe.app, tenant, sql);
      if (!isFine(outcome)) crossings.push(`${relation.name}: ${shown(outcome)} by ${tenant === null || tenant === '' ? 'nobody' : 'a tenant'}: ${sql}`);
    };
    await probeReads(probe, relation, attempt);
    await probeWrites(probe, relation, attempt);
  }
  return { cells, crossings };
}

type Attempt = (tenant: string | null, sql: string, isFine: (outcome: Outcome) => boolean) => Promise<void>;

async function probeReads({ server, mine, theirs }: Probe, relation: Relation, attempt: Attempt): Promise<void> {
  const table = `nkudo.${relation.name}`;
  const [own] = await server.query(`select count(*)::int as count from ${table} where tenant_id = $1`, [mine]);
  // A partition may be refused as a whole: it is reached through its parent only.
  const isOwnOnly = (outcome: Outcome): boolean =>
    (relation.isPartition && isRefused(outcome)) || (typeof outcome !== 'string' && outcome.rowCount === own?.['count'] && outcome.rows.every((row) => row['tenant_id'] === mine));
  await attempt(mine, `select * from ${table}`, isOwnOnly);
  await attempt(mine, `select * from ${table} where tenant_id = '${theirs}'`, reachesNothing);
  for (const nobody of [null, '']) await attempt(nobody, `select * from ${table}`, reachesNothing);
}

async function probeWrites({ mine, theirs }: Probe, relation: Relation, attempt: Attempt): Promise<void> {
  const table = `nkudo.${relation.name}`;
  for (const column of relation.columns.filter(({ isIdentity }) => !isIdentity)) {
    await attempt(mine, `update ${table} set ${column.name} = ${column.name} where tenant_id = '${theirs}'`, reachesNothing);
  }
  await attempt(mine, `update ${table} set tenant_id = '${theirs}'`, isRefused);
  await attempt(mine, `delete from ${table} where tenant_id = '${theirs}'`, reachesNothing);
  await attempt(mine, `delete from ${table}`, isRefused);
  await attempt(mine, `truncate ${table} cascade`, isRefused);
  const insertable = relation.columns.filter(({ isInsertable }) => isInsertable).map(({ name }) => name);
  const names = (insertable.length === 0 ? relation.columns.filter(({ isIdentity }) => !isIdentity).map(({ name }) => name) : insertable).join(', ');
  // An own row as one of the other tenant. That a status begins as Pending is asked before the policy is.
  const values = names.split(', ').map((name) => (name === 'tenant_id' ? `'${theirs}'::uuid` : name === 'status' && !['executions', 'execution_records'].includes(relation.name) ? `'Pending'` : name));
  await attempt(mine, `insert into ${table} (${names}) select ${values.join(', ')} from ${table} limit 1`, isRefused);
}

/** Relations without tenants: nothing may be written there by the application role. */
export async function probeShared({ app, mine }: Pick<Probe, 'app' | 'mine'>, relations: readonly Relation[]): Promise<Findings> {
  let cells = 0;
  const crossings: string[] = [];
  for (const { name, columns } of relations.filter(({ hasTenant }) => !hasTenant)) {
    const first = columns[0]?.name ?? '';
    for (const sql of [`insert into nkudo.${name} default values`, `update nkudo.${name} set ${first} = ${first}`, `delete from nkudo.${name}`, `truncate nkudo.${name}`]) {
      cells += 1;
      const outcome = await runAsTenant(app, mine, sql);
      if (!isRefused(outcome)) crossings.push(`${name}: ${shown(outcome)}: ${sql}`);
    }
  }
  return { cells, crossings };
}
