/**
 * What tenants call. Each handler is: check the form by its rules, ask Kubernetes for the right, find the tenant, do,
 * encode.
 */
import { id } from '#api/codec/validate.ts';
import { FleetServiceService, type FleetServiceServer, type GetStatusRequest, type GetStatusResponse } from '#api/gen/nkudo/v1/fleet.pb.ts';
import { AppError } from '#api/model/error-codes.ts';
import { microVMId, planId, type TenantId } from '#api/model/ids.ts';
import type { AccessTable, Callers, RegisteredService } from '#controller/grpc/access.ts';
import { serverStream, unary, type CallContext, type CallDeps } from '#controller/grpc/calls.ts';
import type { Clock } from '#controller/ports/clock.ts';
import type { FleetStore } from '#controller/ports/fleet-store.ts';
import type { LogStore } from '#controller/ports/log-store.ts';
import { applyPlan, cancelPlan, type PlanCallDeps } from './apply-plan.ts';
import type { FleetCaller, ResourceRight } from './authentication.ts';
import { decodeNamespace, decodePage, decodeSiteName, encodeExecutionView, encodeHost, encodeMicroVM, encodePlan, encodeSite } from './fleet-codec.ts';
import { watchStatus } from './status-watch.ts';
import { tailLogs } from './log-tail.ts';
import {
  applyPlanRules, cancelPlanRules, getPlanRules, getStatusRules, listExecutionsRules, tailLogsRules, validate, watchStatusRules,
} from './validation.ts';
import type { WakeUps } from './wake-ups.ts';

export interface FleetDeps extends PlanCallDeps {
  readonly clock: Clock;
  readonly fleet: FleetStore;
  readonly logs: Pick<LogStore, 'read'>;
  readonly wakeUps: WakeUps;
  /** A host whose last beat is older counts as offline, milliseconds. */
  readonly silenceMs: number;
}

export const fleetAccess: AccessTable = {
  '/nkudo.v1.FleetService/ApplyPlan': 'caller',
  '/nkudo.v1.FleetService/GetPlan': 'caller',
  '/nkudo.v1.FleetService/CancelPlan': 'caller',
  '/nkudo.v1.FleetService/GetStatus': 'caller',
  '/nkudo.v1.FleetService/WatchStatus': 'caller',
  '/nkudo.v1.FleetService/ListExecutions': 'caller',
  '/nkudo.v1.FleetService/TailLogs': 'caller',
};

/** The right that each method asks for in the namespace of its request; ApplyPlan asks for that of each write it makes. */
const rights = {
  getPlan: { verb: 'get', resource: 'microvms' },
  cancelPlan: { verb: 'patch', resource: 'microvms' },
  getStatus: { verb: 'list', resource: 'microvms' },
  watchStatus: { verb: 'watch', resource: 'microvms' },
  listExecutions: { verb: 'list', resource: 'microvms' },
  tailLogs: { verb: 'get', resource: 'microvms', subresource: 'log' },
} as const satisfies Record<string, ResourceRight>;

/** @throws INVALID_REQUEST on the cursor, NOT_FOUND */
async function getStatus(deps: FleetDeps, tenantId: TenantId, request: GetStatusRequest): Promise<GetStatusResponse> {
  const page = decodePage(request);
  const site = decodeSiteName(request.site);
  const silentBeforeMs = deps.clock.nowMs() - deps.silenceMs;
  const isFirst = page.cursor === null;
  const [sites, hosts, microvms] = await Promise.all([
    isFirst ? deps.fleet.listSites(tenantId, site, silentBeforeMs) : [],
    isFirst ? deps.fleet.listHosts(tenantId, site, silentBeforeMs) : [],
    deps.fleet.listMicroVMs(tenantId, site, page),
  ]);
  return { sites: sites.map(encodeSite), hosts: hosts.map(encodeHost), microvms: microvms.rows.map(encodeMicroVM), nextPageToken: microvms.nextCursor ?? '' };
}

export function createFleetService(deps: FleetDeps, callers: Callers<FleetCaller>, calls: CallDeps): RegisteredService {
  /** Checks the right before anything is read, so that a refusal tells nothing. */
  const enter = async (context: CallContext, namespaceText: string, right: ResourceRight): Promise<TenantId> => {
    const namespace = decodeNamespace(namespaceText);
    await deps.authentication.authorize(callers.of(context.auth), namespace, right);
    const tenantId = await deps.fleet.findTenant(namespace);
    if (tenantId === null) throw new AppError('NOT_FOUND', `namespace ${namespace} has no site yet`);
    return tenantId;
  };
  /** Long calls ask again from time to time: rights and tokens end. */
  const recheck = (context: CallContext, namespace: string, right: ResourceRight) => async (): Promise<void> =>
    deps.authentication.authorize(await deps.authentication.authenticate(context.metadata), namespace, right);
  const implementation: FleetServiceServer = {
    applyPlan: unary(calls, async (request, context) => {
      validate(applyPlanRules, request);
      return { plan: await applyPlan(deps, request, { caller: callers.of(context.auth), peer: context.peer }) };
    }),
    cancelPlan: unary(calls, async (request, context) => {
      validate(cancelPlanRules, request);
      const tenantId = await enter(context, request.namespace, rights.cancelPlan);
      return { plan: await cancelPlan(deps, { tenantId, planId: request.planId }, { caller: callers.of(context.auth), peer: context.peer }) };
    }),
    getPlan: unary(calls, async (request, context) => {
      validate(getPlanRules, request);
      const tenantId = await enter(context, request.namespace, rights.getPlan);
      const plan = await deps.fleet.loadPlan(tenantId, id('plan_id', planId, request.planId));
      if (plan === null) throw new AppError('NOT_FOUND', 'there is no such plan in this namespace');
      return { plan: encodePlan(plan) };
    }),
    getStatus: unary(calls, async (request, context) => {
      validate(getStatusRules, request);
      return getStatus(deps, await enter(context, request.namespace, rights.getStatus), request);
    }),
    listExecutions: unary(calls, async (request, context) => {
      validate(listExecutionsRules, request);
      const tenantId = await enter(context, request.namespace, rights.listExecutions);
      const microvm = request.microvmUid === '' ? null : id('microvm_uid', microVMId, request.microvmUid);
      const page = await deps.fleet.listExecutions(tenantId, microvm, decodePage(request));
      return { executions: page.rows.map(encodeExecutionView), nextPageToken: page.nextCursor ?? '' };
    }),
    watchStatus: serverStream(calls, async (request, out, context) => {
      validate(watchStatusRules, request);
      const tenantId = await enter(context, request.namespace, rights.watchStatus);
      await watchStatus(deps, out, { tenantId, siteName: decodeSiteName(request.site), recheck: recheck(context, request.namespace, rights.watchStatus) });
    }),
    tailLogs: serverStream(calls, async (request, out, context) => {
      validate(tailLogsRules, request);
      const tenantId = await enter(context, request.namespace, rights.tailLogs);
      await tailLogs(deps, out, { tenantId, request, recheck: recheck(context, request.namespace, rights.tailLogs) });
    }),
  };
  return { definition: FleetServiceService, implementation };
}
