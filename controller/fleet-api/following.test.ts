import { describe, expect, it } from 'vitest';
import type { TailLogsRequest, TailLogsResponse, WatchStatusResponse } from '#api/gen/nkudo/v1/fleet.pb.ts';
import { microVMId, tenantId } from '#api/model/ids.ts';
import type { FleetStore, MicroVMView } from '#controller/ports/fleet-store.ts';
import type { StoredLogChunk } from '#controller/ports/log-store.ts';
import { lastBytes, tailLogs } from './log-tail.ts';
import { createSharedStatuses, createStatusMemory, watchStatus } from './status-watch.ts';
import { createWakeUps } from './wake-ups.ts';

const tenant = tenantId('00000000-0000-4000-8000-000000000001');
const microvm = microVMId('00000000-0000-4000-8000-000000000002');
const clock = { nowMs: () => 0, monotonicMs: () => 0 };

function chunk(id: number, text: string, offset = 0): StoredLogChunk {
  return { id, incarnation: 1, offset, data: Buffer.from(text), gapBytes: 0, receivedAtMs: 0 };
}

/** Collects what is sent and lets the test wait for it. */
function receiver<Message>() {
  const stopping = new AbortController();
  const sent: Message[] = [];
  let wake = (): void => {};
  return {
    sent,
    out: { signal: stopping.signal, send: (message: Message) => { sent.push(message); wake(); return Promise.resolve(); } },
    stop: () => stopping.abort(),
    has: async (length: number): Promise<void> => {
      while (sent.length < length) await new Promise<void>((resolve) => { wake = resolve; });
    },
  };
}

describe('tailing a log', () => {
  const request: TailLogsRequest = { namespace: 'n', microvmUid: microvm, source: '', tailBytes: 0, follow: false, incarnation: 0, fromOffset: 0 };
  const reader = (chunks: readonly StoredLogChunk[]) => ({ read: (_t: unknown, _m: unknown, _s: unknown, afterId: number, limit: number) => Promise.resolve(chunks.filter((each) => each.id > afterId).slice(0, limit)), readLast: () => Promise.resolve(chunks) });

  it('cuts the first chunk so that exactly the last bytes remain', () => {
    expect(lastBytes([chunk(1, 'abc'), chunk(2, 'def', 3)], 4).map((each) => [each.offset, Buffer.from(each.data).toString()])).toEqual([[2, 'c'], [3, 'def']]);
    expect(lastBytes([chunk(1, 'abc')], 100)).toHaveLength(1);
    expect(lastBytes([], 5)).toEqual([]);
  });

  it('reads everything that is kept and ends, over many pages', async () => {
    const many = Array.from({ length: 200 }, (_, index) => chunk(index + 1, 'x', index));
    const { out, sent } = receiver<TailLogsResponse>();
    await tailLogs({ logs: reader(many), wakeUps: createWakeUps() }, out, { tenantId: tenant, request });
    expect(sent.map((each) => each.offset)).toEqual(many.map((each) => each.offset));
  });

  it('goes on behind a place: within a boot at the byte, and with later boots whole', async () => {
    const chunks = [chunk(1, 'abc'), chunk(2, 'def', 3), { ...chunk(3, 'xyz'), incarnation: 2 }];
    const from = async (incarnation: number, fromOffset: number): Promise<readonly (readonly [number, number, string])[]> => {
      const { out, sent } = receiver<TailLogsResponse>();
      await tailLogs({ logs: reader(chunks), wakeUps: createWakeUps() }, out, { tenantId: tenant, request: { ...request, incarnation, fromOffset } });
      return sent.map((each) => [each.incarnation, each.offset, each.data.toString()]);
    };
    expect(await from(1, 4)).toEqual([[1, 4, 'ef'], [2, 0, 'xyz']]);
    expect(await from(1, 3)).toEqual([[1, 3, 'def'], [2, 0, 'xyz']]);
    expect(await from(1, 6)).toEqual([[2, 0, 'xyz']]);
    expect(await from(2, 3)).toEqual([]);
  });

  it('follows: sends what comes after a wake-up, and ends with its reader', async () => {
    const chunks = [chunk(1, 'a')];
    const wakeUps = createWakeUps();
    const { out, sent, stop, has } = receiver<TailLogsResponse>();
    const following = tailLogs({ logs: reader(chunks), wakeUps }, out, { tenantId: tenant, request: { ...request, tailBytes: 1, follow: true } });
    await has(1);
    chunks.push(chunk(2, 'b', 1));
    wakeUps.wake(`log/${microvm}`);
    await has(2);
    stop();
    await following;
    expect(sent.map((each) => each.data.toString())).toEqual(['a', 'b']);
  });
});

