/** Leases of hosts: grants for a whole batch in one statement under the cross-tenant role, and the leader's reading. */
import { hostId, sessionId, siteId, tenantId } from '#api/model/ids.ts';
import type { LeaseStore } from '#controller/ports/lease-store.ts';
import type { Transactions } from '../tx.ts';

interface GrantRow {
  readonly host_id: string;
  readonly session_id: string;
  readonly lease_epoch: number;
  readonly lease_ms: number;
}

const grantStatement = {
  name: 'grant-leases',
  isHot: true,
  // The rows are locked in one order first. A replacement that was under way meanwhile has then changed lease_holds,
  // and the update looks at the row as it is after the wait.
  text: `with asked as (
      select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::double precision[], $5::boolean[]) as a (tenant_id, host_id, session_id, age_ms, holds_lease)
    ), terms as (
      select b.tenant_id, b.host_id, max(b.lease_ms) as lease_ms from nkudo.bindings b
      join asked a on a.tenant_id = b.tenant_id and a.host_id = b.host_id
      where b.released_at is null and b.lease_ms is not null group by b.tenant_id, b.host_id
    ), database as (
      select p.kept_timeline = p.timeline and p.kept_system_identifier = p.system_identifier as is_reviewed from nkudo.database_position() p
    ), awaited as (
      select distinct h.tenant_id, h.site_id from nkudo.hosts h
      where h.revoked_at is null and (h.recovered_incarnation < (select incarnation from nkudo.installation) or h.sightings <> '[]')
    ), locked as (
      select l.tenant_id, l.host_id from nkudo.host_liveness l join asked a on a.tenant_id = l.tenant_id and a.host_id = l.host_id
      order by l.tenant_id, l.host_id for no key update of l
    )
    update nkudo.host_liveness l
    set lease_epoch = coalesce(l.lease_epoch, 0) + 1, lease_ms = t.lease_ms,
      lease_granted_until = now() - make_interval(secs => a.age_ms / 1000) + make_interval(secs => t.lease_ms / 1000.0),
      last_beat_at = greatest(l.last_beat_at, now() - make_interval(secs => a.age_ms / 1000))
    from locked k
    join asked a on a.tenant_id = k.tenant_id and a.host_id = k.host_id
    join terms t on t.tenant_id = k.tenant_id and t.host_id = k.host_id
    join nkudo.hosts h on h.tenant_id = k.tenant_id and h.id = k.host_id
    cross join database d
    where l.tenant_id = k.tenant_id and l.host_id = k.host_id and l.session_id = a.session_id and l.lease_holds = 0
      and (a.holds_lease or (d.is_reviewed and not exists (select from awaited w where w.tenant_id = h.tenant_id and w.site_id = h.site_id)))
    returning l.host_id, l.session_id, l.lease_epoch, l.lease_ms`,
};

interface ReadingRow {
  readonly tenant_id: string;
  readonly site_id: string;
  readonly host_id: string;
  readonly last_beat_at: number | null;
  readonly lease_epoch: number | null;
  readonly lease_ms: number | null;
  readonly lineage: string;
}

const listStatement = {
  name: 'list-leases',
  isHot: true,
  text: `select h.tenant_id, h.site_id, h.id as host_id, l.last_beat_at, l.lease_epoch, l.lease_ms,
      d.lineage
    from (select nkudo.database_lineage() as lineage) d
    cross join nkudo.hosts h
    left join nkudo.host_liveness l on l.tenant_id = h.tenant_id and l.host_id = h.id
    where h.revoked_at is null`,
};

export function createLeaseStore(transactions: Transactions): LeaseStore {
  return {
    grant: async (requests) => {
      if (requests.length === 0) return [];
      const { rows } = await transactions.systemQuery<GrantRow>(grantStatement, [
        requests.map((request) => request.tenantId),
        requests.map((request) => request.hostId),
        requests.map((request) => request.sessionId),
        requests.map((request) => request.ageMs),
        requests.map((request) => request.holdsLease),
      ]);
      return rows.map((row) => ({ hostId: hostId(row.host_id), sessionId: sessionId(row.session_id), leaseEpoch: row.lease_epoch, leaseMs: row.lease_ms }));
    },
    list: async () => {
      const { rows } = await transactions.systemQuery<ReadingRow>(listStatement);
      return {
        hosts: rows.map((row) => ({
          tenantId: tenantId(row.tenant_id), siteId: siteId(row.site_id), hostId: hostId(row.host_id),
          lastBeatAtMs: row.last_beat_at, leaseEpoch: row.lease_epoch, leaseMs: row.lease_ms,
        })),
        lineage: rows[0]?.lineage ?? '',
      };
    },
  };
}
