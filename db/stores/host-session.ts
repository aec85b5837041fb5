/**
 * Opens the session of a connected host. Of one boot the newer session wins. A certificate older than one that was
 * used, another machine while the first one still beats, or a boot that comes back after another one replaced it, means
 * two machines with one identity: the host is quarantined, and neither is trusted.
 */
import { AppError } from '#api/model/error-codes.ts';
import { isUuid, microVMId, type MicroVMId } from '#api/model/ids.ts';
import { forgottenCode } from '#api/model/microvm.ts';
import type { Actor } from '#controller/ports/audit.ts';
import type { HostStore, KnownMicroVM } from '#controller/ports/host-store.ts';
import { appendAudit } from '../audit.ts';
import { canonicalJson } from '#api/model/canonical-json.ts';
import type { Tx } from '../tx.ts';

type SessionInput = Parameters<HostStore['openSession']>[0];

/** A session counts as alive while its last beat is younger: four beats of ten seconds. */
const aliveSeconds = 40;
/** Most microVMs of one host whose counters are raised; far more than a host can run. */
const knownMax = 4096;
const orphansMax = 256;

interface SessionRow {
  readonly facts: unknown;
  readonly orphan_ids: readonly string[];
  readonly certificate_counter_used: number;
  readonly is_revoked: boolean;
  readonly is_quarantined: boolean;
  readonly counter: number | null;
  readonly is_certificate_revoked: boolean;
  readonly machine_id: string | null;
  readonly replaced_boot_id: string | null;
  readonly is_alive: boolean;
}

/** `clone` when it found one and quarantined the host instead. @throws NOT_FOUND, HOST_REVOKED, HOST_QUARANTINED, UNAUTHENTICATED */
export async function openSession(tx: Tx, input: SessionInput, actor: Actor): Promise<'clone' | { readonly forgotten: readonly MicroVMId[] }> {
  const row = await lockHost(tx, input);
  if (row.is_revoked || row.is_certificate_revoked) throw new AppError('HOST_REVOKED');
  if (row.is_quarantined) throw new AppError('HOST_QUARANTINED');
  if (row.counter === null) throw new AppError('UNAUTHENTICATED', 'the certificate was not issued to this host');
  if (isClone(row, input)) {
    await quarantine(tx, input, actor);
    return 'clone';
  }
  await raiseCounters(tx, input);
  await saveHost(tx, input, { row, counter: row.counter });
  await tx.query(
    {
      name: 'open-session',
      isHot: true,
      text: `insert into nkudo.host_liveness (tenant_id, host_id, session_id, replica, session_changed_at, last_beat_at, boot_id, machine_id)
        values ($1, $2, $3, $4, now(), now(), $5, $6)
        on conflict (tenant_id, host_id) do update
        set session_id = excluded.session_id, replica = excluded.replica, session_changed_at = excluded.session_changed_at,
          last_beat_at = excluded.last_beat_at, boot_id = excluded.boot_id, machine_id = excluded.machine_id,
          replaced_boot_id = case when nkudo.host_liveness.boot_id = excluded.boot_id then nkudo.host_liveness.replaced_boot_id else nkudo.host_liveness.boot_id end`,
    },
    [input.tenantId, input.hostId, input.sessionId, input.replica, input.facts.bootId, input.facts.machineId],
  );
  return { forgotten: await markForgotten(tx, input) };
}

/**
 * What is bound to this host, was taken over by it (its newest operation is past the stream) and is not in its journal
 * any more. The old observation says nothing about now, so it becomes `unknown`. A record with the same mark is left
 * alone: a reconnect with nothing new writes nothing.
 */
async function markForgotten(tx: Tx, input: SessionInput): Promise<readonly MicroVMId[]> {
  const known = input.known.filter((item) => !item.isOrphan && isUuid(item.microvmId)).map((item) => item.microvmId);
  const { rows } = await tx.query<{ readonly microvm_id: string }>(
    {
      name: 'mark-forgotten',
      isHot: true,
      text: `update nkudo.observations v
        set sequence = v.sequence + 1, state = 'unknown', problem = jsonb_build_object('code', '${forgottenCode}', 'message', 'the host does not remember this microVM; it is published again'), received_at = now()
        from nkudo.bindings b
        cross join lateral (
          select o.status, o.revision from nkudo.operations o where o.tenant_id = b.tenant_id and o.microvm_id = b.microvm_id order by o.revision desc limit 1
        ) newest
        where b.tenant_id = $1 and b.host_id = $2 and b.released_at is null and b.microvm_id <> all ($3::uuid[])
          and v.tenant_id = b.tenant_id and v.microvm_id = b.microvm_id and v.revision >= newest.revision
          and newest.status not in ('Pending', 'Dispatched') and v.problem ->> 'code' is distinct from '${forgottenCode}'
        returning v.microvm_id`,
    },
    [input.tenantId, input.hostId, known],
  );
  return rows.map((row) => microVMId(row.microvm_id));
}

