/**
 * Changes of the status of operations and the roll-up to their plans, in one place, so that every path writes the
 * same audit rows. Which change is right is the caller's decision; which is allowed, the database's.
 */
import { countsAs, derivePlanStatus, isTerminal, type OperationStatus, type PlanActionStatus, type PlanStatus } from '#api/model/plan.ts';
import type { AuditEntry } from './audit.ts';
import type { Tx } from './tx.ts';

export interface OperationError {
  readonly code: string;
  readonly message: string;
}

export interface OperationChange {
  readonly operationId: string;
  readonly planId: string;
  readonly from: OperationStatus;
  readonly to: OperationStatus;
  /** Null clears it. */
  readonly error: OperationError | null;
}

const codeMax = 64;
const messageMax = 4096;

/** Writes the changes in one statement. Also a change of the error alone; that one needs no audit row. */
export async function writeOperationChanges(tx: Tx, tenantId: string, changes: readonly OperationChange[]): Promise<readonly AuditEntry[]> {
  if (changes.length === 0) return [];
  await tx.query(
    {
      name: 'write-operation-changes',
      isHot: true,
      text: `update nkudo.operations o
        set status = c.status, error_code = c.code, error_message = c.message, changed_at = now(),
          finished_at = case when c.ended then coalesce(o.finished_at, now()) end
        from unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::boolean[]) as c (id, status, code, message, ended)
        where o.tenant_id = $1 and o.id = c.id`,
    },
    [
      tenantId,
      changes.map((change) => change.operationId),
      changes.map((change) => change.to),
      changes.map((change) => change.error?.code.slice(0, codeMax) ?? null),
      changes.map((change) => change.error?.message.slice(0, messageMax) ?? null),
      changes.map((change) => isTerminal(change.to)),
    ],
  );
  return changes
    .filter((change) => change.from !== change.to)
    .map((change) => ({
      action: change.to.toLowerCase(), subject: 'operation', id: change.operationId,
      before: { status: change.from }, after: { status: change.to, error: change.error?.code ?? null },
    }));
}

/** What an operation, or an action without one, counts as in its plan. */
function partStatus(status: OperationStatus | PlanActionStatus): PlanStatus | null {
  return status === 'Dispatched' || status === 'Running' || status === 'Expired' ? status : countsAs(status);
}

/** Brings the plans to what their operations, and their actions without one, say. Locks them, in order of id. */
export async function rollUpPlans(tx: Tx, tenantId: string, planIds: readonly string[]): Promise<readonly AuditEntry[]> {
  const ids = [...new Set(planIds)].toSorted();
  if (ids.length === 0) return [];
  const plans = await tx.query<{ id: string; status: PlanStatus }>(
    {
      name: 'lock-plans',
      isHot: true,
      text: 'select id, status from nkudo.plans where tenant_id = $1 and id = any($2) order by id for no key update',
    },
    [tenantId, ids],
  );
  const parts = await tx.query<{ plan_id: string; status: OperationStatus | PlanActionStatus; is_action: boolean }>(
    {
      name: 'read-plan-parts',
      isHot: true,
      text: `select plan_id, status from nkudo.operations where tenant_id = $1 and plan_id = any($2)
        union all select plan_id, status from nkudo.plan_actions where tenant_id = $1 and plan_id = any($2) and operation_id is null`,
    },
    [tenantId, ids],
  );
  const changes = plans.rows.flatMap(({ id, status }) => {
    const derived = derivePlanStatus(parts.rows.filter((row) => row.plan_id === id).flatMap(({ status: part }) => partStatus(part) ?? []));
    return derived === status || isTerminal(status) ? [] : [{ id, from: status, to: derived }];
  });
  if (changes.length === 0) return [];
  await tx.query(
    {
      name: 'write-plan-changes',
      isHot: true,
      text: `update nkudo.plans p set status = c.status, finished_at = case when c.ended then now() end
        from unnest($2::uuid[], $3::text[], $4::boolean[]) as c (id, status, ended)
        where p.tenant_id = $1 and p.id = c.id`,
    },
    [tenantId, changes.map((change) => change.id), changes.map((change) => change.to), changes.map((change) => isTerminal(change.to))],
  );
  return changes.map((change) => ({
    action: change.to.toLowerCase(), subject: 'plan', id: change.id, before: { status: change.from }, after: { status: change.to },
  }));
}

/** Ends as Superseded the operations of a microVM that were not handed to a stream yet, and says why. */
export async function supersedePending(tx: Tx, tenantId: string, microvmId: string, why: OperationError | null = null): Promise<readonly AuditEntry[]> {
  const { rows } = await tx.query<{ id: string; plan_id: string }>(
    {
      name: 'lock-pending-operations',
      isHot: true,
      // The removal of a copy that was displaced is owed to its host whatever is published since.
      text: `select id, plan_id from nkudo.operations o
        where tenant_id = $1 and microvm_id = $2 and status = 'Pending'
          and not exists (select from nkudo.displacements d where d.tenant_id = o.tenant_id and d.operation_id = o.id)
        order by revision for no key update`,
    },
    [tenantId, microvmId],
  );
  const changes = rows.map((row) => ({ operationId: row.id, planId: row.plan_id, from: 'Pending' as const, to: 'Superseded' as const, error: why }));
  const operations = await writeOperationChanges(tx, tenantId, changes);
  return [...operations, ...(await rollUpPlans(tx, tenantId, changes.map((change) => change.planId)))];
}
