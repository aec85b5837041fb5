/** What changed since a cursor, over all tenants, by the clock of the database. Reads only. */
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
    changedSince: async (cursorMs) => {
      const { rows } = await transactions.systemQuery<{ kind: string; tenant_id: string; id: string; now: number }>(statement, [new Date(cursorMs)]);
      const of = (kind: string): readonly { tenant_id: string; id: string }[] => rows.filter((row) => row.kind === kind);
      return {
        microvms: of('microvm').map((row) => ({ tenantId: tenantId(row.tenant_id), microvmId: microVMId(row.id) })),
        hosts: of('host').map((row) => ({ tenantId: tenantId(row.tenant_id), hostId: hostId(row.id) })),
        cursorMs: rows[0]?.now ?? cursorMs,
      };
    },
  };
}

const since = `$1::timestamptz - make_interval(secs => ${overlapSeconds})`;

/** The first row carries the time for the next cursor. */
const statement = {
  name: 'changed-since',
  isHot: true,
  text: `select 'now' as kind, null::uuid as tenant_id, null::uuid as id, now() as now
    union all (
      select 'microvm', tenant_id, microvm_id, null::timestamptz from nkudo.operations where changed_at > ${since}
      union select 'microvm', tenant_id, microvm_id, null::timestamptz from nkudo.observations where received_at > ${since}
      union select 'microvm', tenant_id, id, null::timestamptz from nkudo.microvms where changed_at > ${since}
      union select 'host', tenant_id, id, null::timestamptz from nkudo.hosts where changed_at > ${since}
      union select 'host', tenant_id, host_id, null::timestamptz from nkudo.host_liveness where session_changed_at > ${since}
      union select 'host', tenant_id, id, null::timestamptz from nkudo.mesh_hosts where changed_at > ${since}
      union select 'host', tenant_id, id, null::timestamptz from nkudo.mesh_reports where received_at > ${since}
    )`,
};
