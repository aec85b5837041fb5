/**
 * Puts the reconcilers together: caches, queues, and what wakes which key. Everything here is a hint, a lost
 * one costs a resync interval; what a reconcile does never depends on what woke it.
 *
 * Runs on the leader only. It owns no decision and writes nothing itself.
 */
import { createHash, randomBytes } from 'node:crypto';
import { siteId, type HostId, type TenantId } from '#api/model/ids.ts';
import type { Host } from '#crds/gen/host.ts';
import type { MicroVM } from '#crds/gen/microvm.ts';
import type { MicroVMSet } from '#crds/gen/microvmset.ts';
import type { Site } from '#crds/gen/site.ts';
import { createTermsMemory } from '#controller/domain/leases/terms-memory.ts';
import { secretKeysOf } from '#controller/domain/secret-keys.ts';
import { createSilenceObserver } from '#controller/domain/silence.ts';
import type { ProcessFaultPoints } from '#controller/fault-points.ts';
import type { GuestSecrets } from '#controller/ports/guest-secrets.ts';
import type { ChangeReader, HintBus, Unsubscribe } from '#controller/ports/hints.ts';
import type { IdSource } from '#controller/ports/ids.ts';
import { createEventRecorder } from '#controller/runtime/events.ts';
import { formatKey, keyOf, parseKey, type KubernetesApi, type KubernetesObject, type ObjectKey, type Resource } from '#controller/runtime/kubernetes-api.ts';
import { errorFields, type Log } from '#controller/runtime/log.ts';
import { allKeys, startManager, type Manager } from '#controller/runtime/manager.ts';
import type { Outcome } from '#controller/runtime/outcome.ts';
import { createReflector, type Change, type Reflector, type ReflectorFigures } from '#controller/runtime/reflector.ts';
import { pause, type Time } from '#controller/runtime/time.ts';
import { createWorkQueue, type WorkQueue, type WorkQueueFigures } from '#controller/runtime/work-queue.ts';
import { reconcileAgentRollout } from './agent-rollout/reconciler.ts';
import { reconcileApiKey } from './api-key/reconciler.ts';
import { createCoalescer } from './coalescer.ts';
import type { Caches, ReconcilerDeps, SavedSites, Stores } from './deps.ts';
import { reconcileToken } from './enrollment-token/reconciler.ts';
import { reconcileHost } from './host/reconciler.ts';
import { agentRolloutResource, apiKeyResource, classResource, guestSecretResource, hostResource, microvmResource, microvmSetResource, parseAgentRollout, parseApiKeyObject, parseGuestSecret, parseHost, parseClass, parseMicroVM, parseMicroVMSet, parseSite, parseToken, siteResource, tokenResource } from './kinds.ts';
import { reconcileMicroVM } from './microvm/reconciler.ts';
import { reconcileMicroVMSet, setLabel } from './microvm-set/reconciler.ts';
import { createMeshQueue, type MeshOptions, type MeshQueue } from './mesh/mesh-queue.ts';
import { createPlacementCache, type PlacementCache } from './microvm/placement-cache.ts';
import { createRetryGate } from './microvm/retry-gate.ts';
import { createPlanDriver, type PlanDriver } from './plan/driver.ts';
import { createLeaseReadings, releaseAnnotation, type LeaseReadings } from './replacement/lease-readings.ts';
import { createRecoveryBoard, type RecoveryBoard } from './recovery/board.ts';
import { confirmDeleteAnnotation, createDeletionGuard } from './site/deletion-guard.ts';
import { reconcileSite } from './site/reconciler.ts';
import { createIdentities, type Identities } from './identities.ts';
import { createTenants } from './tenants.ts';

/** Most of a reconcile is waiting for two servers; more at once only lengthens their queues. */
const microvmWorkers = 16;
const otherWorkers = 4;
/** Readings of the beats while hosts fall silent one after another. */
const readingsPerBeatMax = 20;
/** Figures of hosts and sites may lag by this, so that a burst of microVMs costs one look. */
const figuresDelayMs = 500;

