/** Leases and replacements on a real Postgres: what is granted, what holds a grant, and that one lock orders the two. */
import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { beforeAll, describe, expect, test } from 'vitest';
import { sessionId } from '#api/model/ids.ts';
import type { ReplaceInput } from '#controller/ports/lease-store.ts';
import type { MicroVMRecord } from '#controller/ports/microvm-store.ts';
import type { Database } from '#db/database.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';
import { until } from '#test/harness/until.ts';
import { actor, desired, execution, makeFleet, makeHost, observation, openTestDatabase, publish, publishInput, type Fleet, type TestHost } from '../db/builders.ts';

let rows: TestDatabase;
let db: Database;

beforeAll(async () => {
  rows = await useDatabase();
  db = openTestDatabase(rows);
  fileScope().defer(() => db.close());
});

const leased = desired({ lease: { stopOnHostAfterMs: 9_000 } });

interface Scene {
  readonly fleet: Fleet;
  readonly old: TestHost;
  readonly other: TestHost;
  readonly record: MicroVMRecord;
}

/** A microVM that runs on one of two hosts, as its host has reported. */
async function scene(wanted = leased): Promise<Scene> {
  const fleet = await makeFleet(db);
  const old = await makeHost(fleet, 'edge-1');
  const other = await makeHost(fleet, 'edge-2');
  const record = await publish(fleet, publishInput(fleet, old, { desired: wanted }));
  await db.dispatch.claim({ tenantId: fleet.tenantId, hostId: old.hostId, sessionId: old.sessionId, includeDispatched: false });
  await db.dispatch.recordReports({ tenantId: fleet.tenantId, hostId: old.hostId, executions: [], observations: [observation(record)] }, actor);
  return { fleet, old, other, record };
}

const ask = ({ fleet }: Scene, host: TestHost, session = host.sessionId, holdsLease = false) => ({ tenantId: fleet.tenantId, hostId: host.hostId, sessionId: session, ageMs: 0, holdsLease });

async function inputOf({ fleet, old, other, record }: Scene, changes: Partial<ReplaceInput> = {}): Promise<ReplaceInput> {
  const { hosts, lineage } = await db.leases.list();
  const reading = hosts.find((host) => host.hostId === old.hostId);
  if (reading === undefined || record.binding === null) throw new Error('the host is not listed');
  return {
    tenantId: fleet.tenantId, siteId: fleet.siteId, microvmId: record.microvmId, generation: record.generation, desired: record.desired ?? leased, placeOn: other.hostId, releasedBy: null,
    from: { hostId: old.hostId, epoch: record.binding.epoch, lastBeatAtMs: reading.lastBeatAtMs, leaseEpoch: reading.leaseEpoch, lineage }, ...changes,
  };
}

describe('grants', () => {
  test('go to hosts with a microVM that needs one, under their session only, and are as long as the longest terms', async () => {
    const found = await scene();
    const [grant, ...none] = await db.leases.grant([ask(found, found.old), ask(found, found.other)]);
    expect(grant).toMatchObject({ hostId: found.old.hostId, leaseMs: 9_000, leaseEpoch: 1 });
    expect(none).toEqual([]);
    expect(await db.leases.grant([ask(found, found.old, sessionId(randomUUID()))])).toEqual([]);
    await publish(found.fleet, publishInput(found.fleet, found.old, { desired: desired({ name: 'b', lease: { stopOnHostAfterMs: 60_000 } }), name: 'b' }));
    expect((await db.leases.grant([ask(found, found.old)]))[0]).toMatchObject({ leaseMs: 60_000, leaseEpoch: 2 });
    const reading = (await db.leases.list()).hosts.find((host) => host.hostId === found.old.hostId);
    expect(reading).toMatchObject({ leaseEpoch: 2, leaseMs: 60_000, siteId: found.fleet.siteId });
  });

  test('go on without a gap after a recovery, and begin only once every host of the site has reported', async () => {
    const found = await scene();
    await rows.query('update nkudo.hosts set recovered_incarnation = 1 where site_id = $1', [found.fleet.siteId]);
    const [before] = await rows.query('update nkudo.installation set incarnation = incarnation + 1 returning incarnation');
    expect(await db.leases.grant([ask(found, found.old)])).toEqual([]);
    expect(await db.leases.grant([ask(found, found.old, found.old.sessionId, true)])).toHaveLength(1);
    await rows.query('update nkudo.hosts set recovered_incarnation = $1', [before?.['incarnation']]);
    expect(await db.leases.grant([ask(found, found.old)])).toHaveLength(1);
  });

  test('are one commit for many hosts', async () => {
    const found = await scene();
    const others = await Promise.all(['a', 'b', 'c'].map((name) => makeHost(found.fleet, `edge-${name}`)));
    for (const [index, host] of others.entries()) await publish(found.fleet, publishInput(found.fleet, host, { desired: { ...leased, name: `m${index}` }, name: `m${index}` }));
    expect(await db.leases.grant([found.old, ...others].map((host) => ask(found, host)))).toHaveLength(4);
    const [written] = await rows.query('select count(distinct xmin::text)::int as n from nkudo.host_liveness where lease_epoch is not null and host_id = any($1)', [[found.old, ...others].map((host) => host.hostId)]);
    expect(written?.['n']).toBe(1);
  });
});

