/**
 * A KubernetesApi in memory with the semantics that the runtime relies on: versions that rise over all
 * objects, preconditions on uid and resourceVersion, watches from a version on, paged lists. Faults are set
 * by the test and last until it takes them back.
 */
import { AppError } from '#api/model/error-codes.ts';
import { formatKey, keyOf, type KubernetesApi, type KubernetesObject, type ObjectKey, type WatchEvent } from '#controller/runtime/kubernetes-api.ts';

export interface MemoryKubernetesApi extends KubernetesApi {
  /** Stores an object as a user would, raising its version. */
  put(object: { readonly metadata: { readonly name: string; readonly namespace: string; readonly uid?: string } } & object): KubernetesObject;
  remove(key: ObjectKey): void;
  /** Ends every open watch with this. */
  breakWatches(error: Error): void;
  /** Every call of the verb fails with the error while it is set. */
  fail(verb: Verb, error: Error | null): void;
  /** Watches from versions below this one are refused as expired. */
  forgetBefore(version: number): void;
  calls(verb: Verb): number;
  openWatches(): number;
  /** Version that the newest watch asked to begin after. */
  lastWatchFrom(): number;
  find(key: ObjectKey): KubernetesObject | undefined;
  /** Version of the newest change. */
  version(): number;
}

type Verb = 'list' | 'watch' | 'get' | 'create' | 'patch' | 'delete';

interface Watcher {
  readonly queue: WatchEvent[];
  wake: () => void;
  error: Error | null;
}

export const expired = (): AppError => new AppError('CONFLICT', 'too old resource version', { details: { status: 410, reason: 'Expired' } });
export const unavailable = (): AppError => new AppError('UNAVAILABLE', 'connection refused');

