/** Leadership on a real API server: two candidates on two connections, one of which is cut off or stops. */
import { beforeAll, describe, expect, it } from 'vitest';
import { loadConnection } from '#controller/adapters/kubernetes/connection.ts';
import { createKubernetesClient, type KubernetesClient } from '#controller/adapters/kubernetes/kubernetes-client.ts';
import { campaign, type Leadership } from '#controller/runtime/leader-election.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { useKubernetes, type TestKubernetes } from '#test/harness/kubernetes.ts';
import { time } from './leader.ts';

/** A tenth of the real times: the rules are the same. */
const times = { leaseMs: 1_000, renewDeadlineMs: 700, retryMs: 150 };
const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

let kubernetes: TestKubernetes;
let namespace: string;

beforeAll(async () => {
  kubernetes = await useKubernetes();
  namespace = await kubernetes.createNamespace('leadership');
});

function candidate(name: string, identity: string): { readonly kube: KubernetesClient; readonly leadership: Leadership } {
  const kube = createKubernetesClient({ connection: loadConnection(kubernetes.access.kubeconfig), fieldManager: 'nkudo-controller', userAgent: 'nkudo-controller', time });
  const leadership = campaign({ api: kube, namespace, name, identity, time, log, times });
  fileScope().defer(async () => {
    await leadership.stop();
    kube.close();
  });
  return { kube, leadership };
}

async function holderOf(name: string): Promise<unknown> {
  const lease = await kubernetes.client.get(`/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases/${name}`);
  return (lease['spec'] as { holderIdentity?: string }).holderIdentity; // A Lease.
}

describe('leadership', () => {
  it('is won by one candidate, and by the other when the first stops', async () => {
    const first = candidate('graceful', 'first');
    expect(await first.leadership.won).toBe(true);
    const second = candidate('graceful', 'second');
    expect(await holderOf('graceful')).toBe('first');
    expect(second.leadership.isLeader()).toBe(false);
    await first.leadership.stop();
    expect(await second.leadership.won).toBe(true);
    expect(await holderOf('graceful')).toBe('second');
  });

  it('is lost by a candidate whose requests fail, before another wins it', async () => {
    const kube = createKubernetesClient({ connection: loadConnection(kubernetes.access.kubeconfig), fieldManager: 'nkudo-controller', userAgent: 'nkudo-controller', time });
    fileScope().defer(() => kube.close());
    let isCut = false;
    const cut = async (): Promise<never> => Promise.reject(new Error('the link is cut'));
    const leadership = campaign({
      api: { ...kube, get: (...args) => (isCut ? cut() : kube.get(...args)), patch: (...args) => (isCut ? cut() : kube.patch(...args)) },
      namespace, name: 'abrupt', identity: 'first', time, log, times,
    });
    expect(await leadership.won).toBe(true);
    const second = candidate('abrupt', 'second');
    const order: string[] = [];
    void leadership.lost.then(() => order.push('first lost'));
    void second.leadership.won.then(() => order.push('second won'));
    isCut = true;
    expect(await second.leadership.won).toBe(true);
    expect(order).toEqual(['first lost', 'second won']);
    expect(leadership.isLeader()).toBe(false);
  });
});