async function lockHost(tx: Tx, input: SessionInput): Promise<SessionRow> {
  const { rows } = await tx.query<SessionRow>(
    {
      name: 'lock-host-for-session',
      isHot: true,
      text: `select h.facts, h.orphan_ids, h.certificate_counter_used, h.revoked_at is not null as is_revoked,
          h.quarantined_at is not null as is_quarantined, c.counter, c.revoked_at is not null as is_certificate_revoked, l.machine_id, l.replaced_boot_id,
          coalesce(l.session_id is not null and l.last_beat_at > now() - make_interval(secs => ${aliveSeconds}), false) as is_alive
        from nkudo.hosts h
        left join nkudo.certificates c on c.tenant_id = h.tenant_id and c.host_id = h.id and c.serial = $3
        left join nkudo.host_liveness l on l.tenant_id = h.tenant_id and l.host_id = h.id
        where h.tenant_id = $1 and h.id = $2 for no key update of h`,
    },
    [input.tenantId, input.hostId, input.certificateSerial],
  );
  const [row] = rows;
  if (row === undefined) throw new AppError('NOT_FOUND', 'no such host is enrolled');
  return row;
}

function isClone(row: SessionRow, input: SessionInput): boolean {
  if (row.counter !== null && row.counter < row.certificate_counter_used) return true;
  const isOtherMachine = row.machine_id !== null && row.machine_id !== '' && input.facts.machineId !== '' && row.machine_id !== input.facts.machineId;
  const isBootThatWasReplaced = input.facts.bootId !== '' && input.facts.bootId === row.replaced_boot_id;
  return isBootThatWasReplaced || (row.is_alive && isOtherMachine);
}

async function quarantine(tx: Tx, input: SessionInput, actor: Actor): Promise<void> {
  const key = [input.tenantId, input.hostId];
  await tx.query({ name: 'quarantine-host', text: 'update nkudo.hosts set quarantined_at = now(), changed_at = now() where tenant_id = $1 and id = $2' }, key);
  await tx.query(
    { name: 'quarantine-session', text: `update nkudo.host_liveness set session_id = null, replica = null, session_changed_at = now(), replaced_boot_id = '' where tenant_id = $1 and host_id = $2` },
    key,
  );
  await appendAudit(tx, input.tenantId, actor, [
    { action: 'quarantined', subject: 'host', id: input.hostId, before: { isQuarantined: false }, after: { isQuarantined: true, serial: input.certificateSerial } },
  ]);
}

/** Facts and orphans when they changed, and the certificate as used. */
async function saveHost(tx: Tx, input: SessionInput, found: { readonly row: SessionRow; readonly counter: number }): Promise<void> {
  const orphans = input.known.filter((known) => known.isOrphan).map((known) => known.microvmId).toSorted().slice(0, orphansMax);
  const areFactsNew = canonicalJson(found.row.facts) !== canonicalJson(input.facts);
  const areOrphansNew = canonicalJson(found.row.orphan_ids) !== canonicalJson(orphans);
  if (!areFactsNew && !areOrphansNew && found.counter === found.row.certificate_counter_used) return;
  await tx.query(
    {
      name: 'save-session-host',
      text: `update nkudo.hosts set facts = $3, facts_revision = facts_revision + $4, orphan_ids = $5, certificate_counter_used = $6, changed_at = now()
        where tenant_id = $1 and id = $2`,
    },
    [input.tenantId, input.hostId, JSON.stringify(input.facts), areFactsNew ? 1 : 0, orphans, found.counter],
  );
}

/**
 * Lifts the counters of what the host knows to at least what it knows, so that nothing is ever issued twice, also when
 * this database is older than the host. MicroVMs that are bound elsewhere are not the host's to speak for.
 */
async function raiseCounters(tx: Tx, input: SessionInput): Promise<void> {
  const known = [...new Map(input.known.filter(isPlausible).map((item) => [item.microvmId, item])).values()].slice(0, knownMax);
  if (known.length === 0) return;
  await tx.query(
    {
      name: 'raise-counters',
      // Reads before it writes: at a reconnect with nothing new no row is touched.
      text: `insert into nkudo.microvm_counters as c (tenant_id, microvm_id, epoch, revision)
        select $1, k.id, k.epoch, k.revision
        from unnest($3::uuid[], $4::bigint[], $5::bigint[]) as k (id, epoch, revision)
        left join nkudo.microvm_counters f on f.tenant_id = $1 and f.microvm_id = k.id
        left join nkudo.bindings b on b.tenant_id = $1 and b.microvm_id = k.id and b.released_at is null
        where (b.host_id is null or b.host_id = $2) and (f.microvm_id is null or f.epoch < k.epoch or f.revision < k.revision)
        order by k.id
        on conflict (tenant_id, microvm_id) do update
        set epoch = greatest(c.epoch, excluded.epoch), revision = greatest(c.revision, excluded.revision)`,
    },
    [input.tenantId, input.hostId, known.map((item) => item.microvmId), known.map((item) => item.epoch), known.map((item) => item.revision)],
  );
}

/** An orphan without a journal entry has neither; a number beyond the range could only exhaust the counters. */
function isPlausible(known: KnownMicroVM): boolean {
  const epochMin = 2 ** 32 + 1;
  return isUuid(known.microvmId) && Number.isSafeInteger(known.epoch) && known.epoch >= epochMin && Number.isSafeInteger(known.revision) && known.revision >= 0;
}
