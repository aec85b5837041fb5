/** What one look at the mesh of one site works with. */
import { siteId, type SiteId, type TenantId } from '#api/model/ids.ts';
import type { Site } from '#crds/gen/site.ts';
import type { MeshScope } from '#controller/domain/mesh/names.ts';
import type { OpenMeshAccount } from '#controller/ports/mesh.ts';
import type { MeshSiteRecord, MeshStore } from '#controller/ports/mesh-store.ts';
import type { Outcome, Step } from '#controller/runtime/outcome.ts';
import { waiting } from '#controller/runtime/outcome.ts';
import type { SiteConditionReason } from '#crds/conditions.ts';
import type { MeshFaultPoints } from '#controller/mesh-fault-points.ts';
import type { MeshMetrics } from '#controller/telemetry/mesh-metrics.ts';
import { isAppError } from '#api/model/error-codes.ts';
import type { ReconcilerDeps } from '../deps.ts';
import { parseSite, siteResource } from '../kinds.ts';
import type { MeshBoard } from './board.ts';
import type { MeshGate } from './gate.ts';
import type { MeshToken } from './token.ts';

export interface MeshTimes {
  /** Between two looks at an account in which nothing seemed to change; drift is found by then. */
  readonly meshResyncIntervalMs: number;
  /** Longest time between two tries while an account does not answer. */
  readonly meshRetryMaxMs: number;
  /** A Site that is being deleted waits so long for an account that does not answer. */
  readonly meshAbandonAfterMs: number;
}

export interface MeshDeps extends ReconcilerDeps {
  readonly mesh: MeshStore;
  readonly openAccount: OpenMeshAccount;
  readonly meshFaults: MeshFaultPoints;
  readonly metrics: MeshMetrics;
  readonly board: MeshBoard;
  readonly gate: MeshGate;
  readonly times: MeshTimes;
  /** Last looks in which an account was as it should be, by site. */
  readonly settled: Map<string, { readonly fingerprint: string; readonly atMs: number }>;
  /** Tokens as they were last read: a namespace that is being deleted loses its Secret first. */
  readonly tokens: Map<string, MeshToken>;
  /** Aborted when this leadership ends. */
  readonly signal: AbortSignal;
}

export interface MeshSiteScope {
  object: Site;
  readonly siteId: SiteId;
  readonly tenantId: TenantId;
  readonly names: MeshScope;
  /** As it was saved last. */
  saved: MeshSiteRecord | null;
  token: MeshToken | null;
  isPoolFull: boolean;
}

export type MeshStep = Step<MeshSiteScope, MeshDeps>;

export const meshFinalizer = 'nkudo.dev/mesh-cleanup';
/** "true": the Site may go without what it has in the mesh account. */
export const abandonAnnotation = 'nkudo.dev/mesh-abandon';

export const siteKind = (deps: MeshDeps) => ({ resource: siteResource, parse: parseSite, cache: deps.caches.sites });

export const siteUidOf = (site: Site): SiteId => siteId(site.metadata.uid);

/** Codes of docs/errors.md that say something about the account, and their reasons. */
const reasonByCode: Readonly<Record<string, SiteConditionReason<'MeshReady'>>> = {
  MESH_UNAUTHORIZED: 'MeshUnauthorized',
  MESH_RATE_LIMITED: 'MeshRateLimited',
  MESH_UNAVAILABLE: 'MeshUnavailable',
  MESH_REFUSED: 'MeshRefused',
};

/** A gate belongs to one spec and one token: a change of either is tried at once. */
export function gateFingerprint(scope: MeshSiteScope): string {
  return `${scope.object.metadata.generation ?? 0} ${scope.token?.version ?? ''}`;
}

/** Null when the gate is open. */
export function waitForGate(scope: MeshSiteScope, deps: MeshDeps): Outcome | null {
  const delayMs = deps.gate.delayMs(scope.siteId, gateFingerprint(scope));
  return delayMs === 0 ? null : waiting('MeshUnavailable', 'the mesh account did not answer; it is tried again later', delayMs);
}

/** Turns a failure of the account into a finding and a wait. @throws every other error */
export function accountFailed(scope: MeshSiteScope, deps: MeshDeps, error: unknown): Outcome {
  const reason = isAppError(error) ? reasonByCode[error.code] : undefined;
  if (reason === undefined || !isAppError(error)) throw error;
  const delayMs = deps.gate.shut(scope.siteId, gateFingerprint(scope), Math.min(error.retryAfterMs ?? 0, deps.times.meshRetryMaxMs));
  deps.board.put(scope.siteId, { ready: { status: 'False', reason, message: `${error.message}; microVMs and hosts go on as they are` }, isolated: null });
  return waiting(reason, error.message, delayMs);
}
