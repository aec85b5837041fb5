/** Read side of the tenants' API; everything is limited to one tenant by the database itself. */
import type { MicroVMId, PlanId, TenantId } from '#api/model/ids.ts';
import type { ExecutionStatus, OperationKind, OperationStatus, PlanActionKind, PlanActionStatus, PlanStatus } from '#api/model/plan.ts';

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
export interface HostView { readonly id: string; readonly name: string; readonly siteName: string; readonly isApproved: boolean; readonly isRevoked: boolean; readonly isOnline: boolean; readonly lastBeatAtMs: number | null; readonly microvms: number }
export interface MicroVMView { readonly id: string; readonly name: string; readonly siteName: string; readonly hostName: string | null; readonly epoch: number | null; readonly state: string | null; readonly observedAtMs: number | null; readonly restarts: number; readonly planId: string | null; readonly planStatus: PlanStatus | null }
export interface ExecutionView { readonly id: string; readonly operationId: string; readonly microvmId: string; readonly kind: OperationKind; readonly attempt: number; readonly status: ExecutionStatus; readonly startedAtMs: number; readonly finishedAtMs: number | null; readonly error: { readonly code: string; readonly message: string } | null }

export interface Page<Row> { readonly rows: readonly Row[]; /** Opaque; null on the last page. */ readonly nextCursor: string | null }

export interface FleetStore {
  /** UID of the tenant whose namespace has that name; null when there is none. */
  findTenant(namespace: string): Promise<TenantId | null>;
  loadPlan(tenantId: TenantId, planId: PlanId): Promise<PlanView | null>;
  /** Callers' plans that are open, or that were accepted since the time or ended since; at most 500, newest first. */
  listPlans(tenantId: TenantId, siteName: string | null, sinceMs: number): Promise<readonly PlanView[]>;
  listSites(tenantId: TenantId, siteName: string | null, silentBeforeMs: number): Promise<readonly SiteView[]>;
  listHosts(tenantId: TenantId, siteName: string | null, silentBeforeMs: number): Promise<readonly HostView[]>;
  /** @throws INVALID_REQUEST on a cursor that this store did not make */
  listMicroVMs(tenantId: TenantId, siteName: string | null, page: { readonly size: number; readonly cursor: string | null }): Promise<Page<MicroVMView>>;
  listExecutions(tenantId: TenantId, microvmId: MicroVMId | null, page: { readonly size: number; readonly cursor: string | null }): Promise<Page<ExecutionView>>;
}
