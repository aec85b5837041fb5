/**
 * Plans of callers: accepted by any replica in one commit, driven by the leader, cancelled by anybody. The key's
 * unique index makes one plan out of any number of concurrent calls. Lock order: actions, operations, plans.
 */
import { AppError } from '#api/model/error-codes.ts';
import { hostId, microVMId, planId, tenantId, type HostId, type MicroVMId, type PlanId, type TenantId } from '#api/model/ids.ts';
import { isTerminal, type OperationKind, type OperationStatus, type PlanActionKind, type PlanActionStatus, type PlanStatus } from '#api/model/plan.ts';
import type { Actor } from '#controller/ports/audit.ts';
import type { IdSource } from '#controller/ports/ids.ts';
import type { ActionKey, DrivenPlan, PlanContent, PlanError, PlanStore } from '#controller/ports/plan-store.ts';
import { appendAudit, type AuditEntry } from '../audit.ts';
import { contentHash, contentHashUnder, contentHashVersion } from '../canonical-json.ts';
import { rollUpPlans, writeOperationChanges } from '../operation-status.ts';
import type { Transactions, Tx } from '../tx.ts';

const messageMax = 4096;

type AcceptInput = Parameters<PlanStore['accept']>[0];

export function createPlanStore(deps: { readonly transactions: Transactions; readonly ids: IdSource }): PlanStore {
  const { transactions, ids } = deps;
  return {
    hashOf: contentHash,
    accept: (input, actor) => transactions.tenant(input.tenantId, (tx) => accept(tx, ids, input, actor)),
    load: (tenant, plan) => transactions.tenant(tenant, (tx) => load(tx, tenant, plan)),
    listToDrive: async () => {
      const { rows } = await transactions.systemQuery<{ tenant_id: string; plan_id: string }>(toDriveStatement);
      return rows.map((row) => ({ tenantId: tenantId(row.tenant_id), planId: planId(row.plan_id) }));
    },
    lastRunPolicy: (tenant, microvm) => transactions.tenant(tenant, (tx) => lastRunPolicy(tx, tenant, microvm)),
    recordIntent: (key, intent, epoch, actor) =>
      transactions.leader(key.tenantId, epoch, {
        work: (tx) => change(tx, key, actor, {
          to: 'Writing', from: ['Pending', 'Writing'], isRefusedAfterCancel: true, specHash: intent.specHash, previousRunPolicy: intent.previousRunPolicy,
        }),
      }),
    recordWritten: async (key, written, epoch, actor) => {
      await transactions.leader(key.tenantId, epoch, {
        work: (tx) => change(tx, key, actor, { to: 'Written', from: ['Writing'], ...written }),
      });
    },
    endAction: async (key, end, epoch, actor) => {
      await transactions.leader(key.tenantId, epoch, {
        work: (tx) => change(tx, key, actor, { to: end.status, from: ['Pending', 'Writing', 'Written'], error: end.error }),
      });
    },
    cancel: (tenant, plan, actor) => transactions.tenant(tenant, (tx) => cancel(tx, tenant, plan, actor)),
  };
}

const toDriveStatement = {
  name: 'list-plans-to-drive',
  isHot: true,
  text: `select distinct tenant_id, plan_id from nkudo.plan_actions where status in ('Pending', 'Writing', 'Written')`,
};

interface KeptPlan {
  readonly id: string;
  readonly content_hash: string;
  readonly hash_version: number;
}

async function findByKey(tx: Tx, input: AcceptInput): Promise<KeptPlan | undefined> {
  const { rows } = await tx.query<KeptPlan>(
    { name: 'find-caller-plan', isHot: true, text: 'select id, content_hash, hash_version from nkudo.plans where tenant_id = $1 and idempotency_key = $2' },
    [input.tenantId, input.key],
  );
  return rows[0];
}

