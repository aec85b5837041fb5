/**
 * Which caller's plan an operation belongs to, inside the transaction that publishes it. A plan owns the generation
 * whose spec hashes to what it wrote, and the deletion that it asked for; only the first try, since a plan whose
 * operation has ended does not begin anew.
 */
import type { MicroVMId, PlanId, TenantId } from '#api/model/ids.ts';
import type { PlanActionStatus } from '#api/model/plan.ts';
import type { AuditEntry } from '../audit.ts';
import { rollUpPlans, writeOperationChanges } from '../operation-status.ts';
import type { Tx } from '../tx.ts';

export interface AskedFor {
  readonly id: string;
  readonly plan_id: string;
  readonly status: PlanActionStatus;
}

interface Published {
  readonly tenantId: TenantId;
  readonly microvmId: MicroVMId;
  readonly generation: number;
  readonly tryNumber: number;
  /** Absent for a deletion. */
  readonly desired?: unknown;
  readonly name?: string;
  readonly source?: { readonly specHash: string; readonly createdBy: PlanId | null };
}

/** Locks and returns the action that this generation or deletion carries out; null when nobody asked. */
export async function findAskedFor(tx: Tx, input: Published): Promise<AskedFor | null> {
  if (input.tryNumber !== 1) return null;
  if (!('desired' in input)) return first(await tx.query<AskedFor>(deletionStatement, [input.tenantId, input.microvmId]));
  if (input.source === undefined) return null;
  const { specHash, createdBy } = input.source;
  return first(await tx.query<AskedFor>(changeStatement, [input.tenantId, input.microvmId, specHash, input.generation, createdBy, input.name]));
}

function first({ rows }: { readonly rows: readonly AskedFor[] }): AskedFor | null {
  return rows[0] ?? null;
}

const deletionStatement = {
  name: 'find-asked-deletion',
  isHot: true,
  text: `select id, plan_id, status from nkudo.plan_actions
    where tenant_id = $1 and microvm_id = $2 and kind = 'Delete' and status in ('Writing', 'Written')
    order by changed_at limit 1 for no key update`,
};

/**
 * A Create whose answer is not recorded yet is known by the annotation of the first generation. One that was cancelled
 * after it was written keeps its generation, so that nothing is started for it.
 */
const changeStatement = {
  name: 'find-asked-change',
  isHot: true,
  text: `select id, plan_id, status from nkudo.plan_actions
    where tenant_id = $1 and operation_id is null and kind <> 'Delete' and (
      (microvm_id = $2 and spec_hash = $3 and (status in ('Writing', 'Written') or (status = 'Cancelled' and generation = $4)))
      or (plan_id = $5 and name = $6 and kind = 'Create' and microvm_id is null and status = 'Writing' and $4::bigint = 1))
    order by changed_at desc limit 1 for no key update`,
};

/** The action has its operation from now on; one whose plan was cancelled is cancelled with it. */
export async function linkOperation(
  tx: Tx,
  input: { readonly tenantId: TenantId; readonly microvmId: MicroVMId; readonly generation: number; readonly specHash: string | null },
  link: { readonly operationId: string; readonly asked: AskedFor },
): Promise<readonly AuditEntry[]> {
  const { asked, operationId } = link;
  const isCancelled = asked.status === 'Cancelled';
  await tx.query(
    {
      name: 'link-operation',
      isHot: true,
      text: `update nkudo.plan_actions
        set status = $3, operation_id = $4, microvm_id = coalesce(microvm_id, $5), generation = $6, spec_hash = coalesce($7, spec_hash), changed_at = now()
        where tenant_id = $1 and id = $2`,
    },
    [input.tenantId, asked.id, isCancelled ? asked.status : 'Published', operationId, input.microvmId, input.generation, input.specHash],
  );
  const entries: AuditEntry[] = [];
  if (isCancelled) {
    entries.push(...(await writeOperationChanges(tx, input.tenantId, [{ operationId, planId: asked.plan_id, from: 'Pending', to: 'Cancelled', error: null }])));
  } else {
    entries.push({ action: 'published', subject: 'planAction', id: asked.id, before: { status: asked.status }, after: { status: 'Published', operationId } });
  }
  return [...entries, ...(await rollUpPlans(tx, input.tenantId, [asked.plan_id]))];
}
