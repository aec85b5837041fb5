/** Many at once: one effect. The numbers are of commits and rows, never of time. */
import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { makeEpoch } from '#api/model/epoch.ts';
import { microVMId, sessionId } from '#api/model/ids.ts';
import type { Database } from '#db/database.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';
import { actor, desired, enrollInput, facts, freshHash, makeFleet, makeHost, makeToken, nowMs, openTestDatabase, publish, publishInput, type Fleet } from './builders.ts';

let server: TestDatabase;
let db: Database;
let fleet: Fleet;

beforeAll(async () => {
  server = await useDatabase();
  db = openTestDatabase(server);
  fleet = await makeFleet(db);
});
afterAll(() => db.close());

const times = <Item>(count: number, make: (index: number) => Item): Item[] => Array.from({ length: count }, (_unused, index) => make(index));

describe('publish', () => {
  it('makes one plan out of 20 concurrent publications with one key', async () => {
    const host = await makeHost(fleet, 'race-publish');
    const input = publishInput(fleet, host);
    const results = await Promise.all(times(20, () => db.microvms.publish(input, fleet.epoch, actor)));
    expect(results.map((result) => result.outcome).toSorted()).toEqual([...times(19, () => 'alreadyPublished'), 'published']);
    const rows = await server.query(`select (select count(*)::int from nkudo.operations where microvm_id = $1) as operations, (select count(*)::int from nkudo.bindings where microvm_id = $1) as bindings`, [input.microvmId]);
    expect(rows).toEqual([{ operations: 1, bindings: 1 }]);
    const plans = await server.query(`select idempotency_key from nkudo.plans where idempotency_key like $1`, [`cr/${input.microvmId}/%`]);
    expect(plans).toEqual([{ idempotency_key: `cr/${input.microvmId}/1/${makeEpoch(1, 1)}/1` }]);
  });

  it('supersedes what was not handed out, keeps what was, and refuses an older generation', async () => {
    const host = await makeHost(fleet, 'supersede');
    const input = publishInput(fleet, host);
    await publish(fleet, input);
    const second = await publish(fleet, { ...input, generation: 2, kind: 'Update' });
    expect(second).toMatchObject({ generation: 2, newestOperation: { revision: 2, status: 'Pending' } });
    const claimed = await db.dispatch.claim({ tenantId: fleet.tenantId, hostId: host.hostId, sessionId: host.sessionId, includeDispatched: false });
    expect(claimed.map((operation) => operation.revision)).toEqual([2]);
    await publish(fleet, { ...input, generation: 3, kind: 'Update' });
    const statuses = await server.query('select o.status, p.status as plan from nkudo.operations o join nkudo.plans p on p.id = o.plan_id where o.microvm_id = $1 order by o.revision', [input.microvmId]);
    expect(statuses).toEqual([{ status: 'Superseded', plan: 'Superseded' }, { status: 'Dispatched', plan: 'Dispatched' }, { status: 'Pending', plan: 'Pending' }]);
    await expect(db.microvms.publish({ ...input, generation: 2, tryNumber: 5 }, fleet.epoch, actor)).rejects.toMatchObject({ code: 'STALE_GENERATION' });
  });

  it('never fills a host above its capacity, however many are placed on it at once', async () => {
    const host = await makeHost(fleet, 'race-capacity', facts({ hostName: 'race-capacity', cpuCount: 1 }));
    const results = await Promise.all(times(12, () => db.microvms.publish(publishInput(fleet, host, { desired: desired({ cpuCount: 4, memoryBytes: 2 ** 20 }) }), fleet.epoch, actor)));
    expect(results.filter((result) => result.outcome === 'published')).toHaveLength(4);
    expect(results.filter((result) => result.outcome === 'hostUnavailable')).toHaveLength(8);
    expect(await db.hosts.load(fleet.tenantId, host.hostId)).toMatchObject({ allocated: { cpus: 16, microvms: 4 } });
  });

  it('lets no microVM grow above the capacity of its host, however many grow at once; each may shrink', async () => {
    const host = await makeHost(fleet, 'race-growth', facts({ hostName: 'race-growth', cpuCount: 1 }));
    const sized = (cpuCount: number) => desired({ cpuCount, memoryBytes: 2 ** 20 });
    const inputs = times(4, () => publishInput(fleet, host, { desired: sized(3) }));
    await Promise.all(inputs.map((input) => publish(fleet, input)));
    const grown = await Promise.all(inputs.map((input) => db.microvms.publish({ ...input, generation: 2, kind: 'Update', desired: sized(5) }, fleet.epoch, actor)));
    expect(grown.map(({ outcome }) => outcome).toSorted()).toEqual(['growthRefused', 'growthRefused', 'published', 'published']);
    expect(await db.hosts.load(fleet.tenantId, host.hostId)).toMatchObject({ allocated: { cpus: 16, microvms: 4 } });
    // What was refused is as it was.
    const refused = inputs[grown.findIndex(({ outcome }) => outcome === 'growthRefused')];
    expect(refused === undefined ? null : await db.microvms.load(fleet.tenantId, refused.microvmId)).toMatchObject({ generation: 1, desired: { cpuCount: 3 } });
    // A host that takes no new ones, and has promised more than it has, lets those that it has shrink.
    await db.hosts.saveObject({ tenantId: fleet.tenantId, hostId: host.hostId, objectUid: randomUUID(), isApproved: true, isUnschedulable: true, reservedCpus: 1, reservedMemoryBytes: 0 }, fleet.epoch, actor);
    const shrunk = await Promise.all(inputs.map((input) => db.microvms.publish({ ...input, generation: 3, kind: 'Update', desired: sized(2) }, fleet.epoch, actor)));
    expect(shrunk.map(({ outcome }) => outcome)).toEqual(times(4, () => 'published'));
  });

  it('issues numbers above everything a host reports, and binds again when the host knows a higher epoch', async () => {
    const host = await makeHost(fleet, 'restored');
    const input = publishInput(fleet, host);
    const before = await publish(fleet, input);
    const lost = microVMId(randomUUID());
    const reported = { epoch: makeEpoch(1, 40), revision: 70, isLive: true, isOrphan: false };
    const open = { tenantId: fleet.tenantId, hostId: host.hostId, sessionId: sessionId(randomUUID()), replica: 'replica-1', facts: facts({ hostName: 'restored' }), certificateSerial: host.serial };
    await db.hosts.openSession({ ...open, known: [{ microvmId: input.microvmId, ...reported }, { microvmId: lost, ...reported }] }, actor);
    const after = await publish(fleet, input);
    expect(before.binding?.epoch).toBe(makeEpoch(1, 1));
    expect(after).toMatchObject({ binding: { hostId: host.hostId, epoch: makeEpoch(1, 41) }, newestOperation: { revision: 71 } });
    const regained = await publish(fleet, publishInput(fleet, host, { microvmId: lost }));
    expect(regained).toMatchObject({ binding: { epoch: makeEpoch(1, 41) }, newestOperation: { revision: 71 } });
  });
});

