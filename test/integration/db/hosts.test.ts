/** Sessions, beats, revocation and clones of hosts; sites; the tenants' reads. */
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { microVMId, planId, sessionId } from '#api/model/ids.ts';
import { forgottenCode } from '#api/model/microvm.ts';
import type { SiteObject } from '#controller/ports/api-key-store.ts';
import { encodeHost } from '#controller/fleet-api/fleet-codec.ts';
import type { Database } from '#db/database.ts';
import { encodeCursor } from '#db/stores/page-cursor.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';
import { actor, enrollInput, everyExecution, execution, facts, issue, makeFleet, makeHost, makeToken, nowMs, observation, openTestDatabase, publish, publishAndClaim, publishInput, type Fleet, type TestHost } from './builders.ts';

let server: TestDatabase;
let db: Database;
let fleet: Fleet;

beforeAll(async () => {
  server = await useDatabase();
  db = openTestDatabase(server);
  fleet = await makeFleet(db);
});
afterAll(() => db.close());

const session = (host: TestHost, overrides: object = {}) => ({
  tenantId: fleet.tenantId, hostId: host.hostId, sessionId: sessionId(randomUUID()), replica: 'replica-2', facts: facts(), known: [], certificateSerial: host.serial, ...overrides,
});

describe('a session', () => {
  it('is replaced by a newer one of the same machine, and beats of the old one count no more', async () => {
    const host = await makeHost(fleet, 'sessions');
    const newer = session(host);
    await db.hosts.openSession(newer, actor);
    const load = () => db.hosts.load(fleet.tenantId, host.hostId);
    expect(await load()).toMatchObject({ sessionId: newer.sessionId, facts: facts(), factsRevision: 2, certificate: { serial: host.serial } });
    await server.query(`update nkudo.host_liveness set last_beat_at = '2020-01-01Z' where host_id = $1`, [host.hostId]);
    await db.hosts.flushBeats([{ tenantId: fleet.tenantId, hostId: host.hostId, sessionId: host.sessionId, ageMs: 0 }]);
    expect((await load())?.lastBeatAtMs).toBe(Date.UTC(2020, 0, 1));
    await db.hosts.flushBeats([{ ...newer, ageMs: 20_000 }]);
    const liveness = (await db.hosts.listLiveness()).find((row) => row.hostId === host.hostId);
    expect(liveness).toMatchObject({ namespace: fleet.namespace, name: 'sessions' });
    // When the beat came counts, not when it was stored; and an older one changes nothing.
    expect((liveness?.nowMs ?? 0) - (liveness?.lastBeatAtMs ?? 0)).toBeGreaterThanOrEqual(20_000);
    expect((liveness?.nowMs ?? 0) - (liveness?.lastBeatAtMs ?? 0)).toBeLessThan(60_000);
    await db.hosts.flushBeats([{ ...newer, ageMs: 900_000 }]);
    expect((await load())?.lastBeatAtMs).toBe(liveness?.lastBeatAtMs);
    await db.hosts.closeSession({ ...newer, sessionId: host.sessionId });
    expect((await load())?.sessionId).toBe(newer.sessionId);
    expect(await db.dispatch.claim({ ...newer, sessionId: host.sessionId, includeDispatched: true })).toEqual([]);
    await db.hosts.closeSession(newer);
    expect((await load())?.sessionId).toBeNull();
  });

  it('of a second machine, or with a certificate older than a used one, quarantines the host', async () => {
    const host = await makeHost(fleet, 'clone-machine');
    await expect(db.hosts.openSession(session(host, { facts: facts({ machineId: 'machine-2' }) }), actor)).rejects.toMatchObject({ code: 'HOST_QUARANTINED' });
    expect(await db.enrollment.identify(host.serial)).toMatchObject({ isQuarantined: true, isRevoked: false });
    await expect(db.hosts.openSession(session(host), actor)).rejects.toMatchObject({ code: 'HOST_QUARANTINED' });

    // Two machines from one image: the boot ids differ, and a boot that was replaced never comes back on one machine.
    const image = await makeHost(fleet, 'clone-image');
    const boot = (bootId: string) => db.hosts.openSession(session(image, { facts: facts({ bootId }) }), actor);
    for (const bootId of ['boot-a', 'boot-a', 'boot-b', 'boot-b', 'boot-c']) await boot(bootId);
    await expect(boot('boot-b')).rejects.toMatchObject({ code: 'HOST_QUARANTINED' });

    const renewing = await makeHost(fleet, 'clone-certificate');
    const identity = await db.enrollment.identify(renewing.serial);
    if (identity === null) throw new Error('unreachable');
    const renewed = await db.enrollment.renew({ identity, publicKeyHash: new Uint8Array(32), nowMs, actor, issue });
    await db.hosts.openSession(session(renewing), actor);
    await db.hosts.openSession(session(renewing, { certificateSerial: renewed.serial }), actor);
    await expect(db.hosts.openSession(session(renewing), actor)).rejects.toMatchObject({ code: 'HOST_QUARANTINED' });
  });

  it('of another agent has forgotten nothing while the one before may come back, and of the same agent again has', async () => {
    const host = await makeHost(fleet, 'contested', facts());
    const { record, operationId, microvmId } = await publishAndClaim(fleet, host);
    await db.dispatch.recordReports(
      { tenantId: fleet.tenantId, hostId: host.hostId, executions: [execution(operationId, { status: 'Succeeded', isFinal: true, finishedAtMs: nowMs })], observations: [observation(record)] }, actor,
    );
    const known = [{ microvmId, epoch: observation(record).epoch, revision: 1, isLive: true, isOrphan: false }];
    const open = (agentInstance: string, overrides: object = {}) => db.hosts.openSession(session(host, { agentInstance, ...overrides }), actor);
    const problem = async () => (await db.microvms.load(fleet.tenantId, microvmId))?.observation?.problem?.code;
    expect(await open('first', { known })).toEqual({ forgotten: [], renewNow: false, isContested: false });
    // Its journal is gone, or it is a copy: the session before still counts as alive.
    expect(await open('second')).toEqual({ forgotten: [], renewNow: false, isContested: true });
    expect(await problem()).toBeUndefined();
    expect(await open('second')).toEqual({ forgotten: [microvmId], renewNow: false, isContested: false });
    expect(await problem()).toBe(forgottenCode);
    // The one before has been heard of again: two of them are there.
    await expect(open('first', { known })).rejects.toMatchObject({ code: 'HOST_QUARANTINED' });
  });

  it('of another agent is asked at once when the session before was closed, or has not been heard of for long', async () => {
    const host = await makeHost(fleet, 'uncontested', facts());
    const open = async (agentInstance: string) => {
      const opened = session(host, { agentInstance });
      return { ...(await db.hosts.openSession(opened, actor)), opened };
    };
    const { opened } = await open('first');
    await db.hosts.closeSession(opened);
    expect(await open('second')).toMatchObject({ isContested: false });
    await server.query(`update nkudo.host_liveness set last_beat_at = now() - interval '41 seconds' where host_id = $1`, [host.hostId]);
    expect(await open('third')).toMatchObject({ isContested: false });
  });

  it('keeps what the host can not explain as orphans', async () => {
    const host = await makeHost(fleet, 'orphans');
    const orphan = microVMId(randomUUID());
    await db.hosts.openSession(session(host, { known: [{ microvmId: orphan, epoch: 0, revision: 0, isLive: true, isOrphan: true }] }), actor);
    expect(await db.hosts.load(fleet.tenantId, host.hostId)).toMatchObject({ orphanIds: [orphan] });
  });
});

