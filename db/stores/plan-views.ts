/** Plans as callers see them: their rows with operations and actions, two reads for any number of plans. */
import { planId, type TenantId } from '#api/model/ids.ts';
import type { OperationKind, OperationStatus, PlanActionKind, PlanActionStatus, PlanStatus } from '#api/model/plan.ts';
import type { PlanView } from '#controller/ports/fleet-store.ts';
import type { Tx } from '../tx.ts';

export interface PlanRow {
  readonly id: string;
  readonly site_name: string;
  readonly idempotency_key: string;
  readonly content_hash: string;
  readonly status: PlanStatus;
  readonly is_forced: boolean;
  readonly created_at: number;
  readonly finished_at: number | null;
}

interface PlanOperationRow {
  readonly id: string;
  readonly plan_id: string;
  readonly microvm_id: string;
  readonly host_name: string;
  readonly kind: OperationKind;
  readonly epoch: number;
  readonly revision: number;
  readonly status: OperationStatus;
  readonly error_code: string | null;
  readonly error_message: string | null;
}

interface PlanActionRow {
  readonly plan_id: string;
  readonly kind: PlanActionKind;
  readonly name: string;
  readonly microvm_id: string | null;
  readonly status: PlanActionStatus;
  readonly generation: number | null;
  readonly operation_id: string | null;
  readonly error_code: string | null;
  readonly error_message: string | null;
}

export const planColumns = 'p.id, s.name as site_name, p.idempotency_key, p.content_hash, p.status, p.is_forced, p.created_at, p.finished_at';

export async function withParts(tx: Tx, tenant: TenantId, plans: readonly PlanRow[]): Promise<readonly PlanView[]> {
  if (plans.length === 0) return [];
  const ids = plans.map((plan) => plan.id);
  const operations = await tx.query<PlanOperationRow>(
    {
      name: 'load-plan-operations',
      isHot: true,
      text: `select o.id, o.plan_id, o.microvm_id, h.name as host_name, o.kind, o.epoch, o.revision, o.status, o.error_code, o.error_message
        from nkudo.operations o join nkudo.hosts h on h.tenant_id = o.tenant_id and h.id = o.host_id
        where o.tenant_id = $1 and o.plan_id = any($2) order by o.revision, o.id`,
    },
    [tenant, ids],
  );
  const actions = await tx.query<PlanActionRow>(
    {
      name: 'load-plan-actions',
      isHot: true,
      text: `select plan_id, kind, name, microvm_id, status, generation, operation_id, error_code, error_message
        from nkudo.plan_actions where tenant_id = $1 and plan_id = any($2) order by position`,
    },
    [tenant, ids],
  );
  return plans.map((plan) => ({
    id: planId(plan.id), siteName: plan.site_name, idempotencyKey: plan.idempotency_key, contentHash: plan.content_hash, status: plan.status,
    createdAtMs: plan.created_at, finishedAtMs: plan.finished_at, isForced: plan.is_forced,
    operations: operations.rows.filter((row) => row.plan_id === plan.id).map((row) => ({
      id: row.id, microvmId: row.microvm_id, hostName: row.host_name, kind: row.kind, epoch: row.epoch, revision: row.revision, status: row.status,
      error: toError(row),
    })),
    actions: actions.rows.filter((row) => row.plan_id === plan.id).map((row) => ({
      kind: row.kind, name: row.name, microvmId: row.microvm_id, status: row.status, generation: row.generation, operationId: row.operation_id, error: toError(row),
    })),
  }));
}

export function toError(row: { readonly error_code: string | null; readonly error_message: string | null }): { readonly code: string; readonly message: string } | null {
  return row.error_code === null ? null : { code: row.error_code, message: row.error_message ?? '' };
}
