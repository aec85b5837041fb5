/** What every reconciler is given: ports, caches, time, and the leadership under which it writes. */
import type { AgentRollout } from '#crds/gen/agentrollout.ts';
import type { APIKey } from '#crds/gen/apikey.ts';
import type { EnrollmentToken } from '#crds/gen/enrollmenttoken.ts';
import type { Host } from '#crds/gen/host.ts';
import type { MicroVM } from '#crds/gen/microvm.ts';
import type { MicroVMClass } from '#crds/gen/microvmclass.ts';
import type { MicroVMSet } from '#crds/gen/microvmset.ts';
import type { Site } from '#crds/gen/site.ts';
import type { SilenceObserver } from '#controller/domain/silence.ts';
import type { ControllerFaultPoints, ControllerStep } from '#controller/fault-points.ts';
import type { AgentRolloutStore } from '#controller/ports/agent-rollout-store.ts';
import type { ApiKeyStore } from '#controller/ports/api-key-store.ts';
import type { Actor } from '#controller/ports/audit.ts';
import type { EnrollmentStore } from '#controller/ports/enrollment-store.ts';
import type { EvictionStore } from '#controller/ports/eviction-store.ts';
import type { GuestSecrets } from '#controller/ports/guest-secrets.ts';
import type { HintBus } from '#controller/ports/hints.ts';
import type { HostStore } from '#controller/ports/host-store.ts';
import type { IdentityStore } from '#controller/ports/identity-store.ts';
import type { LeaseStore, ReplacementStore } from '#controller/ports/lease-store.ts';
import type { MicroVMStore } from '#controller/ports/microvm-store.ts';
import type { PlanStore } from '#controller/ports/plan-store.ts';
import type { RecoveryStore } from '#controller/ports/recovery.ts';
import type { SiteStore } from '#controller/ports/site-store.ts';
import type { EventRecorder } from '#controller/runtime/events.ts';
import type { KubernetesApi, KubernetesObject, Resource } from '#controller/runtime/kubernetes-api.ts';
import type { Reflector } from '#controller/runtime/reflector.ts';
import type { StatusWriter } from '#controller/runtime/status-patch.ts';
import type { Time } from '#controller/runtime/time.ts';
import type { Coalescer } from './coalescer.ts';
import type { DeletionGuard } from './site/deletion-guard.ts';
import type { Identities } from './identities.ts';
import type { PlacementCache } from './microvm/placement-cache.ts';
import type { RecoveryBoard } from './recovery/board.ts';
import type { Tenants } from './tenants.ts';

export interface Stores {
  readonly sites: SiteStore;
  readonly hosts: HostStore;
  readonly microvms: MicroVMStore;
  readonly enrollment: Pick<EnrollmentStore, 'registerToken' | 'loadToken' | 'revokeToken'>;
  readonly plans: PlanStore;
  readonly evictions: EvictionStore;
  readonly apiKeys: Pick<ApiKeyStore, 'register' | 'load' | 'revoke'>;
  readonly leases: Pick<LeaseStore, 'list'>;
  readonly replacements: ReplacementStore;
  readonly agentRollouts: AgentRolloutStore;
  readonly recovery: RecoveryStore;
  /** Left out: no microVM is looked for that an object of its name would double. */
  readonly identities?: Pick<IdentityStore, 'findNamesakes' | 'adopt'>;
}

export interface Caches {
  readonly sites: Reflector<Site>;
  readonly hosts: Reflector<Host>;
  readonly microvms: Reflector<MicroVM>;
  readonly classes: Reflector<MicroVMClass>;
  readonly sets: Reflector<MicroVMSet>;
  readonly agentRollouts: Reflector<AgentRollout>;
  readonly tokens: Reflector<EnrollmentToken>;
  readonly apiKeys: Reflector<APIKey>;
  /** Metadata only. */
  readonly guestSecrets: Reflector<KubernetesObject>;
}

export interface ReconcilerDeps {
  readonly kube: KubernetesApi;
  readonly stores: Stores;
  readonly caches: Caches;
  readonly guestSecrets: GuestSecrets;
  readonly tenants: Tenants;
  readonly silence: SilenceObserver;
  readonly placement: PlacementCache;
  readonly deletionGuard: DeletionGuard;
  readonly recoveryBoard: RecoveryBoard;
  readonly events: EventRecorder;
  readonly hints: Pick<HintBus, 'publish'>;
  readonly faults: ControllerFaultPoints;
  readonly time: Time;
  /** Leadership epoch that fences every write to the database. */
  readonly epoch: number;
  readonly actor: Actor;
  readonly coalescer: Coalescer;
  readonly savedSites: SavedSites;
  readonly identities: Pick<Identities, 'add'>;
}

/** Sites whose rows this process has written or found equal: what refers to a site waits for it. */
export interface SavedSites {
  has(siteUid: string): boolean;
  generationOf(siteUid: string): number | undefined;
  set(siteUid: string, generation: number): void;
}

/** Wraps one durable write in its fault points. */
export async function durably<Result>(faults: ControllerFaultPoints, step: ControllerStep, write: () => Promise<Result>): Promise<Result> {
  await faults.reach(`${step}:before`);
  const result = await write();
  await faults.reach(`${step}:after`);
  return result;
}

/** A writer of one kind whose writes pass that fault point. */
export function writerFor<Type extends KubernetesObject>(
  deps: Pick<ReconcilerDeps, 'kube' | 'faults'>,
  kind: { readonly resource: Resource; readonly parse: (object: KubernetesObject) => Type | null; readonly cache: Reflector<Type> },
  step: ControllerStep,
): StatusWriter<Type> {
  return {
    api: deps.kube,
    resource: kind.resource,
    parse: kind.parse,
    assume: (object) => kind.cache.assume(object),
    around: (write) => durably(deps.faults, step, write),
  };
}

export function findSite(deps: Pick<ReconcilerDeps, 'caches'>, namespace: string, name: string): Site | undefined {
  return deps.caches.sites.get({ namespace, name });
}
