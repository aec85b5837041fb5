/** The tenants' API over gRPC: each method hands its request to the call of the same name in `fleet-calls.ts`. */
import { FleetServiceService, type FleetServiceServer } from '#api/gen/nkudo/v1/fleet.pb.ts';
import type { AccessTable, Callers, RegisteredService } from '#controller/grpc/access.ts';
import { serverStream, unary, type CallContext, type CallDeps } from '#controller/grpc/calls.ts';
import type { Caller } from './apply-plan.ts';
import type { FleetCaller } from './authentication.ts';
import type { FleetCalls } from './fleet-calls.ts';
import { fleetRights } from './rights.ts';

/** Every method of the proto needs a caller. */
export const fleetAccess: AccessTable = Object.fromEntries(Object.keys(fleetRights).map((method) => [`/nkudo.v1.FleetService/${method}`, 'caller' as const]));

export function createFleetService(
  fleet: FleetCalls,
  input: { readonly callers: Callers<FleetCaller>; readonly calls: CallDeps },
): RegisteredService {
  const { calls, callers } = input;
  const from = (context: CallContext): Caller => ({ caller: callers.of(context.auth), peer: context.peer });
  const answer = <Request, Response>(call: (request: Request, origin: Caller) => Promise<Response>) => unary<Request, Response>(calls, (request, context) => call(request, from(context)));
  const implementation: FleetServiceServer = {
    applyPlan: answer(fleet.ApplyPlan),
    getPlan: answer(fleet.GetPlan),
    cancelPlan: answer(fleet.CancelPlan),
    getStatus: answer(fleet.GetStatus),
    watchStatus: serverStream(calls, (request, out, context) => fleet.WatchStatus(request, out, from(context))),
    listExecutions: answer(fleet.ListExecutions),
    tailLogs: serverStream(calls, (request, out, context) => fleet.TailLogs(request, out, from(context))),
    listSites: answer(fleet.ListSites),
    getSite: answer(fleet.GetSite),
    listHosts: answer(fleet.ListHosts),
    getHost: answer(fleet.GetHost),
    listMicroVMs: answer(fleet.ListMicroVMs),
    getMicroVm: answer(fleet.GetMicroVM),
    listPlans: answer(fleet.ListPlans),
    watchPlan: serverStream(calls, (request, out, context) => fleet.WatchPlan(request, out, from(context))),
    getExecution: answer(fleet.GetExecution),
    listAuditEvents: answer(fleet.ListAuditEvents),
  };
  return { definition: FleetServiceService, implementation };
}
