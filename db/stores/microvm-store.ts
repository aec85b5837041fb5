/**
 * MicroVMs, bindings and plans as reconcilers publish them. Each call is one fenced transaction; its commit is the
 * acknowledgement. Statuses of operations after that are the dispatch store's.
 */
import type { Epoch } from '#api/model/epoch.ts';
import { AppError } from '#api/model/error-codes.ts';
import type { HostId, MicroVMId, SiteId, TenantId } from '#api/model/ids.ts';
import { required } from '#api/model/capacity.ts';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import type { OperationKind } from '#api/model/plan.ts';
import type { Actor } from '#controller/ports/audit.ts';
import type { IdSource } from '#controller/ports/ids.ts';
import type { MicroVMRecord, MicroVMStore, PublishInput, PublishResult } from '#controller/ports/microvm-store.ts';
import { appendAudit, type AuditEntry } from '../audit.ts';
import { contentHash, contentHashVersion } from '../canonical-json.ts';
import { supersedePending } from '../operation-status.ts';
import type { LeaderTx, Transactions, Tx } from '../tx.ts';
import {
  currentBinding, hostLetsGrow, hostTakes, insertBinding, lockCounters, nextEpoch, readBinding, releaseBinding, resizeBinding, saveCounters,
  type Counters, type LiveBinding,
} from './microvm-binding.ts';
import { planNetworks, releaseNetworks, saveNetworks } from './microvm-networks.ts';
import { insertDisplacement } from './displacements.ts';
import { loadMicroVM } from './microvm-record.ts';
import { findAskedFor, linkOperation, type AskedFor } from './plan-link.ts';
import { deniedByQuota } from './site-quota.ts';
import { findSightedHost } from './recovery-binding.ts';
import { forgetSighting } from './sightings.ts';

type DeletionInput = Parameters<MicroVMStore['publishDeletion']>[0];

export function createMicroVMStore(deps: { readonly transactions: Transactions; readonly ids: IdSource }): MicroVMStore {
  const { transactions, ids } = deps;
  return {
    load: (tenantId, microvmId) => transactions.tenant(tenantId, (tx) => loadMicroVM(tx, tenantId, microvmId)),
    publish: (input, epoch, actor) =>
      transactions.leader<PublishResult>(input.tenantId, epoch, {
        settled: (tx) => findPublished(tx, input),
        work: (tx) => publish(tx, ids, input, actor),
      }),
    noteSiteOrder: async ({ tenantId, microvmId, note }, epoch) => {
      await transactions.leader(tenantId, epoch, {
        work: async (tx) => {
          await tx.query(
            { name: 'note-site-order', text: 'update nkudo.microvms set site_order_noted = $3 where tenant_id = $1 and id = $2 and site_order_noted is distinct from $3::jsonb and not is_deleting' },
            [tenantId, microvmId, JSON.stringify(note)],
          );
          return true;
        },
      });
    },
    publishDeletion: (input, epoch, actor) =>
      transactions.leader<MicroVMRecord | null>(input.tenantId, epoch, {
        settled: (tx) => findPublishedDeletion(tx, input),
        work: (tx) => publishDeletion(tx, ids, input, actor),
      }),
    completeDeletion: async (tenantId, microvmId, epoch, actor) => {
      await transactions.leader(tenantId, epoch, {
        settled: async (tx) => ((await readState(tx, tenantId, microvmId))?.is_released ?? true ? true : undefined),
        work: (tx) => completeDeletion(tx, tenantId, microvmId, actor),
      });
    },
    forceDelete: async (tenantId, microvmId, epoch, actor) => {
      await transactions.leader(tenantId, epoch, {
        settled: async (tx) => ((await readState(tx, tenantId, microvmId))?.is_tombstone ?? true ? true : undefined),
        work: (tx) => forceDelete(tx, ids, tenantId, microvmId, actor),
      });
    },
  };
}

export interface MicroVMState {
  readonly name: string;
  readonly site_id: SiteId;
  readonly generation: number;
  readonly desired: DesiredMicroVM | null;
  readonly is_deleting: boolean;
  readonly is_torn_down: boolean;
  readonly is_tombstone: boolean;
  readonly is_released: boolean;
}

