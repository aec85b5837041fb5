/**
 * Tenants at work while the control plane is replaced: each worker makes a microVM, waits until it runs, stops it, waits, and
 * deletes it, again and again. Owns the count of what was begun and what came to its end; a step that does not end is a failure.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { KubernetesClient, KubernetesObject } from '#hack/stack/kubernetes-client.ts';
import { until } from '#test/harness/until.ts';

/** Only a step that hangs takes that long. */
const patience = { timeoutMs: 240_000 };
const workers = 3;
const restMs = 200;
/** Answers of an API server that is busy with definitions that change under it. */
const retried = [404, 409, 429, 500, 503, 504];

export interface Load {
  /** MicroVMs that went the whole way so far. */
  cycles(): number;
  /** Longest wait for one step of one microVM since the last call, milliseconds. */
  longestWaitMs(): number;
  /** Resolves when that many more went the whole way. */
  more(count: number): Promise<void>;
  /** Ends after the step of each worker that is under way. @throws what a worker met */
  stop(): Promise<void>;
  /** Ids of all microVMs that it made. */
  readonly uids: readonly string[];
}

export function startLoad(client: KubernetesClient, namespace: string, spec: object): Load {
  const collection = `/apis/nkudo.dev/v1alpha1/namespaces/${namespace}/microvms`;
  const uids: string[] = [];
  let cycles = 0;
  let isStopping = false;
  let failure: unknown = null;
  let longestMs = 0;
  const wait = async (isDone: () => Promise<boolean>, what: string): Promise<void> => {
    const startedAt = performance.now();
    await until(isDone, what, patience);
    longestMs = Math.max(longestMs, performance.now() - startedAt);
  };

  const request = async (method: string, path: string, body?: object, type?: string): Promise<KubernetesObject | null> => {
    for (let tries = 0; ; tries += 1) {
      const answer = await client.request(method, path, body, type);
      if (answer.status < 300) return answer.body as KubernetesObject; // The API server vouches for it.
      if (method === 'DELETE' && answer.status === 404) return null;
      if (!retried.includes(answer.status) || tries > 100) throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
      await delay(restMs);
    }
  };
  const isRunning = async (path: string, status: 'True' | 'False'): Promise<boolean> => {
    const object = await client.find(path);
    const { conditions = [] } = (object?.['status'] ?? {}) as { conditions?: readonly { type: string; status: string }[] }; // The CRD's schema.
    return conditions.some((condition) => condition.type === 'Running' && condition.status === status);
  };
  const cycle = async (name: string): Promise<void> => {
    const path = `${collection}/${name}`;
    const made = await request('POST', collection, { apiVersion: 'nkudo.dev/v1alpha1', kind: 'MicroVM', metadata: { name, namespace }, spec });
    uids.push(made?.metadata.uid ?? '');
    await wait(() => isRunning(path, 'True'), `${name} to run`);
    await request('PATCH', path, { spec: { runPolicy: 'Halted' } }, 'application/merge-patch+json');
    await wait(() => isRunning(path, 'False'), `${name} to stop`);
    await request('DELETE', path);
    await wait(async () => (await client.find(path)) === null, `${name} to go`);
    cycles += 1;
  };
  const work = async (worker: number): Promise<void> => {
    for (let number = 1; !isStopping && failure === null; number += 1) {
      await cycle(`load-${worker}-${number}`).catch((error: unknown) => (failure ??= error));
      await delay(restMs);
    }
  };
  const working = Promise.all(Array.from({ length: workers }, (_, index) => work(index + 1)));
  return {
    uids,
    cycles: () => cycles,
    longestWaitMs: () => {
      const longest = longestMs;
      longestMs = 0;
      return longest;
    },
    more: async (count) => {
      const goal = cycles + count;
      await until(() => cycles >= goal || failure !== null, `${count} more microVMs that come and go`, patience);
      if (failure !== null) throw failure;
    },
    stop: async () => {
      isStopping = true;
      await working;
      if (failure !== null) throw failure;
    },
  };
}
