/** Reads one microVM with its live binding, newest operation and last observation: one statement. */
import { parseEpoch } from '#api/model/epoch.ts';
import { hostId, operationId, planId, siteId, type MicroVMId, type TenantId } from '#api/model/ids.ts';
import type { DesiredMicroVM, LastExit, LeavingReason, ObservedState } from '#api/model/microvm.ts';
import type { OperationKind, OperationStatus, PlanStatus } from '#api/model/plan.ts';
import type { SiteOverride } from '#api/model/site-orders.ts';
import type { NotedOrder } from '#controller/domain/site-overrides.ts';
import type { MicroVMRecord } from '#controller/ports/microvm-store.ts';
import type { Tx } from '../tx.ts';

interface MicroVMRow {
  readonly site_id: string;
  readonly name: string;
  readonly generation: number;
  readonly desired: DesiredMicroVM | null;
  readonly is_deleting: boolean;
  readonly is_torn_down: boolean;
  readonly host_id: string | null;
  readonly host_name: string;
  readonly epoch: number;
  readonly leaving_reason: LeavingReason | null;
  readonly update_restarts: number;
  readonly site_order_noted: NotedOrder | null;
  readonly operation_id: string | null;
  readonly plan_id: string;
  readonly plan_status: PlanStatus;
  readonly kind: OperationKind;
  readonly status: OperationStatus;
  readonly revision: number;
  readonly operation_generation: number;
  readonly try_number: number;
  readonly error_code: string | null;
  readonly error_message: string | null;
  readonly state: ObservedState | null;
  readonly observed_epoch: number;
  readonly observed_revision: number;
  readonly observed_generation: number;
  readonly sequence: number;
  readonly observed_at: number;
  readonly booted_at: number | null;
  readonly restarts: number;
  readonly is_crash_looping: boolean;
  readonly is_restart_required: boolean;
  readonly last_exit: LastExit | null;
  readonly problem: { readonly code: string; readonly message: string } | null;
  readonly warnings: NonNullable<MicroVMRecord['observation']>['warnings'] | null;
  readonly site_override: SiteOverride | null;
  readonly readiness: NonNullable<MicroVMRecord['observation']>['readiness'] | null;
  readonly cpu_count: number | null;
  readonly memory_bytes: number | null;
  readonly is_secret_changed: boolean;
  readonly received_at: number;
}

const statement = {
  name: 'load-microvm',
  isHot: true,
  text: `select m.site_id, m.name, m.generation, m.desired, m.is_deleting,
      m.torn_down_at is not null or m.tombstoned_at is not null as is_torn_down,
      b.host_id, h.name as host_name, b.epoch, b.leaving_reason, m.update_restarts, m.site_order_noted,
      o.id as operation_id, o.plan_id, p.status as plan_status, o.kind, o.status, o.revision, o.generation as operation_generation,
      o.try_number, o.error_code, o.error_message,
      s.state, s.epoch as observed_epoch, s.revision as observed_revision, s.generation as observed_generation, s.sequence,
      s.observed_at, s.booted_at, s.restarts, s.is_crash_looping, s.is_restart_required, s.last_exit, s.problem, s.warnings, s.site_override, s.readiness, s.cpu_count, s.memory_bytes, s.is_secret_changed, s.received_at
    from nkudo.microvms m
    left join nkudo.bindings b on b.tenant_id = m.tenant_id and b.microvm_id = m.id and b.released_at is null
    left join nkudo.hosts h on h.tenant_id = b.tenant_id and h.id = b.host_id
    left join lateral (
      select * from nkudo.operations n where n.tenant_id = m.tenant_id and n.microvm_id = m.id order by n.revision desc limit 1
    ) o on true
    left join nkudo.plans p on p.tenant_id = o.tenant_id and p.id = o.plan_id
    left join nkudo.observations s on s.tenant_id = m.tenant_id and s.microvm_id = m.id
    where m.tenant_id = $1 and m.id = $2`,
};

/** Null when no intent was ever published for it. */
export async function loadMicroVM(tx: Tx, tenantId: TenantId, id: MicroVMId): Promise<MicroVMRecord | null> {
  const { rows } = await tx.query<MicroVMRow>(statement, [tenantId, id]);
  const [row] = rows;
  if (row === undefined) return null;
  return {
    tenantId,
    siteId: siteId(row.site_id),
    microvmId: id,
    name: row.name,
    generation: row.generation,
    desired: row.desired,
    isDeleting: row.is_deleting,
    isTornDown: row.is_torn_down,
    binding: row.host_id === null ? null : { hostId: hostId(row.host_id), hostName: row.host_name, epoch: parseEpoch(row.epoch), ...(row.leaving_reason === null ? {} : { leaving: row.leaving_reason }) },
    ...(row.update_restarts === 0 ? {} : { updateRestarts: row.update_restarts }),
    ...(row.site_order_noted === null ? {} : { siteOrderNoted: row.site_order_noted }),
    newestOperation: row.operation_id === null ? null : toNewestOperation(row, row.operation_id),
    observation: row.state === null ? null : toObservation(row, id, row.state),
  };
}

function toNewestOperation(row: MicroVMRow, id: string): MicroVMRecord['newestOperation'] {
  return {
    id: operationId(id),
    planId: planId(row.plan_id),
    planStatus: row.plan_status,
    kind: row.kind,
    status: row.status,
    revision: row.revision,
    generation: row.operation_generation,
    tryNumber: row.try_number,
    error: row.error_code === null ? null : { code: row.error_code, message: row.error_message ?? '' },
  };
}

function toObservation(row: MicroVMRow, id: MicroVMId, state: ObservedState): NonNullable<MicroVMRecord['observation']> {
  return {
    microvmId: id,
    epoch: parseEpoch(row.observed_epoch),
    revision: row.observed_revision,
    generation: row.observed_generation,
    sequence: row.sequence,
    state,
    observedAtMs: row.observed_at,
    ...(row.booted_at === null ? {} : { bootedAtMs: row.booted_at }),
    restarts: row.restarts,
    isCrashLooping: row.is_crash_looping,
    isRestartRequired: row.is_restart_required,
    ...(row.is_secret_changed ? { isSecretChanged: true } : {}),
    ...(row.last_exit === null ? {} : { lastExit: row.last_exit }),
    ...(row.problem === null ? {} : { problem: row.problem }),
    ...(row.warnings == null ? {} : { warnings: row.warnings }),
    ...(row.site_override === null ? {} : { siteOverride: row.site_override }),
    ...(row.readiness == null ? {} : { readiness: row.readiness }),
    ...(row.cpu_count == null ? {} : { cpuCount: row.cpu_count }),
    ...(row.memory_bytes == null ? {} : { memoryBytes: row.memory_bytes }),
    receivedAtMs: row.received_at,
  };
}
