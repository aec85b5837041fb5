/** The mesh's rows: subnets that nobody shares, orders whose revision rises, one key maker at a time, reports, audit. */
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { hostId, sessionId } from '#api/model/ids.ts';
import type { MeshReport } from '#api/model/mesh.ts';
import type { Database } from '#db/database.ts';
import { useDatabase, useDedicatedPostgres, type TestDatabase } from '#test/harness/postgres.ts';
import { actor, makeFleet, makeHost, openTestDatabase, type Fleet, type TestHost } from './builders.ts';

let server: TestDatabase;
let db: Database;
let fleet: Fleet;
let other: Fleet;
let host: TestHost;
let otherHost: TestHost;
const order = { join: true, managementUrl: 'https://netbird.example', hostName: 'edge-1' };
const report: MeshReport = {
  state: 'Connected', rawState: 'Connected', peerId: '', publicKey: 'k', address: '100.64.0.1', fqdn: 'edge-1.netbird', isManagementConnected: true,
  isSignalConnected: true, peersRelayed: 0, peersDirect: 0, problem: '', wantsKey: false, orderRevision: 1, daemonMemoryBytes: 0,
};

beforeAll(async () => {
  // Autovacuum writes by itself; the count of writes must be ours alone.
  server = await useDatabase({ postgres: await useDedicatedPostgres({ settings: ['autovacuum=off'] }) });
  db = openTestDatabase(server);
  fleet = await makeFleet(db);
  other = await makeFleet(db, fleet.epoch);
  host = await makeHost(fleet);
  otherHost = await makeHost(other);
});
afterAll(() => db.close());

const change = (at: Fleet, of: TestHost, fields: object) => ({ tenantId: at.tenantId, hostId: of.hostId, siteId: at.siteId, ...fields });
const save = (fields: object, at = fleet, of = host): Promise<void> => db.mesh.saveHost(change(at, of, fields), fleet.epoch, actor);
const load = () => db.mesh.load(fleet.tenantId, host.hostId);

describe('subnets', () => {
  it('are the lowest free /24 of the pool over all tenants, are never given twice, and are free again when released', async () => {
    expect(await db.mesh.findFreeSubnet('10.96.0.0/22')).toBe('10.96.0.0/24');
    await save({ order, subnet: '10.96.0.0/24' });
    expect(await db.mesh.findFreeSubnet('10.96.0.0/22')).toBe('10.96.1.0/24');
    await expect(save({ order, subnet: '10.96.0.0/24' }, other, otherHost)).rejects.toMatchObject({ code: 'CONFLICT' });
    await save({ order, subnet: '10.96.1.0/24' }, other, otherHost);
    expect(await db.mesh.findFreeSubnet('10.96.0.0/23')).toBeNull();
    await expect(save({ subnet: '10.96.2.0/24' })).rejects.toMatchObject({ details: { sqlstate: 'NK003' } });
    await save({ subnet: null });
    expect(await db.mesh.findFreeSubnet('10.96.0.0/23')).toBe('10.96.0.0/24');
  });
});

describe('orders', () => {
  it('rise with every change and are read for hosts of several tenants at once', async () => {
    const before = (await load())?.order?.revision ?? 0;
    await save({ order: { ...order, hostName: 'edge-2' } });
    await save({ order: { ...order, hostName: 'edge-2' } });
    await save({ groupId: 'g1', peerId: 'p1' });
    const orders = await db.mesh.loadOrders([
      { tenantId: fleet.tenantId, hostId: host.hostId },
      { tenantId: other.tenantId, hostId: otherHost.hostId },
      { tenantId: fleet.tenantId, hostId: hostId(randomUUID()) },
    ]);
    expect(orders.get(host.hostId)).toEqual({ ...order, hostName: 'edge-2', revision: before + 1 });
    expect([...orders.keys()].toSorted()).toEqual([host.hostId, otherHost.hostId].toSorted());
    await expect(server.query(`update nkudo.mesh_hosts set host_name = 'x'`)).rejects.toMatchObject({ code: 'NK005' });
  });

  it('are written by the leader only', async () => {
    await expect(db.mesh.saveHost(change(fleet, host, { peerId: 'p9' }), fleet.epoch - 1, actor)).rejects.toMatchObject({ code: 'LEADERSHIP_LOST' });
  });
});