export async function readState(tx: Tx, tenantId: TenantId, microvmId: MicroVMId): Promise<MicroVMState | undefined> {
  const { rows } = await tx.query<MicroVMState>(
    {
      name: 'read-microvm-state',
      isHot: true,
      text: `select name, site_id, generation, desired, is_deleting, torn_down_at is not null as is_torn_down,
          tombstoned_at is not null as is_tombstone, released_at is not null as is_released
        from nkudo.microvms where tenant_id = $1 and id = $2`,
    },
    [tenantId, microvmId],
  );
  return rows[0];
}

export function planKey(input: { readonly microvmId: MicroVMId; readonly generation: number; readonly tryNumber: number }, epoch: Epoch): string {
  return `cr/${input.microvmId}/${input.generation}/${epoch}/${input.tryNumber}`;
}

/** A name of its own, since a deletion may have the generation of the intent before it. */
function deletionKey(input: DeletionInput, epoch: Epoch): string {
  return `cr/${input.microvmId}/${input.generation}/${epoch}/delete-${input.tryNumber}`;
}

/** True when that try was published, under a plan of its own or for a caller's. */
async function hasTry(tx: Tx, key: string, input: DeletionInput, epoch: Epoch): Promise<boolean> {
  const { rowCount } = await tx.query(
    {
      name: 'find-try',
      isHot: true,
      text: `select from nkudo.plans where tenant_id = $1 and idempotency_key = $2
        union all
        select from nkudo.plan_actions a join nkudo.operations o on o.tenant_id = a.tenant_id and o.id = a.operation_id
          where a.tenant_id = $1 and a.microvm_id = $3 and o.generation = $4 and o.epoch = $5 and o.try_number = $6 and (o.kind = 'Delete') = $7
        limit 1`,
    },
    [input.tenantId, key, input.microvmId, input.generation, epoch, input.tryNumber, !('desired' in input)],
  );
  return rowCount === 1;
}

/** Whether a host reported an epoch above the binding's; then the old plan can't count. */
async function isOutrun(tx: Tx, tenantId: TenantId, microvmId: MicroVMId, epoch: Epoch): Promise<boolean> {
  const { rowCount } = await tx.query(
    { name: 'find-higher-epoch', isHot: true, text: 'select from nkudo.microvm_counters where tenant_id = $1 and microvm_id = $2 and epoch > $3' },
    [tenantId, microvmId, epoch],
  );
  return rowCount === 1;
}

async function findPublished(tx: Tx, input: PublishInput): Promise<PublishResult | undefined> {
  const binding = await readBinding(tx, input.tenantId, input.microvmId);
  if (binding === null || !(await hasTry(tx, planKey(input, binding.epoch), input, binding.epoch))) return undefined;
  if (await isOutrun(tx, input.tenantId, input.microvmId, binding.epoch)) return undefined;
  const record = await loadMicroVM(tx, input.tenantId, input.microvmId);
  return record === null || record.isDeleting || record.generation > input.generation ? undefined : { outcome: 'alreadyPublished', record };
}

