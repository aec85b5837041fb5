/**
 * Enrolled hosts as the Host reconciler and the gateway see them. Beats are one statement for a whole batch and the
 * only write of a fleet at rest. Sessions are in host-session.ts.
 */
import { AppError } from '#api/model/error-codes.ts';
import type { EmptyingPhase, HostFacts } from '#api/model/host.ts';
import { hostId, sessionId, siteId, tenantId, type HostId, type TenantId } from '#api/model/ids.ts';
import type { AgentReport } from '#api/model/release.ts';
import type { Actor } from '#controller/ports/audit.ts';
import type { HostQuarantine, HostRecord, HostStore } from '#controller/ports/host-store.ts';
import { appendAudit } from '../audit.ts';
import type { LeaderTx, Transactions, Tx } from '../tx.ts';
import { openSession } from './host-session.ts';

type ObjectInput = Parameters<HostStore['saveObject']>[0];
type ClaimInput = Parameters<HostStore['acceptClaim']>[0];
type RevokeInput = Parameters<HostStore['revoke']>[0];

export function createHostStore(transactions: Transactions): HostStore {
  return {
    load: (tenant, id) => transactions.tenant(tenant, async (tx) => (await readHosts(tx, byId, [tenant, id]))[0] ?? null),
    loadByName: (tenant, name) => transactions.tenant(tenant, async (tx) => (await readHosts(tx, byName, [tenant, name]))[0] ?? null),
    listBySite: (tenant, site) => transactions.tenant(tenant, (tx) => readHosts(tx, bySite, [tenant, site])),
    listLiveness: async () => {
      const { rows } = await transactions.systemQuery<LivenessRow>(livenessStatement);
      return rows.map((row) => ({
        tenantId: tenantId(row.tenant_id), namespace: row.namespace, hostId: hostId(row.host_id), name: row.name,
        lastBeatAtMs: row.last_beat_at, nowMs: row.now,
      }));
    },
    saveObject: async (input, epoch, actor) => {
      await transactions.leader(input.tenantId, epoch, {
        settled: async (tx) => (isSaved(await readObject(tx, input.tenantId, input.hostId), input) ? true : undefined),
        work: (tx) => saveObject(tx, input, actor),
      });
    },
    revoke: async (input, epoch, actor) => {
      await transactions.leader(input.tenantId, epoch, {
        settled: async (tx) => ((await readObject(tx, input.tenantId, input.hostId))?.is_revoked ?? true ? true : undefined),
        work: (tx) => revoke(tx, input, actor),
      });
    },
    acceptClaim: (input, epoch, actor) =>
      transactions.leader<boolean>(input.tenantId, epoch, {
        settled: async (tx) => isClaimSettled(await readQuarantine(tx, input, ''), input.claimId),
        work: (tx) => acceptClaim(tx, input, actor),
      }),
    openSession: async (input, actor) => {
      const opened = await transactions.tenant(input.tenantId, (tx) => openSession(tx, input, actor));
      // Thrown after the commit, which records the quarantine and who claims to be the host.
      if (opened === 'quarantined') throw new AppError('HOST_QUARANTINED');
      return opened;
    },
    closeSession: async (input) => {
      await transactions.tenant(input.tenantId, (tx) =>
        tx.query(
          {
            name: 'close-session',
            text: `update nkudo.host_liveness set session_id = null, replica = null, session_changed_at = now()
              where tenant_id = $1 and host_id = $2 and session_id = $3`,
          },
          [input.tenantId, input.hostId, input.sessionId],
        ),
      );
    },
    saveFacts: async (input) => {
      await transactions.tenant(input.tenantId, (tx) =>
        tx.query(
          {
            name: 'save-facts',
            text: `update nkudo.hosts h set facts = $4, facts_revision = facts_revision + 1, changed_at = now()
              where h.tenant_id = $1 and h.id = $2 and h.facts is distinct from $4::jsonb
                and exists (select from nkudo.host_liveness l where l.tenant_id = h.tenant_id and l.host_id = h.id and l.session_id = $3)`,
          },
          [input.tenantId, input.hostId, input.sessionId, JSON.stringify(input.facts)],
        ),
      );
    },
    flushBeats: async (beats) => {
      if (beats.length === 0) return;
      await transactions.systemQuery(
        {
          name: 'flush-beats',
          isHot: true,
          // In one order of rows, so that two replicas can't deadlock.
          text: `update nkudo.host_liveness l set last_beat_at = greatest(l.last_beat_at, now() - make_interval(secs => s.age_ms / 1000))
            from (
              select k.tenant_id, k.host_id, b.age_ms from nkudo.host_liveness k
              join unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::double precision[]) as b (tenant_id, host_id, session_id, age_ms)
                on b.tenant_id = k.tenant_id and b.host_id = k.host_id and b.session_id = k.session_id
              order by k.tenant_id, k.host_id for no key update of k
            ) s where l.tenant_id = s.tenant_id and l.host_id = s.host_id`,
        },
        [beats.map((beat) => beat.tenantId), beats.map((beat) => beat.hostId), beats.map((beat) => beat.sessionId), beats.map((beat) => beat.ageMs)],
      );
    },
  };
}