describe('leadership', () => {
  it('refuses every write of an old leader and lets the new one write', async () => {
    const host = await makeHost(fleet, 'fence');
    const old = fleet.epoch;
    const { epoch } = await db.leadership.acquire({ ...actor, name: 'replica-2' });
    expect(epoch).toBe(old + 1);
    const input = publishInput(fleet, host);
    await expect(db.microvms.publish(input, old, actor)).rejects.toMatchObject({ code: 'LEADERSHIP_LOST' });
    await expect(db.hosts.revoke({ tenantId: fleet.tenantId, hostId: host.hostId, force: true }, old, actor)).rejects.toMatchObject({ code: 'LEADERSHIP_LOST' });
    expect(await db.microvms.load(fleet.tenantId, input.microvmId)).toBeNull();
    fleet = { ...fleet, epoch };
    expect(await publish(fleet, input)).toMatchObject({ generation: 1 });
  });

  it('waits for a transaction of the old leader that holds the fence', async () => {
    const app = new pg.Client({ connectionString: server.appUrl });
    await app.connect();
    await app.query('begin');
    await app.query('select nkudo.assert_leader_since($1, 0)', [fleet.epoch]);
    let isAcquired = false;
    const acquiring = db.leadership.acquire(actor).then((acquired) => {
      isAcquired = true;
      return acquired;
    });
    const isWaiting = async (): Promise<boolean> => (await server.query(`select 1 from pg_stat_activity where wait_event_type = 'Lock' and query like '%update nkudo.leadership%' and datname = current_database()`)).length > 0;
    while (!(await isWaiting())) expect(isAcquired).toBe(false);
    await app.query('commit');
    fleet = { ...fleet, epoch: (await acquiring).epoch };
    await app.end();
  });
});

