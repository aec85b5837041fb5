/**
 * Replaces a microVM whose host is lost: one transaction behind the leadership fence. The row of the old host's lease is
 * locked from the check to the commit, so that a grant is either seen here or comes after, and then there is none.
 */
import { required } from '#api/model/capacity.ts';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import type { Actor } from '#controller/ports/audit.ts';
import type { IdSource } from '#controller/ports/ids.ts';
import type { ReplaceInput, ReplaceResult, ReplacementStore } from '#controller/ports/lease-store.ts';
import { appendAudit, type AuditEntry } from '../audit.ts';
import { supersedePending } from '../operation-status.ts';
import type { LeaderTx, Transactions, Tx } from '../tx.ts';
import { readDisplaced } from './displacements.ts';
import { hostTakes, insertBinding, lockCounters, nextEpoch, readBinding, releaseBinding, saveCounters, type Counters, type LiveBinding } from './microvm-binding.ts';
import { planNetworks, saveNetworks } from './microvm-networks.ts';
import { displace, insertPlan, loadExisting, planKey, readState } from './microvm-store.ts';

export function createReplacementStore(deps: { readonly transactions: Transactions; readonly ids: IdSource }): ReplacementStore {
  const { transactions, ids } = deps;
  return {
    replace: (input, epoch, actor) => transactions.leader<ReplaceResult>(input.tenantId, epoch, { work: (tx) => replace(tx, ids, input, actor) }),
    listByHost: (tenantId, hostId) => transactions.tenant(tenantId, (tx) => readDisplaced(tx, tenantId, hostId)),
  };
}

async function replace(tx: LeaderTx, ids: IdSource, input: ReplaceInput, actor: Actor): Promise<ReplaceResult> {
  const { tenantId, microvmId, from } = input;
  const counters = await lockCounters(tx, tenantId, microvmId);
  const state = await readState(tx, tenantId, microvmId);
  const found = await readBinding(tx, tenantId, microvmId);
  const isSame = state !== undefined && !state.is_deleting && state.generation === input.generation && found?.hostId === from.hostId && found.epoch === from.epoch;
  if (!isSame || !(await isStillLost(tx, input))) return { outcome: 'changed' };
  if (!(await followsTerms(tx, input))) return { outcome: 'unconfirmed' };
  if (!(await hostTakes(tx, { ...input, hostId: input.placeOn }))) return { outcome: 'hostUnavailable' };
  const given = await planNetworks(tx, { input, hostId: input.placeOn, published: state.desired });
  if (!given.ok) {
    await appendAudit(tx, tenantId, actor, given.entries);
    return { outcome: 'networkRefused', problem: given.problem };
  }
  const desired = given.plan.networks === undefined ? input.desired : { ...input.desired, networks: given.plan.networks };
  const entries = await move(tx, ids, { input: { ...input, desired }, counters, found });
  entries.push(...given.entries, ...(await saveNetworks(tx, { tenantId, microvmId, revision: counters.revision + 2, plan: given.plan })));
  if (desired.networks !== undefined) entries.push(await saveDesired(tx, { ...input, desired }, state.desired));
  if (input.releasedBy !== null) {
    entries.push({ action: 'massDisconnectReleased', subject: 'site', id: input.siteId, before: null, after: { releasedBy: input.releasedBy, microvmId } });
  }
  await appendAudit(tx, tenantId, actor, entries);
  return { outcome: 'replaced', record: await loadExisting(tx, tenantId, microvmId) };
}

/** Its networks are others on another host. */
async function saveDesired(tx: Tx, { tenantId, microvmId, desired }: ReplaceInput, before: DesiredMicroVM | null): Promise<AuditEntry> {
  await tx.query(
    { name: 'save-desired', text: 'update nkudo.microvms set desired = $3, changed_at = now() where tenant_id = $1 and id = $2' },
    [tenantId, microvmId, JSON.stringify(desired)],
  );
  return { action: 'readdressed', subject: 'microvm', id: microvmId, before, after: desired };
}

/** Locks the lease of the old host. Any beat or grant since the leader looked undoes the decision, and so does a database that may have lost one. */
async function isStillLost(tx: Tx, { tenantId, from }: ReplaceInput): Promise<boolean> {
  const { rows } = await tx.query<{ last_beat_at: number | null; lease_epoch: number | null; lineage: string }>(
    {
      name: 'lock-lease',
      text: 'select last_beat_at, lease_epoch, nkudo.database_lineage() as lineage from nkudo.host_liveness where tenant_id = $1 and host_id = $2 for update',
    },
    [tenantId, from.hostId],
  );
  const [row] = rows;
  return row !== undefined && row.last_beat_at === from.lastBeatAtMs && row.lease_epoch === from.leaseEpoch && row.lineage === from.lineage;
}

/**
 * Whether whatever the old host may hold of this microVM obliges it to stop without a lease: the intent that it reported
 * last, and each later one that may have reached it.
 */
async function followsTerms(tx: Tx, { tenantId, microvmId, from }: ReplaceInput): Promise<boolean> {
  const { rows } = await tx.query<{ is_followed: boolean }>(
    {
      name: 'check-lease-terms',
      text: `select coalesce(bool_and(o.desired -> 'lease' is not null), true) as is_followed
        from nkudo.operations o
        left join nkudo.observations v on v.tenant_id = o.tenant_id and v.microvm_id = o.microvm_id and v.host_id = o.host_id
        where o.tenant_id = $1 and o.microvm_id = $2 and o.host_id = $3
          and (o.dispatched_at is not null or o.status not in ('Pending', 'Superseded', 'Cancelled'))
          and o.revision >= coalesce(v.revision, 0)`,
    },
    [tenantId, microvmId, from.hostId],
  );
  return rows[0]?.is_followed === true;
}

async function move(tx: LeaderTx, ids: IdSource, { input, counters, found }: { readonly input: ReplaceInput; readonly counters: Counters; readonly found: LiveBinding }): Promise<AuditEntry[]> {
  const { tenantId, siteId, microvmId, generation, desired } = input;
  const need = required(desired);
  const binding: LiveBinding = {
    hostId: input.placeOn, epoch: nextEpoch(tx.incarnation, counters.epoch), cpuCount: need.cpus, memoryBytes: need.memoryBytes,
    leaseMs: desired.lease?.stopOnHostAfterMs ?? null,
  };
  await saveCounters(tx, tenantId, microvmId, { epoch: binding.epoch, revision: counters.revision + 2 });
  const entries: AuditEntry[] = [await releaseBinding(tx, tenantId, microvmId, found), await insertBinding(tx, { tenantId, microvmId, binding })];
  entries.push(...(await supersedePending(tx, tenantId, microvmId)));
  entries.push(...(await displace(tx, ids, { tenantId, siteId, microvmId, generation, desired, left: found, binding, revision: counters.revision + 1 })));
  entries.push(
    ...(await insertPlan(tx, ids, {
      tenantId, siteId, microvmId, generation, tryNumber: 1, asked: null, specHash: null, kind: 'Create', binding, revision: counters.revision + 2, desired,
      key: planKey({ microvmId, generation, tryNumber: 1 }, binding.epoch),
    })),
  );
  return entries;
}
