/**
 * Starts reflectors, and queues once every reflector has its first complete list, so that no reconcile takes
 * a list in the making for the truth. Resyncs every key now and then: a missed change costs one interval.
 */
import { formatKey, keyOf, type KubernetesObject } from './kubernetes-api.ts';
import type { Reflector } from './reflector.ts';
import { pause, type Time } from './time.ts';
import type { WorkQueue } from './work-queue.ts';

export interface Controller {
  readonly queue: WorkQueue;
  /** Keys of its own objects, for resync. */
  readonly keys: () => readonly string[];
}

export interface Manager {
  /** Resolves when every queue has started. */
  readonly ready: Promise<void>;
  isReady(): boolean;
  /** Ends watches and waits for the running reconciles. */
  stop(): Promise<void>;
}

export function startManager(options: {
  readonly reflectors: readonly Reflector<KubernetesObject>[];
  readonly controllers: readonly Controller[];
  /** What has to be known before the first reconcile. */
  readonly before: () => Promise<void>;
  readonly resyncIntervalMs: number;
  readonly time: Time;
}): Manager {
  const { reflectors, controllers, time } = options;
  const ending = new AbortController();
  let isReady = false;
  const watching = reflectors.map((reflector) => reflector.run(ending.signal));
  const addAll = (): void => {
    for (const { queue, keys } of controllers) for (const key of keys()) queue.add(key);
  };
  const ready = Promise.all([...reflectors.map((reflector) => reflector.synced()), options.before()]).then(() => {
    if (ending.signal.aborted) return;
    addAll();
    for (const { queue } of controllers) queue.start();
    isReady = true;
  });
  const resync = async (): Promise<void> => {
    while (!ending.signal.aborted) {
      // The jitter keeps replicas and kinds apart.
      await pause(time, options.resyncIntervalMs * (0.9 + 0.2 * time.random()), ending.signal);
      if (isReady && !ending.signal.aborted) addAll();
    }
  };
  const resyncing = resync();
  return {
    ready,
    isReady: () => isReady,
    stop: async () => {
      ending.abort();
      await Promise.all([...controllers.map(({ queue }) => queue.stop()), ...watching, resyncing]);
    },
  };
}

/** Keys of all objects of a reflector. */
export function allKeys(reflector: Reflector<KubernetesObject>): readonly string[] {
  return reflector.list().map((object) => formatKey(keyOf(object)));
}