/** @throws IDEMPOTENCY_KEY_REUSED */
function sameOrRefused(kept: KeptPlan, content: PlanContent): { readonly planId: PlanId; readonly isNew: boolean } {
  const sent = contentHashUnder(kept.hash_version, content);
  if (sent === kept.content_hash) return { planId: planId(kept.id), isNew: false };
  const hash = sent ?? contentHash(content);
  throw new AppError('IDEMPOTENCY_KEY_REUSED', `the idempotency key belongs to a plan with other content: stored ${kept.content_hash}, sent ${hash}`, {
    details: { planId: kept.id, storedHash: kept.content_hash, sentHash: hash },
  });
}

async function accept(tx: Tx, ids: IdSource, input: AcceptInput, actor: Actor): Promise<{ readonly planId: PlanId; readonly isNew: boolean }> {
  const kept = await findByKey(tx, input);
  if (kept !== undefined) return sameOrRefused(kept, input.content);
  const { rows: sites } = await tx.query<{ id: string }>(
    { name: 'find-site-by-name', isHot: true, text: 'select id from nkudo.sites where tenant_id = $1 and name = $2 and deleted_at is null' },
    [input.tenantId, input.content.site],
  );
  const [site] = sites;
  if (site === undefined) throw new AppError('SITE_NOT_FOUND', `there is no site ${input.content.site} in this namespace`);
  const id = planId(ids.uuid());
  const hash = contentHash(input.content);
  const inserted = await tx.query(
    {
      name: 'insert-caller-plan',
      isHot: true,
      text: `insert into nkudo.plans (tenant_id, id, site_id, idempotency_key, content, content_hash, hash_version, revision, origin, is_forced)
        values ($1, $2, $3, $4, $5, $6, $7, 1, 'caller', $8) on conflict (tenant_id, idempotency_key) do nothing`,
    },
    [input.tenantId, id, site.id, input.key, JSON.stringify(input.content), hash, contentHashVersion, input.content.isForced],
  );
  if (inserted.rowCount === 0) {
    // Another call with this key has just committed; a new statement sees its row.
    const winner = await findByKey(tx, input);
    if (winner === undefined) throw new AppError('CONFLICT', 'the idempotency key was taken and given back meanwhile');
    return sameOrRefused(winner, input.content);
  }
  const actions = input.content.actions.map((action) => ({ ...action, id: ids.uuid() }));
  await tx.query(
    {
      name: 'insert-plan-actions',
      isHot: true,
      text: `insert into nkudo.plan_actions (tenant_id, id, plan_id, position, kind, name, microvm_id)
        select $1, a.id, $2, a.position - 1, a.kind, a.name, a.microvm
        from unnest($3::uuid[], $4::text[], $5::text[], $6::uuid[]) with ordinality as a (id, kind, name, microvm, position)`,
    },
    [input.tenantId, id, actions.map((action) => action.id), actions.map((action) => action.kind), actions.map((action) => action.name), actions.map((action) => action.uid)],
  );
  const entries: AuditEntry[] = [
    { action: input.content.isForced ? 'acceptedForced' : 'accepted', subject: 'plan', id, before: null, after: { key: input.key, hash } },
    ...actions.map((action) => ({ action: 'accepted', subject: 'planAction' as const, id: action.id, before: null, after: { kind: action.kind, name: action.name, uid: action.uid } })),
  ];
  await appendAudit(tx, input.tenantId, actor, entries);
  return { planId: id, isNew: true };
}

interface PlanRow {
  readonly namespace: string;
  readonly site_name: string;
  readonly status: PlanStatus;
  readonly is_forced: boolean;
  readonly is_cancel_requested: boolean;
  readonly content: PlanContent;
}

interface ActionRow {
  readonly id: string;
  readonly position: number;
  readonly kind: PlanActionKind;
  readonly name: string;
  readonly microvm_id: string | null;
  readonly status: PlanActionStatus;
  readonly spec_hash: string | null;
  readonly generation: number | null;
}