interface HostRow {
  readonly tenant_id: string;
  readonly site_id: string;
  readonly site_name: string;
  readonly namespace: string;
  readonly id: string;
  readonly name: string;
  readonly object_uid: string | null;
  readonly is_approved: boolean;
  readonly is_unschedulable: boolean;
  readonly is_revoked: boolean;
  readonly is_quarantined: boolean;
  readonly quarantine: HostQuarantine | null;
  readonly require_approval: boolean;
  readonly reserved_cpus: number;
  readonly reserved_memory_bytes: number;
  readonly overcommit_cpu_percent: number | null;
  readonly overcommit_memory_percent: number | null;
  readonly emptying: EmptyingPhase | null;
  readonly facts: HostFacts;
  readonly facts_revision: number;
  readonly last_beat_at: number | null;
  readonly session_id: string | null;
  readonly serial: string | null;
  readonly not_after: number;
  readonly cpus: number;
  readonly memory_bytes: number;
  readonly microvms: number;
  readonly orphan_ids: string[];
  readonly agent_version: string | null;
  readonly agent_manifest_url: string | null;
  readonly agent_revision: number;
  readonly agent_report: AgentReport | null;
  readonly rollout_version: string | null;
  readonly rollout_manifest_url: string | null;
}

const hostSelect = `select h.tenant_id, h.site_id, s.name as site_name, t.namespace, h.id, h.name, h.object_uid, h.is_approved, h.is_unschedulable,
    h.revoked_at is not null as is_revoked, h.quarantined_at is not null as is_quarantined, h.quarantine, s.require_approval,
    h.reserved_cpus, h.reserved_memory_bytes, h.overcommit_cpu_percent, h.overcommit_memory_percent, h.emptying, h.facts, h.facts_revision, h.orphan_ids, h.agent_version, h.agent_manifest_url, h.agent_revision, h.agent_report, r.order_version as rollout_version, r.order_manifest_url as rollout_manifest_url, l.last_beat_at, l.session_id, c.serial, c.not_after,
    a.cpus, a.memory_bytes, a.microvms
  from nkudo.hosts h
  join nkudo.tenants t on t.tenant_id = h.tenant_id
  join nkudo.sites s on s.tenant_id = h.tenant_id and s.id = h.site_id
  left join nkudo.host_liveness l on l.tenant_id = h.tenant_id and l.host_id = h.id
  left join nkudo.agent_rollout_hosts r on r.tenant_id = h.tenant_id and r.id = h.id
  left join lateral (
    select serial, not_after from nkudo.certificates k
    where k.tenant_id = h.tenant_id and k.host_id = h.id and k.revoked_at is null order by k.counter desc limit 1
  ) c on true
  cross join lateral (
    select coalesce(sum(b.cpu_count), 0)::bigint as cpus, coalesce(sum(b.memory_bytes), 0)::bigint as memory_bytes, count(*) as microvms
    from nkudo.bindings b where b.tenant_id = h.tenant_id and b.host_id = h.id and b.released_at is null
  ) a`;

const byId = { name: 'load-host', isHot: true, text: `${hostSelect} where h.tenant_id = $1 and h.id = $2` };
/** The live one, or else the last that had the name. */
const byName = {
  name: 'load-host-by-name', isHot: true,
  text: `${hostSelect} where h.tenant_id = $1 and h.name = $2 order by h.revoked_at desc nulls first limit 1`,
};
const bySite = { name: 'list-hosts-by-site', isHot: true, text: `${hostSelect} where h.tenant_id = $1 and h.site_id = $2 and h.revoked_at is null order by h.name` };