describe('the making of a key', () => {
  it('is one replica at a time, which takes its own claim again after a crash, and is noted by id only', async () => {
    const at = { tenantId: fleet.tenantId, hostId: host.hostId };
    expect(await db.mesh.claimKey(at, 'a', 60_000)).toBeNull(); // The site is not known yet.
    await db.mesh.saveSite(fleet.tenantId, fleet.siteId, { managementUrl: order.managementUrl, secretName: 'netbird', groupIds: { site: 's1' } }, fleet.epoch, actor);
    const claims = await Promise.all(['a', 'b', 'c', 'd'].map((replica) => db.mesh.claimKey(at, replica, 60_000).then((claim) => (claim === null ? [] : [replica]))));
    const [winner = ''] = claims.flat();
    expect(claims.flat()).toHaveLength(1);
    expect((await load())?.isKeyBeingMade).toBe(true);
    expect(await db.mesh.claimKey(at, winner, 60_000)).toMatchObject({ siteName: 'store-1', namespace: fleet.namespace, groupId: 'g1', site: { secretName: 'netbird', groupIds: { site: 's1' } } });
    await expect(db.mesh.endClaim(at, 'other', { id: 'k1', ttlSeconds: 60 }, actor)).rejects.toMatchObject({ code: 'CONFLICT' });
    await db.mesh.endClaim(at, winner, { id: 'k1', ttlSeconds: 60 }, actor);
    expect(await load()).toMatchObject({ keyId: 'k1', isKeyBeingMade: false });
    await save({ forgetKeyId: 'k0' });
    expect((await load())?.keyId).toBe('k1');
    await save({ forgetKeyId: 'k1' });
    expect((await load())?.keyId).toBeNull();
  });

  it('is over when its time is up', async () => {
    const at = { tenantId: fleet.tenantId, hostId: host.hostId };
    expect(await db.mesh.claimKey(at, 'a', -1)).not.toBeNull();
    expect(await db.mesh.claimKey(at, 'b', 60_000)).not.toBeNull();
    await db.mesh.endClaim(at, 'b', null, actor);
  });
});

describe('reports', () => {
  it('are stored when they differ, from the current session only, and wake the leader', async () => {
    const at = { tenantId: fleet.tenantId, hostId: host.hostId, sessionId: host.sessionId };
    expect(await db.mesh.recordReport({ ...at, sessionId: sessionId(randomUUID()) }, report)).toBe(false);
    expect(await db.mesh.recordReport(at, report)).toBe(true);
    expect(await db.mesh.recordReport(at, report)).toBe(false);
    expect(await db.mesh.recordReport(at, { ...report, state: 'Failed' })).toBe(true);
    expect((await load())?.report).toEqual({ ...report, state: 'Failed' });
    expect((await db.changes.changedSince(Date.now())).hosts.map((changed) => changed.hostId)).toContain(host.hostId);
  });
});

describe('at rest', () => {
  it('nothing is written when all is there already', async () => {
    const { writeTransactions } = await server.counters();
    await save({ order: { ...order, hostName: 'edge-2' }, groupId: 'g1', peerId: 'p1' });
    await db.mesh.saveSite(fleet.tenantId, fleet.siteId, { managementUrl: order.managementUrl, secretName: 'netbird', groupIds: { site: 's1' } }, fleet.epoch, actor);
    await db.mesh.recordReport({ tenantId: fleet.tenantId, hostId: host.hostId, sessionId: host.sessionId }, { ...report, state: 'Failed' });
    await db.mesh.listBySite(fleet.tenantId, fleet.siteId);
    expect((await server.counters()).writeTransactions - writeTransactions).toBe(0);
  });
});

describe('audit', () => {
  it('has a row for every change of orders, subnets, keys and sites, and the database asks for it', async () => {
    const rows = await server.query(`select subject_kind, action, count(*)::int as n from nkudo.audit_events where subject_kind like 'mesh%' group by 1, 2 order by 1, 2`);
    expect(rows.map((row) => `${String(row['subject_kind'])} ${String(row['action'])}`)).toEqual(['meshHost keyMade', 'meshHost saved', 'meshSite saved']);
    await expect(server.query(`update nkudo.mesh_hosts set peer_id = 'x' where id = '${host.hostId}'`)).rejects.toMatchObject({ code: 'NK004' });
    await expect(server.query(`update nkudo.mesh_sites set secret_name = 'x'`)).rejects.toMatchObject({ code: 'NK004' });
  });
});