export interface ReconcilersOptions {
  readonly kube: KubernetesApi;
  readonly stores: Stores;
  readonly guestSecrets: GuestSecrets;
  readonly hints: Pick<HintBus, 'publish' | 'onHint' | 'onRemoteChange'>;
  readonly changes: ChangeReader;
  readonly time: Time;
  readonly ids: IdSource;
  readonly faults: ProcessFaultPoints;
  readonly log: Log;
  /** Of this leadership; fences every write to the database. */
  readonly epoch: number;
  /** Name of this replica. */
  readonly replica: string;
  readonly settings: {
    readonly heartbeatIntervalMs: number;
    readonly resyncIntervalMs: number;
    readonly pollIntervalMs: number;
    readonly aggregateIntervalMs: number;
    /** URL of the manifests of the agent's releases, with `{version}` in it; left out or null: none is known. */
    readonly agentReleases?: string | null;
  };
  readonly pki: { endpoints(): readonly string[]; pins(): readonly string[] };
  /** Through which `kube` shows objects of a lost cluster; left out: there are none. */
  readonly identities?: Identities;
  /** Called with how many hosts have not reported since the last recovery of the database. */
  readonly onAwaitedHosts?: (count: number) => void;
  /** Called after each reconcile, for metrics. */
  readonly onReconciled?: (queue: string, outcome: string, durationMs: number) => void;
  /** Left out: no Site gets a mesh. */
  readonly mesh?: MeshOptions;
}

export interface Reconcilers extends Manager {
  /** Of the queues, by kind, for metrics. */
  figures(): Readonly<Record<string, WorkQueueFigures>>;
  /** Of the watches, by plural of the kind, for metrics. */
  watchFigures(): Readonly<Record<string, ReflectorFigures>>;
}

interface Queues {
  readonly sites: WorkQueue;
  readonly hosts: WorkQueue;
  readonly microvms: WorkQueue;
  readonly sets: WorkQueue;
  readonly agentRollouts: WorkQueue;
  readonly tokens: WorkQueue;
  readonly apiKeys: WorkQueue;
  readonly mesh: MeshQueue | null;
}

