/** What AgentRollouts tell hosts, as one row for each host. All writes are the leader's. */
import type { HypervisorFacts } from '#api/model/host.ts';
import { hostId, type HostId, type TenantId } from '#api/model/ids.ts';
import type { AgentReport } from '#api/model/release.ts';
import type { RolloutRow, RolloutState } from '#controller/domain/agent-rollout/model.ts';
import type { AgentRolloutStore, RolloutHostRecord } from '#controller/ports/agent-rollout-store.ts';
import type { Actor } from '#controller/ports/audit.ts';
import { appendAudit } from '../audit.ts';
import type { LeaderTx, Transactions, Tx } from '../tx.ts';

type SavedRow = RolloutRow & { readonly hostId: HostId };

export function createAgentRolloutStore(transactions: Transactions): AgentRolloutStore {
  return {
    listHosts: (tenantId) =>
      transactions.tenant(tenantId, async (tx) => {
        const { rows } = await tx.query<ListedRow>(listStatement, [tenantId]);
        return rows.map(toRecord);
      }),
    saveRows: async (tenantId, rows, epoch, actor) => {
      if (rows.length === 0) return;
      await transactions.leader<true>(tenantId, epoch, {
        settled: async (tx) => ((await different(tx, tenantId, rows)).length === 0 ? true : undefined),
        work: (tx) => saveRows(tx, { tenantId, rows, actor }),
      });
    },
    withdraw: (tenantId, rolloutId, epoch, actor) =>
      transactions.leader<readonly string[]>(tenantId, epoch, {
        settled: async (tx) => {
          const { rowCount } = await tx.query({ name: 'find-rollout-orders', text: 'select from nkudo.agent_rollout_hosts where tenant_id = $1 and rollout_id = $2 and order_version is not null limit 1' }, [tenantId, rolloutId]);
          return rowCount === 0 ? [] : undefined;
        },
        work: async (tx) => {
          const { rows } = await tx.query<{ id: string; name: string }>(withdrawStatement, [tenantId, rolloutId]);
          await appendAudit(tx, tenantId, actor, rows.map(({ id }) => ({ action: 'rolloutWithdrawn', subject: 'host', id, before: { rolloutId }, after: null })));
          return rows.map(({ name }) => name);
        },
      }),
  };
}

interface StoredRow {
  readonly id: string;
  readonly rollout_id: string;
  readonly ring: string;
  readonly target_version: string;
  readonly nonce: number;
  readonly from_version: string;
  readonly order_version: string | null;
  readonly order_manifest_url: string | null;
  readonly state: RolloutState;
  readonly is_returned: boolean;
  readonly problem: string;
  readonly breaks: number;
}

interface ListedRow extends Omit<StoredRow, 'id' | 'rollout_id'> {
  readonly host_id: string;
  readonly name: string;
  readonly site_name: string;
  readonly running_version: string | null;
  readonly hypervisor: HypervisorFacts;
  readonly may_work: boolean;
  readonly last_beat_at: number | null;
  readonly agent_version: string | null;
  readonly agent_manifest_url: string | null;
  readonly agent_revision: number;
  readonly agent_report: AgentReport | null;
  /** Null without a row; the columns of the row are null then, too. */
  readonly rollout_id: string | null;
  readonly age_ms: number;
}

const rowColumns = 'r.rollout_id, r.ring, r.target_version, r.nonce, r.from_version, r.order_version, r.order_manifest_url, r.state, r.is_returned, r.problem, r.breaks';

const listStatement = {
  name: 'list-rollout-hosts',
  isHot: true,
  text: `select h.id as host_id, h.name, s.name as site_name, h.facts->>'agentVersion' as running_version, h.facts->'hypervisor' as hypervisor,
      h.quarantined_at is null and (h.is_approved or not s.require_approval) as may_work, l.last_beat_at,
      h.agent_version, h.agent_manifest_url, h.agent_revision, h.agent_report,
      ${rowColumns}, (extract(epoch from now() - r.since) * 1000)::double precision as age_ms
    from nkudo.hosts h
    join nkudo.sites s on s.tenant_id = h.tenant_id and s.id = h.site_id
    left join nkudo.host_liveness l on l.tenant_id = h.tenant_id and l.host_id = h.id
    left join nkudo.agent_rollout_hosts r on r.tenant_id = h.tenant_id and r.id = h.id
    where h.tenant_id = $1 and h.revoked_at is null order by h.name`,
};

function toRecord(row: ListedRow): RolloutHostRecord {
  return {
    hostId: hostId(row.host_id),
    name: row.name,
    siteName: row.site_name,
    runningVersion: row.running_version ?? '',
    hypervisor: row.hypervisor,
    mayWork: row.may_work,
    lastBeatAtMs: row.last_beat_at,
    order: row.agent_version === null || row.agent_manifest_url === null ? null : { version: row.agent_version, manifestUrl: row.agent_manifest_url, revision: row.agent_revision },
    report: row.agent_report,
    row: row.rollout_id === null ? null : { ...toRow({ ...row, id: row.host_id, rollout_id: row.rollout_id }), ageMs: Math.max(0, row.age_ms) },
  };
}