export function createMemoryKubernetesApi(): MemoryKubernetesApi {
  const objects = new Map<string, KubernetesObject>();
  const history: { readonly version: number; readonly event: WatchEvent }[] = [];
  const watchers = new Set<Watcher>();
  const faults = new Map<Verb, Error>();
  const counts = new Map<Verb, number>();
  let version = 0;
  let uidSerial = 0;
  let oldest = 0;
  let lastWatchFrom = 0;

  const enter = (verb: Verb): void => {
    counts.set(verb, (counts.get(verb) ?? 0) + 1);
    const fault = faults.get(verb);
    if (fault !== undefined) throw fault;
  };
  const publish = (type: 'ADDED' | 'MODIFIED' | 'DELETED', object: KubernetesObject): void => {
    history.push({ version, event: { type, object } });
    for (const watcher of watchers) {
      watcher.queue.push({ type, object });
      watcher.wake();
    }
  };
  const store = (object: { readonly metadata: object } & object): KubernetesObject => {
    version += 1;
    const metadata = { uid: `uid-${(uidSerial += 1)}`, creationTimestamp: '2026-01-01T00:00:00Z', generation: 1, ...object.metadata, resourceVersion: String(version) };
    const stored = structuredClone({ ...object, metadata }) as unknown as KubernetesObject; // The test gave the name.
    const key = formatKey(keyOf(stored));
    const isNew = !objects.has(key);
    objects.set(key, stored);
    publish(isNew ? 'ADDED' : 'MODIFIED', stored);
    return stored;
  };
  const refuse = (status: number, reason: string): never => {
    throw new AppError(status === 404 ? 'NOT_FOUND' : 'CONFLICT', reason, { details: { status, reason } });
  };

  return {
    put: (object) => {
      const before = objects.get(formatKey({ namespace: object.metadata.namespace, name: object.metadata.name }));
      const uid = object.metadata.uid ?? before?.metadata.uid;
      return store({ ...object, metadata: { ...object.metadata, ...(uid === undefined ? {} : { uid }) } });
    },
    remove: (key) => {
      const object = objects.get(formatKey(key));
      if (object === undefined) return;
      version += 1;
      objects.delete(formatKey(key));
      publish('DELETED', { ...object, metadata: { ...object.metadata, resourceVersion: String(version) } });
    },
    breakWatches: (error) => {
      for (const watcher of watchers) {
        watcher.error = error;
        watcher.wake();
      }
    },
    fail: (verb, error) => {
      if (error === null) faults.delete(verb);
      else faults.set(verb, error);
    },
    forgetBefore: (forgotten) => {
      oldest = forgotten;
    },
    calls: (verb) => counts.get(verb) ?? 0,
    openWatches: () => watchers.size,
    lastWatchFrom: () => lastWatchFrom,
    find: (key) => objects.get(formatKey(key)),
    version: () => version,
    list: async (_resource, page) => {
      enter('list');
      const all = [...objects.values()];
      const start = page.continueToken === '' ? 0 : Number(page.continueToken);
      const end = start + page.limit;
      return { items: structuredClone(all.slice(start, end)), resourceVersion: String(version), continueToken: end < all.length ? String(end) : '' };
    },
    watch: async function* watch(_resource, from, signal) {
      enter('watch');
      const start = Number(from.resourceVersion);
      lastWatchFrom = start;
      if (start < oldest) throw expired();
      const watcher: Watcher = { queue: history.filter((entry) => entry.version > start).map(({ event }) => event), wake: () => {}, error: null };
      watchers.add(watcher);
      const abort = (): void => {
        watcher.error = new Error('aborted');
        watcher.wake();
      };
      signal.addEventListener('abort', abort);
      try {
        for (;;) {
          for (let event = watcher.queue.shift(); event !== undefined; event = watcher.queue.shift()) yield structuredClone(event);
          if (watcher.error !== null) throw watcher.error;
          await new Promise<void>((resolve) => {
            watcher.wake = resolve;
          });
        }
      } finally {
        signal.removeEventListener('abort', abort);
        watchers.delete(watcher);
      }
    },
    get: async (_resource, key) => {
      enter('get');
      return structuredClone(objects.get(formatKey(key)) ?? null);
    },
    create: async (_resource, key, body) => {
      enter('create');
      if (objects.has(formatKey(key))) refuse(409, 'AlreadyExists');
      return structuredClone(store({ ...body, metadata: { ...(body as { metadata?: object }).metadata, ...key } })); // A Kubernetes object's body.
    },
    patch: async (_resource, key, body) => {
      enter('patch');
      const before = objects.get(formatKey(key));
      if (before === undefined) return refuse(404, 'NotFound');
      const { metadata = {}, ...rest } = body as { metadata?: { uid?: string; resourceVersion?: string } }; // As above.
      if (metadata.uid !== undefined && metadata.uid !== before.metadata.uid) refuse(409, 'Conflict');
      if (metadata.resourceVersion !== undefined && metadata.resourceVersion !== before.metadata.resourceVersion) refuse(409, 'Conflict');
      const merged = { ...before, ...mergeDeep(before, rest), metadata: { ...before.metadata, ...metadata } };
      return structuredClone(store(merged));
    },
    delete: async (_resource, key, uid) => {
      enter('delete');
      const object = objects.get(formatKey(key));
      if (object?.metadata.uid !== uid) return;
      objects.delete(formatKey(key));
      version += 1;
      publish('DELETED', { ...object, metadata: { ...object.metadata, resourceVersion: String(version) } });
    },
  };
}

/** Merge as far as the runtime uses it: one level below the top, `status` whole. */
function mergeDeep(before: object, patch: object): object {
  const left = before as Record<string, unknown>; // Plain JSON objects.
  return Object.fromEntries(
    Object.entries(patch).map(([name, value]) => {
      const old = left[name];
      const isMergeable = name !== 'status' && typeof value === 'object' && value !== null && !Array.isArray(value) && typeof old === 'object' && old !== null;
      return [name, isMergeable ? { ...old, ...value } : value];
    }),
  );
}