export function startReconcilers(options: ReconcilersOptions): Reconcilers {
  const { kube, stores, time, log } = options;
  const cacheOf = <Type extends KubernetesObject>(resource: Resource, parse: (object: KubernetesObject) => Type | null): Reflector<Type> =>
    createReflector({ api: kube, resource, parse, time, log });
  const caches: Caches = {
    sites: cacheOf(siteResource, parseSite),
    hosts: cacheOf(hostResource, parseHost),
    microvms: cacheOf(microvmResource, parseMicroVM),
    classes: cacheOf(classResource, parseClass),
    sets: cacheOf(microvmSetResource, parseMicroVMSet),
    agentRollouts: cacheOf(agentRolloutResource, parseAgentRollout),
    tokens: cacheOf(tokenResource, parseToken),
    apiKeys: cacheOf(apiKeyResource, parseApiKeyObject),
    guestSecrets: cacheOf(guestSecretResource, parseGuestSecret),
  };
  // Before whatever wakes reconciles, so that those see what changed.
  const placement = createPlacementCache({ hosts: stores.hosts, bindings: stores.evictions, hostObjects: caches.hosts, microvmObjects: caches.microvms });
  const wake = createWaking(options, caches, () => queues);
  const ending = new AbortController();
  const leases = createLeaseReadings({
    store: stores.leases, time, log,
    heartbeatIntervalMs: options.settings.heartbeatIntervalMs,
    siteByUid: (uid) => caches.sites.findByUid(uid),
    onMassChanged: (siteId) => wake.siteAndMicroVMs(siteId),
  });
  const board = createRecoveryBoard({
    store: stores.recovery, log,
    onAwaited: options.onAwaitedHosts ?? (() => {}),
    onChanged: ({ siteIds, hosts, microvmIds }) => {
      for (const siteId of siteIds) wake.siteAndMicroVMs(siteId);
      for (const { namespace, name } of hosts) queues.hosts.add(formatKey({ namespace, name }));
      for (const id of microvmIds) wake.microvm(id);
    },
  });
  const queues = createQueues(options, { caches, wake, placement, leases, board, signal: ending.signal });
  const plans = startPlanDriver(options, ending.signal);
  wireCaches(caches, wake, queues);
  caches.microvms.onChange(({ before, after }) => {
    const object = after ?? before;
    if (object !== undefined) plans.onMicroVMChanged(keyOf(object));
  });
  const manager = startManager({
    reflectors: [caches.sites, caches.hosts, caches.microvms, caches.classes, caches.sets, caches.agentRollouts, caches.tokens, caches.apiKeys, caches.guestSecrets],
    controllers: [
      { queue: queues.sites, keys: () => allKeys(caches.sites) },
      { queue: queues.hosts, keys: () => [...allKeys(caches.hosts), ...wake.hostKeys()] },
      { queue: queues.microvms, keys: () => allKeys(caches.microvms) },
      { queue: queues.sets, keys: () => allKeys(caches.sets) },
      { queue: queues.agentRollouts, keys: () => allKeys(caches.agentRollouts) },
      { queue: queues.tokens, keys: () => allKeys(caches.tokens) },
      { queue: queues.apiKeys, keys: () => allKeys(caches.apiKeys) },
      ...(queues.mesh === null ? [] : [queues.mesh]),
      { queue: plans.queue, keys: () => plans.keys() },
    ],
    before: async () => {
      await Promise.all([wake.readLiveness(ending.signal), plans.readOpen(), leases.read(), board.read()]);
    },
    resyncIntervalMs: options.settings.resyncIntervalMs,
    time,
  });
  const loops = manager.ready.then(() => Promise.all([leases.run(ending.signal), watchSilence(options, wake, ending.signal), readMissedHints(options, { wake, plans, board }, ending.signal)]));
  return {
    ready: manager.ready,
    isReady: () => manager.isReady(),
    watchFigures: () => Object.fromEntries(Object.values(caches).map((reflector: Reflector<KubernetesObject>) => [reflector.resource.plural, reflector.figures()])),
    figures: () => ({
      sites: queues.sites.figures(),
      hosts: queues.hosts.figures(),
      microvms: queues.microvms.figures(),
      sets: queues.sets.figures(),
      agentRollouts: queues.agentRollouts.figures(),
      tokens: queues.tokens.figures(),
      apiKeys: queues.apiKeys.figures(),
      ...(queues.mesh === null ? {} : { mesh: queues.mesh.queue.figures() }),
      plans: plans.queue.figures(),
    }),
    stop: async () => {
      ending.abort();
      await manager.stop();
      if (manager.isReady()) await loops;
    },
  };
}

function startPlanDriver(options: ReconcilersOptions, signal: AbortSignal): PlanDriver {
  const { kube, stores, hints, faults, epoch, time, log } = options;
  const driver = createPlanDriver({
    deps: { kube, plans: stores.plans, microvms: stores.microvms, tenants: createTenants(kube), hints, faults, epoch, actor: { kind: 'controller', name: options.replica, from: '' } },
    time,
    log,
  });
  until(signal, hints.onHint((hint) => driver.onHint(hint)));
  return driver;
}

