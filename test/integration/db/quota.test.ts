/** The quota of a Site in the binding transaction: under a race, for what grows, and for what is there already. */
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { microVMId } from '#api/model/ids.ts';
import type { SiteQuota } from '#api/model/quota.ts';
import type { Database } from '#db/database.ts';
import { useDatabase } from '#test/harness/postgres.ts';
import { actor, desired, facts, makeFleet, makeHost, openTestDatabase, publish, publishInput, type Fleet, type TestHost } from './builders.ts';

let db: Database;
beforeAll(async () => {
  db = openTestDatabase(await useDatabase());
});
afterAll(() => db.close());

let generation = 1;
async function makeSite(quota: SiteQuota): Promise<{ readonly fleet: Fleet; readonly host: TestHost }> {
  const fleet = await makeFleet(db);
  const host = await makeHost(fleet, 'edge-1', facts({ hostName: 'edge-1', cpuCount: 64, memoryBytes: 2 ** 38 }));
  await setQuota(fleet, quota);
  return { fleet, host };
}
async function setQuota(fleet: Fleet, quota: SiteQuota | null): Promise<void> {
  generation += 1;
  await db.sites.save({ tenantId: fleet.tenantId, namespace: fleet.namespace, siteId: fleet.siteId, name: 'store-1', generation, requireApproval: false, quota }, fleet.epoch, actor);
}

const create = (fleet: Fleet, host: TestHost) => db.microvms.publish(publishInput(fleet, host, { microvmId: microVMId(randomUUID()), name: `vm-${randomUUID().slice(0, 8)}` }), fleet.epoch, actor);

describe('the quota of a Site', () => {
  it('is never exceeded by microVMs that are bound at once, and nothing is written of the others', async () => {
    const { fleet, host } = await makeSite({ microvms: 5 });
    const outcomes = await Promise.all(Array.from({ length: 20 }, () => create(fleet, host)));
    expect(outcomes.filter(({ outcome }) => outcome === 'published')).toHaveLength(5);
    const denied = outcomes.filter((result) => result.outcome === 'quotaDenied');
    expect(denied).toHaveLength(15);
    expect(denied[0]).toMatchObject({ message: 'the quota of Site store-1 is 5 microVMs: the other microVMs have 5 microVMs, and this one asks for 1 microVM' });
    await setQuota(fleet, { microvms: 6 });
    expect((await create(fleet, host)).outcome).toBe('published');
    await setQuota(fleet, null);
    expect((await create(fleet, host)).outcome).toBe('published');
  });

  it('refuses growth and lets what is there be stopped when it was lowered', async () => {
    const { fleet, host } = await makeSite({ vcpus: 4, memoryBytes: 2 ** 30 });
    const input = publishInput(fleet, host, { desired: desired({ cpuCount: 2 }) });
    await publish(fleet, input);
    const grow = await db.microvms.publish({ ...input, kind: 'Update', placeOn: null, generation: 2, desired: desired({ cpuCount: 5 }) }, fleet.epoch, actor);
    expect(grow).toMatchObject({ outcome: 'quotaDenied' });
    // The old spec is still the published one.
    expect((await db.microvms.load(fleet.tenantId, input.microvmId))?.generation).toBe(1);
    await setQuota(fleet, { vcpus: 0, microvms: 0 });
    const stop = await db.microvms.publish({ ...input, kind: 'Stop', placeOn: null, generation: 3, desired: desired({ cpuCount: 2, runPolicy: 'Halted' }) }, fleet.epoch, actor);
    expect(stop.outcome).toBe('published');
    expect((await create(fleet, host)).outcome).toBe('quotaDenied');
  });
});