async function load(tx: Tx, tenant: TenantId, plan: PlanId): Promise<DrivenPlan | null> {
  const plans = await tx.query<PlanRow>(
    {
      name: 'load-driven-plan',
      isHot: true,
      text: `select t.namespace, s.name as site_name, p.status, p.is_forced, p.cancel_requested_at is not null as is_cancel_requested, p.content
        from nkudo.plans p
        join nkudo.tenants t on t.tenant_id = p.tenant_id
        join nkudo.sites s on s.tenant_id = p.tenant_id and s.id = p.site_id
        where p.tenant_id = $1 and p.id = $2 and p.origin = 'caller'`,
    },
    [tenant, plan],
  );
  const [row] = plans.rows;
  if (row === undefined) return null;
  const actions = await tx.query<ActionRow>(
    {
      name: 'load-driven-actions',
      isHot: true,
      text: `select id, position, kind, name, microvm_id, status, spec_hash, generation
        from nkudo.plan_actions where tenant_id = $1 and plan_id = $2 order by position`,
    },
    [tenant, plan],
  );
  return {
    tenantId: tenant,
    planId: plan,
    namespace: row.namespace,
    siteName: row.site_name,
    status: row.status,
    isForced: row.is_forced,
    isCancelRequested: row.is_cancel_requested,
    actions: actions.rows.map((action) => ({
      id: action.id,
      kind: action.kind,
      name: action.name,
      uid: action.microvm_id === null ? null : microVMId(action.microvm_id),
      object: row.content.actions[action.position]?.object ?? null,
      status: action.status,
      specHash: action.spec_hash,
      generation: action.generation,
    })),
  };
}

async function lastRunPolicy(tx: Tx, tenant: TenantId, microvm: MicroVMId): Promise<string | null> {
  const { rows } = await tx.query<{ previous_run_policy: string }>(
    {
      name: 'last-run-policy',
      text: `select previous_run_policy from nkudo.plan_actions
        where tenant_id = $1 and microvm_id = $2 and kind = 'Stop' and previous_run_policy is not null and generation is not null
        order by generation desc limit 1`,
    },
    [tenant, microvm],
  );
  return rows[0]?.previous_run_policy ?? null;
}

interface ActionChange {
  readonly to: PlanActionStatus;
  readonly from: readonly PlanActionStatus[];
  readonly isRefusedAfterCancel?: boolean;
  readonly microvmId?: MicroVMId;
  readonly generation?: number;
  readonly specHash?: string | null;
  readonly previousRunPolicy?: string | null;
  readonly error?: PlanError | null;
}

/** False when the action is in none of the states to come from. */
async function change(tx: Tx, key: ActionKey, actor: Actor, wanted: ActionChange): Promise<boolean> {
  const { rows } = await tx.query<{ status: PlanActionStatus; is_cancel_requested: boolean }>(
    {
      name: 'lock-plan-action',
      isHot: true,
      text: `select a.status, p.cancel_requested_at is not null as is_cancel_requested
        from nkudo.plan_actions a join nkudo.plans p on p.tenant_id = a.tenant_id and p.id = a.plan_id
        where a.tenant_id = $1 and a.id = $2 and a.plan_id = $3 for no key update of a`,
    },
    [key.tenantId, key.actionId, key.planId],
  );
  const [row] = rows;
  if (row === undefined || !wanted.from.includes(row.status) || (wanted.isRefusedAfterCancel === true && row.is_cancel_requested)) return false;
  await tx.query(
    {
      name: 'change-plan-action',
      isHot: true,
      text: `update nkudo.plan_actions
        set status = $3, microvm_id = coalesce(microvm_id, $4::uuid), generation = coalesce($5::bigint, generation), spec_hash = coalesce($6, spec_hash),
          previous_run_policy = coalesce($7, previous_run_policy), error_code = $8, error_message = $9, changed_at = now()
        where tenant_id = $1 and id = $2`,
    },
    [
      key.tenantId, key.actionId, wanted.to, wanted.microvmId ?? null, wanted.generation ?? null, wanted.specHash ?? null,
      wanted.previousRunPolicy ?? null, wanted.error?.code ?? null, wanted.error?.message.slice(0, messageMax) ?? null,
    ],
  );
  if (row.status === wanted.to) return true;
  const after = { status: wanted.to, generation: wanted.generation ?? null, specHash: wanted.specHash ?? null, error: wanted.error?.code ?? null };
  const entries: AuditEntry[] = [{ action: wanted.to.toLowerCase(), subject: 'planAction', id: key.actionId, before: { status: row.status }, after }];
  entries.push(...(await rollUpPlans(tx, key.tenantId, [key.planId])));
  await appendAudit(tx, key.tenantId, actor, entries);
  return true;
}