function createQueues(options: ReconcilersOptions, parts: { readonly caches: Caches; readonly wake: Waking; readonly placement: PlacementCache; readonly leases: LeaseReadings; readonly board: RecoveryBoard; readonly signal: AbortSignal }): Queues {
  const { caches, wake, signal } = parts;
  const { kube, stores, time, log, ids, settings, pki } = options;
  const deps: ReconcilerDeps = {
    kube,
    stores,
    caches,
    guestSecrets: options.guestSecrets,
    time,
    tenants: createTenants(kube),
    silence: wake.silence,
    placement: parts.placement,
    deletionGuard: createDeletionGuard({ kube, microvms: caches.microvms, time }),
    recoveryBoard: parts.board,
    events: createEventRecorder({ api: kube, controller: 'nkudo.dev/controller', instance: options.replica, time, log, uuid: () => ids.uuid() }),
    hints: options.hints,
    faults: options.faults,
    epoch: options.epoch,
    actor: { kind: 'controller', name: options.replica, from: '' },
    coalescer: createCoalescer(time),
    savedSites: createSavedSites(),
    identities: options.identities ?? createIdentities([]),
  };
  const queue = (name: string, concurrency: number, reconcile: (key: ObjectKey) => Promise<Outcome>): WorkQueue =>
    createWorkQueue({ name, concurrency, reconcile: (key) => reconcile(parseKey(key)), time, log, onReconciled: options.onReconciled });
  const { aggregateIntervalMs } = settings;
  const meshOptions = options.mesh;
  const mesh =
    meshOptions === undefined
      ? null
      : createMeshQueue(meshOptions, { deps, sites: caches.sites, log, signal, onFinding: ({ namespace, name }) => wake.siteFigures(namespace, name) });
  const siteDeps = { ...deps, aggregateIntervalMs, onSaved: (site: Site) => wake.siteSaved(site), meshOf: (uid: string) => mesh?.board.of(uid) ?? null, massOf: (uid: string) => parts.leases.mass(siteId(uid)) };
  const hostDeps = { ...deps, aggregateIntervalMs, onReachabilityChanged: (hostId: HostId) => wake.microvmsOf(hostId), onRoomChanged: (namespace: string, site: string) => wake.unplacedAt(namespace, site), mesh: meshOptions?.store ?? null, agentReleases: settings.agentReleases ?? null };
  const rolloutDeps = {
    ...deps,
    agentReleases: settings.agentReleases ?? null,
    onHostsTold: (keys: readonly string[]) => {
      for (const key of keys) wake.hostKey(key);
    },
  };
  const microvmDeps = { ...deps, retryGate: createRetryGate(time), leases: parts.leases, terms: createTermsMemory(() => time.monotonicMs()), recovery: stores.recovery };
  const sha256 = (bytes: Uint8Array): Uint8Array => createHash('sha256').update(bytes).digest();
  const keyDeps = { ...deps, newKeySecret: () => randomBytes(32), sha256 };
  const tokenDeps = {
    ...deps,
    endpoints: () => pki.endpoints(),
    pins: () => pki.pins(),
    newSecret: () => randomBytes(32).toString('base64url'),
    sha256,
    registered: new Set<string>(),
  };
  return {
    sites: queue('sites', otherWorkers, (key) => reconcileSite(key, siteDeps)),
    hosts: queue('hosts', otherWorkers, (key) => reconcileHost(key, hostDeps)),
    microvms: queue('microvms', microvmWorkers, (key) => reconcileMicroVM(key, microvmDeps)),
    sets: queue('microvmsets', otherWorkers, (key) => reconcileMicroVMSet(key, { ...deps, digest: (text) => createHash('sha256').update(text).digest('hex') })),
    agentRollouts: queue('agentrollouts', otherWorkers, (key) => reconcileAgentRollout(key, rolloutDeps)),
    tokens: queue('tokens', otherWorkers, (key) => reconcileToken(key, tokenDeps)),
    apiKeys: queue('apikeys', otherWorkers, (key) => reconcileApiKey(key, keyDeps)),
    mesh,
  };
}

function createSavedSites(): SavedSites {
  const generations = new Map<string, number>();
  return {
    has: (uid) => generations.has(uid),
    generationOf: (uid) => generations.get(uid),
    set: (uid, generation) => {
      generations.set(uid, generation);
    },
  };
}