describe('revocation', () => {
  it('waits for bound microVMs unless forced, ends identity and session, and frees the name', async () => {
    const host = await makeHost(fleet, 'revoked');
    await publish(fleet, publishInput(fleet, host));
    const input = { tenantId: fleet.tenantId, hostId: host.hostId };
    await expect(db.hosts.revoke({ ...input, force: false }, fleet.epoch, actor)).rejects.toMatchObject({ code: 'CONFLICT', details: { microvms: 1 } });
    await db.hosts.revoke({ ...input, force: true }, fleet.epoch, actor);
    const identity = await db.enrollment.identify(host.serial);
    expect(identity).toMatchObject({ isRevoked: true });
    await expect(db.hosts.openSession(session(host), actor)).rejects.toMatchObject({ code: 'HOST_REVOKED' });
    if (identity === null) throw new Error('unreachable');
    await expect(db.enrollment.renew({ identity, publicKeyHash: new Uint8Array(32), nowMs, actor, issue })).rejects.toMatchObject({ code: 'HOST_REVOKED' });
    const { secretHash } = await makeToken(fleet);
    expect(await db.enrollment.enroll(enrollInput(secretHash, { name: 'revoked' }))).toMatchObject({ hostName: 'revoked' });
    expect(await db.hosts.loadByName(fleet.tenantId, 'revoked')).toMatchObject({ isRevoked: false });
  });
});

