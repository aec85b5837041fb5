/**
 * Every call of the tenants' API, once, for both front doors: gRPC and HTTPS. Each is: check the form by its rules, ask for
 * the right (`rights.ts`), find the tenant, do, encode.
 *
 * Invariant: nothing is read or written for a caller before the right was granted, so that a refusal tells nothing.
 */
import { decodeOptionalTimestamp } from '#api/codec/timestamp.ts';
import { id } from '#api/codec/validate.ts';
import type {
  ApplyPlanRequest, ApplyPlanResponse, CancelPlanRequest, CancelPlanResponse, GetExecutionRequest, GetExecutionResponse, GetHostRequest, GetHostResponse,
  GetMicroVMRequest, GetMicroVMResponse, GetPlanRequest, GetPlanResponse, GetSiteRequest, GetSiteResponse, GetStatusRequest, GetStatusResponse,
  ListAuditEventsRequest, ListAuditEventsResponse, ListExecutionsRequest, ListExecutionsResponse, ListHostsRequest, ListHostsResponse,
  ListMicroVMsRequest, ListMicroVMsResponse, ListPlansRequest, ListPlansResponse, ListSitesRequest, ListSitesResponse, TailLogsRequest, TailLogsResponse,
  WatchPlanRequest, WatchPlanResponse, WatchStatusRequest, WatchStatusResponse,
} from '#api/gen/nkudo/v1/fleet.pb.ts';
import { AppError } from '#api/model/error-codes.ts';
import { microVMId, planId, type TenantId } from '#api/model/ids.ts';
import { isExecutionStatus } from '#api/model/plan.ts';
import type { Outgoing } from '#controller/grpc/calls.ts';
import type { Clock } from '#controller/ports/clock.ts';
import type { ByNameOrId, FleetStore } from '#controller/ports/fleet-store.ts';
import type { LogStore } from '#controller/ports/log-store.ts';
import { applyPlan, cancelPlan, type Caller, type PlanCallDeps } from './apply-plan.ts';
import {
  decodePage, decodePlanStatus, decodeSiteName, emptyToNull, encodeAuditEvent, encodeExecutionView, encodeHost, encodeMicroVM, encodePlan, encodeSite,
} from './fleet-codec.ts';
import { tailLogs } from './log-tail.ts';
import { fleetRights, targetOf, type FleetMethod } from './rights.ts';
import { watchPlan } from './plan-watch.ts';
import { createSharedStatuses, createStatusMemory, watchStatus, type StatusMemory } from './status-watch.ts';
import {
  applyPlanRules, cancelPlanRules, getExecutionRules, getHostRules, getMicroVMRules, getPlanRules, getSiteRules, getStatusRules, listAuditEventsRules,
  listExecutionsRules, listHostsRules, listMicroVMsRules, listPlansRules, listSitesRules, tailLogsRules, validate, watchPlanRules, watchStatusRules, type Rule,
} from './validation.ts';
import type { WakeUps } from './wake-ups.ts';

export interface FleetDeps extends PlanCallDeps {
  readonly clock: Clock;
  readonly fleet: FleetStore;
  readonly logs: Pick<LogStore, 'read' | 'readLast'>;
  readonly wakeUps: WakeUps;
  /** A host whose last beat is older counts as offline, milliseconds. */
  readonly silenceMs: number;
}

/** What each call checks of its request before anything else. */
export const fleetRules = {
  ApplyPlan: applyPlanRules,
  GetPlan: getPlanRules,
  CancelPlan: cancelPlanRules,
  GetStatus: getStatusRules,
  WatchStatus: watchStatusRules,
  ListExecutions: listExecutionsRules,
  TailLogs: tailLogsRules,
  ListSites: listSitesRules,
  GetSite: getSiteRules,
  ListHosts: listHostsRules,
  GetHost: getHostRules,
  ListMicroVMs: listMicroVMsRules,
  GetMicroVM: getMicroVMRules,
  ListPlans: listPlansRules,
  WatchPlan: watchPlanRules,
  GetExecution: getExecutionRules,
  ListAuditEvents: listAuditEventsRules,
} as const satisfies Readonly<Record<FleetMethod, readonly Rule<never>[]>>;

type Unary<Request, Response> = (request: Request, from: Caller) => Promise<Response>;
type Streaming<Request, Response> = (request: Request, out: Outgoing<Response>, from: Caller) => Promise<void>;