/** What wakes which keys. */
interface Waking {
  readonly silence: ReturnType<typeof createSilenceObserver>;
  /** Keys of enrolled hosts, also of those whose object does not exist yet. */
  hostKeys(): readonly string[];
  host(tenantId: TenantId, hostId: HostId): Promise<void>;
  hostKey(key: string): void;
  /** Those of a namespace: one of its hosts is another than before. */
  rollouts(namespace: string): void;
  microvm(uid: string): void;
  microvmsOf(hostId: HostId): void;
  /** Those that the host's object may have something to say to. */
  microvmsOn(host: Host): void;
  /** MicroVMs that wait for a host. */
  unplacedAt(namespace: string, site: string): void;
  siteSaved(site: Site): void;
  siteFigures(namespace: string, site: string): void;
  /** A Site with all that is at it: its brake is another than before. */
  siteAndMicroVMs(siteUid: string): void;
  hostFigures(namespace: string, host: string): void;
  /** One reading of all hosts' beats; wakes what belongs to hosts that changed. */
  readLiveness(signal: AbortSignal): Promise<void>;
}

function createWaking(options: ReconcilersOptions, caches: Caches, queues: () => Queues): Waking {
  const { time, log, stores, settings } = options;
  const silence = createSilenceObserver({
    heartbeatIntervalMs: settings.heartbeatIntervalMs,
    monotonicMs: () => time.monotonicMs(),
    wallMs: () => time.nowMs(),
  });
  const keysByHost = new Map<HostId, string>();
  const enqueueAll = (queue: WorkQueue, objects: readonly KubernetesObject[]): void => {
    for (const object of objects) queue.add(formatKey(keyOf(object)));
  };
  const microvmsOf = (hostId: HostId): void =>
    // The status is a copy and good enough for a hint.
    enqueueAll(queues().microvms, caches.microvms.list().filter((microvm) => microvm.status?.binding?.hostID === hostId));
  /** A host that was not known before used one of them. */
  const tokensOf = (namespace: string): void =>
    enqueueAll(
      queues().tokens,
      caches.tokens.list(namespace).filter(({ status }) => status?.printableStatus !== 'Used' && status?.printableStatus !== 'Expired'),
    );
  /** Hosts change in crowds, and a rollout reads all of them. */
  const rolloutsOf = (namespace: string): void => {
    for (const rollout of caches.agentRollouts.list(namespace)) queues().agentRollouts.addAfter(formatKey(keyOf(rollout)), figuresDelayMs);
  };
  const unplacedAt = (namespace: string, site: string): void =>
    enqueueAll(
      queues().microvms,
      caches.microvms.list(namespace).filter((microvm) => microvm.spec.siteRef.name === site && (waitsForRoom(microvm) || isDenied(microvm))),
    );
  return {
    silence,
    microvmsOf,
    microvmsOn: ({ metadata, status }) => {
      if (status?.hostID !== undefined) enqueueAll(queues().microvms, caches.microvms.list(metadata.namespace).filter((microvm) => microvm.status?.binding?.hostID === status.hostID));
    },
    unplacedAt,
    hostKeys: () => [...keysByHost.values()],
    hostKey: (key) => queues().hosts.add(key),
    rollouts: rolloutsOf,
    host: async (tenantId, hostId) => {
      let key = keysByHost.get(hostId);
      if (key === undefined) {
        const record = await stores.hosts.load(tenantId, hostId);
        if (record === null) return;
        key = formatKey(record);
        keysByHost.set(hostId, key);
        tokensOf(record.namespace);
      }
      queues().hosts.add(key);
      rolloutsOf(parseKey(key).namespace);
      const host = caches.hosts.get(parseKey(key));
      if (host !== undefined) queues().mesh?.wake({ namespace: host.metadata.namespace, name: host.spec.siteRef.name });
    },
    microvm: (uid) => {
      const object = caches.microvms.findByUid(uid);
      if (object !== undefined) queues().microvms.add(formatKey(keyOf(object)));
    },
    siteSaved: ({ metadata }) => {
      const { namespace, name } = metadata;
      unplacedAt(namespace, name);
      tokensOf(namespace);
      queues().mesh?.wake({ namespace, name });
      enqueueAll(queues().hosts, caches.hosts.list(namespace).filter((host) => host.spec.siteRef.name === name));
    },
    siteAndMicroVMs: (siteUid) => {
      const site = caches.sites.findByUid(siteUid);
      if (site === undefined) return;
      queues().sites.add(formatKey(keyOf(site)));
      enqueueAll(queues().microvms, caches.microvms.list(site.metadata.namespace).filter((microvm) => microvm.spec.siteRef.name === site.metadata.name));
    },
    siteFigures: (namespace, name) => queues().sites.addAfter(formatKey({ namespace, name }), figuresDelayMs),
    hostFigures: (namespace, name) => queues().hosts.addAfter(formatKey({ namespace, name }), figuresDelayMs),
    readLiveness: async (signal) => {
      try {
        const readings = await stores.hosts.listLiveness();
        if (signal.aborted) return;
        const known = new Set(keysByHost.keys());
        keysByHost.clear();
        for (const reading of readings) {
          keysByHost.set(reading.hostId, formatKey(reading));
          if (!known.has(reading.hostId)) tokensOf(reading.namespace);
        }
        for (const hostId of silence.observe(readings)) {
          const key = keysByHost.get(hostId);
          if (key !== undefined) queues().hosts.add(key);
          microvmsOf(hostId);
        }
      } catch (error) {
        // Without a reading nothing becomes silent: beats that could not be read are not missing beats.
        log.warn(errorFields(error), 'beats of hosts could not be read');
      }
    },
  };
}