describe('a restored database', () => {
  it('raises the incarnation at the next leadership, and epochs with it, once', async () => {
    const host = await makeHost(fleet, 'incarnation');
    const input = publishInput(fleet, host);
    await publish(fleet, input);
    await server.query(`update nkudo.installation set system_identifier = 'of another cluster'`);
    expect(await db.leadership.acquire(actor)).toMatchObject({ incarnation: 2 });
    const acquired = await db.leadership.acquire(actor);
    expect(acquired).toMatchObject({ incarnation: 2 });
    fleet = { ...fleet, epoch: acquired.epoch };
    expect(await publish(fleet, { ...input, generation: 2 })).toMatchObject({ binding: { epoch: makeEpoch(1, 1) } });
    expect(await publish(fleet, publishInput(fleet, host))).toMatchObject({ binding: { epoch: makeEpoch(2, 1) } });
  });
});

describe('enroll', () => {
  it('gives one certificate when ten machines race for one token', async () => {
    const { secretHash, tokenId } = await makeToken(fleet);
    const results = await Promise.allSettled(times(10, (index) => db.enrollment.enroll(enrollInput(secretHash, { name: `racer-${index}` }))));
    expect(results.filter((result) => result.status === 'fulfilled')).toHaveLength(1);
    for (const result of results) if (result.status === 'rejected') expect(result.reason).toMatchObject({ code: 'TOKEN_USED' });
    const state = await db.enrollment.loadToken(fleet.tenantId, tokenId);
    expect(state?.usedByHostName).toMatch(/^racer-/);
    expect(await server.query(`select count(*)::int as n from nkudo.certificates c join nkudo.hosts h on h.id = c.host_id where h.name like 'racer-%'`)).toEqual([{ n: 1 }]);
  });

  it('returns the first certificate to the same key again, until the token expires', async () => {
    const { secretHash } = await makeToken(fleet);
    const publicKeyHash = freshHash();
    const results = await Promise.all(times(5, () => db.enrollment.enroll(enrollInput(secretHash, { name: 'same-key', publicKeyHash }))));
    expect(new Set(results.map((result) => result.certificate.serial)).size).toBe(1);
    expect(new Set(results.map((result) => result.hostId)).size).toBe(1);
    await expect(db.enrollment.enroll(enrollInput(secretHash, { name: 'same-key', publicKeyHash, nowMs: nowMs + 3_600_000 }))).rejects.toMatchObject({ code: 'TOKEN_EXPIRED' });
  });

  it('refuses unknown, expired, revoked and mismatching tokens and taken names, and then no host appears', async () => {
    const before = await server.query('select count(*)::int as n from nkudo.hosts');
    const bound = await makeToken(fleet, { hostName: 'only-me' });
    const expired = await makeToken(fleet, { expiresAtMs: nowMs });
    const revoked = await makeToken(fleet);
    await db.enrollment.revokeToken(fleet.tenantId, revoked.tokenId, fleet.epoch, actor);
    const refusals: readonly (readonly [Uint8Array, string, string])[] = [
      [freshHash(), 'a', 'TOKEN_UNKNOWN'], [expired.secretHash, 'b', 'TOKEN_EXPIRED'], [revoked.secretHash, 'c', 'TOKEN_UNKNOWN'],
      [bound.secretHash, 'another', 'TOKEN_HOST_MISMATCH'], [(await makeToken(fleet)).secretHash, 'same-key', 'HOST_NAME_TAKEN'],
    ];
    for (const [secretHash, name, code] of refusals) await expect(db.enrollment.enroll(enrollInput(secretHash, { name })), code).rejects.toMatchObject({ code });
    expect(await server.query('select count(*)::int as n from nkudo.hosts')).toEqual(before);
    expect(await db.enrollment.enroll(enrollInput(bound.secretHash, { name: null }))).toMatchObject({ hostName: 'only-me' });
  });

  it('gives one of two tokens the name that both ask for', async () => {
    const tokens = await Promise.all(times(2, () => makeToken(fleet)));
    const results = await Promise.allSettled(tokens.map(({ secretHash }) => db.enrollment.enroll(enrollInput(secretHash, { name: 'one-name' }))));
    expect(results.map((result) => (result.status === 'fulfilled' ? 'ok' : (result.reason as { code: string }).code)).toSorted()).toEqual(['HOST_NAME_TAKEN', 'ok']); // A test's own parsing.
  });
});
