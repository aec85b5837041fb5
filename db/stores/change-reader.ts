/**
 * What changed since a cursor, over all tenants, by the clock of the database. Looks back over an overlap, because commits
 * come late, and tells each version of a row once, because the overlap would else wake every key of the last seconds
 * again at each reading. Reads only.
 */
import { hostId, microVMId, tenantId } from '#api/model/ids.ts';
import type { ChangeReader } from '#controller/ports/hints.ts';
import type { Transactions } from '../tx.ts';

/**
 * Rows are stamped with the start of their transaction, so a late commit lies before a cursor that was read meanwhile.
 * Longer than any transaction may take.
 */
const overlapSeconds = 15;

export function createChangeReader(transactions: Transactions): ChangeReader {
  return {
    changedSince: async (cursorMs, seen = new Set()) => {
      const { rows } = await transactions.systemQuery<ChangeRow>(statement, [new Date(cursorMs)]);
      const changes = rows.filter((row) => row.kind !== 'now');
      const news = changes.filter((row) => !seen.has(row.version));
      const of = (kind: string): readonly ChangeRow[] => [...new Map(news.filter((row) => row.kind === kind).map((row) => [row.id, row])).values()];
      return {
        microvms: of('microvm').map((row) => ({ tenantId: tenantId(row.tenant_id), microvmId: microVMId(row.id) })),
        hosts: of('host').map((row) => ({ tenantId: tenantId(row.tenant_id), hostId: hostId(row.id) })),
        cursorMs: rows.find((row) => row.kind === 'now')?.now ?? cursorMs,
        // Whatever is in the window now; what has left it can't come back without a new version.
        seen: new Set(changes.map((row) => row.version)),
      };
    },
  };
}

const since = `$1::timestamptz - make_interval(secs => ${overlapSeconds})`;

interface ChangeRow {
  readonly kind: string;
  readonly tenant_id: string;
  readonly id: string;
  /** Names the row and the transaction that wrote it: another one each time that the row is written. */
  readonly version: string;
  readonly now: number;
}

const changesOf = (kind: 'microvm' | 'host', table: string, column: string, stamp: string, version = `${column}::text || '/' || xmin::text`): string =>
  `select '${kind}', tenant_id, ${column}, '${table}/' || ${version}, null::timestamptz from nkudo.${table} where ${stamp} > ${since}`;

/** Beats write the row too and tell nothing new. */
const sessionVersion = `host_id::text || '/' || coalesce(session_id::text, '') || '/' || session_changed_at::text`;

/** The row of kind `now` carries the time for the next cursor. */
const statement = {
  name: 'changed-since',
  isHot: true,
  text: `select 'now' as kind, null::uuid as tenant_id, null::uuid as id, '' as version, now() as now
    union all ${changesOf('microvm', 'operations', 'microvm_id', 'changed_at', `id::text || '/' || xmin::text`)}
    union all ${changesOf('microvm', 'observations', 'microvm_id', 'received_at')}
    union all ${changesOf('microvm', 'microvms', 'id', 'changed_at')}
    union all ${changesOf('host', 'hosts', 'id', 'changed_at')}
    union all ${changesOf('host', 'host_liveness', 'host_id', 'session_changed_at', sessionVersion)}
    union all ${changesOf('host', 'mesh_hosts', 'id', 'changed_at')}
    union all ${changesOf('host', 'mesh_reports', 'id', 'received_at')}`,
};