function wireCaches(caches: Caches, wake: Waking, queues: Queues): void {
  const enqueue = (queue: WorkQueue, { before, after }: Change<KubernetesObject>): void => {
    const object = after ?? before;
    if (object !== undefined) queue.add(formatKey(keyOf(object)));
  };
  caches.sites.onChange((change) => {
    enqueue(queues.sites, change);
    queues.mesh?.siteChanged(change);
    const site = change.after ?? change.before;
    const isStatusOnly = change.before?.metadata.generation === change.after?.metadata.generation;
    if (site !== undefined && !isStatusOnly) wake.siteSaved(site);
    if (site !== undefined && !isStatusOnly) wake.rollouts(site.metadata.namespace);
    if (change.after !== undefined && (isOtherDisconnect(change) || isOtherRule(change))) wake.siteAndMicroVMs(change.after.metadata.uid);
  });
  caches.hosts.onChange((change) => {
    enqueue(queues.hosts, change);
    queues.mesh?.hostChanged(change);
    const host = change.after ?? change.before;
    if (host === undefined) return;
    wake.siteFigures(host.metadata.namespace, host.spec.siteRef.name);
    wake.rollouts(host.metadata.namespace);
    if (change.after !== undefined && mayTakeMore(change)) wake.unplacedAt(host.metadata.namespace, host.spec.siteRef.name);
    if (change.before?.metadata.generation !== change.after?.metadata.generation || change.before?.metadata.deletionTimestamp !== change.after?.metadata.deletionTimestamp) {
      wake.microvmsOn(host);
    }
  });
  caches.microvms.onChange((change) => {
    enqueue(queues.microvms, change);
    wakeFigures(change, wake);
  });
  caches.tokens.onChange((change) => enqueue(queues.tokens, change));
  caches.sets.onChange((change) => enqueue(queues.sets, change));
  caches.agentRollouts.onChange((change) => {
    enqueue(queues.agentRollouts, change);
    // Of several that select a host one has it.
    const rollout = change.after ?? change.before;
    if (rollout !== undefined && change.before?.metadata.generation !== change.after?.metadata.generation) wake.rollouts(rollout.metadata.namespace);
  });
  wireSets(caches, queues.sets);
  caches.classes.onChange(({ before, after }) => {
    const name = (after ?? before)?.metadata;
    if (name === undefined || before?.metadata.generation === after?.metadata.generation) return;
    for (const microvm of caches.microvms.list(name.namespace)) {
      if (microvm.spec.className !== name.name) continue;
      queues.microvms.add(formatKey(keyOf(microvm)));
      wake.siteFigures(name.namespace, microvm.spec.siteRef.name);
    }
  });
  caches.guestSecrets.onChange(({ before, after }) => {
    const secret = (after ?? before)?.metadata;
    if (secret === undefined) return;
    for (const microvm of caches.microvms.list(secret.namespace)) {
      if (secretKeysOf(microvm.spec).some(({ name }) => name === secret.name)) queues.microvms.add(formatKey(keyOf(microvm)));
    }
  });
  caches.apiKeys.onChange((change) => enqueue(queues.apiKeys, change));
}