async function readHosts(tx: Tx, statement: typeof byId, values: readonly string[]): Promise<readonly HostRecord[]> {
  const { rows } = await tx.query<HostRow>(statement, values);
  return rows.map((row) => ({
    tenantId: tenantId(row.tenant_id),
    siteId: siteId(row.site_id),
    siteName: row.site_name,
    namespace: row.namespace,
    hostId: hostId(row.id),
    name: row.name,
    objectUid: row.object_uid,
    isApproved: row.is_approved,
    isUnschedulable: row.is_unschedulable,
    isRevoked: row.is_revoked,
    isQuarantined: row.is_quarantined,
    quarantine: row.quarantine,
    requireApproval: row.require_approval,
    reservedCpus: row.reserved_cpus,
    reservedMemoryBytes: row.reserved_memory_bytes,
    overcommitCpuPercent: row.overcommit_cpu_percent,
    overcommitMemoryPercent: row.overcommit_memory_percent,
    emptying: row.emptying,
    facts: row.facts,
    factsRevision: row.facts_revision,
    lastBeatAtMs: row.last_beat_at,
    sessionId: row.session_id === null ? null : sessionId(row.session_id),
    certificate: row.serial === null ? null : { serial: row.serial, notAfterMs: row.not_after },
    allocated: { cpus: row.cpus, memoryBytes: row.memory_bytes, microvms: row.microvms },
    orphanIds: row.orphan_ids,
    agentOrder: row.agent_version === null || row.agent_manifest_url === null ? null : { version: row.agent_version, manifestUrl: row.agent_manifest_url, revision: row.agent_revision },
    agentReport: row.agent_report,
    rolloutOrder: row.rollout_version === null || row.rollout_manifest_url === null ? null : { version: row.rollout_version, manifestUrl: row.rollout_manifest_url },
  }));
}

interface LivenessRow {
  readonly tenant_id: string;
  readonly namespace: string;
  readonly host_id: string;
  readonly name: string;
  readonly last_beat_at: number | null;
  readonly now: number;
}

const livenessStatement = {
  name: 'list-liveness',
  isHot: true,
  text: `select h.tenant_id, t.namespace, h.id as host_id, h.name, l.last_beat_at, now() as now
    from nkudo.hosts h
    join nkudo.tenants t on t.tenant_id = h.tenant_id
    left join nkudo.host_liveness l on l.tenant_id = h.tenant_id and l.host_id = h.id
    where h.revoked_at is null`,
};

interface ObjectRow {
  readonly object_uid: string | null;
  readonly is_approved: boolean;
  readonly is_unschedulable: boolean;
  readonly reserved_cpus: number;
  readonly reserved_memory_bytes: number;
  readonly overcommit_cpu_percent: number | null;
  readonly overcommit_memory_percent: number | null;
  readonly emptying: EmptyingPhase | null;
  readonly is_revoked: boolean;
  readonly agent_version: string | null;
  readonly agent_manifest_url: string | null;
}

async function readObject(tx: Tx, tenant: TenantId, id: HostId): Promise<ObjectRow | undefined> {
  const { rows } = await tx.query<ObjectRow>(
    {
      name: 'read-host-object',
      isHot: true,
      text: `select object_uid, is_approved, is_unschedulable, reserved_cpus, reserved_memory_bytes, overcommit_cpu_percent, overcommit_memory_percent, emptying, revoked_at is not null as is_revoked, agent_version, agent_manifest_url
        from nkudo.hosts where tenant_id = $1 and id = $2`,
    },
    [tenant, id],
  );
  return rows[0];
}

function isSaved(found: ObjectRow | undefined, input: ObjectInput): boolean {
  return (
    found !== undefined &&
    found.object_uid === input.objectUid &&
    found.is_approved === input.isApproved &&
    found.is_unschedulable === input.isUnschedulable &&
    found.reserved_cpus === input.reservedCpus &&
    found.reserved_memory_bytes === input.reservedMemoryBytes &&
    found.overcommit_cpu_percent === (input.overcommitCpuPercent ?? null) &&
    found.overcommit_memory_percent === (input.overcommitMemoryPercent ?? null) &&
    found.emptying === (input.emptying ?? null) &&
    found.agent_version === (input.agent?.version ?? null) &&
    found.agent_manifest_url === (input.agent?.manifestUrl ?? null)
  );
}

async function saveObject(tx: LeaderTx, input: ObjectInput, actor: Actor): Promise<true> {
  const found = await readObject(tx, input.tenantId, input.hostId);
  if (found === undefined) throw new AppError('NOT_FOUND', 'no such host is enrolled');
  await tx.query(
    {
      name: 'save-host-object',
      text: `update nkudo.hosts set object_uid = $3, is_approved = $4, is_unschedulable = $5, reserved_cpus = $6, reserved_memory_bytes = $7,
          overcommit_cpu_percent = $8, overcommit_memory_percent = $9, emptying = $10, agent_version = $11::text, agent_manifest_url = $12::text,
          agent_revision = agent_revision + case when (agent_version, agent_manifest_url) is distinct from ($11::text, $12::text) then 1 else 0 end, changed_at = now()
        where tenant_id = $1 and id = $2`,
    },
    [input.tenantId, input.hostId, input.objectUid, input.isApproved, input.isUnschedulable, input.reservedCpus, input.reservedMemoryBytes, input.overcommitCpuPercent ?? null, input.overcommitMemoryPercent ?? null, input.emptying ?? null, input.agent?.version ?? null, input.agent?.manifestUrl ?? null],
  );
  await appendAudit(tx, input.tenantId, actor, [{ action: 'saved', subject: 'host', id: input.hostId, before: found, after: input }]);
  return true;
}

