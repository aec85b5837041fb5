/**
 * What of the logs a sink has not got yet, in the order of commits: a row counts once every transaction that began before
 * its own has ended, so that none can appear behind the position that was delivered. Contents are read as their tenant.
 */
import { microVMId, tenantId } from '#api/model/ids.ts';
import type { ExportedRow, LogExportStore } from '#controller/ports/log-sink.ts';
import type { LogSource } from '#controller/ports/log-store.ts';
import type { Transactions } from '../tx.ts';

/** Rows of one read; a row has at most 64 KiB. */
const rowsMax = 32;
/** Tenants of one look; the others come with the next. */
const tenantsMax = 256;
/** Rows that an unfinished line is looked for in. */
const unfinishedRowsMax = 8;
const unfinishedBytesMax = 65_536;
const lineEnd = 0x0a;

interface Row {
  readonly xact: string;
  readonly id: number;
  readonly namespace: string;
  readonly site_name: string;
  readonly microvm_id: string;
  readonly microvm_name: string;
  readonly source: LogSource;
  readonly incarnation: number;
  readonly byte_offset: number;
  readonly gap_bytes: number;
  readonly data: Buffer;
  readonly received_at: number;
}

export function createLogExportStore(transactions: Transactions): LogExportStore {
  return {
    tenantsWithNews: async (sink) => {
      const { rows } = await transactions.systemQuery<{ tenant_id: string }>(newsStatement, [sink]);
      return rows.map((row) => tenantId(row.tenant_id));
    },
    next: (tenant, sink) =>
      transactions.tenant(tenant, async (tx) => {
        const { rows } = await tx.query<Row>(nextStatement, [tenant, sink]);
        return rows.map(toRow);
      }),
    advance: (tenant, sink, { xact, id }) =>
      transactions.tenant(tenant, async (tx) => {
        await tx.query(advanceStatement, [tenant, sink, xact, id]);
      }),
    unfinished: (tenant, row) =>
      transactions.tenant(tenant, async (tx) => {
        const { rows } = await tx.query<{ data: Buffer }>(beforeStatement, [tenant, row.microvmId, row.source, row.incarnation, row.position.id]);
        const parts: Buffer[] = [];
        for (const { data } of rows) {
          const end = data.lastIndexOf(lineEnd);
          parts.unshift(data.subarray(end + 1));
          if (end >= 0) break;
        }
        return Buffer.concat(parts).subarray(-unfinishedBytesMax);
      }),
  };
}

function toRow(row: Row): ExportedRow {
  return {
    position: { xact: row.xact, id: row.id }, namespace: row.namespace, siteName: row.site_name, microvmId: microVMId(row.microvm_id), microvmName: row.microvm_name,
    source: row.source, incarnation: row.incarnation, offset: row.byte_offset, gapBytes: row.gap_bytes, data: row.data, receivedAtMs: row.received_at,
  };
}

/** A position beyond every transaction is of another cluster that this database was restored from: then all counts as new. */
const delivered = (sink: string): string =>
  `left join nkudo.log_exports e on e.tenant_id = t.tenant_id and e.sink = ${sink} and e.delivered_xact < pg_snapshot_xmax(pg_current_snapshot())`;
/**
 * Of one tenant, after its position. The order makes the position a bound of the index, so that nothing before it is read;
 * for an expression with coalesce() row level security would not allow that.
 */
const news = (columns: string, limit: number): string =>
  `cross join lateral (
      select ${columns} from nkudo.logs l
      where l.tenant_id = t.tenant_id and l.xact < pg_snapshot_xmin(pg_current_snapshot())
        and (l.xact, l.id) > (case when e.sink is null then '0'::xid8 else e.delivered_xact end, case when e.sink is null then 0 else e.delivered_id end)
      order by l.xact, l.id limit ${limit}
    ) l`;

export const newsStatement = {
  name: 'tenants-with-log-news',
  isHot: true,
  // By chance: those that always have something can't keep the others out.
  text: `select t.tenant_id from nkudo.tenants t ${delivered('$1')} ${news('', 1)} order by random() limit ${tenantsMax}`,
};

export const nextStatement = {
  name: 'next-logs-to-export',
  isHot: true,
  text: `select l.xact::text as xact, l.id, t.namespace, s.name as site_name, l.microvm_id, m.name as microvm_name, l.source, l.incarnation, l.byte_offset,
      l.gap_bytes, l.data, l.received_at
    from nkudo.tenants t ${delivered('$2')} ${news('l.*', rowsMax)}
    join nkudo.microvms m on m.tenant_id = l.tenant_id and m.id = l.microvm_id
    join nkudo.sites s on s.tenant_id = m.tenant_id and s.id = m.site_id
    where t.tenant_id = $1
    order by l.xact, l.id`,
};

const advanceStatement = {
  name: 'advance-log-export',
  isHot: true,
  text: `insert into nkudo.log_exports as e (tenant_id, sink, delivered_xact, delivered_id) values ($1, $2, $3, $4)
    on conflict (tenant_id, sink) do update set delivered_xact = excluded.delivered_xact, delivered_id = excluded.delivered_id
    where (e.delivered_xact, e.delivered_id) < (excluded.delivered_xact, excluded.delivered_id) or e.delivered_xact >= pg_snapshot_xmax(pg_current_snapshot())`,
};

const beforeStatement = {
  name: 'log-before',
  isHot: true,
  text: `select data from nkudo.logs where tenant_id = $1 and microvm_id = $2 and source = $3 and incarnation = $4 and id < $5 order by id desc limit ${unfinishedRowsMax}`,
};