describe('watching status', () => {
  const view = (name: string, state: string): MicroVMView => ({ id: `uid-${name}`, name, siteName: 's', hostName: 'h', epoch: 1, state, observedAtMs: 0, restarts: 0, planId: null, planStatus: null, siteOverride: null, cpus: null, memoryBytes: null });

  it('sends the list, then only differences, then what is gone', async () => {
    let microvms = [view('a', 'running'), view('b', 'running')];
    const fleet: Pick<FleetStore, 'listSites' | 'listHosts' | 'listMicroVMs' | 'listPlans'> = {
      listPlans: () => Promise.resolve([]),
      listSites: () => Promise.resolve([]),
      listHosts: () => Promise.resolve([]),
      // One row a page, so that paging is followed.
      listMicroVMs: (_tenant, _site, page) => {
        const at = Number(page.cursor ?? 0);
        return Promise.resolve({ rows: microvms.slice(at, at + 1), nextCursor: at + 1 < microvms.length ? String(at + 1) : null });
      },
    };
    const wakeUps = createWakeUps();
    const { out, sent, stop, has } = receiver<WatchStatusResponse>();
    const watching = watchStatus({ clock, fleet: fleet as FleetStore, wakeUps, statuses: createSharedStatuses({ clock, fleet: fleet as FleetStore, silenceMs: 0 }) }, out, { tenantId: tenant, siteName: null, memory: createStatusMemory() });
    await has(3);
    expect(sent.map((each) => each.change?.$case)).toEqual(['microvm', 'microvm', 'isSynced']);
    microvms = [view('a', 'running'), view('b', 'stopped')];
    wakeUps.wake(`tenant/${tenant}`);
    await has(4);
    expect(sent[3]?.change).toMatchObject({ $case: 'microvm', value: { name: 'b', state: 'stopped' } });
    microvms = [view('a', 'running')];
    wakeUps.wake(`tenant/${tenant}`);
    await has(5);
    expect(sent[4]?.change).toEqual({ $case: 'removedUid', value: 'uid-b' });
    stop();
    await watching;
  });
});

describe('many watchers of one tenant', () => {
  it('share one read for each site that they look at, whatever their number, and are all told', async () => {
    let reads = 0;
    let underWay = 0;
    let word = 'running';
    const fleet = {
      listSites: () => Promise.resolve([]),
      listHosts: () => Promise.resolve([]),
      listPlans: () => Promise.resolve([]),
      listMicroVMs: async () => {
        reads += 1;
        underWay += 1;
        expect(underWay).toBe(1);
        await new Promise((resolve) => setImmediate(resolve));
        underWay -= 1;
        return { rows: [{ id: 'uid', name: 'a', siteName: 's', hostName: 'h', epoch: 1, state: word, observedAtMs: 0, restarts: 0, planId: null, planStatus: null, siteOverride: null, cpus: null, memoryBytes: null }], nextCursor: null };
      },
    } as unknown as FleetStore; // What a watch reads.
    const wakeUps = createWakeUps();
    const deps = { clock, fleet, wakeUps, statuses: createSharedStatuses({ clock, fleet, silenceMs: 0 }) };
    const watchers = Array.from({ length: 50 }, () => receiver<WatchStatusResponse>());
    const watching = watchers.map(({ out }) => watchStatus(deps, out, { tenantId: tenant, siteName: null, memory: createStatusMemory() }));
    await Promise.all(watchers.map(({ has }) => has(2)));
    expect(reads).toBe(2);
    word = 'stopped';
    wakeUps.wake(`tenant/${tenant}`);
    await Promise.all(watchers.map(({ has }) => has(3)));
    expect(reads).toBeLessThan(50);
    for (const { stop } of watchers) stop();
    await Promise.all(watching);
  });
});

describe('wake-ups', () => {
  it('keeps one that comes while its subscriber is busy', async () => {
    const wakeUps = createWakeUps();
    const stopping = new AbortController();
    const subscription = wakeUps.subscribe('x', stopping.signal);
    wakeUps.wake('x');
    await subscription.next(3_600_000);
    stopping.abort();
    await subscription.next(3_600_000);
  });
});
