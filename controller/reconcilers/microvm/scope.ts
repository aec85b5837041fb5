/** What one reconcile of one MicroVM knows. Read once at its start; steps fill in what they found out. */
import { microVMId, type HostId, type MicroVMId, type TenantId } from '#api/model/ids.ts';
import type { DesiredMicroVM, NetworkRequest } from '#api/model/microvm.ts';
import type { SiteOverride } from '#api/model/site-orders.ts';
import type { MicroVM } from '#crds/gen/microvm.ts';
import type { Site } from '#crds/gen/site.ts';
import type { MicroVMConditionReason } from '#crds/conditions.ts';
import type { TermsMemory } from '#controller/domain/leases/terms-memory.ts';
import type { RecoveryGate } from '#controller/ports/lease-store.ts';
import type { MicroVMRecord } from '#controller/ports/microvm-store.ts';
import type { ObjectKey } from '#controller/runtime/kubernetes-api.ts';
import type { Step } from '#controller/runtime/outcome.ts';
import { findSite, type ReconcilerDeps } from '../deps.ts';
import { microvmFinalizer } from '../kinds.ts';
import type { LeaseReadings } from '../replacement/lease-readings.ts';
import type { ReplacementFinding } from '../replacement/finding.ts';
import type { EvictionFinding, UpdateFinding } from './findings.ts';
import type { RetryGate } from './retry-gate.ts';

/** Why it can not be handed to a host, under the condition that says so. */
export type Obstacle =
  | { readonly condition: 'Accepted'; readonly reason: MicroVMConditionReason<'Accepted'>; readonly message: string }
  | { readonly condition: 'Scheduled'; readonly reason: MicroVMConditionReason<'Scheduled'>; readonly message: string }
  /** The quota of the site has no room for it; when it is bound, it goes on with its old spec. */
  | { readonly condition: 'QuotaDenied'; readonly reason: 'QuotaExceeded'; readonly message: string }
  /** Its host has no room for what it grows to; it goes on with its old sizes. */
  | { readonly condition: 'UpdateHeld'; readonly reason: 'HostFull'; readonly message: string }
  /** It is bound, and its new spec asks the host for something that it can not give. */
  | { readonly condition: 'NetworksReady'; readonly reason: MicroVMConditionReason<'NetworksReady'>; readonly message: string };

export interface MicroVMDeps extends ReconcilerDeps {
  readonly retryGate: RetryGate;
  readonly leases: Pick<LeaseReadings, 'of' | 'mass' | 'releaseOf'>;
  readonly terms: TermsMemory;
  readonly recovery: RecoveryGate;
}

export interface MicroVMScope {
  object: MicroVM;
  readonly id: MicroVMId;
  readonly tenantId: TenantId;
  readonly site: Site | null;
  /** What the database holds; null until the first intent was published. Replaced by each publication. */
  record: MicroVMRecord | null;
  /** Set by deriveDesiredState. */
  desired: DesiredMicroVM | null;
  /** What the spec asks of its host; set by deriveDesiredState. */
  networks: readonly NetworkRequest[];
  /** Set by placeOnHost when there is no binding yet. */
  chosenHost: { readonly hostId: HostId; readonly hostName: string } | null;
  /** What the status shows of replacement; null while it is not asked for. */
  replacement: ReplacementFinding | null;
  /** What the status shows while its host is being emptied; null while it is not. */
  eviction: EvictionFinding | null;
  /** What the status shows of an update that needs a restart; null: none is due. */
  update: UpdateFinding | null;
  /** An order of the site that the desired state ends; null: none. */
  overruled: { readonly override: SiteOverride; readonly by: 'Spec' | 'Force' } | null;
  /** Why its deletion is held; null while it is not. */
  hold: string | null;
  /** What is wrong with Secrets of which the host has the values already; null: nothing. */
  secretNote: string | null;
  /** To be looked at again then, whatever happens; null: only when something changes. */
  lookAgainMs: number | null;
  /** Set by the step that found it. */
  obstacle: Obstacle | null;
  /** The finalizer is off: there is nothing to write to any more. */
  isReleased: boolean;
}

export type MicroVMStep = Step<MicroVMScope, MicroVMDeps>;

/** The one read point; null when the object is gone. */
export async function loadScope(key: ObjectKey, deps: MicroVMDeps): Promise<MicroVMScope | null> {
  const object = deps.caches.microvms.get(key);
  if (object === undefined) return null;
  const site = findSite(deps, key.namespace, object.spec.siteRef.name) ?? null;
  const tenantId = await deps.tenants.of(key.namespace, site?.metadata.uid ?? null);
  const id = microVMId(object.metadata.uid);
  // The finalizer is written before anything is published.
  const record = hasFinalizer(object) ? await deps.stores.microvms.load(tenantId, id) : null;
  return { object, id, tenantId, site, record, desired: null, networks: [], chosenHost: null, replacement: null, eviction: null, update: null, overruled: null, hold: null, secretNote: null, lookAgainMs: null, obstacle: null, isReleased: false };
}

export function hasFinalizer(object: MicroVM): boolean {
  return (object.metadata.finalizers ?? []).includes(microvmFinalizer);
}
