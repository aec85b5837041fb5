/** A leader whose database becomes an older copy under it, as a dump restored in its place does: nothing is written any more. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { decideRecovery } from '#api/model/recovery.ts';
import type { Database } from '#db/database.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';
import { actor, makeFleet, makeHost, openTestDatabase, publish, publishInput, type Fleet, type TestHost } from '../db/builders.ts';

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

it('[C10] a leader is refused at its next write when the database lacks what it has committed, and tells its term', async () => {
  await publish(fleet, publishInput(fleet, host));
  const [row] = await server.query(`select last_value::int as at from nkudo.audit_events_id_seq`);
  const at = Number(row?.['at']);
  let refusals = 0;
  const end = db.leadership.onRefused(() => (refusals += 1));
  // Far enough back that the rows of the publication above are not there.
  await server.query(`select setval('nkudo.audit_events_id_seq', $1)`, [db.leadership.seenAuditId() - 1]);
  await expect(db.microvms.publish(publishInput(fleet, host), fleet.epoch, actor)).rejects.toMatchObject({ code: 'LEADERSHIP_LOST' });
  expect(refusals).toBe(1);
  end();
  const found = (await db.leadership.position()).present;
  const witness = { ...found, auditId: db.leadership.seenAuditId() };
  expect(decideRecovery({ ...found, kept: found }, witness)).toEqual({ reason: expect.stringContaining('rows of the audit log'), incarnation: 2 });
  await server.query(`select setval('nkudo.audit_events_id_seq', $1)`, [at]);
});

it('[C10] the next leadership raises the incarnation above every one that was used, waits for the hosts, and writes again', async () => {
  const { position } = await db.leadership.acquire(actor);
  const witness = { ...position, incarnation: 4, auditId: position.auditId + 50, epoch: position.epoch + 10 };
  const acquired = await db.leadership.acquire(actor, witness);
  expect(acquired).toMatchObject({ incarnation: 5, epoch: witness.epoch + 1, recovery: expect.stringContaining('incarnation 1, and 4 was used') });
  // Once: the same witness is behind now.
  const again = await db.leadership.acquire(actor, witness);
  expect(again).toMatchObject({ incarnation: 5, recovery: null });
  fleet = { ...fleet, epoch: again.epoch };
  const site = { tenantId: fleet.tenantId, siteId: fleet.siteId };
  expect(await db.recovery.isReplacementHeld(site)).toBe(true);
  expect(await db.recovery.listAwaited(site)).toEqual([{ hostId: host.hostId, name: 'edge-1' }]);
  // Nothing is handed to a host over a session of before.
  const record = await publish(fleet, publishInput(fleet, host));
  expect(record.newestOperation?.status).toBe('Pending');
  expect(await db.dispatch.claim({ tenantId: fleet.tenantId, hostId: host.hostId, sessionId: host.sessionId, includeDispatched: true })).toEqual([]);
  // A host that enrolls now has nothing to tell.
  const late = await makeHost(fleet, 'edge-2');
  expect((await db.recovery.listAwaited(site)).map(({ hostId }) => hostId)).not.toContain(late.hostId);
});