/** Of the fleet's hosts, as the tenants' API tells them. */
async function phases(of: Fleet): Promise<readonly string[]> {
  return (await db.fleet.listHosts(of.tenantId, null, 0)).map((host) => encodeHost(host).phase);
}

describe('approval', () => {
  it('is asked for while the site requires it and the object does not give it', async () => {
    const strict = await makeFleet(db, fleet.epoch);
    await db.sites.save({ tenantId: strict.tenantId, namespace: strict.namespace, siteId: strict.siteId, name: 'store-1', generation: 2, requireApproval: true }, strict.epoch, actor);
    const host = await makeHost(strict, 'approval');
    expect(await db.enrollment.identify(host.serial)).toMatchObject({ awaitsApproval: true });
    expect(await phases(strict)).toEqual(['Pending']);
    expect(await db.microvms.publish(publishInput(strict, host), strict.epoch, actor)).toEqual({ outcome: 'hostUnavailable' });
    const object = { tenantId: strict.tenantId, hostId: host.hostId, objectUid: randomUUID(), isApproved: true, isUnschedulable: false, reservedCpus: 1, reservedMemoryBytes: 2 ** 20 };
    await db.hosts.saveObject(object, strict.epoch, actor);
    expect(await db.enrollment.identify(host.serial)).toMatchObject({ awaitsApproval: false });
    expect(await phases(strict)).toEqual(['Ready']);
    expect(await db.hosts.load(strict.tenantId, host.hostId)).toMatchObject({ isApproved: true, reservedCpus: 1, objectUid: object.objectUid });
    await db.hosts.saveObject({ ...object, isUnschedulable: true }, strict.epoch, actor);
    expect(await db.microvms.publish(publishInput(strict, host), strict.epoch, actor)).toEqual({ outcome: 'hostUnavailable' });
  });

  it('is not missed by a tenant who reads a host of a site that asks for none; a quarantined one is told', async () => {
    const open = await makeFleet(db, fleet.epoch);
    const host = await makeHost(open, 'open');
    expect(await phases(open)).toEqual(['Ready']);
    await expect(db.hosts.openSession(session(host, { tenantId: open.tenantId, facts: facts({ machineId: 'machine-2' }) }), actor)).rejects.toMatchObject({ code: 'HOST_QUARANTINED' });
    expect(await phases(open)).toEqual(['Quarantined']);
  });
});

describe('the phase that a tenant reads', () => {
  it('is that of a host that is being emptied, until it is not, and that of one without a usable hypervisor', async () => {
    const site = await makeFleet(db, fleet.epoch);
    const host = await makeHost(site, 'emptied');
    const object = { tenantId: site.tenantId, hostId: host.hostId, objectUid: randomUUID(), isApproved: true, isUnschedulable: true, reservedCpus: 0, reservedMemoryBytes: 0 };
    for (const emptying of ['Draining', 'Drained'] as const) {
      await db.hosts.saveObject({ ...object, emptying }, site.epoch, actor);
      expect(await phases(site)).toEqual([emptying]);
    }
    await db.hosts.saveObject({ ...object, isUnschedulable: false }, site.epoch, actor);
    expect(await phases(site)).toEqual(['Ready']);
    const broken = facts({ hostName: 'emptied', hypervisor: { kind: 'cloud-hypervisor', version: '', problem: 'no /dev/kvm' } });
    await db.hosts.saveFacts({ tenantId: site.tenantId, hostId: host.hostId, sessionId: host.sessionId, facts: broken });
    expect(await phases(site)).toEqual(['Degraded']);
  });
});

