import { setTimeout as delay } from 'node:timers/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import { describeEvent } from '#test/harness/audit-log.ts';
import { useDedicatedPostgres } from '#test/harness/postgres.ts';
import { createWorld, statusOf, siteName, type TestHost, type World } from './world.ts';

/** The measured window; it is the subject of the test, not a wait for something. */
const windowMs = 30_000;
const count = 20;
const heartbeatMs = 10_000;

let world: World;
let host: TestHost;

beforeAll(async () => {
  // A cluster of its own: its write counters are those of this file alone. Autovacuum would write by itself.
  world = await createWorld({ postgres: await useDedicatedPostgres({ settings: ['autovacuum=off'] }) });
  await world.startController();
  await world.createSite();
  host = await world.addHost('edge-1');
});

describe('a fleet at rest', () => {
  it('[S7] writes nothing to Kubernetes and Postgres but the leadership Lease and the heartbeat, with 20 microVMs over 30 s', async () => {
    const names = Array.from({ length: count }, (_, index) => `rest-${index}`);
    await Promise.all(names.map((name) => world.applyMicroVM(name)));
    await Promise.all(names.map((name) => world.waitForCondition('microvms', name, { type: 'Running', status: 'True' })));
    // The coalesced counts of the Site are the last writes of the way there.
    await world.waitUntil('sites', siteName, 'all counted as running', (site) => (statusOf(site)['microvms'] as { running?: number } | undefined)?.running === count);
    await world.waitUntil('hosts', 'edge-1', 'all counted as allocated', (object) => (statusOf(object)['allocated'] as { microvms?: number } | undefined)?.microvms === count);
    const pids = host.vmms().map((vmm) => vmm.pid);
    expect(pids).toHaveLength(count);

    const mark = world.kubernetes.audit.mark();
    const before = { tables: await world.database.tableWrites(), counters: await world.database.counters() };
    await delay(windowMs);
    const after = { tables: await world.database.tableWrites(), counters: await world.database.counters() };
    const events = world.kubernetes.audit.since(mark);
    const writes = world.kubernetes.audit.writesSince(mark);

    const isLeadership = (uri: string): boolean => /\/leases\/nkudo-controller\b/.test(uri);
    expect(writes.filter((event) => !isLeadership(event.requestURI)).map(describeEvent)).toEqual([]);
    // The checker looked at something: the Lease was renewed meanwhile.
    expect(writes.filter((event) => isLeadership(event.requestURI)).length).toBeGreaterThan(0);
    expect(events.length).toBeGreaterThan(0);

    const changed = Object.entries(after.tables).filter(([table, total]) => total !== before.tables[table]).map(([table]) => table);
    expect(changed).toEqual(['host_liveness']);
    const transactions = after.counters.writeTransactions - before.counters.writeTransactions;
    const beats = Math.ceil(windowMs / heartbeatMs) + 1;
    console.log(`[S7] in ${windowMs / 1000} s: ${writes.length} writes of the Lease, ${transactions} writing transactions in Postgres (at most ${beats} beats), ${after.counters.walBytes - before.counters.walBytes} bytes of WAL`);
    expect(transactions).toBeGreaterThan(0);
    expect(transactions).toBeLessThanOrEqual(beats);
    expect(host.vmms().map((vmm) => vmm.pid)).toEqual(pids);
  });
});
