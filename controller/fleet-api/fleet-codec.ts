/** From the views of the fleet store to the messages of nkudo.v1, and the checks of its requests. */
import { encodeOptionalTimestamp, encodeTimestamp } from '#api/codec/timestamp.ts';
import { enumMap, integer, invalid, text } from '#api/codec/validate.ts';
import {
  PlanAction_Kind,
  PlanStatus as PlanStatusNumber,
  type AuditEvent,
  type Execution,
  type HostStatus,
  type MicroVMStatus,
  type Plan,
  type PlanActionProgress,
  type SiteOverride as SiteOverrideMessage,
  type SiteStatus,
  type TailLogsResponse,
} from '#api/gen/nkudo/v1/fleet.pb.ts';
import { deriveHostPhase } from '#api/model/host.ts';
import type { SiteOverride } from '#api/model/site-orders.ts';
import type { PlanActionKind, PlanStatus } from '#api/model/plan.ts';
import type { AuditEventView, ExecutionView, HostView, MicroVMView, PlanView, SiteView } from '#controller/ports/fleet-store.ts';
import type { LogSource, StoredLogChunk } from '#controller/ports/log-store.ts';

const planStatusMap = enumMap<PlanStatus>({
  Pending: PlanStatusNumber.PENDING,
  Dispatched: PlanStatusNumber.DISPATCHED,
  Running: PlanStatusNumber.RUNNING,
  Succeeded: PlanStatusNumber.SUCCEEDED,
  Failed: PlanStatusNumber.FAILED,
  Superseded: PlanStatusNumber.SUPERSEDED,
  Cancelled: PlanStatusNumber.CANCELLED,
  Expired: PlanStatusNumber.EXPIRED,
});

function encodePlanStatus(status: PlanStatus): PlanStatusNumber {
  return planStatusMap.encode(status) as PlanStatusNumber; // The table holds nothing else.
}

export const actionKindMap = enumMap<PlanActionKind>({
  Create: PlanAction_Kind.CREATE,
  Start: PlanAction_Kind.START,
  Stop: PlanAction_Kind.STOP,
  Delete: PlanAction_Kind.DELETE,
});

export type ActionView = PlanView['actions'][number];

export function encodeAction(action: ActionView): PlanActionProgress {
  return {
    kind: actionKindMap.encode(action.kind) as PlanAction_Kind, // The table holds nothing else.
    name: action.name,
    uid: action.microvmId ?? '',
    state: action.status,
    generation: action.generation ?? 0,
    operationId: action.operationId ?? '',
    errorCode: action.error?.code ?? '',
    errorMessage: action.error?.message ?? '',
  };
}

const forceWarning = 'fields were taken over from other field managers; a GitOps tool that owns them may put them back';

export function encodePlan(plan: PlanView): Plan {
  const failure = [...plan.actions, ...plan.operations].find((part) => part.error !== null && (part.status === 'Failed' || part.status === 'Superseded'))?.error;
  return {
    actions: plan.actions.map(encodeAction),
    errorCode: failure?.code ?? '',
    errorMessage: failure?.message ?? '',
    warnings: plan.isForced ? [forceWarning] : [],
    id: plan.id,
    site: plan.siteName,
    idempotencyKey: plan.idempotencyKey,
    contentHash: plan.contentHash,
    status: encodePlanStatus(plan.status),
    createdAt: encodeTimestamp(plan.createdAtMs),
    finishedAt: encodeOptionalTimestamp(plan.finishedAtMs ?? undefined),
    operations: plan.operations.map((operation) => ({
      id: operation.id,
      microvmUid: operation.microvmId,
      host: operation.hostName,
      kind: operation.kind,
      epoch: operation.epoch,
      revision: operation.revision,
      status: encodePlanStatus(operation.status),
      errorCode: operation.error?.code ?? '',
      errorMessage: operation.error?.message ?? '',
    })),
  };
}

export function encodeSite(site: SiteView): SiteStatus {
  const { id, ...rest } = site;
  return { ...rest, uid: id };
}

