/** Read side of the tenants' API; everything is limited to one tenant by the database itself. */
import type { HostPhaseFacts } from '#api/model/host.ts';
import type { MicroVMId, PlanId, TenantId } from '#api/model/ids.ts';
import type { ExecutionStatus, OperationKind, OperationStatus, PlanActionKind, PlanActionStatus, PlanStatus } from '#api/model/plan.ts';
import type { SiteOverride } from '#api/model/site-orders.ts';

export interface PlanView {
  readonly id: PlanId;
  readonly siteName: string;
  readonly idempotencyKey: string;
  readonly contentHash: string;
  readonly status: PlanStatus;
  readonly createdAtMs: number;
  readonly finishedAtMs: number | null;
  readonly operations: readonly {
    readonly id: string;
    readonly microvmId: string;
    readonly hostName: string;
    readonly kind: OperationKind;
    readonly epoch: number;
    readonly revision: number;
    readonly status: OperationStatus;
    readonly error: { readonly code: string; readonly message: string } | null;
  }[];
  /** Of a caller's plan, in the order of its request; else empty. */
  readonly actions: readonly {
    readonly kind: PlanActionKind;
    readonly name: string;
    readonly microvmId: string | null;
    readonly status: PlanActionStatus;
    readonly generation: number | null;
    readonly operationId: string | null;
    readonly error: { readonly code: string; readonly message: string } | null;
  }[];
  readonly isForced: boolean;
}

export interface SiteView { readonly id: string; readonly name: string; readonly hosts: number; readonly hostsOnline: number; readonly microvms: number; readonly microvmsRunning: number }
export interface HostView extends HostPhaseFacts { readonly id: string; readonly name: string; readonly siteName: string; readonly lastBeatAtMs: number | null; readonly microvms: number }
export interface MicroVMView { readonly id: string; readonly name: string; readonly siteName: string; readonly hostName: string | null; readonly epoch: number | null; readonly state: string | null; readonly observedAtMs: number | null; readonly restarts: number; readonly planId: string | null; readonly planStatus: PlanStatus | null; readonly siteOverride: SiteOverride | null; /** Of the running guest. */ readonly cpus: number | null; readonly memoryBytes: number | null }
export interface ExecutionView { readonly id: string; readonly operationId: string; readonly microvmId: string; readonly kind: OperationKind; readonly attempt: number; readonly status: ExecutionStatus; readonly startedAtMs: number; readonly finishedAtMs: number | null; readonly error: { readonly code: string; readonly message: string } | null }

/** One row of the audit log. Hashes are SHA-256, lower-case hexadecimal. */
export interface AuditEventView { readonly id: number; readonly atMs: number; readonly actorKind: string; readonly actorName: string; readonly actorFrom: string; readonly action: string; readonly subjectKind: string; readonly subjectId: string; readonly beforeHash: string | null; readonly afterHash: string | null }

export interface Page<Row> { readonly rows: readonly Row[]; /** Opaque; null on the last page. */ readonly nextCursor: string | null }

export interface PageRequest { /** 1 to 1000. */ readonly size: number; readonly cursor: string | null }

/** By exactly one of its names. */
export type ByNameOrId = { readonly name: string } | { readonly id: string };

/** What is null limits nothing. */
export interface MicroVMFilter { readonly siteName: string | null; readonly hostName: string | null; readonly state: string | null }
export interface PlanFilter { readonly siteName: string | null; readonly microvmId: MicroVMId | null; readonly status: PlanStatus | null; readonly includesController: boolean }
export interface ExecutionFilter {
  readonly siteName: string | null;
  readonly microvmId: MicroVMId | null;
  readonly operationId: string | null;
  readonly planId: PlanId | null;
  /** Host that was to do it, also one that is revoked; absent limits nothing. */
  readonly hostName?: string | null;
  readonly status: ExecutionStatus | null;
  /** Epoch milliseconds, inclusive and exclusive. */
  readonly startedFromMs: number | null;
  readonly startedBeforeMs: number | null;
}
export interface AuditEventFilter { readonly subjectKind: string | null; readonly subjectId: string | null }

/** Lists with filters and single objects. Every page call: @throws INVALID_REQUEST on a cursor that this store did not make. */
export interface FleetLists {
  pageSites(tenantId: TenantId, silentBeforeMs: number, page: PageRequest): Promise<Page<SiteView>>;
  findSite(tenantId: TenantId, by: ByNameOrId, silentBeforeMs: number): Promise<SiteView | null>;
  /** Revoked hosts are left out. */
  pageHosts(tenantId: TenantId, siteName: string | null, silentBeforeMs: number, page: PageRequest): Promise<Page<HostView>>;
  findHost(tenantId: TenantId, by: ByNameOrId, silentBeforeMs: number): Promise<HostView | null>;
  pageMicroVMs(tenantId: TenantId, filter: MicroVMFilter, page: PageRequest): Promise<Page<MicroVMView>>;
  findMicroVM(tenantId: TenantId, by: ByNameOrId): Promise<MicroVMView | null>;
  /** Newest first; at most 100 on a page. */
  pagePlans(tenantId: TenantId, filter: PlanFilter, page: PageRequest): Promise<Page<PlanView>>;
  /** Newest first. */
  pageExecutions(tenantId: TenantId, filter: ExecutionFilter, page: PageRequest): Promise<Page<ExecutionView>>;
  findExecution(tenantId: TenantId, executionId: string): Promise<ExecutionView | null>;
  /** Newest first. */
  pageAuditEvents(tenantId: TenantId, filter: AuditEventFilter, page: PageRequest): Promise<Page<AuditEventView>>;
}

export interface FleetStore extends FleetLists {
  /** UID of the tenant whose namespace has that name; null when there is none. */
  findTenant(namespace: string): Promise<TenantId | null>;
  loadPlan(tenantId: TenantId, planId: PlanId): Promise<PlanView | null>;
  /** Callers' plans that are open, or that were accepted since the time or ended since; at most 500, newest first. */
  listPlans(tenantId: TenantId, siteName: string | null, sinceMs: number): Promise<readonly PlanView[]>;
  listSites(tenantId: TenantId, siteName: string | null, silentBeforeMs: number): Promise<readonly SiteView[]>;
  listHosts(tenantId: TenantId, siteName: string | null, silentBeforeMs: number): Promise<readonly HostView[]>;
  /** @throws INVALID_REQUEST on a cursor that this store did not make */
  listMicroVMs(tenantId: TenantId, siteName: string | null, page: { readonly size: number; readonly cursor: string | null }): Promise<Page<MicroVMView>>;
}
