/**
 * Opens the session of a connected host. Of one boot the newer session wins. Two who can't be one machine
 * (host-claims.ts) mean that the host is quarantined, and neither is trusted until an operator has chosen.
 */
import { AppError } from '#api/model/error-codes.ts';
import { isUuid, microVMId, type MicroVMId } from '#api/model/ids.ts';
import { forgottenCode } from '#api/model/microvm.ts';
import type { Actor } from '#controller/ports/audit.ts';
import type { HostQuarantine, HostStore, KnownMicroVM, QuarantineReason } from '#controller/ports/host-store.ts';
import { appendAudit } from '../audit.ts';
import { canonicalJson } from '#api/model/canonical-json.ts';
import type { Tx } from '../tx.ts';
import { recordKnown } from './sightings.ts';
import { beginQuarantine, findClone, isContestedBy, isAcceptedClaimant, noteClaimant, type Claimant, type LastSession } from './host-claims.ts';

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
  readonly quarantine: HostQuarantine | null;
  readonly machine_id: string | null;
  readonly boot_id: string | null;
  readonly agent_instance: string | null;
  readonly replaced_boot_id: string | null;
  readonly replaced_agent_instance: string | null;
  readonly is_alive: boolean;
}

/** `quarantined` when the host is, or is from now on; what was found out must be committed. @throws NOT_FOUND, HOST_REVOKED, UNAUTHENTICATED */
export async function openSession(tx: Tx, input: SessionInput, actor: Actor): Promise<'quarantined' | { readonly forgotten: readonly MicroVMId[]; readonly renewNow: boolean; readonly isContested: boolean }> {
  const row = await lockHost(tx, input);
  if (row.is_revoked || row.is_certificate_revoked) throw new AppError('HOST_REVOKED');
  if (row.counter === null) throw new AppError('UNAUTHENTICATED', 'the certificate was not issued to this host');
  const claimant = claimantOf(input, row.counter, actor);
  const isAccepted = isAcceptedClaimant(row.quarantine, claimant);
  if (row.is_quarantined || (row.quarantine !== null && !isAccepted)) {
    await noteClaim(tx, input, { quarantine: row.quarantine, claimant });
    return 'quarantined';
  }
  const reason = findClone(lastSessionOf(row), claimant, isAccepted);
  if (reason !== null) {
    await quarantine(tx, input, { reason, last: lastSessionOf(row), claimant }, actor);
    return 'quarantined';
  }
  const isSettled = row.quarantine !== null && row.counter > row.certificate_counter_used;
  if (isSettled) await endQuarantine(tx, input, actor);
  await raiseCounters(tx, input);
  await saveHost(tx, input, { row, counter: row.counter, unknownIds: await recordKnown(tx, input) });
  await tx.query(
    {
      name: 'open-session',
      isHot: true,
      text: `insert into nkudo.host_liveness (tenant_id, host_id, session_id, replica, session_changed_at, last_beat_at, boot_id, machine_id, agent_instance)
        values ($1, $2, $3, $4, now(), now(), $5, $6, $7)
        on conflict (tenant_id, host_id) do update
        set session_id = excluded.session_id, replica = excluded.replica, session_changed_at = excluded.session_changed_at,
          last_beat_at = excluded.last_beat_at, boot_id = excluded.boot_id, machine_id = excluded.machine_id,
          agent_instance = excluded.agent_instance,
          replaced_agent_instance = case when nkudo.host_liveness.agent_instance = excluded.agent_instance then nkudo.host_liveness.replaced_agent_instance else nkudo.host_liveness.agent_instance end,
          replaced_boot_id = case when nkudo.host_liveness.boot_id = excluded.boot_id then nkudo.host_liveness.replaced_boot_id else nkudo.host_liveness.boot_id end`,
    },
    [input.tenantId, input.hostId, input.sessionId, input.replica, input.facts.bootId, input.facts.machineId, input.agentInstance ?? ''],
  );
  // A copy of the state directory has forgotten everything: it is ordered nothing while the one that it was made of may come back.
  const isContested = isContestedBy(lastSessionOf(row), claimant) && !isAccepted;
  return { forgotten: isContested ? [] : await markForgotten(tx, input), renewNow: row.quarantine !== null && !isSettled, isContested };
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
          h.quarantined_at is not null as is_quarantined, c.counter, c.revoked_at is not null as is_certificate_revoked,
          h.quarantine, l.machine_id, l.boot_id, l.agent_instance, l.replaced_boot_id, l.replaced_agent_instance,
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

function claimantOf(input: SessionInput, counter: number, actor: Actor): Claimant {
  return { machineId: input.facts.machineId, bootId: input.facts.bootId, agentInstance: input.agentInstance ?? '', address: actor.from, counter };
}

function lastSessionOf(row: SessionRow): LastSession {
  return {
    machineId: row.machine_id, bootId: row.boot_id, agentInstance: row.agent_instance, replacedBootId: row.replaced_boot_id,
    replacedAgentInstance: row.replaced_agent_instance, isAlive: row.is_alive, counterUsed: row.certificate_counter_used,
  };
}

/** Who else claims to be the host, for the one who has to choose. Writes only what is new. */
export async function noteClaim(tx: Tx, host: HostKey, found: { readonly quarantine: HostQuarantine | null; readonly claimant: Claimant }): Promise<void> {
  const noted = found.quarantine === null ? null : noteClaimant(found.quarantine, found.claimant);
  if (noted === null) return;
  await tx.query(
    { name: 'note-claim', text: 'update nkudo.hosts set quarantine = $3, changed_at = now() where tenant_id = $1 and id = $2' },
    [host.tenantId, host.hostId, JSON.stringify(noted)],
  );
}

type HostKey = Pick<SessionInput, 'tenantId' | 'hostId' | 'sessionId'>;

/** Ends what is open and keeps everybody out. The microVMs of the host are not touched. */
export async function quarantine(tx: Tx, host: HostKey, found: { readonly reason: QuarantineReason; readonly last: LastSession; readonly claimant: Claimant }, actor: Actor): Promise<void> {
  const key = [host.tenantId, host.hostId];
  const state = beginQuarantine(found.reason, found.last, found.claimant, host.sessionId);
  await tx.query({ name: 'quarantine-host', text: 'update nkudo.hosts set quarantined_at = now(), quarantine = $3, changed_at = now() where tenant_id = $1 and id = $2' }, [...key, JSON.stringify(state)]);
  await tx.query(
    {
      name: 'quarantine-session',
      text: `update nkudo.host_liveness set session_id = null, replica = null, session_changed_at = now(), replaced_boot_id = '', replaced_agent_instance = ''
        where tenant_id = $1 and host_id = $2`,
    },
    key,
  );
  await appendAudit(tx, host.tenantId, actor, [{ action: 'quarantined', subject: 'host', id: host.hostId, before: { isQuarantined: false }, after: { isQuarantined: true, ...state } }]);
}

/** The accepted claimant has used a certificate that only it can have: all others are worth nothing from now on. */
async function endQuarantine(tx: Tx, input: SessionInput, actor: Actor): Promise<void> {
  const { rows } = await tx.query<{ id: string }>(
    {
      name: 'revoke-other-certificates',
      text: 'update nkudo.certificates set revoked_at = now() where tenant_id = $1 and host_id = $2 and serial <> $3 and revoked_at is null returning id',
    },
    [input.tenantId, input.hostId, input.certificateSerial],
  );
  await tx.query({ name: 'end-quarantine', text: 'update nkudo.hosts set quarantine = null, changed_at = now() where tenant_id = $1 and id = $2' }, [input.tenantId, input.hostId]);
  await appendAudit(tx, input.tenantId, actor, [
    { action: 'quarantineEnded', subject: 'host', id: input.hostId, before: { isAccepted: true }, after: { serial: input.certificateSerial } },
    ...rows.map((row) => ({ action: 'revoked', subject: 'certificate' as const, id: row.id, before: { isRevoked: false }, after: { isRevoked: true } })),
  ]);
}

/** Facts and orphans when they changed, and the certificate as used. */
async function saveHost(tx: Tx, input: SessionInput, found: { readonly row: SessionRow; readonly counter: number; readonly unknownIds: readonly string[] }): Promise<void> {
  // Also what its journal explains and this database does not: it may be older than the host.
  const unexplained = [...input.known.filter((known) => known.isOrphan).map((known) => known.microvmId), ...found.unknownIds];
  const orphans = [...new Set(unexplained)].toSorted().slice(0, orphansMax);
  const areFactsNew = canonicalJson(found.row.facts) !== canonicalJson(input.facts);
  const areOrphansNew = canonicalJson(found.row.orphan_ids) !== canonicalJson(orphans);
  if (!areFactsNew && !areOrphansNew && found.counter <= found.row.certificate_counter_used) return;
  await tx.query(
    {
      name: 'save-session-host',
      text: `update nkudo.hosts set facts = $3, facts_revision = facts_revision + $4, orphan_ids = $5, certificate_counter_used = greatest(certificate_counter_used, $6), changed_at = now()
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
