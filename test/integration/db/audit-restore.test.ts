/**
 * A database that comes back from an older copy of its disk while hosts and exported checkpoints are ahead of it, as
 * `docs/operations.md` tells: what was lost is named, numbers never go back, nothing is ordered to be deleted.
 */
import { execFileSync } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { createCheckpointSigner, createSignatureCheck } from '#controller/audit/checkpoint-signer.ts';
import type { Checkpoint } from '#controller/ports/audit-chain.ts';
import { deriveChainerUrl } from '#db/roles.ts';
import { createAuditStore } from '#db/stores/audit-store.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { useDatabase, useDedicatedPostgres } from '#test/harness/postgres.ts';
import { until } from '#test/harness/until.ts';
import { actor, facts, makeFleet, makeHost, openTestDatabase, publish, publishInput } from './builders.ts';

const { privateKey, publicKey } = generateKeyPairSync('ed25519');
const signer = createCheckpointSigner(privateKey.export({ type: 'pkcs8', format: 'pem' }).toString());
const isSigned = createSignatureCheck(publicKey.export({ type: 'spki', format: 'pem' }).toString());

it('after a restore from an older copy, the audit names what was lost, and epochs and revisions rise above what hosts report', async () => {
  const postgres = await useDedicatedPostgres();
  const server = await useDatabase({ postgres });
  const db = openTestDatabase(server);
  const chain = createAuditStore({ url: deriveChainerUrl(server.systemUrl) ?? '' });
  const copy = join(fileScope().directory, 'copy');
  const takeExport = async (): Promise<readonly Checkpoint[]> => {
    await until(async () => (await chain.link(1_000)).unlinkedAgeMs === null, 'all rows to be linked');
    await chain.addCheckpoints((await chain.unsignedHeads()).map((head) => signer.sign(head, 0)));
    const checkpoints: Checkpoint[] = [];
    for (const tenant of await chain.tenants()) for await (const checkpoint of chain.checkpoints(tenant)) checkpoints.push(checkpoint);
    return checkpoints;
  };

  const fleet = await makeFleet(db);
  const host = await makeHost(fleet);
  const input = publishInput(fleet, host, { name: 'kept' });
  const kept = await publish(fleet, input);
  const before = await takeExport();
  const rowsBefore = before.findLast((checkpoint) => checkpoint.tenantId === fleet.tenantId)?.position ?? 0;
  await postgres.stop();
  execFileSync('cp', ['-a', postgres.dataDirectory, copy]);
  await postgres.start();

  // What the copy does not know: a newer revision of one microVM, and another one.
  const ahead = await publish(fleet, { ...input, generation: 2, kind: 'Update' });
  const lost = await publish(fleet, publishInput(fleet, host, { name: 'lost' }));
  const after = await takeExport();
  await postgres.stop();
  execFileSync('rm', ['-r', postgres.dataDirectory]);
  execFileSync('cp', ['-a', copy, postgres.dataDirectory]);
  await postgres.start();
  await server.query('update nkudo.installation set incarnation = incarnation + 1');

  const led = await db.leadership.acquire(actor);
  expect(led.incarnation).toBe(2);
  expect(await chain.verify(fleet.tenantId, before, isSigned)).toMatchObject({ rows: rowsBefore, provedTo: rowsBefore, bad: null });
  expect((await chain.verify(fleet.tenantId, after, isSigned)).bad).toMatchObject({ position: rowsBefore + 1, table: 'audit_links' });

  // The host is ahead and says so.
  const known = [ahead, lost].map((record) => ({
    microvmId: record.microvmId, epoch: record.binding?.epoch ?? 0, revision: record.newestOperation?.revision ?? 0, isLive: true, isOrphan: false,
  }));
  await db.hosts.openSession(
    { tenantId: fleet.tenantId, hostId: host.hostId, sessionId: host.sessionId, replica: 'replica-1', facts: facts(), known, certificateSerial: host.serial }, actor,
  );
  const again = await publish({ ...fleet, epoch: led.epoch }, { ...input, generation: 2, kind: 'Update' });
  expect(again.newestOperation?.revision).toBeGreaterThan(ahead.newestOperation?.revision ?? Number.POSITIVE_INFINITY);
  const next = await publish({ ...fleet, epoch: led.epoch }, publishInput(fleet, host, { microvmId: lost.microvmId, name: 'lost' }));
  expect(next.binding?.epoch).toBeGreaterThan(lost.binding?.epoch ?? Number.POSITIVE_INFINITY);
  expect(next.newestOperation?.revision).toBeGreaterThan(lost.newestOperation?.revision ?? Number.POSITIVE_INFINITY);
  expect(await server.query(`select count(*)::int as deletions from nkudo.operations where kind = 'Delete'`)).toEqual([{ deletions: 0 }]);

  const later = await takeExport();
  expect(await chain.verify(fleet.tenantId, later, isSigned)).toMatchObject({ bad: null, unlinked: 0 });
  expect(kept.microvmId).toBe(again.microvmId);
  await Promise.all([db.close(), chain.close()]);
});
