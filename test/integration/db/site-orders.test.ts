/** Orders of people at a site, as the stores take them: one audit row each, also of a host that lost the microVM. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { SiteOrder } from '#api/model/site-orders.ts';
import type { Database } from '#db/database.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';
import { actor, makeFleet, makeHost, observation, openTestDatabase, publish, publishInput, type Fleet, type TestHost } from './builders.ts';

let server: TestDatabase;
let db: Database;
let fleet: Fleet;
let host: TestHost;

beforeAll(async () => {
  server = await useDatabase();
  db = openTestDatabase(server);
  fleet = await makeFleet(db);
  host = await makeHost(fleet);
});
afterAll(() => db.close());

const atMs = Date.UTC(2026, 0, 2, 3, 4, 5);
const order = (number: number, change: Partial<SiteOrder> = {}): SiteOrder => ({ number, kind: 'Stop', by: { user: 'alice', uid: 1001 }, atMs, ...change });
const report = (seen: ReturnType<typeof observation>, at = host) =>
  db.dispatch.recordReports({ tenantId: fleet.tenantId, hostId: at.hostId, executions: [], observations: [seen] }, actor);
const audited = async (microvmId: string): Promise<string[]> =>
  (await server.query(`select actor_kind || ' ' || actor_name || ' ' || actor_from || ' ' || action as row from nkudo.audit_events where subject_id = $1 and (actor_kind = 'siteOperator' or action like 'site%') order by id`, [microvmId])).map((row) => String(row['row']));

describe('orders of people at a site', () => {
  it('have one audit row each, with who, where and when, however often they are told', async () => {
    const published = await publish(fleet, publishInput(fleet, host));
    const { microvmId } = published;
    await report(observation(published, { siteOrders: [order(5), order(6, { kind: 'Start', acceptsTwoCopies: true })] }));
    await report(observation(published, { sequence: 2, siteOrders: [order(5), order(6, { kind: 'Start', acceptsTwoCopies: true }), order(7, { kind: 'Hold', by: { user: 'bob', uid: 0 } })] }));
    // An observation that comes late tells nothing of the microVM, and its orders all the same.
    await report(observation(published, { sequence: 1, siteOrders: [order(8, { kind: 'Release' }), order(9, { kind: 'OpenConsole' }), order(10, { kind: 'ReadConsole' }), order(11, { kind: 'TakeConsole' })], siteOrdersLost: 3 }));
    const where = `${host.hostId} 2026-01-02T03:04:05.000Z`;
    expect(await audited(microvmId)).toEqual([
      `siteOperator alice (uid 1001) ${where} stoppedAtSite`,
      `siteOperator alice (uid 1001) ${where} startedAtSiteWithTwoCopies`,
      `siteOperator bob (uid 0) ${where} heldAtSite`,
      `host ${host.hostId}  siteOrdersLost`,
      `siteOperator alice (uid 1001) ${where} releasedAtSite`,
      `siteOperator alice (uid 1001) ${where} consoleOpenedAtSite`,
      `siteOperator alice (uid 1001) ${where} consoleReadAtSite`,
      `siteOperator alice (uid 1001) ${where} consoleTakenAtSite`,
    ]);
  });

  it('are heard from a host that had the microVM, and from no other', async () => {
    const published = await publish(fleet, publishInput(fleet, host));
    await db.microvms.forceDelete(fleet.tenantId, published.microvmId, fleet.epoch, actor);
    const outcome = await report(observation(published, { siteOrders: [order(5, { kind: 'Start', acceptsTwoCopies: true })] }));
    expect(outcome.refused).toEqual([{ id: published.microvmId, code: 'NOT_FOUND' }]);
    await report(observation(published, { siteOrders: [order(9)] }), await makeHost(fleet, 'edge-2'));
    expect(await audited(published.microvmId)).toEqual([expect.stringContaining('startedAtSiteWithTwoCopies')]);
  });

  it('leave the override that stands in the record, with what was noted of the object, and are audited when they end from above', async () => {
    const input = publishInput(fleet, host);
    const published = await publish(fleet, input);
    const override = { kind: 'Held', number: 5, by: { user: 'alice', uid: 1001 }, atMs } as const;
    await report(observation(published, { state: 'stopped', siteOverride: override, siteOrders: [order(5, { kind: 'Hold' })] }));
    const note = { number: 5, generation: 1, runPolicy: 'Always', restartNonce: 0 } as const;
    await db.microvms.noteSiteOrder({ tenantId: fleet.tenantId, microvmId: input.microvmId, note }, fleet.epoch);
    expect(await db.microvms.load(fleet.tenantId, input.microvmId)).toMatchObject({ siteOrderNoted: note, observation: { siteOverride: override } });
    expect(await db.fleet.findMicroVM(fleet.tenantId, { id: input.microvmId })).toMatchObject({ siteOverride: override });
    await publish(fleet, { ...input, desired: { ...input.desired, overruledSiteOrder: 5 }, tryNumber: 2, overruled: { override, by: 'Force' } });
    expect(await audited(input.microvmId)).toEqual([expect.stringContaining('heldAtSite'), expect.stringMatching(/ siteOrderOverruled$/)]);
    await report(observation(published, { sequence: 2 }));
    expect((await db.microvms.load(fleet.tenantId, input.microvmId))?.observation).not.toHaveProperty('siteOverride');
  });
});