async function publish(tx: LeaderTx, ids: IdSource, input: PublishInput, actor: Actor): Promise<PublishResult> {
  const { tenantId, microvmId } = input;
  await requireSite(tx, tenantId, input.siteId);
  const counters = await lockCounters(tx, tenantId, microvmId);
  const state = await readState(tx, tenantId, microvmId);
  if (state !== undefined) refuseStale(state, input);
  const published = await findPublished(tx, input);
  if (published !== undefined) return published;
  const denied = await deniedByQuota(tx, input);
  if (denied !== null) return { outcome: 'quotaDenied', message: denied };
  const found = await readBinding(tx, tenantId, microvmId);
  const sighted = await findSightedHost(tx, input, { counters, found });
  // One that another host has by right takes no room of this one.
  if (found !== null && sighted === null && !(await hostLetsGrow(tx, { tenantId, siteId: input.siteId, before: found, desired: input.desired }))) return { outcome: 'growthRefused' };
  const anew = found === null ? await bindAnew(tx, input, { counters, sighted }) : null;
  const hostId = sighted ?? found?.hostId ?? anew?.binding.hostId;
  if (hostId === undefined) return { outcome: 'hostUnavailable' };
  const given = await planNetworks(tx, { input, hostId, published: state?.desired });
  if (!given.ok) {
    await appendAudit(tx, tenantId, actor, given.entries);
    return { outcome: 'networkRefused', problem: given.problem };
  }
  const desired = given.plan.networks === undefined ? input.desired : { ...input.desired, networks: given.plan.networks };
  const chosen = found === null ? anew : await currentBinding(tx, { tenantId, microvmId, counters, found, movedTo: sighted });
  if (chosen === null) return { outcome: 'hostUnavailable' };
  if (sighted !== null) await forgetSighting(tx, tenantId, microvmId);
  const asked = await findAskedFor(tx, input);
  const left = found !== null && found.hostId !== chosen.binding.hostId ? found : null;
  const revision = counters.revision + (left === null ? 1 : 2);
  await saveCounters(tx, tenantId, microvmId, { epoch: Math.max(counters.epoch, chosen.binding.epoch), revision });
  const entries: AuditEntry[] = [await saveMicroVM(tx, { ...input, desired }, state), ...chosen.entries, ...given.entries, ...overruledEntries(input)];
  // The binding refers to the microVM's row, so it is written after that.
  if (found === null) entries.push(await insertBinding(tx, { tenantId, microvmId, binding: chosen.binding }));
  else entries.push(...(await resizeBinding(tx, { tenantId, microvmId, before: chosen.binding, desired })));
  entries.push(...(await saveNetworks(tx, { tenantId, microvmId, revision, plan: given.plan })));
  const winner = asked === null ? input.source?.supersedes : `generation ${input.generation} of the spec, written by plan ${asked.plan_id}, took its place`;
  const why = winner === undefined ? null : { code: 'SPEC_CHANGED_ELSEWHERE', message: winner };
  entries.push(...(await supersedePending(tx, tenantId, microvmId, why)));
  // Another host has it by right: the one that it was bound to may still hold an older copy.
  if (left !== null) entries.push(...(await displace(tx, ids, { ...input, desired, left, binding: chosen.binding, revision: revision - 1 })));
  entries.push(
    ...(await insertPlan(tx, ids, {
      tenantId, siteId: input.siteId, microvmId, key: planKey(input, chosen.binding.epoch), kind: input.kind, binding: chosen.binding,
      revision, generation: input.generation, tryNumber: input.tryNumber, desired, asked, specHash: input.source?.specHash ?? null,
    })),
  );
  await appendAudit(tx, tenantId, actor, entries);
  return { outcome: 'published', record: await loadExisting(tx, tenantId, microvmId) };
}

/** By force is another matter than by a new spec, so it has a name of its own. */
function overruledEntries({ microvmId, generation, overruled }: PublishInput): readonly AuditEntry[] {
  if (overruled === undefined) return [];
  return [{ action: overruled.by === 'Force' ? 'siteOrderOverruled' : 'siteOrderEnded', subject: 'microvm', id: microvmId, before: overruled.override, after: { generation } }];
}

export interface DisplaceInput {
  readonly tenantId: TenantId;
  readonly siteId: SiteId;
  readonly microvmId: MicroVMId;
  readonly generation: number;
  readonly desired: DesiredMicroVM;
  /** The binding that was given up, and the one that took its place. */
  readonly left: LiveBinding;
  readonly binding: LiveBinding;
  readonly revision: number;
}

/**
 * Orders what is left on a host that was given up to be removed; the host gets no lease until it has said that it is
 * gone. Under the new epoch, so above all that the host can have accepted: it never starts it again.
 */
export async function displace(tx: Tx, ids: IdSource, { tenantId, siteId, microvmId, generation, desired, left, binding, revision }: DisplaceInput): Promise<readonly AuditEntry[]> {
  const removal = await insertPlan(tx, ids, {
    tenantId, siteId, microvmId, generation, tryNumber: 1, asked: null, specHash: null, desired: null, kind: 'Delete', revision,
    key: `${planKey({ microvmId, generation, tryNumber: 1 }, binding.epoch)}/displaced`, binding: { ...binding, hostId: left.hostId },
  });
  const operationId = removal.find((entry) => entry.subject === 'operation')?.id ?? '';
  const orphanedDisks = desired.disks.filter((disk) => !disk.readOnly && disk.managed?.persistence !== 'Ephemeral').map((disk) => (disk.managed === undefined ? disk.path : `disk ${disk.name}`));
  return [...removal, await insertDisplacement(tx, { tenantId, id: ids.uuid(), microvmId, hostId: left.hostId, epoch: left.epoch, operationId, orphanedDisks })];
}