function toRow(row: StoredRow): RolloutRow {
  return {
    rolloutId: row.rollout_id,
    ring: row.ring,
    targetVersion: row.target_version,
    nonce: row.nonce,
    fromVersion: row.from_version,
    order: row.order_version === null || row.order_manifest_url === null ? null : { version: row.order_version, manifestUrl: row.order_manifest_url },
    state: row.state,
    isReturned: row.is_returned,
    problem: row.problem,
    breaks: row.breaks,
  };
}

/** Those that are stored otherwise, each with what is stored. */
async function different(tx: Tx, tenantId: TenantId, wanted: readonly SavedRow[]): Promise<readonly { readonly before: RolloutRow | null; readonly after: SavedRow }[]> {
  const { rows } = await tx.query<StoredRow>({ name: 'read-rollout-rows', text: `select r.id, ${rowColumns} from nkudo.agent_rollout_hosts r where r.tenant_id = $1 and r.id = any($2::uuid[])` }, [tenantId, wanted.map((row) => row.hostId)]);
  const stored = new Map(rows.map((row) => [row.id, toRow(row)]));
  return wanted.flatMap((after) => {
    const before = stored.get(after.hostId) ?? null;
    const { hostId: _, ...content } = after;
    return before !== null && JSON.stringify(before) === JSON.stringify(inOrder(content)) ? [] : [{ before, after }];
  });
}

/** The fields as {@link toRow} puts them, whatever order a caller has. */
function inOrder({ rolloutId, ring, targetVersion, nonce, fromVersion, order, state, isReturned, problem, breaks }: RolloutRow): RolloutRow {
  return { rolloutId, ring, targetVersion, nonce, fromVersion, order: order === null ? null : { version: order.version, manifestUrl: order.manifestUrl }, state, isReturned, problem, breaks };
}

async function saveRows(tx: LeaderTx, { tenantId, rows, actor }: { readonly tenantId: TenantId; readonly rows: readonly SavedRow[]; readonly actor: Actor }): Promise<true> {
  const changes = await different(tx, tenantId, rows);
  const changed = changes.map(({ after }) => after);
  await tx.query(saveStatement, [
    tenantId, changed.map((row) => row.hostId), changed.map((row) => row.rolloutId), changed.map((row) => row.ring), changed.map((row) => row.targetVersion), changed.map((row) => row.nonce),
    changed.map((row) => row.fromVersion), changed.map((row) => row.order?.version ?? null), changed.map((row) => row.order?.manifestUrl ?? null), changed.map((row) => row.state),
    changed.map((row) => row.isReturned), changed.map((row) => row.problem), changed.map((row) => row.breaks),
  ]);
  await appendAudit(tx, tenantId, actor, changes.map(({ before, after }) => ({ action: after.isReturned ? 'rolloutReturned' : `rollout${after.state}`, subject: 'host', id: after.hostId, before, after })));
  return true;
}

const saveStatement = {
  name: 'save-rollout-rows',
  text: `insert into nkudo.agent_rollout_hosts as r
      (tenant_id, id, rollout_id, ring, target_version, nonce, from_version, order_version, order_manifest_url, state, is_returned, problem, breaks)
    select $1, w.* from unnest($2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::text[], $9::text[], $10::text[], $11::boolean[], $12::text[], $13::integer[])
      as w (id, rollout_id, ring, target_version, nonce, from_version, order_version, order_manifest_url, state, is_returned, problem, breaks)
    on conflict (tenant_id, id) do update set
      rollout_id = excluded.rollout_id, ring = excluded.ring, target_version = excluded.target_version, nonce = excluded.nonce, from_version = excluded.from_version,
      order_version = excluded.order_version, order_manifest_url = excluded.order_manifest_url, state = excluded.state, is_returned = excluded.is_returned,
      problem = excluded.problem, breaks = excluded.breaks,
      since = case when (r.rollout_id, r.target_version, r.nonce, r.state, r.is_returned)
        is distinct from (excluded.rollout_id, excluded.target_version, excluded.nonce, excluded.state, excluded.is_returned) then now() else r.since end`,
};

const withdrawStatement = {
  name: 'withdraw-rollout-orders',
  text: `update nkudo.agent_rollout_hosts r set order_version = null, order_manifest_url = null from nkudo.hosts h
    where r.tenant_id = $1 and r.rollout_id = $2 and r.order_version is not null and h.tenant_id = r.tenant_id and h.id = r.id returning r.id, h.name`,
};