export function encodeHost(host: HostView): HostStatus {
  return { id: host.id, name: host.name, site: host.siteName, phase: deriveHostPhase(host), lastBeatAt: encodeOptionalTimestamp(host.lastBeatAtMs ?? undefined), microvms: host.microvms };
}

export function encodeMicroVM(microvm: MicroVMView): MicroVMStatus {
  return {
    uid: microvm.id,
    name: microvm.name,
    site: microvm.siteName,
    host: microvm.hostName ?? '',
    epoch: microvm.epoch ?? 0,
    state: microvm.state ?? '',
    observedAt: encodeOptionalTimestamp(microvm.observedAtMs ?? undefined),
    restarts: microvm.restarts,
    planId: microvm.planId ?? '',
    planStatus: microvm.planStatus === null ? PlanStatusNumber.UNSPECIFIED : encodePlanStatus(microvm.planStatus),
    siteOverride: encodeSiteOverride(microvm.siteOverride),
    cpus: microvm.cpus ?? 0,
    memoryBytes: microvm.memoryBytes ?? 0,
  };
}

function encodeSiteOverride(override: SiteOverride | null): SiteOverrideMessage | undefined {
  if (override === null) return undefined;
  const { kind, by, atMs, number, acceptsTwoCopies, isAgainstSpec } = override;
  return { kind, user: by.user, uid: by.uid, since: encodeTimestamp(atMs), orderNumber: number, acceptsTwoCopies: acceptsTwoCopies === true, againstSpec: isAgainstSpec === true };
}

export function encodeExecutionView(execution: ExecutionView): Execution {
  return {
    id: execution.id,
    operationId: execution.operationId,
    microvmUid: execution.microvmId,
    kind: execution.kind,
    attempt: execution.attempt,
    status: execution.status,
    startedAt: encodeTimestamp(execution.startedAtMs),
    finishedAt: encodeOptionalTimestamp(execution.finishedAtMs ?? undefined),
    errorCode: execution.error?.code ?? '',
    errorMessage: execution.error?.message ?? '',
  };
}

export function encodeLogChunk(chunk: StoredLogChunk): TailLogsResponse {
  return { incarnation: chunk.incarnation, offset: chunk.offset, data: Buffer.from(chunk.data), gapBytes: chunk.gapBytes, receivedAt: encodeTimestamp(chunk.receivedAtMs) };
}

export function encodeAuditEvent(event: AuditEventView): AuditEvent {
  return {
    id: event.id, at: encodeTimestamp(event.atMs), actorKind: event.actorKind, actorName: event.actorName, actorFrom: event.actorFrom, action: event.action,
    subjectKind: event.subjectKind, subjectId: event.subjectId, beforeHash: event.beforeHash ?? '', afterHash: event.afterHash ?? '',
  };
}

/** Null: every status. @throws INVALID_REQUEST */
export function decodePlanStatus(status: PlanStatusNumber): PlanStatus | null {
  return status === PlanStatusNumber.UNSPECIFIED ? null : planStatusMap.decode('status', status);
}

export function emptyToNull(value: string): string | null {
  return value === '' ? null : value;
}

const pageSizeMax = 1000;
const defaultPageSize = 100;
const cursorMax = 1024;

/** @throws INVALID_REQUEST */
export function decodePage(request: { readonly pageSize: number; readonly pageToken: string }, defaultSize: number = defaultPageSize): { readonly size: number; readonly cursor: string | null } {
  const size = integer('page_size', request.pageSize, 0, pageSizeMax);
  const cursor = text('page_token', request.pageToken, { max: cursorMax, allowEmpty: true });
  return { size: size === 0 ? defaultSize : size, cursor: cursor === '' ? null : cursor };
}

/** @throws INVALID_REQUEST */
export function decodeSiteName(site: string): string | null {
  return site === '' ? null : text('site', site, { max: 253 });
}

/** @throws INVALID_REQUEST */
export function decodeLogSource(source: string): LogSource {
  if (source === '' || source === 'serial') return 'serial';
  if (source === 'vmm') return 'vmm';
  throw invalid('source', 'must be serial or vmm');
}