/** A set follows its microVMs, and the hosts and sites that there is one for each of. */
function wireSets(caches: Caches, queue: WorkQueue): void {
  caches.microvms.onChange(({ before, after }) => {
    const object = after ?? before;
    if (object === undefined) return;
    const { namespace, ownerReferences = [], labels } = object.metadata;
    for (const { kind, name } of ownerReferences) if (kind === microvmSetResource.kind) queue.add(formatKey({ namespace, name }));
    // Somebody else's, or one that was let go: a set may wait for its name.
    if (ownerReferences.length === 0 && (after === undefined || labels?.[setLabel] !== undefined)) for (const set of caches.sets.list(namespace)) queue.add(formatKey(keyOf(set)));
  });
  const everyOf = (mode: MicroVMSet['spec']['mode'], namespace: string): void => {
    for (const set of caches.sets.list(namespace)) if (set.spec.mode === mode) queue.add(formatKey(keyOf(set)));
  };
  const isOther = ({ before, after }: Change<Host> | Change<Site>): boolean =>
    before?.metadata.generation !== after?.metadata.generation || before?.metadata.deletionTimestamp !== after?.metadata.deletionTimestamp || JSON.stringify(before?.metadata.labels) !== JSON.stringify(after?.metadata.labels);
  caches.hosts.onChange((change) => {
    const host = change.after ?? change.before;
    if (host !== undefined && isOther(change)) everyOf('PerHost', host.metadata.namespace);
  });
  caches.sites.onChange((change) => {
    const site = change.after ?? change.before;
    if (site === undefined || !isOther(change)) return;
    for (const set of caches.sets.list(site.metadata.namespace)) if (set.spec.mode === 'PerSite' || set.spec.siteRef?.name === site.metadata.name) queue.add(formatKey(keyOf(set)));
  });
}

/** What the Site says of lost hosts, or an operator's release, is another than before. */
function isOtherDisconnect({ before, after }: Change<Site>): boolean {
  return before !== undefined && (JSON.stringify(before.spec.disconnect) !== JSON.stringify(after?.spec.disconnect) ||
    before.metadata.annotations?.[releaseAnnotation] !== after?.metadata.annotations?.[releaseAnnotation]);
}

/** Bound or not, it asks for more than the quota of its site had. */
function isDenied({ status }: MicroVM): boolean {
  return status?.conditions?.some(({ type, status: value }) => type === 'QuotaDenied' && value === 'True') ?? false;
}

/** What its microVMs are told by it is another: the brake on deletions, hold and windows. */
function isOtherRule({ before, after }: Change<Site>): boolean {
  const ruleOf = (site: Site | undefined): string =>
    JSON.stringify([
      site?.metadata.annotations?.[confirmDeleteAnnotation], site?.metadata.deletionTimestamp, site?.spec.massDeletionGuard, site?.spec.hold, site?.spec.timeZone,
      site?.spec.maintenanceWindows, site?.status?.conditions?.find(({ type }) => type === 'DeletionHeld')?.status,
    ]);
  return before !== undefined && ruleOf(before) !== ruleOf(after);
}

/** It has no host, has to leave the one that it has and found no other, or can't grow where it is. */
function waitsForRoom({ status }: MicroVM): boolean {
  return status?.binding === undefined || status.conditions?.some(({ type, reason }) => (type === 'EvictionBlocked' && reason === 'NoHostFits') || (type === 'UpdateHeld' && reason === 'HostFull')) === true;
}