export interface FleetCalls {
  readonly ApplyPlan: Unary<ApplyPlanRequest, ApplyPlanResponse>;
  readonly GetPlan: Unary<GetPlanRequest, GetPlanResponse>;
  readonly CancelPlan: Unary<CancelPlanRequest, CancelPlanResponse>;
  readonly GetStatus: Unary<GetStatusRequest, GetStatusResponse>;
  /** `memory` is what the caller was sent before; a new one begins with everything. */
  readonly WatchStatus: (request: WatchStatusRequest, out: Outgoing<WatchStatusResponse>, from: Caller, memory?: StatusMemory) => Promise<void>;
  readonly ListExecutions: Unary<ListExecutionsRequest, ListExecutionsResponse>;
  readonly TailLogs: Streaming<TailLogsRequest, TailLogsResponse>;
  readonly ListSites: Unary<ListSitesRequest, ListSitesResponse>;
  readonly GetSite: Unary<GetSiteRequest, GetSiteResponse>;
  readonly ListHosts: Unary<ListHostsRequest, ListHostsResponse>;
  readonly GetHost: Unary<GetHostRequest, GetHostResponse>;
  readonly ListMicroVMs: Unary<ListMicroVMsRequest, ListMicroVMsResponse>;
  readonly GetMicroVM: Unary<GetMicroVMRequest, GetMicroVMResponse>;
  readonly ListPlans: Unary<ListPlansRequest, ListPlansResponse>;
  readonly WatchPlan: Streaming<WatchPlanRequest, WatchPlanResponse>;
  readonly GetExecution: Unary<GetExecutionRequest, GetExecutionResponse>;
  readonly ListAuditEvents: Unary<ListAuditEventsRequest, ListAuditEventsResponse>;
}

type OneRight = Exclude<FleetMethod, 'ApplyPlan'>;

const byName = (name: string, objectId: string): ByNameOrId => (name === '' ? { id: objectId } : { name });

function found<View>(view: View | null, what: string): View {
  if (view === null) throw new AppError('NOT_FOUND', `there is no such ${what} in this namespace`);
  return view;
}

/** Plans come whole, so that fewer are on a page than of anything else. */
const defaultPlanPageSize = 20;

