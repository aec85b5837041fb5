/**
 * Keeps a copy of all objects of one kind by list and watch. One loop, no callbacks from the stream: a
 * failure of any kind ends one round, and the next begins after a back-off with jitter.
 *
 * Invariants: a failed or forbidden list removes nothing; only a complete list or a DELETED event does, and
 * even that is only a missing object, never an order to delete. An object that was deleted and made again
 * under its name is seen as both. Listeners may only note keys.
 */
import type { Log } from './log.ts';
import { errorFields } from './log.ts';
import { formatKey, isExpired, keyOf, type KubernetesApi, type KubernetesObject, type ObjectKey, type Resource } from './kubernetes-api.ts';
import { backoffMs, pause, type Time } from './time.ts';

/** Objects of one list request, as kubectl and client-go use. */
const pageSize = 500;
/** Length of one watch request, with jitter so that many do not end together. */
const watchSeconds = { base: 290, jitter: 30 };
/** The API server sends a bookmark about once in a minute; two missing ones mean a dead connection. */
const silenceMs = 130_000;
const backoff = { initialMs: 100, maxMs: 30_000 };

export interface Change<Type> {
  readonly before: Type | undefined;
  readonly after: Type | undefined;
}

export interface ReflectorFigures {
  readonly lists: number;
  readonly watches: number;
  readonly failures: number;
  /** Complete lists without an object where there were some before: nothing is deleted for it. */
  readonly emptied: number;
  /** Objects known now. */
  readonly objects: number;
  /** True from a failed list or watch until the next one that began. */
  readonly isFailing: boolean;
  readonly lastEventAtMs: number | null;
}

export interface Reflector<Type extends KubernetesObject> {
  readonly resource: Resource;
  /** Runs until the signal is aborted; never throws. */
  run(signal: AbortSignal): Promise<void>;
  hasSynced(): boolean;
  /** Resolves after the first complete list. */
  synced(): Promise<void>;
  get(key: ObjectKey): Type | undefined;
  findByUid(uid: string): Type | undefined;
  list(namespace?: string): readonly Type[];
  /** Takes over the answer to a write of our own, so that the next reconcile does not see the object as before. */
  assume(object: Type): void;
  onChange(listener: (change: Change<Type>) => void): void;
  figures(): ReflectorFigures;
}

export interface ReflectorOptions<Type extends KubernetesObject> {
  readonly api: KubernetesApi;
  readonly resource: Resource;
  /** The one parsing boundary: null leaves a malformed object out. */
  readonly parse: (object: KubernetesObject) => Type | null;
  readonly time: Time;
  readonly log: Log;
}

export function createReflector<Type extends KubernetesObject>(options: ReflectorOptions<Type>): Reflector<Type> {
  const { api, resource, parse, time, log } = options;
  const cache = createCache<Type>();
  const figures = { lists: 0, watches: 0, failures: 0, emptied: 0, isFailing: false, lastEventAtMs: null as number | null };
  const firstList = Promise.withResolvers<void>();
  let hasSynced = false;
  /** Null: the next round lists. */
  let resourceVersion: string | null = null;

  const listAll = async (signal: AbortSignal): Promise<string> => {
    figures.lists += 1;
    const found = new Map<string, Type>();
    let continueToken = '';
    for (;;) {
      const page = await api.list(resource, { limit: pageSize, continueToken }, signal);
      for (const item of page.items) {
        const object = parse(item);
        if (object !== null) found.set(formatKey(keyOf(item)), object);
      }
      continueToken = page.continueToken;
      if (continueToken === '') {
        const known = cache.list(undefined).length;
        if (found.size === 0 && known > 0) {
          figures.emptied += 1;
          log.error({ resource: resource.plural, known }, 'a list came back empty: nothing is touched for it; look whether the API server, a proxy or RBAC hides the objects');
        }
        cache.replace(found);
        figures.isFailing = false;
        return page.resourceVersion;
      }
    }
  };

  const watchOnce = async (from: string, outer: AbortSignal): Promise<void> => {
    figures.watches += 1;
    const silence = new AbortController();
    const signal = AbortSignal.any([outer, silence.signal]);
    const timeoutSeconds = Math.round(watchSeconds.base + (time.random() * 2 - 1) * watchSeconds.jitter);
    let cancelTimer = time.schedule(silenceMs, () => silence.abort());
    try {
      for await (const event of api.watch(resource, { resourceVersion: from, timeoutSeconds }, signal)) {
        cancelTimer();
        cancelTimer = time.schedule(silenceMs, () => silence.abort());
        figures.lastEventAtMs = time.nowMs();
        failures = 0;
        figures.isFailing = false;
        if (event.type === 'BOOKMARK') {
          resourceVersion = event.resourceVersion;
          continue;
        }
        const object = parse(event.object);
        if (object !== null) cache.apply(event.type, object);
        resourceVersion = event.object.metadata.resourceVersion;
      }
    } finally {
      cancelTimer();
    }
  };

  let failures = 0;
  const round = async (signal: AbortSignal): Promise<void> => {
    if (resourceVersion === null) {
      resourceVersion = await listAll(signal);
      if (!hasSynced) {
        hasSynced = true;
        firstList.resolve();
      }
    }
    const startedAtMs = time.monotonicMs();
    await watchOnce(resourceVersion, signal);
    // A server that ends every watch at once must not be asked in a tight loop.
    if (time.monotonicMs() - startedAtMs < 1000) await pause(time, 1000, signal);
  };

  return {
    resource,
    run: async (signal) => {
      while (!signal.aborted) {
        try {
          await round(signal);
        } catch (error) {
          if (signal.aborted) break;
          figures.failures += 1;
          figures.isFailing = true;
          failures += 1;
          if (isExpired(error)) resourceVersion = null;
          const delayMs = backoffMs(backoff, failures, time.random);
          log.warn({ resource: resource.plural, delayMs, relist: resourceVersion === null, ...errorFields(error) }, 'watch interrupted');
          await pause(time, delayMs, signal);
        }
      }
    },
    hasSynced: () => hasSynced,
    synced: () => firstList.promise,
    get: (key) => cache.get(formatKey(key)),
    findByUid: (uid) => cache.findByUid(uid),
    list: (namespace) => cache.list(namespace),
    assume: (object) => cache.apply('MODIFIED', object),
    onChange: (listener) => cache.onChange(listener),
    figures: () => ({ ...figures, objects: cache.list(undefined).length }),
  };
}