interface OpenOperationRow {
  readonly id: string;
  readonly host_id: string;
  readonly microvm_id: string;
  readonly kind: OperationKind;
  readonly status: OperationStatus;
}

async function cancel(tx: Tx, tenant: TenantId, plan: PlanId, actor: Actor): Promise<{ readonly hosts: readonly HostId[]; readonly microvms: readonly MicroVMId[] } | null> {
  const found = await tx.query<{ status: PlanStatus }>(
    { name: 'find-plan-to-cancel', text: `select status from nkudo.plans where tenant_id = $1 and id = $2 and origin = 'caller'` },
    [tenant, plan],
  );
  const [row] = found.rows;
  if (row === undefined) return null;
  if (isTerminal(row.status)) return { hosts: [], microvms: [] };
  // An operation that is being published holds the lock of its action, so after this it is visible.
  const actions = await tx.query<{ id: string; was: PlanActionStatus }>(
    {
      name: 'cancel-plan-actions',
      text: `update nkudo.plan_actions a set status = 'Cancelled', changed_at = now()
        from (select id, status from nkudo.plan_actions where tenant_id = $1 and plan_id = $2 order by position for no key update) o
        where a.tenant_id = $1 and a.id = o.id and (o.status = 'Pending' or (o.status = 'Written' and a.kind <> 'Delete'))
        returning a.id, o.status as was`,
    },
    [tenant, plan],
  );
  const operations = await tx.query<OpenOperationRow>(
    {
      name: 'lock-operations-to-cancel',
      text: `select id, host_id, microvm_id, kind, status from nkudo.operations
        where tenant_id = $1 and plan_id = $2 and status in ('Pending', 'Dispatched', 'Running') and kind <> 'Delete' order by id for no key update`,
    },
    [tenant, plan],
  );
  const pending = operations.rows.filter((operation) => operation.status === 'Pending');
  const handed = operations.rows.filter((operation) => operation.status !== 'Pending');
  const entries: AuditEntry[] = [{ action: 'cancelRequested', subject: 'plan', id: plan, before: { status: row.status }, after: { isCancelRequested: true } }];
  entries.push(...(await writeOperationChanges(tx, tenant, pending.map((operation) => ({ operationId: operation.id, planId: plan, from: 'Pending' as const, to: 'Cancelled' as const, error: null })))));
  if (handed.length > 0) {
    await tx.query(
      { name: 'note-operation-cancels', text: 'update nkudo.operations set cancel_requested_at = now() where tenant_id = $1 and id = any($2) and cancel_requested_at is null' },
      [tenant, handed.map((operation) => operation.id)],
    );
  }
  entries.push(...actions.rows.map((action) => ({ action: 'cancelled', subject: 'planAction' as const, id: action.id, before: { status: action.was }, after: { status: 'Cancelled' } })));
  await tx.query({ name: 'note-plan-cancel', text: 'update nkudo.plans set cancel_requested_at = coalesce(cancel_requested_at, now()) where tenant_id = $1 and id = $2' }, [tenant, plan]);
  entries.push(...(await rollUpPlans(tx, tenant, [plan])));
  await appendAudit(tx, tenant, actor, entries);
  return {
    hosts: [...new Set(handed.map((operation) => hostId(operation.host_id)))],
    microvms: operations.rows.map((operation) => microVMId(operation.microvm_id)),
  };
}