async function requireSite(tx: Tx, tenantId: TenantId, siteId: SiteId): Promise<void> {
  const { rowCount } = await tx.query(
    { name: 'find-site', isHot: true, text: 'select from nkudo.sites where tenant_id = $1 and id = $2 and deleted_at is null' },
    [tenantId, siteId],
  );
  if (rowCount === 0) throw new AppError('SITE_NOT_FOUND', 'the site was not saved yet');
}

function refuseStale(state: MicroVMState, input: PublishInput): void {
  if (state.is_deleting) throw new AppError('CONFLICT', 'the deletion of the microvm was published already');
  if (state.generation > input.generation) {
    throw new AppError('STALE_GENERATION', undefined, { details: { generation: input.generation, published: state.generation } });
  }
}

/** Null when the host can't take it. A host that has it already needs no room for it. */
async function bindAnew(tx: LeaderTx, input: PublishInput, { counters, sighted }: { readonly counters: Counters; readonly sighted: HostId | null }): Promise<{ readonly binding: LiveBinding; readonly entries: readonly AuditEntry[] } | null> {
  const chosen = sighted ?? input.placeOn;
  if (chosen === null) return null;
  const place: { readonly hostId: HostId } & PublishInput = { ...input, hostId: chosen };
  if (sighted === null && !(await hostTakes(tx, place))) return null;
  const need = required(input.desired);
  const epoch = nextEpoch(tx.incarnation, counters.epoch);
  return { binding: { hostId: place.hostId, epoch, cpuCount: need.cpus, memoryBytes: need.memoryBytes, leaseMs: input.desired.lease?.stopOnHostAfterMs ?? null }, entries: [] };
}

async function saveMicroVM(tx: Tx, input: PublishInput, state: MicroVMState | undefined): Promise<AuditEntry> {
  await tx.query(
    {
      name: 'save-microvm',
      isHot: true,
      text: `insert into nkudo.microvms (tenant_id, id, site_id, name, generation, desired) values ($1, $2, $3, $4, $5, $6)
        on conflict (tenant_id, id) do update
        set name = excluded.name, generation = excluded.generation, desired = excluded.desired, changed_at = now()`,
    },
    [input.tenantId, input.microvmId, input.siteId, input.name, input.generation, JSON.stringify(input.desired)],
  );
  return {
    action: 'published', subject: 'microvm', id: input.microvmId,
    before: state === undefined ? null : { generation: state.generation, desired: state.desired },
    after: { generation: input.generation, desired: input.desired },
  };
}

export interface PlanInput {
  readonly tenantId: TenantId;
  readonly siteId: SiteId;
  readonly microvmId: MicroVMId;
  readonly key: string;
  readonly kind: OperationKind;
  readonly binding: LiveBinding;
  readonly revision: number;
  readonly generation: number;
  readonly tryNumber: number;
  readonly desired: DesiredMicroVM | null;
  /** The action of a caller's plan that this carries out. */
  readonly asked: AskedFor | null;
  readonly specHash: string | null;
}