describe('force deletion', () => {
  it('releases the binding at once and still orders the host to remove the microVM when it comes back', async () => {
    const host = await makeHost(fleet, 'force');
    const { record, microvmId } = await publishAndClaim(fleet, host);
    await db.microvms.publishDeletion({ tenantId: fleet.tenantId, microvmId, generation: 2, tryNumber: 1 }, fleet.epoch, actor);
    await db.microvms.forceDelete(fleet.tenantId, microvmId, fleet.epoch, actor);
    await db.microvms.forceDelete(fleet.tenantId, microvmId, fleet.epoch, actor);
    expect(await db.microvms.load(fleet.tenantId, microvmId)).toMatchObject({ isTornDown: true, binding: null, newestOperation: { kind: 'Delete', status: 'Pending' } });
    const claimed = await db.dispatch.claim({ tenantId: fleet.tenantId, hostId: host.hostId, sessionId: host.sessionId, includeDispatched: true });
    const removal = claimed.find((operation) => operation.kind === 'Delete');
    expect(removal).toMatchObject({ microvmId, epoch: record.binding?.epoch });
    if (removal === undefined) throw new Error('unreachable');
    await db.dispatch.recordReports({ tenantId: fleet.tenantId, hostId: host.hostId, executions: [execution(removal.id, { status: 'Succeeded', isFinal: true })], observations: [] }, actor);
    expect(await server.query('select status from nkudo.operations where microvm_id = $1 order by revision', [microvmId])).toEqual([{ status: 'Superseded' }, { status: 'Succeeded' }]);
    await expect(db.microvms.publish(publishInput(fleet, host, { microvmId, generation: 9 }), fleet.epoch, actor)).rejects.toMatchObject({ code: 'CONFLICT' });
  });

  it('of a microVM that was published but never bound, or never published, leaves nothing to do', async () => {
    const unknown = microVMId(randomUUID());
    expect(await db.microvms.publishDeletion({ tenantId: fleet.tenantId, microvmId: unknown, generation: 1, tryNumber: 1 }, fleet.epoch, actor)).toBeNull();
    await db.microvms.completeDeletion(fleet.tenantId, unknown, fleet.epoch, actor);
    await db.microvms.forceDelete(fleet.tenantId, unknown, fleet.epoch, actor);
  });
});