interface QuarantineRow {
  readonly is_quarantined: boolean;
  readonly quarantine: HostQuarantine | null;
}

async function readQuarantine(tx: Tx, input: ClaimInput, lock: '' | 'for no key update'): Promise<QuarantineRow | undefined> {
  const { rows } = await tx.query<QuarantineRow>(
    {
      name: lock === '' ? 'read-quarantine' : 'lock-quarantine',
      text: `select quarantined_at is not null as is_quarantined, quarantine from nkudo.hosts where tenant_id = $1 and id = $2 and revoked_at is null ${lock}`,
    },
    [input.tenantId, input.hostId],
  );
  return rows[0];
}

/** Undefined when the claim is there and was not accepted yet. */
function isClaimSettled(row: QuarantineRow | undefined, claimId: string): boolean | undefined {
  if (row?.quarantine?.claims.some(({ id }) => id === claimId) !== true) return false;
  return row.quarantine.acceptedId === claimId ? true : undefined;
}

async function acceptClaim(tx: LeaderTx, input: ClaimInput, actor: Actor): Promise<boolean> {
  const row = await readQuarantine(tx, input, 'for no key update');
  const settled = isClaimSettled(row, input.claimId);
  if (settled !== undefined || row === undefined || row.quarantine === null) return settled ?? false;
  const accepted = { ...row.quarantine, acceptedId: input.claimId };
  await tx.query(
    { name: 'accept-claim', text: 'update nkudo.hosts set quarantined_at = null, quarantine = $3, changed_at = now() where tenant_id = $1 and id = $2' },
    [input.tenantId, input.hostId, JSON.stringify(accepted)],
  );
  // Whoever was accepted by mistake before is out again.
  await tx.query(
    { name: 'end-session-of-claims', text: `update nkudo.host_liveness set session_id = null, replica = null, session_changed_at = now() where tenant_id = $1 and host_id = $2` },
    [input.tenantId, input.hostId],
  );
  await appendAudit(tx, input.tenantId, actor, [
    { action: 'claimAccepted', subject: 'host', id: input.hostId, before: { isQuarantined: row.is_quarantined, acceptedId: row.quarantine.acceptedId }, after: { isQuarantined: false, ...accepted } },
  ]);
  return true;
}

async function revoke(tx: LeaderTx, input: RevokeInput, actor: Actor): Promise<true> {
  const { rows } = await tx.query<{ is_revoked: boolean }>(
    { name: 'lock-host-to-revoke', text: 'select revoked_at is not null as is_revoked from nkudo.hosts where tenant_id = $1 and id = $2 for no key update' },
    [input.tenantId, input.hostId],
  );
  if (rows[0]?.is_revoked !== false) return true;
  // Read after the lock: a publisher that bound to this host held it too.
  const bound = await tx.query<{ microvms: number }>(
    { name: 'count-bound', text: 'select count(*) as microvms from nkudo.bindings where tenant_id = $1 and host_id = $2 and released_at is null' },
    [input.tenantId, input.hostId],
  );
  const microvms = bound.rows[0]?.microvms ?? 0;
  if (microvms > 0 && !input.force) throw new AppError('CONFLICT', `${microvms} microvms are bound to the host`, { details: { microvms } });
  const key = [input.tenantId, input.hostId];
  await tx.query({ name: 'revoke-host', text: 'update nkudo.hosts set revoked_at = now(), changed_at = now() where tenant_id = $1 and id = $2' }, key);
  const certificates = await tx.query<{ id: string }>(
    { name: 'revoke-certificates', text: 'update nkudo.certificates set revoked_at = now() where tenant_id = $1 and host_id = $2 and revoked_at is null returning id' },
    key,
  );
  const agents = await tx.query<{ id: string }>(
    { name: 'revoke-agents', text: 'update nkudo.agents set revoked_at = now() where tenant_id = $1 and host_id = $2 and revoked_at is null returning id' },
    key,
  );
  await tx.query(
    { name: 'revoke-session', text: 'update nkudo.host_liveness set session_id = null, replica = null, session_changed_at = now() where tenant_id = $1 and host_id = $2' },
    key,
  );
  const ended = { before: { isRevoked: false }, after: { isRevoked: true } };
  await appendAudit(tx, input.tenantId, actor, [
    { action: 'revoked', subject: 'host', id: input.hostId, before: { isRevoked: false, microvms }, after: { isRevoked: true, force: input.force } },
    ...certificates.rows.map((row) => ({ action: 'revoked', subject: 'certificate' as const, id: row.id, ...ended })),
    ...agents.rows.map((row) => ({ action: 'revoked', subject: 'agent' as const, id: row.id, ...ended })),
  ]);
  return true;
}