/** One operation with a plan of its own, or for the caller's plan that asked for it. */
export async function insertPlan(tx: Tx, ids: IdSource, input: PlanInput): Promise<readonly AuditEntry[]> {
  const planId = input.asked?.plan_id ?? ids.uuid();
  const operationId = ids.uuid();
  const entries: AuditEntry[] = input.asked === null ? [await insertOwnPlan(tx, planId, input)] : [];
  await tx.query(
    {
      name: 'insert-operation',
      isHot: true,
      text: `insert into nkudo.operations (tenant_id, id, plan_id, microvm_id, host_id, kind, epoch, revision, generation, try_number, desired)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
    },
    [
      input.tenantId, operationId, planId, input.microvmId, input.binding.hostId, input.kind, input.binding.epoch, input.revision,
      input.generation, input.tryNumber, input.desired === null ? null : JSON.stringify(input.desired),
    ],
  );
  entries.push({ action: 'created', subject: 'operation', id: operationId, before: null, after: { kind: input.kind, epoch: input.binding.epoch, revision: input.revision } });
  if (input.asked !== null) entries.push(...(await linkOperation(tx, input, { operationId, asked: input.asked })));
  return entries;
}

async function insertOwnPlan(tx: Tx, planId: string, input: PlanInput): Promise<AuditEntry> {
  const content = {
    operations: [{ microvmId: input.microvmId, hostId: input.binding.hostId, kind: input.kind, epoch: input.binding.epoch, generation: input.generation, desired: input.desired }],
  };
  const hash = contentHash(content);
  await tx.query(
    {
      name: 'insert-plan',
      isHot: true,
      text: `insert into nkudo.plans (tenant_id, id, site_id, idempotency_key, content, content_hash, hash_version, revision)
        values ($1, $2, $3, $4, $5, $6, $7, $8)`,
    },
    [input.tenantId, planId, input.siteId, input.key, JSON.stringify(content), hash, contentHashVersion, input.revision],
  );
  return { action: 'created', subject: 'plan', id: planId, before: null, after: { key: input.key, hash } };
}

export async function loadExisting(tx: Tx, tenantId: TenantId, microvmId: MicroVMId): Promise<MicroVMRecord> {
  const record = await loadMicroVM(tx, tenantId, microvmId);
  if (record === null) throw new AppError('INTERNAL', 'a microvm that was just written is not there');
  return record;
}

/** `undefined` when a deletion has to be written, null when there is nothing to delete. */
async function findPublishedDeletion(tx: Tx, input: DeletionInput): Promise<MicroVMRecord | null | undefined> {
  const record = await loadMicroVM(tx, input.tenantId, input.microvmId);
  if (record === null || record.isTornDown) return record;
  if (!record.isDeleting || record.binding === null) return undefined;
  if (!(await hasTry(tx, deletionKey(input, record.binding.epoch), input, record.binding.epoch))) return undefined;
  return (await isOutrun(tx, input.tenantId, input.microvmId, record.binding.epoch)) ? undefined : record;
}

async function publishDeletion(tx: LeaderTx, ids: IdSource, input: DeletionInput, actor: Actor): Promise<MicroVMRecord | null> {
  const { tenantId, microvmId } = input;
  const counters = await lockCounters(tx, tenantId, microvmId);
  const published = await findPublishedDeletion(tx, input);
  const state = await readState(tx, tenantId, microvmId);
  if (published !== undefined || state === undefined) return published ?? null;
  const found = await readBinding(tx, tenantId, microvmId);
  const asked = found === null ? null : await findAskedFor(tx, input);
  const entries: AuditEntry[] = [await markDeleting(tx, input, { state, isBound: found !== null })];
  entries.push(...(await supersedePending(tx, tenantId, microvmId)));
  if (found !== null) entries.push(...(await insertDeletion(tx, ids, { input, deletion: state, counters, found, asked })));
  await appendAudit(tx, tenantId, actor, entries);
  return loadExisting(tx, tenantId, microvmId);
}

/** A microVM that was never bound exists nowhere, so it is torn down with its mark. */
async function markDeleting(tx: Tx, input: DeletionInput, found: { readonly state: MicroVMState; readonly isBound: boolean }): Promise<AuditEntry> {
  await tx.query(
    {
      name: 'mark-microvm-deleting',
      text: `update nkudo.microvms
        set is_deleting = true, desired = null, generation = greatest(generation, $3), changed_at = now(),
          torn_down_at = case when $4 then torn_down_at else coalesce(torn_down_at, now()) end
        where tenant_id = $1 and id = $2`,
    },
    [input.tenantId, input.microvmId, input.generation, found.isBound],
  );
  return {
    action: 'deletionPublished', subject: 'microvm', id: input.microvmId,
    before: { generation: found.state.generation, desired: found.state.desired }, after: { generation: input.generation, desired: null },
  };
}

async function insertDeletion(
  tx: LeaderTx,
  ids: IdSource,
  from: { readonly input: DeletionInput; readonly deletion: MicroVMState; readonly counters: Counters; readonly found: LiveBinding; readonly asked: AskedFor | null },
): Promise<readonly AuditEntry[]> {
  const { input, counters } = from;
  const { tenantId, microvmId } = input;
  const sighted = await findSightedHost(tx, input, { counters, found: from.found });
  const chosen = await currentBinding(tx, { tenantId, microvmId, counters, found: from.found, movedTo: sighted });
  const revision = counters.revision + 1;
  await saveCounters(tx, tenantId, microvmId, { epoch: Math.max(counters.epoch, chosen.binding.epoch), revision });
  const plan = await insertPlan(tx, ids, {
    tenantId, siteId: from.deletion.site_id, microvmId, key: deletionKey(input, chosen.binding.epoch), kind: 'Delete', binding: chosen.binding,
    revision, generation: input.generation, tryNumber: input.tryNumber, desired: null, asked: from.asked, specHash: null,
  });
  return [...chosen.entries, ...plan];
}

async function completeDeletion(tx: LeaderTx, tenantId: TenantId, microvmId: MicroVMId, actor: Actor): Promise<true> {
  await lockCounters(tx, tenantId, microvmId);
  const state = await readState(tx, tenantId, microvmId);
  if (state === undefined || state.is_released) return true;
  if (!state.is_torn_down && !state.is_tombstone) {
    throw new AppError('CONFLICT', 'the host did not confirm the teardown of the microvm yet');
  }
  const binding = await readBinding(tx, tenantId, microvmId);
  const entries: AuditEntry[] = [{ action: 'released', subject: 'microvm', id: microvmId, before: { isReleased: false }, after: { isReleased: true } }];
  if (binding !== null) entries.push(await releaseBinding(tx, tenantId, microvmId, binding));
  entries.push(...(await releaseNetworks(tx, tenantId, microvmId)));
  await tx.query(
    { name: 'release-microvm', text: 'update nkudo.microvms set released_at = now(), changed_at = now() where tenant_id = $1 and id = $2' },
    [tenantId, microvmId],
  );
  await appendAudit(tx, tenantId, actor, entries);
  return true;
}

async function forceDelete(tx: LeaderTx, ids: IdSource, tenantId: TenantId, microvmId: MicroVMId, actor: Actor): Promise<true> {
  const counters = await lockCounters(tx, tenantId, microvmId);
  const state = await readState(tx, tenantId, microvmId);
  if (state === undefined || state.is_tombstone) return true;
  const found = await readBinding(tx, tenantId, microvmId);
  const entries: AuditEntry[] = [];
  if (found !== null) {
    // The order to remove it stays for the host, which may come back with the microVM still running.
    if (!(await hasOpenDeletion(tx, tenantId, microvmId))) {
      entries.push(...(await supersedePending(tx, tenantId, microvmId)));
      const input = { tenantId, microvmId, generation: state.generation, tryNumber: counters.revision + 1 };
      entries.push(...(await insertDeletion(tx, ids, { input, deletion: state, counters, found, asked: null })));
    }
    entries.push(await releaseBinding(tx, tenantId, microvmId, found));
  }
  entries.push(...(await releaseNetworks(tx, tenantId, microvmId)));
  await tx.query(
    {
      name: 'tombstone-microvm',
      text: `update nkudo.microvms set is_deleting = true, desired = null, tombstoned_at = now(), released_at = coalesce(released_at, now()), changed_at = now()
        where tenant_id = $1 and id = $2`,
    },
    [tenantId, microvmId],
  );
  entries.push({ action: 'forceDeleted', subject: 'microvm', id: microvmId, before: { generation: state.generation, desired: state.desired }, after: null });
  await appendAudit(tx, tenantId, actor, entries);
  return true;
}

async function hasOpenDeletion(tx: Tx, tenantId: TenantId, microvmId: MicroVMId): Promise<boolean> {
  const { rowCount } = await tx.query(
    {
      name: 'find-open-deletion',
      text: `select from nkudo.operations
        where tenant_id = $1 and microvm_id = $2 and kind = 'Delete' and status in ('Pending', 'Dispatched', 'Running') limit 1`,
    },
    [tenantId, microvmId],
  );
  return rowCount === 1;
}