interface Cache<Type> {
  get(key: string): Type | undefined;
  findByUid(uid: string): Type | undefined;
  list(namespace: string | undefined): readonly Type[];
  replace(found: ReadonlyMap<string, Type>): void;
  apply(type: 'ADDED' | 'MODIFIED' | 'DELETED', object: Type): void;
  onChange(listener: (change: Change<Type>) => void): void;
}

function createCache<Type extends KubernetesObject>(): Cache<Type> {
  const objects = new Map<string, Type>();
  const keysByUid = new Map<string, string>();
  const listeners: ((change: Change<Type>) => void)[] = [];
  /** Objects whose end was seen: an own write's answer that arrives later must not revive them. */
  let endedUid = '';

  const set = (key: string, after: Type | undefined): void => {
    const before = objects.get(key);
    if (before === after) return;
    if (before !== undefined && before.metadata.uid !== after?.metadata.uid) {
      keysByUid.delete(before.metadata.uid);
      endedUid = before.metadata.uid;
    }
    if (after === undefined) objects.delete(key);
    else {
      objects.set(key, after);
      keysByUid.set(after.metadata.uid, key);
    }
    const isReplaced = before !== undefined && after !== undefined && before.metadata.uid !== after.metadata.uid;
    for (const listener of listeners) {
      if (isReplaced) listener({ before, after: undefined });
      listener({ before: isReplaced ? undefined : before, after });
    }
  };

  return {
    get: (key) => objects.get(key),
    findByUid: (uid) => {
      const key = keysByUid.get(uid);
      return key === undefined ? undefined : objects.get(key);
    },
    list: (namespace) => {
      const all = [...objects.values()];
      return namespace === undefined ? all : all.filter((object) => object.metadata.namespace === namespace);
    },
    replace: (found) => {
      for (const key of [...objects.keys()]) if (!found.has(key)) set(key, undefined);
      for (const [key, object] of found) {
        const before = objects.get(key);
        if (before === undefined || before.metadata.uid !== object.metadata.uid || isNewer(object, before)) set(key, object);
      }
    },
    apply: (type, object) => {
      const key = formatKey(keyOf(object));
      const before = objects.get(key);
      if (before === undefined) {
        if (type !== 'DELETED' && object.metadata.uid !== endedUid) set(key, object);
        return;
      }
      const isSameObject = before.metadata.uid === object.metadata.uid;
      if (!isNewer(object, before)) return;
      if (type !== 'DELETED') set(key, object);
      else if (isSameObject) set(key, undefined);
    },
    onChange: (listener) => {
      listeners.push(listener);
    },
  };
}

/**
 * Versions of one resource are ordered as numbers.
 * Source: Kubernetes API concepts, "Resource versions", stated for all resources since v1.35; etcd revisions before.
 */
function isNewer(object: KubernetesObject, than: KubernetesObject): boolean {
  const [left, right] = [object.metadata.resourceVersion, than.metadata.resourceVersion];
  return left.length === right.length ? left > right : left.length > right.length;
}
