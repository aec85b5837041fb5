/**
 * The mesh reconciler as a part of the leader: its queue, what wakes it, and what it tells the Site's reconciler. Many
 * hints of one site within a moment are one look at the database, and none at the account unless something differs.
 */
import type { Site } from '#crds/gen/site.ts';
import type { MeshFaultPoints } from '#controller/mesh-fault-points.ts';
import type { OpenMeshAccount } from '#controller/ports/mesh.ts';
import type { MeshStore } from '#controller/ports/mesh-store.ts';
import { formatKey, keyOf, parseKey, type KubernetesObject, type ObjectKey } from '#controller/runtime/kubernetes-api.ts';
import type { Log } from '#controller/runtime/log.ts';
import type { Change, Reflector } from '#controller/runtime/reflector.ts';
import { createWorkQueue, type WorkQueue } from '#controller/runtime/work-queue.ts';
import type { MeshMetrics } from '#controller/telemetry/mesh-metrics.ts';
import type { Host } from '#crds/gen/host.ts';
import type { ReconcilerDeps } from '../deps.ts';
import { createMeshBoard, type MeshBoard } from './board.ts';
import { isMeshed } from './desired.ts';
import { createMeshGate } from './gate.ts';
import { reconcileMesh } from './reconciler.ts';
import { meshFinalizer, type MeshTimes } from './scope.ts';

/** Accounts that are looked at at one time: most of a look is waiting, and an account limits its callers. */
const workers = 4;
const gatherMs = 200;

/** What the mesh needs beside what every reconciler has. */
export interface MeshOptions {
  readonly store: MeshStore;
  readonly openAccount: OpenMeshAccount;
  readonly faults: MeshFaultPoints;
  readonly metrics: MeshMetrics;
  readonly times: MeshTimes;
}

export interface MeshQueue {
  readonly queue: WorkQueue;
  readonly board: Pick<MeshBoard, 'of'>;
  keys(): readonly string[];
  /** A site that may have a mesh: looked at soon, together with what comes until then. */
  wake(site: ObjectKey): void;
  siteChanged(change: Change<Site>): void;
  hostChanged(change: Change<Host>): void;
}

export function createMeshQueue(
  options: MeshOptions,
  parts: { readonly deps: ReconcilerDeps; readonly sites: Reflector<Site>; readonly log: Log; readonly signal: AbortSignal; readonly onFinding: (site: ObjectKey) => void },
): MeshQueue {
  const { deps, sites, log, signal } = parts;
  const board = createMeshBoard((uid) => {
    const site = sites.findByUid(uid);
    if (site !== undefined) parts.onFinding(keyOf(site));
  });
  const meshDeps = {
    ...deps,
    mesh: options.store,
    openAccount: options.openAccount,
    meshFaults: options.faults,
    metrics: options.metrics,
    board,
    gate: createMeshGate(deps.time, options.times.meshRetryMaxMs),
    times: options.times,
    settled: new Map(),
    tokens: new Map(),
    signal,
  };
  const queue = createWorkQueue({ name: 'mesh', concurrency: workers, reconcile: (key) => reconcileMesh(parseKey(key), meshDeps), time: deps.time, log });
  const wake = (key: ObjectKey): void => {
    const site = sites.get(key);
    if (site !== undefined && hasMesh(site)) queue.addAfter(formatKey(key), gatherMs);
  };
  return {
    queue,
    board,
    wake,
    keys: () => sites.list().filter(hasMesh).map((site) => formatKey(keyOf(site))),
    siteChanged: ({ before, after }) => {
      if (after !== undefined && hasMesh(after) && isOrderChanged(before, after)) queue.add(formatKey(keyOf(after)));
    },
    hostChanged: ({ before, after }) => {
      const host = after ?? before;
      const isNews = before === undefined || after === undefined || before.metadata.generation !== after.metadata.generation || before.status?.hostID !== after.status?.hostID;
      if (host !== undefined && isNews) wake({ namespace: host.metadata.namespace, name: host.spec.siteRef.name });
    },
  };
}

/** It wants one, or something of one is still there. */
function hasMesh(site: Site): boolean {
  return isMeshed(site) || (site.metadata.finalizers ?? []).includes(meshFinalizer);
}

/** Anything but the status. */
function isOrderChanged(before: KubernetesObject | undefined, { metadata }: KubernetesObject): boolean {
  const old = before?.metadata;
  return old?.generation !== metadata.generation || old?.deletionTimestamp !== metadata.deletionTimestamp || JSON.stringify(old?.annotations) !== JSON.stringify(metadata.annotations);
}