describe('a replacement', () => {
  test('moves the binding under a higher epoch, orders the old copy off its host, and holds the lease of that host until it is gone', async () => {
    const found = await scene();
    await db.leases.grant([ask(found, found.old)]);
    const result = await db.replacements.replace(await inputOf(found), found.fleet.epoch, actor);
    if (result.outcome !== 'replaced') throw new Error(result.outcome);
    expect(result.record.binding?.hostId).toBe(found.other.hostId);
    expect(result.record.binding?.epoch ?? 0).toBeGreaterThan(found.record.binding?.epoch ?? Infinity);
    expect(result.record.newestOperation).toMatchObject({ kind: 'Create', status: 'Pending' });
    expect(await db.leases.grant([ask(found, found.old)])).toEqual([]);

    const [removal] = await db.dispatch.claim({ tenantId: found.fleet.tenantId, hostId: found.old.hostId, sessionId: found.old.sessionId, includeDispatched: true }).then((all) => all.filter(({ kind }) => kind === 'Delete'));
    // Whatever the old host has accepted is below it.
    expect(removal).toMatchObject({ microvmId: found.record.microvmId, epoch: result.record.binding?.epoch });
    expect(removal?.revision ?? 0).toBeGreaterThan(found.record.newestOperation?.revision ?? Infinity);
    if (removal === undefined) return;
    expect(await db.replacements.listByHost(found.fleet.tenantId, found.old.hostId)).toMatchObject([{ name: 'web', isStopped: false }]);
    const end = execution(removal.id, { status: 'Succeeded', isFinal: true, finishedAtMs: 1 });
    await db.dispatch.recordReports({ tenantId: found.fleet.tenantId, hostId: found.old.hostId, executions: [end], observations: [] }, actor);
    expect(await db.replacements.listByHost(found.fleet.tenantId, found.old.hostId)).toMatchObject([{ isStopped: true }]);
    await publish(found.fleet, publishInput(found.fleet, found.old, { desired: { ...leased, name: 'c' }, name: 'c' }));
    expect(await db.leases.grant([ask(found, found.old)])).toHaveLength(1);
  });

  test('of a microVM that is then deleted is not torn down by the word of the old host', async () => {
    const found = await scene();
    await db.replacements.replace(await inputOf(found), found.fleet.epoch, actor);
    const { tenantId } = found.fleet;
    await db.microvms.publishDeletion({ tenantId, microvmId: found.record.microvmId, generation: 2, tryNumber: 1 }, found.fleet.epoch, actor);
    const removals = await db.dispatch.claim({ tenantId, hostId: found.old.hostId, sessionId: found.old.sessionId, includeDispatched: true });
    const removal = removals.find(({ kind }) => kind === 'Delete');
    if (removal === undefined) throw new Error('no order for the old host');
    await db.dispatch.recordReports({ tenantId, hostId: found.old.hostId, executions: [execution(removal.id, { status: 'Succeeded', isFinal: true, finishedAtMs: 1 })], observations: [] }, actor);
    expect((await db.microvms.load(tenantId, found.record.microvmId))?.isTornDown).toBe(false);
  });

  test('is undone by any grant or beat since the leader looked, and by another leader', async () => {
    const found = await scene();
    const before = await inputOf(found);
    await db.leases.grant([ask(found, found.old)]);
    expect(await db.replacements.replace(before, found.fleet.epoch, actor)).toEqual({ outcome: 'changed' });
    const now = await inputOf(found);
    await db.hosts.flushBeats([{ tenantId: found.fleet.tenantId, hostId: found.old.hostId, sessionId: found.old.sessionId, ageMs: 0 }]);
    expect(await db.replacements.replace(now, found.fleet.epoch, actor)).toEqual({ outcome: 'changed' });
    const fresh = await inputOf(found);
    expect(await db.replacements.replace({ ...fresh, from: { ...fresh.from, lineage: 'another' } }, found.fleet.epoch, actor)).toEqual({ outcome: 'changed' });
    await db.leadership.acquire(actor);
    await expect(db.replacements.replace(fresh, found.fleet.epoch, actor)).rejects.toMatchObject({ code: 'LEADERSHIP_LOST' });
  });

  test('does not happen while the old host may run it without a lease', async () => {
    const found = await scene(desired());
    const { tenantId } = found.fleet;
    const updated = await publish(found.fleet, publishInput(found.fleet, null, { microvmId: found.record.microvmId, generation: 2, desired: leased, kind: 'Update' }));
    const leasedScene = { ...found, record: updated };
    // Not handed out: the host has the old intent.
    expect(await db.replacements.replace(await inputOf(leasedScene), found.fleet.epoch, actor)).toEqual({ outcome: 'unconfirmed' });
    await db.dispatch.claim({ tenantId, hostId: found.old.hostId, sessionId: found.old.sessionId, includeDispatched: false });
    expect(await db.replacements.replace(await inputOf(leasedScene), found.fleet.epoch, actor)).toEqual({ outcome: 'unconfirmed' });
    await db.dispatch.recordReports({ tenantId, hostId: found.old.hostId, executions: [], observations: [observation(updated, { sequence: 2 })] }, actor);
    expect(await db.replacements.replace(await inputOf(leasedScene), found.fleet.epoch, actor)).toMatchObject({ outcome: 'replaced' });
  });

  test('and a grant take turns: the grant that waited for it is none', async () => {
    const found = await scene();
    const input = await inputOf(found);
    // The row of the lease is held, as a replacement under way holds it, while the grant is asked for.
    const holder = new pg.Client({ connectionString: rows.adminUrl });
    await holder.connect();
    try {
      await holder.query('begin');
      await holder.query('select from nkudo.host_liveness where host_id = $1 for update', [found.old.hostId]);
      const grant = db.leases.grant([ask(found, found.old)]);
      await until(async () => (await rows.query(`select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`)).length > 0, 'the grant to wait for the row');
      await holder.query('update nkudo.host_liveness set lease_holds = lease_holds + 1 where host_id = $1', [found.old.hostId]);
      await holder.query('commit');
      expect(await grant).toEqual([]);
    } finally {
      await holder.end();
    }
    expect(await db.replacements.replace(input, found.fleet.epoch, actor)).toMatchObject({ outcome: 'replaced' });
  });

  test('racing with grants gives either the grant or the replacement, never both', async () => {
    for (let round = 0; round < 12; round += 1) {
      const found = await scene();
      const input = await inputOf(found);
      const [grants, result] = await Promise.all([db.leases.grant([ask(found, found.old)]), db.replacements.replace(input, found.fleet.epoch, actor)]);
      expect([grants.length, result.outcome]).toEqual(result.outcome === 'replaced' ? [0, 'replaced'] : [1, 'changed']);
    }
  });
});
