/**
 * What hosts see that is not bound to them here. The report is part of the transaction that opens a session, so that
 * nothing is handed to a host before its word was taken. A host never takes a microVM from another by its word alone,
 * except after a recovery of the database, when the binding may be the older one.
 */
import { parseEpoch } from '#api/model/epoch.ts';
import { AppError } from '#api/model/error-codes.ts';
import { hostId, isUuid, type HostId, type MicroVMId, type TenantId } from '#api/model/ids.ts';
import type { KnownMicroVM } from '#controller/ports/host-store.ts';
import type { Sighting } from '#controller/ports/recovery.ts';
import type { Tx } from '../tx.ts';

/** Most microVMs that one host can claim without a binding; far more than a host runs. */
const sightingsMax = 1_024;
const epochMin = 2 ** 32 + 1;

/** Highest epoch first. */
export async function readSightings(tx: Tx, tenant: TenantId, microvmId: MicroVMId): Promise<readonly Sighting[]> {
  const { rows } = await tx.query<{ id: string; name: string; epoch: number; revision: number; is_live: boolean }>(
    {
      name: 'list-sightings',
      isHot: true,
      text: `select h.id, h.name, s.epoch, s.revision, s."isLive" as is_live from nkudo.hosts h
        cross join lateral jsonb_to_recordset(h.sightings) as s ("microvmId" uuid, epoch bigint, revision bigint, "isLive" boolean)
        where h.tenant_id = $1 and h.revoked_at is null and h.sightings <> '[]' and s."microvmId" = $2
        order by s.epoch desc, h.id`,
    },
    [tenant, microvmId],
  );
  return rows.map((row) => ({ hostId: hostId(row.id), hostName: row.name, epoch: parseEpoch(row.epoch), revision: row.revision, isLive: row.is_live }));
}

interface StoredSighting {
  readonly microvmId: string;
  readonly epoch: number;
  readonly revision: number;
  readonly isLive: boolean;
}

interface ReportedHost {
  readonly tenantId: TenantId;
  readonly hostId: HostId;
  readonly known: readonly KnownMicroVM[];
}

/**
 * Takes the word of a host that connects: it has reported under this incarnation, and sees these microVMs without a binding
 * to it. A host speaks for a microVM that is bound elsewhere only in its first report after a recovery, when the binding
 * may be the older one, and only with a higher epoch. Raises the counters of those. Writes nothing when nothing changed.
 * Returns ids of what runs there and the database knows nothing of.
 */
export async function recordKnown(tx: Tx, input: ReportedHost): Promise<readonly string[]> {
  const { rows } = await tx.query<{ is_awaited: boolean; incarnation: number; sightings: readonly StoredSighting[] }>(
    {
      name: 'read-recovered',
      isHot: true,
      text: `select h.recovered_incarnation < i.incarnation as is_awaited, i.incarnation, h.sightings
        from nkudo.hosts h, nkudo.installation i where h.tenant_id = $1 and h.id = $2`,
    },
    [input.tenantId, input.hostId],
  );
  const [host] = rows;
  if (host === undefined) throw new AppError('NOT_FOUND', 'no such host is enrolled');
  const { sightings, unknownIds } = await sort(tx, input, host);
  const isSame = JSON.stringify(host.sightings.map(toKey)) === JSON.stringify(sightings.map(toKey));
  if (isSame && !host.is_awaited) return unknownIds;
  await raise(tx, input.tenantId, sightings);
  await tx.query(
    { name: 'record-known', text: 'update nkudo.hosts set recovered_incarnation = greatest(recovered_incarnation, $3), sightings = $4, changed_at = now() where tenant_id = $1 and id = $2' },
    [input.tenantId, input.hostId, host.incarnation, JSON.stringify(sightings)],
  );
  return unknownIds;
}

function toKey({ microvmId, epoch, revision, isLive }: StoredSighting): string {
  return `${microvmId}/${epoch}/${revision}/${isLive}`;
}

async function sort(tx: Tx, input: ReportedHost, host: { readonly is_awaited: boolean; readonly sightings: readonly StoredSighting[] }): Promise<{ readonly sightings: readonly StoredSighting[]; readonly unknownIds: readonly string[] }> {
  const known = input.known.filter((item) => !item.isOrphan && isUuid(item.microvmId) && Number.isSafeInteger(item.epoch) && item.epoch >= epochMin && Number.isSafeInteger(item.revision) && item.revision >= 0);
  if (known.length === 0) return { sightings: [], unknownIds: [] };
  const { rows } = await tx.query<{ id: string; is_here: boolean; bound_epoch: number | null; is_row: boolean; is_over: boolean }>(
    {
      name: 'sort-known',
      isHot: true,
      text: `select k.id, coalesce(b.host_id = $2, false) as is_here, b.epoch as bound_epoch, m.id is not null as is_row,
          coalesce(m.tombstoned_at is not null or m.torn_down_at is not null, false) as is_over
        from unnest($3::uuid[]) as k (id)
        left join nkudo.microvms m on m.tenant_id = $1 and m.id = k.id
        left join nkudo.bindings b on b.tenant_id = $1 and b.microvm_id = k.id and b.released_at is null`,
    },
    [input.tenantId, input.hostId, known.map((item) => item.microvmId)],
  );
  const found = new Map(rows.map((row) => [row.id, row]));
  const kept = new Set(host.sightings.map((item) => item.microvmId));
  const sightings = known.filter(({ microvmId, epoch }) => {
    const row = found.get(microvmId);
    if (row === undefined || row.is_here || row.is_over) return false;
    if (!row.is_row) return true;
    // A journal also remembers what has left the host.
    return (host.is_awaited || kept.has(microvmId)) && (row.bound_epoch === null || epoch > row.bound_epoch);
  });
  return {
    sightings: sightings.slice(0, sightingsMax).map(({ microvmId, epoch, revision, isLive }) => ({ microvmId, epoch, revision, isLive })),
    unknownIds: known.filter(({ microvmId, isLive }) => isLive && found.get(microvmId)?.is_row === false).map(({ microvmId }) => microvmId),
  };
}

/** To at least what the host knows, also for what is bound elsewhere under an older epoch. */
async function raise(tx: Tx, tenant: TenantId, sightings: readonly StoredSighting[]): Promise<void> {
  if (sightings.length === 0) return;
  await tx.query(
    {
      name: 'raise-sighted-counters',
      text: `insert into nkudo.microvm_counters as c (tenant_id, microvm_id, epoch, revision)
        select $1, k.id, k.epoch, k.revision from unnest($2::uuid[], $3::bigint[], $4::bigint[]) as k (id, epoch, revision) order by k.id
        on conflict (tenant_id, microvm_id) do update
        set epoch = greatest(c.epoch, excluded.epoch), revision = greatest(c.revision, excluded.revision)`,
    },
    [tenant, sightings.map((item) => item.microvmId), sightings.map((item) => item.epoch), sightings.map((item) => item.revision)],
  );
}

/** Takes the sighting off: the microVM is bound to that host now. */
export async function forgetSighting(tx: Tx, tenant: TenantId, microvmId: MicroVMId): Promise<void> {
  await tx.query(
    {
      name: 'forget-sighting',
      text: `update nkudo.hosts h set changed_at = now(), sightings =
          (select coalesce(jsonb_agg(s), '[]') from jsonb_array_elements(h.sightings) s where s ->> 'microvmId' <> $2)
        where h.tenant_id = $1 and h.sightings <> '[]' and h.sightings @> jsonb_build_array(jsonb_build_object('microvmId', $2::text))`,
    },
    [tenant, microvmId],
  );
}