describe('sites and the reads of tenants', () => {
  it('count, page and refuse cursors that they did not make', async () => {
    const shop = await makeFleet(db, fleet.epoch);
    const host = await makeHost(shop, 'reads');
    const claimed = [await publishAndClaim(shop, host, { name: 'a' }), await publishAndClaim(shop, host, { name: 'b' }), await publishAndClaim(shop, host, { name: 'c' })];
    await db.dispatch.recordReports(
      { tenantId: shop.tenantId, hostId: host.hostId, executions: claimed.map(({ operationId }, index) => execution(operationId, { startedAtMs: nowMs + index })), observations: claimed.slice(0, 2).map(({ record }) => observation(record)) }, actor,
    );
    const counts = { hosts: 1, hostsOnline: 1, microvms: 3, microvmsRunning: 2 };
    expect(await db.sites.counts(shop.tenantId, shop.siteId, { silentBeforeMs: 0 })).toMatchObject({ ...counts, cpusUsed: 3 });
    expect(await db.fleet.listSites(shop.tenantId, null, 0)).toEqual([{ id: shop.siteId, name: 'store-1', ...counts }]);
    expect(await db.fleet.listHosts(shop.tenantId, 'store-1', 0)).toMatchObject([{ name: 'reads', isOnline: true, isQuarantined: false, microvms: 3 }]);
    expect(await db.fleet.findTenant(shop.namespace)).toBe(shop.tenantId);
    const first = await db.fleet.listMicroVMs(shop.tenantId, null, { size: 2, cursor: null });
    const second = await db.fleet.listMicroVMs(shop.tenantId, null, { size: 2, cursor: first.nextCursor });
    expect([...first.rows, ...second.rows].map((row) => row.name)).toEqual(['a', 'b', 'c']);
    expect(second.nextCursor).toBeNull();
    const newest = await db.fleet.pageExecutions(shop.tenantId, everyExecution, { size: 2, cursor: null });
    const oldest = await db.fleet.pageExecutions(shop.tenantId, everyExecution, { size: 2, cursor: newest.nextCursor });
    expect([...newest.rows, ...oldest.rows].map((row) => row.startedAtMs - nowMs)).toEqual([2, 1, 0]);
    await expect(db.fleet.listMicroVMs(shop.tenantId, null, { size: 2, cursor: 'made-up' })).rejects.toMatchObject({ code: 'INVALID_REQUEST' });
    const beyondTime = encodeCursor(['9999999999999999', randomUUID()]);
    await expect(db.fleet.pageExecutions(shop.tenantId, everyExecution, { size: 2, cursor: beyondTime })).rejects.toMatchObject({ code: 'INVALID_REQUEST' });
    const plan = await db.fleet.loadPlan(shop.tenantId, planId(String(claimed[0]?.record.newestOperation?.planId)));
    expect(plan).toMatchObject({ siteName: 'store-1', status: 'Running', operations: [{ hostName: 'reads', kind: 'Create', status: 'Running' }] });
    await expect(db.sites.remove(shop.tenantId, shop.siteId, shop.epoch, actor)).rejects.toMatchObject({ code: 'CONFLICT' });
  });

  it('tell a key of one site whose site something is, by id or by name, and nothing of what there is not', async () => {
    const shop = await makeFleet(db, fleet.epoch);
    const host = await makeHost(shop, 'of-a-site');
    const { record, operationId, microvmId } = await publishAndClaim(shop, host, { name: 'web' });
    const run = execution(operationId);
    await db.dispatch.recordReports({ tenantId: shop.tenantId, hostId: host.hostId, executions: [run], observations: [] }, actor);
    const there: readonly SiteObject[] = [
      { kind: 'plan', id: String(record.newestOperation?.planId) }, { kind: 'execution', id: run.executionId },
      { kind: 'microvm', id: microvmId }, { kind: 'microvm', name: 'web' }, { kind: 'host', id: host.hostId }, { kind: 'host', name: 'of-a-site' },
    ];
    for (const object of there) expect(await db.apiKeys.siteOf(shop.tenantId, object)).toBe('store-1');
    for (const object of there) expect(await db.apiKeys.siteOf(fleet.tenantId, 'id' in object ? object : { ...object, name: 'nobody' })).toBeNull();
    for (const kind of ['plan', 'execution', 'microvm', 'host'] as const) expect(await db.apiKeys.siteOf(shop.tenantId, { kind, id: 'no-uuid' })).toBeNull();
  });

  it('removes a site when nothing refers to it, and takes it back when it is saved again', async () => {
    const empty = await makeFleet(db, fleet.epoch);
    await db.sites.remove(empty.tenantId, empty.siteId, empty.epoch, actor);
    await db.sites.remove(empty.tenantId, empty.siteId, empty.epoch, actor);
    expect(await db.fleet.listSites(empty.tenantId, null, 0)).toEqual([]);
  });

  it('tells what changed since a cursor, over all tenants', async () => {
    const start = await db.changes.changedSince(0);
    const host = await makeHost(fleet, 'changes');
    const { microvmId } = await publishAndClaim(fleet, host);
    const changed = await db.changes.changedSince(start.cursorMs, start.seen);
    expect(changed.microvms).toContainEqual({ tenantId: fleet.tenantId, microvmId });
    expect(changed.hosts).toContainEqual({ tenantId: fleet.tenantId, hostId: host.hostId });
    expect(changed.cursorMs).toBeGreaterThanOrEqual(start.cursorMs);
    // Inside the overlap, and told already; a beat is no news, another write of a row is.
    await db.hosts.flushBeats([{ tenantId: fleet.tenantId, hostId: host.hostId, sessionId: host.sessionId, ageMs: 0 }]);
    const again = await db.changes.changedSince(changed.cursorMs, changed.seen);
    expect(again).toMatchObject({ microvms: [], hosts: [] });
    await db.microvms.publishDeletion({ tenantId: fleet.tenantId, microvmId, generation: 2, tryNumber: 1 }, fleet.epoch, actor);
    expect((await db.changes.changedSince(again.cursorMs, again.seen)).microvms).toEqual([{ tenantId: fleet.tenantId, microvmId }]);
    const later = await db.changes.changedSince(changed.cursorMs + 3_600_000);
    expect(later).toMatchObject({ microvms: [], hosts: [] });
  });
});
