/** Follows one plan: whole, then again with each change, until it has ended. */
import type { WatchPlanResponse } from '#api/gen/nkudo/v1/fleet.pb.ts';
import { AppError } from '#api/model/error-codes.ts';
import type { PlanId, TenantId } from '#api/model/ids.ts';
import type { Outgoing } from '#controller/grpc/calls.ts';
import type { FleetStore } from '#controller/ports/fleet-store.ts';
import { encodePlan } from './fleet-codec.ts';
import type { WakeUps } from './wake-ups.ts';

/** Longest time between two looks, milliseconds: what another replica committed may wake nobody here. */
const lookIntervalMs = 2_000;

export interface PlanWatchDeps {
  readonly fleet: Pick<FleetStore, 'loadPlan'>;
  readonly wakeUps: WakeUps;
}

/** @throws NOT_FOUND, DATABASE_UNAVAILABLE */
export async function watchPlan(
  deps: PlanWatchDeps,
  out: Outgoing<WatchPlanResponse>,
  watch: { readonly tenantId: TenantId; readonly planId: PlanId },
): Promise<void> {
  const changes = deps.wakeUps.subscribe(`tenant/${watch.tenantId}`, out.signal);
  let sent = '';
  while (!out.signal.aborted) {
    const view = await deps.fleet.loadPlan(watch.tenantId, watch.planId);
    if (view === null) throw new AppError('NOT_FOUND', 'there is no such plan in this namespace');
    const plan = encodePlan(view);
    const print = JSON.stringify(plan);
    if (print !== sent) await out.send({ plan });
    sent = print;
    if (view.finishedAtMs !== null) return;
    await changes.next(lookIntervalMs);
  }
}
