import { describe, expect, it } from 'vitest';
import { createManualTime, settle, type ManualTime } from '#test/fakes/manual-time.ts';
import { createMemoryKubernetesApi, unavailable, type MemoryKubernetesApi } from '#test/fakes/memory-kubernetes-api.ts';
import type { KubernetesApi } from './kubernetes-api.ts';
import { campaign, fenceWrites, leaseResource, type Leadership } from './leader-election.ts';

const silent = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

function candidate(api: KubernetesApi, time: ManualTime, identity: string): Leadership & { wasLost(): boolean } {
  const leadership = campaign({ api, namespace: 'system', name: 'lease', identity, time, log: silent });
  let isLost = false;
  void leadership.lost.then(() => (isLost = true));
  return { ...leadership, wasLost: () => isLost };
}

/** The same server, reached over a link of its own. */
function linkTo(api: MemoryKubernetesApi): KubernetesApi & { cut(): void } {
  let isCut = false;
  const over = <Args extends unknown[], Result>(call: (...args: Args) => Promise<Result>) => async (...args: Args): Promise<Result> => {
    if (isCut) throw unavailable();
    return call(...args);
  };
  return { ...api, get: over(api.get), create: over(api.create), patch: over(api.patch), cut: () => void (isCut = true) };
}

describe('leader election', () => {
  it('makes exactly one of several candidates the leader', async () => {
    const [api, time] = [createMemoryKubernetesApi(), createManualTime()];
    const candidates = ['a', 'b', 'c'].map((name) => candidate(api, time, name));
    await time.advance(60_000);
    expect(candidates.filter((each) => each.isLeader())).toHaveLength(1);
    await Promise.all([...candidates.map((each) => each.stop()), time.advance(10_000)]);
  });

  it('loses leadership before another wins it when the leader is cut off, and the other wins within 15 s', async () => {
    const [api, time] = [createMemoryKubernetesApi(), createManualTime()];
    const link = linkTo(api);
    const first = candidate(link, time, 'first');
    await time.advance(100);
    const second = candidate(api, time, 'second');
    await time.advance(20_000);
    expect([first.isLeader(), second.isLeader()]).toEqual([true, false]);
    link.cut();
    const cutAtMs = time.monotonicMs();
    let overlap = 0;
    while (!second.isLeader() && time.monotonicMs() - cutAtMs < 60_000) {
      await time.advance(100);
      if (first.isLeader() && second.isLeader()) overlap += 1;
    }
    expect(overlap).toBe(0);
    expect(first.wasLost()).toBe(true);
    expect(time.monotonicMs() - cutAtMs).toBeLessThanOrEqual(15_000);
    await Promise.all([second.stop(), time.advance(10_000)]);
  });

  it('lets another follow within one retry after a graceful stop', async () => {
    const [api, time] = [createMemoryKubernetesApi(), createManualTime()];
    const first = candidate(api, time, 'first');
    await time.advance(100);
    const second = candidate(api, time, 'second');
    await time.advance(5_000);
    await first.stop();
    await time.advance(2_000);
    expect(second.isLeader()).toBe(true);
    expect(first.wasLost()).toBe(false);
    await Promise.all([second.stop(), time.advance(10_000)]);
  });

  it('takes its own Lease over at once when it comes back under its name', async () => {
    const [api, time] = [createMemoryKubernetesApi(), createManualTime()];
    const before = candidate(api, time, 'same');
    await time.advance(100);
    expect(before.isLeader()).toBe(true);
    const after = candidate(api, time, 'same');
    await settle();
    expect(after.isLeader()).toBe(true);
    await Promise.all([before.stop(), after.stop(), time.advance(10_000)]);
  });

  it('renews with one write and no read, and survives outages below the deadline', async () => {
    const [api, time] = [createMemoryKubernetesApi(), createManualTime()];
    const leader = candidate(api, time, 'a');
    await time.advance(100);
    const [gets, patches] = [api.calls('get'), api.calls('patch')];
    await time.advance(16_500);
    expect(api.calls('get')).toBe(gets);
    expect(api.calls('patch') - patches).toBe(10);
    api.fail('patch', unavailable());
    await time.advance(4_000);
    api.fail('patch', null);
    await time.advance(4_000);
    expect([leader.isLeader(), leader.wasLost()]).toEqual([true, false]);
    await Promise.all([leader.stop(), time.advance(10_000)]);
  });

  it('[C6] lets a process that stood still write nothing more, before any timer tells it that the Lease is lost', async () => {
    const [api, time] = [createMemoryKubernetesApi(), createManualTime()];
    const leader = candidate(api, time, 'a');
    await time.advance(100);
    const key = { namespace: 'system', name: 'other' };
    const body = { apiVersion: 'coordination.k8s.io/v1', kind: 'Lease', metadata: key };
    const fenced = fenceWrites(api, leader);
    await fenced.create(leaseResource, key, body);
    time.jump(7_000);
    await expect(fenced.patch(leaseResource, key, body, { type: 'merge' })).rejects.toMatchObject({ code: 'LEADERSHIP_LOST' });
    await expect(fenced.delete(leaseResource, key, 'uid')).rejects.toMatchObject({ code: 'LEADERSHIP_LOST' });
    expect(await fenced.get(leaseResource, key)).not.toBeNull();
    await Promise.all([leader.stop(), time.advance(10_000)]);
  });

  it('leaves its notes on the Lease for the next leader, also when it gives the Lease back', async () => {
    const [api, time] = [createMemoryKubernetesApi(), createManualTime()];
    let note = 'one';
    const first = campaign({ api, namespace: 'system', name: 'lease', identity: 'a', time, log: silent, notes: () => ({ 'example.org/note': note }) });
    await time.advance(5_000);
    note = 'two';
    await first.stop();
    const second = candidate(api, time, 'b');
    await time.advance(5_000);
    expect(second.notesBefore()).toEqual({ 'example.org/note': 'two' });
    await Promise.all([second.stop(), time.advance(10_000)]);
  });
});