/** Anything that placement reads may have changed; beats and the like do not come this way. */
function mayTakeMore({ before, after }: Change<Host>): boolean {
  return before?.status?.phase !== after?.status?.phase || JSON.stringify(before?.status?.allocated) !== JSON.stringify(after?.status?.allocated) ||
    before?.status?.meshSubnet !== after?.status?.meshSubnet ||
    before?.metadata.generation !== after?.metadata.generation || JSON.stringify(before?.metadata.labels) !== JSON.stringify(after?.metadata.labels);
}

function wakeFigures({ before, after }: Change<MicroVM>, wake: Waking): void {
  const microvm = after ?? before;
  if (microvm === undefined) return;
  const { namespace } = microvm.metadata;
  wake.siteFigures(namespace, microvm.spec.siteRef.name);
  const [old, now] = [before?.status?.binding?.hostName, after?.status?.binding?.hostName];
  const isSpecChange = before?.metadata.generation !== after?.metadata.generation;
  for (const hostName of new Set([old, now])) {
    if (hostName !== undefined && (old !== now || isSpecChange || before?.status?.printableStatus !== after?.status?.printableStatus)) wake.hostFigures(namespace, hostName);
  }
  // It left its host: others may have its room.
  if (old !== undefined && now === undefined) wake.unplacedAt(namespace, microvm.spec.siteRef.name);
  // Its room is free again.
  if (after === undefined) wake.unplacedAt(namespace, microvm.spec.siteRef.name);
}

/** Reads only: silence is the absence of something, so nobody tells it. */
async function watchSilence(options: ReconcilersOptions, wake: Waking, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    const { heartbeatIntervalMs } = options.settings;
    // A host that falls silent is seen when it does; many that do one after another share readings.
    const untilSilenceMs = Math.max(heartbeatIntervalMs / readingsPerBeatMax, wake.silence.nextSilenceMs());
    await pause(options.time, Math.min(heartbeatIntervalMs, untilSilenceMs), signal);
    if (!signal.aborted) await wake.readLiveness(signal);
  }
}

/** Subscriptions end with the term of this leader: the next term makes its own. */
function until(signal: AbortSignal, unsubscribe: Unsubscribe): void {
  if (signal.aborted) unsubscribe();
  else signal.addEventListener('abort', unsubscribe, { once: true });
}

/** Hints of this process wake keys at once; those of others, and lost ones, are read from the rows. */
async function readMissedHints(options: ReconcilersOptions, { wake, plans, board }: { readonly wake: Waking; readonly plans: PlanDriver; readonly board: RecoveryBoard }, signal: AbortSignal): Promise<void> {
  const { hints, changes, time, log, settings } = options;
  const wakeHost = (tenantId: TenantId, hostId: HostId): void => {
    wake.host(tenantId, hostId).catch((error: unknown) => log.warn({ hostId, ...errorFields(error) }, 'a hint could not be followed'));
  };
  let early = Promise.withResolvers<void>();
  until(
    signal,
    hints.onHint((hint) => {
      if (hint.kind === 'microvm') wake.microvm(hint.microvmId);
      if (hint.kind === 'host') {
        void board.read();
        wakeHost(hint.tenantId, hint.hostId);
      }
    }),
  );
  until(signal, hints.onRemoteChange(() => early.resolve()));
  let cursorMs = time.nowMs();
  let seen: ReadonlySet<string> = new Set();
  while (!signal.aborted) {
    const waited = new AbortController();
    await Promise.race([pause(time, settings.pollIntervalMs, AbortSignal.any([signal, waited.signal])), early.promise]);
    waited.abort();
    early = Promise.withResolvers<void>();
    if (signal.aborted) return;
    await Promise.all([plans.readOpen(), board.read()]);
    try {
      const changed = await changes.changedSince(cursorMs, seen);
      ({ cursorMs, seen } = changed);
      for (const { microvmId } of changed.microvms) wake.microvm(microvmId);
      for (const { tenantId, hostId } of changed.hosts) wakeHost(tenantId, hostId);
    } catch (error) {
      log.warn(errorFields(error), 'changes could not be read');
    }
  }
}