export function createFleetCalls(deps: FleetDeps): FleetCalls {
  const { fleet } = deps;
  const statuses = createSharedStatuses(deps);
  const silentBeforeMs = (): number => deps.clock.nowMs() - deps.silenceMs;

  const authorizedTenant = async (method: OneRight, request: { readonly namespace: string }, from: Caller): Promise<TenantId> => {
    await deps.authentication.authorize(from.caller, request.namespace, fleetRights[method], targetOf(method, request));
    const tenantId = await fleet.findTenant(request.namespace);
    if (tenantId === null) throw new AppError('NOT_FOUND', `namespace ${request.namespace} has no site yet`);
    return tenantId;
  };

  /** A call of one answer with its rules and its right. */
  function call<Request extends { readonly namespace: string }, Response>(
    method: OneRight,
    rules: readonly Rule<Request>[],
    work: (tenantId: TenantId, request: Request, from: Caller) => Promise<Response>,
  ): Unary<Request, Response> {
    return async (request, from) => {
      validate(rules, request);
      return work(await authorizedTenant(method, request, from), request, from);
    };
  }

  /** Checks as {@link call} does. A caller that loses the right is cut off from outside, see `authentication.ts`. */
  function stream<Request extends { readonly namespace: string }, Response>(
    method: OneRight,
    rules: readonly Rule<Request>[],
    work: (tenantId: TenantId, request: Request, out: Outgoing<Response>) => Promise<void>,
  ): Streaming<Request, Response> {
    return async (request, out, from) => {
      validate(rules, request);
      await work(await authorizedTenant(method, request, from), request, out);
    };
  }

  return {
    ApplyPlan: async (request, from) => {
      validate(applyPlanRules, request);
      return { plan: await applyPlan(deps, request, from) };
    },
    CancelPlan: call('CancelPlan', cancelPlanRules, async (tenantId, request, from) => ({ plan: await cancelPlan(deps, { tenantId, planId: request.planId }, from) })),
    GetPlan: call('GetPlan', getPlanRules, async (tenantId, request) => ({ plan: encodePlan(found(await fleet.loadPlan(tenantId, id('plan_id', planId, request.planId)), 'plan')) })),
    ListPlans: call('ListPlans', listPlansRules, async (tenantId, request) => {
      const page = await fleet.pagePlans(
        tenantId,
        {
          siteName: decodeSiteName(request.site),
          microvmId: request.microvmUid === '' ? null : id('microvm_uid', microVMId, request.microvmUid),
          status: decodePlanStatus(request.status),
          includesController: request.includeController,
        },
        decodePage(request, defaultPlanPageSize),
      );
      return { plans: page.rows.map(encodePlan), nextPageToken: page.nextCursor ?? '' };
    }),
    GetStatus: call('GetStatus', getStatusRules, async (tenantId, request) => {
      const page = decodePage(request);
      const site = decodeSiteName(request.site);
      const isFirst = page.cursor === null;
      const [sites, hosts, microvms] = await Promise.all([
        isFirst ? fleet.listSites(tenantId, site, silentBeforeMs()) : [],
        isFirst ? fleet.listHosts(tenantId, site, silentBeforeMs()) : [],
        fleet.listMicroVMs(tenantId, site, page),
      ]);
      return { sites: sites.map(encodeSite), hosts: hosts.map(encodeHost), microvms: microvms.rows.map(encodeMicroVM), nextPageToken: microvms.nextCursor ?? '' };
    }),
    ListSites: call('ListSites', listSitesRules, async (tenantId, request) => {
      const page = await fleet.pageSites(tenantId, silentBeforeMs(), decodePage(request));
      return { sites: page.rows.map(encodeSite), nextPageToken: page.nextCursor ?? '' };
    }),
    GetSite: call('GetSite', getSiteRules, async (tenantId, request) => ({
      site: encodeSite(found(await fleet.findSite(tenantId, byName(request.name, request.uid), silentBeforeMs()), 'site')),
    })),
    ListHosts: call('ListHosts', listHostsRules, async (tenantId, request) => {
      const page = await fleet.pageHosts(tenantId, decodeSiteName(request.site), silentBeforeMs(), decodePage(request));
      return { hosts: page.rows.map(encodeHost), nextPageToken: page.nextCursor ?? '' };
    }),
    GetHost: call('GetHost', getHostRules, async (tenantId, request) => ({
      host: encodeHost(found(await fleet.findHost(tenantId, byName(request.name, request.id), silentBeforeMs()), 'host')),
    })),
    ListMicroVMs: call('ListMicroVMs', listMicroVMsRules, async (tenantId, request) => {
      const filter = { siteName: decodeSiteName(request.site), hostName: emptyToNull(request.host), state: emptyToNull(request.state) };
      const page = await fleet.pageMicroVMs(tenantId, filter, decodePage(request));
      return { microvms: page.rows.map(encodeMicroVM), nextPageToken: page.nextCursor ?? '' };
    }),
    GetMicroVM: call('GetMicroVM', getMicroVMRules, async (tenantId, request) => ({
      microvm: encodeMicroVM(found(await fleet.findMicroVM(tenantId, byName(request.name, request.uid)), 'microVM')),
    })),
    ListExecutions: call('ListExecutions', listExecutionsRules, async (tenantId, request) => {
      const page = await fleet.pageExecutions(
        tenantId,
        {
          siteName: decodeSiteName(request.site),
          microvmId: request.microvmUid === '' ? null : id('microvm_uid', microVMId, request.microvmUid),
          operationId: emptyToNull(request.operationId),
          planId: request.planId === '' ? null : id('plan_id', planId, request.planId),
          hostName: emptyToNull(request.host),
          status: isExecutionStatus(request.status) ? request.status : null,
          startedFromMs: decodeOptionalTimestamp('started_from', request.startedFrom) ?? null,
          startedBeforeMs: decodeOptionalTimestamp('started_before', request.startedBefore) ?? null,
        },
        decodePage(request),
      );
      return { executions: page.rows.map(encodeExecutionView), nextPageToken: page.nextCursor ?? '' };
    }),
    GetExecution: call('GetExecution', getExecutionRules, async (tenantId, request) => ({
      execution: encodeExecutionView(found(await fleet.findExecution(tenantId, request.executionId), 'execution')),
    })),
    ListAuditEvents: call('ListAuditEvents', listAuditEventsRules, async (tenantId, request) => {
      const page = await fleet.pageAuditEvents(tenantId, { subjectKind: emptyToNull(request.subjectKind), subjectId: emptyToNull(request.subjectId) }, decodePage(request));
      return { events: page.rows.map(encodeAuditEvent), nextPageToken: page.nextCursor ?? '' };
    }),
    WatchStatus: (request, out, from, memory = createStatusMemory()) =>
      stream('WatchStatus', watchStatusRules, (tenantId, asked: WatchStatusRequest, to: Outgoing<WatchStatusResponse>) =>
        watchStatus({ ...deps, statuses }, to, { tenantId, siteName: decodeSiteName(asked.site), memory }),
      )(request, out, from),
    WatchPlan: stream('WatchPlan', watchPlanRules, (tenantId, request, out) => watchPlan(deps, out, { tenantId, planId: id('plan_id', planId, request.planId) })),
    TailLogs: stream('TailLogs', tailLogsRules, (tenantId, request, out) => tailLogs(deps, out, { tenantId, request })),
  };
}
