/** On a Postgres of its own: nothing is written at rest, each call is one commit, and a kill -9 is survived. */
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ChangeHint } from '#controller/ports/dispatch-store.ts';
import type { Database } from '#db/database.ts';
import { createHintBus } from '#db/hint-bus.ts';
import { silentLog } from '#db/log.ts';
import type { PostgresCluster } from '#hack/stack/postgres.ts';
import { useDatabase, useDedicatedPostgres, type TestDatabase } from '#test/harness/postgres.ts';
import { until } from '#test/harness/until.ts';
import { actor, execution, facts, makeFleet, makeHost, makeToken, nowMs, observation, openTestDatabase, publish, publishAndClaim, publishInput, type Fleet, type TestHost } from './builders.ts';

let postgres: PostgresCluster;
let server: TestDatabase;
let db: Database;
let fleet: Fleet;
let host: TestHost;

beforeAll(async () => {
  // Autovacuum writes by itself; counts below must be ours alone.
  postgres = await useDedicatedPostgres({ settings: ['autovacuum=off'] });
  server = await useDatabase({ postgres });
  db = openTestDatabase(server);
  fleet = await makeFleet(db);
  host = await makeHost(fleet);
});
afterAll(() => db.close());

/** Write transactions that the work caused, by the server's own count. */
async function writesOf(work: () => Promise<unknown>): Promise<number> {
  const before = await server.counters();
  await work();
  return (await server.counters()).writeTransactions - before.writeTransactions;
}

describe('at rest', () => {
  it('writes nothing when what is saved, published or reported is there already', async () => {
    const input = publishInput(fleet, host);
    const record = await publish(fleet, input);
    await db.dispatch.claim({ tenantId: fleet.tenantId, hostId: host.hostId, sessionId: host.sessionId, includeDispatched: false });
    const object = { tenantId: fleet.tenantId, hostId: host.hostId, objectUid: fleet.siteId, isApproved: false, isUnschedulable: false, reservedCpus: 0, reservedMemoryBytes: 0 };
    await db.hosts.saveObject(object, fleet.epoch, actor);
    const token = await makeToken(fleet);
    const site = { tenantId: fleet.tenantId, namespace: fleet.namespace, siteId: fleet.siteId, name: 'store-1', generation: 1, requireApproval: false };
    const registration = { tenantId: fleet.tenantId, tokenId: token.tokenId, siteId: fleet.siteId, secretHash: token.secretHash, hostName: null, expiresAtMs: nowMs + 3_600_000 };
    const chunk = { microvmId: input.microvmId, source: 'serial' as const, incarnation: 1, offset: 0, data: Buffer.from('x'), gapBytes: 0 };
    await db.logs.append(fleet.tenantId, host.hostId, chunk);
    const repeats: Readonly<Record<string, () => Promise<unknown>>> = {
      site: () => db.sites.save(site, fleet.epoch, actor),
      'an older site': () => db.sites.save({ ...site, generation: 0, name: 'old' }, fleet.epoch, actor),
      object: () => db.hosts.saveObject(object, fleet.epoch, actor),
      facts: () => db.hosts.saveFacts({ tenantId: fleet.tenantId, hostId: host.hostId, sessionId: host.sessionId, facts: facts() }),
      token: () => db.enrollment.registerToken(registration, fleet.epoch, actor),
      publish: () => db.microvms.publish(input, fleet.epoch, actor),
      claim: () => db.dispatch.claim({ tenantId: fleet.tenantId, hostId: host.hostId, sessionId: host.sessionId, includeDispatched: false }),
      log: () => db.logs.append(fleet.tenantId, host.hostId, chunk),
      'safety read': () => db.dispatch.listHostsWithPending('replica-1'),
      changes: () => db.changes.changedSince(0),
      liveness: () => db.hosts.listLiveness(),
      identify: () => db.enrollment.identify(host.serial),
      load: () => db.microvms.load(fleet.tenantId, record.microvmId),
      counts: () => db.sites.counts(fleet.tenantId, fleet.siteId, { silentBeforeMs: 0 }),
      ping: () => db.ping(),
    };
    for (const [name, repeat] of Object.entries(repeats)) expect(await writesOf(repeat), name).toBe(0);
  });
});

describe('commits', () => {
  it('are one for each mutating call, for a batch of beats and for a batch of reports too', async () => {
    const other = await makeHost(fleet, 'edge-2');
    const input = publishInput(fleet, host);
    const beats = [host, other].map((one) => ({ tenantId: fleet.tenantId, hostId: one.hostId, sessionId: one.sessionId, ageMs: 0 }));
    const [beat] = beats;
    if (beat === undefined) throw new Error('unreachable');
    expect(await writesOf(() => db.microvms.publish(input, fleet.epoch, actor))).toBe(1);
    let claimed: readonly { readonly id: Parameters<typeof execution>[0] }[] = [];
    expect(await writesOf(async () => { claimed = await db.dispatch.claim({ ...beat, includeDispatched: false }); })).toBe(1);
    expect(await writesOf(() => db.hosts.flushBeats(beats))).toBe(1);
    const record = await db.microvms.load(fleet.tenantId, input.microvmId);
    const [operation] = claimed;
    if (record === null || operation === undefined) throw new Error('unreachable');
    const reports = { tenantId: fleet.tenantId, hostId: host.hostId, executions: [execution(operation.id, { status: 'Succeeded', isFinal: true })], observations: [observation(record)] };
    expect(await writesOf(() => db.dispatch.recordReports(reports, actor))).toBe(1);
    expect(await writesOf(() => db.dispatch.recordReports(reports, actor))).toBe(0);
    expect(await writesOf(() => db.dispatch.recordReceipt({ tenantId: fleet.tenantId, hostId: host.hostId, operationId: operation.id, disposition: 'Accepted', error: null }, actor))).toBe(0);
    expect(await writesOf(() => makeToken(fleet))).toBe(1);
  });
});

describe('hints', () => {
  it('reach this process at once, other replicas by one notification, and never the sender again', async () => {
    const bus = (replica: string) => createHintBus({ url: server.systemUrl, replica, log: silentLog, notifyIntervalMs: 1 });
    const [sender, receiver] = [bus('a'), bus('b')];
    const local: ChangeHint[] = [];
    sender.onHint((hint) => local.push(hint));
    sender.onHint(() => { throw new Error('a listener that fails harms nobody'); });
    let echoes = 0;
    sender.onRemoteChange(() => { echoes += 1; });
    const arrived = Promise.withResolvers<undefined>();
    receiver.onRemoteChange(() => arrived.resolve(undefined));
    const hint = { kind: 'operations' as const, hostId: host.hostId };
    const listening = async (): Promise<boolean> => (await server.query(`select 1 from pg_stat_activity where query = 'listen nkudo_changes' and state = 'idle'`)).length === 2;
    while (!(await listening())); // Only a listener that is there can hear.
    sender.publish(hint);
    expect(local).toEqual([hint]);
    await arrived.promise;
    expect(echoes).toBe(0);
    await Promise.all([sender.close(), receiver.close()]);
  });
});

describe('a connection for hints that nobody closed and nobody answers', () => {
  it('is given up, and the next one hears other replicas', async () => {
    const sockets: Socket[] = [];
    const proxy = createServer((client) => {
      const upstream = connect(postgres.port, '127.0.0.1');
      sockets.push(client);
      for (const [from, to] of [[client, upstream], [upstream, client]] as const) from.on('error', () => {}).on('close', () => to.destroy()).pipe(to);
    });
    await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
    const { port } = proxy.address() as AddressInfo; // A TCP server that listens.
    const bus = createHintBus({ url: server.systemUrl.replace(`:${postgres.port}/`, `:${port}/`), replica: 'half-open', log: silentLog, notifyIntervalMs: 1, answerTimeoutMs: 1_000 });
    const other = createHintBus({ url: server.systemUrl, replica: 'other', log: silentLog, notifyIntervalMs: 1 });
    let heard = 0;
    bus.onRemoteChange(() => { heard += 1; });
    const hint = { kind: 'operations' as const, hostId: host.hostId };
    const hears = () => until(() => { other.publish(hint); return heard > 0; }, 'a hint of the other replica');
    await hears();
    const made = sockets.length;
    sockets.at(-1)?.unpipe().pause(); // What the bus sends goes nowhere from now on, and no answer comes.
    bus.publish(hint);
    await until(() => sockets.length > made, 'another connection');
    heard = 0;
    await hears();
    await Promise.all([bus.close(), other.close()]);
    for (const socket of sockets) socket.destroy();
    proxy.close();
  });
});

describe('after a kill -9 of Postgres', () => {
  it('a call during the outage says DATABASE_UNAVAILABLE, the next one after the restart works, and nothing committed is lost', async () => {
    const { record, operationId } = await publishAndClaim(fleet, host);
    const bus = createHintBus({ url: server.systemUrl, replica: 'c', log: silentLog });
    const reconnected = Promise.withResolvers<undefined>();
    bus.onRemoteChange(() => reconnected.resolve(undefined));
    while ((await server.query(`select 1 from pg_stat_activity where query = 'listen nkudo_changes' and state = 'idle'`)).length === 0);
    await Promise.all(Array.from({ length: 8 }, () => db.microvms.load(fleet.tenantId, record.microvmId)));
    await postgres.crash();
    for (const call of [() => db.microvms.load(fleet.tenantId, record.microvmId), () => db.hosts.listLiveness(), () => publish(fleet, publishInput(fleet, host))]) {
      await expect(call()).rejects.toMatchObject({ code: 'DATABASE_UNAVAILABLE', retry: 'backoff' });
    }
    await postgres.start();
    expect(await db.microvms.load(fleet.tenantId, record.microvmId)).toMatchObject({ newestOperation: { id: operationId, status: 'Dispatched' } });
    expect(await db.hosts.listLiveness()).not.toEqual([]);
    await reconnected.promise;
    await bus.close();
  });

  it('calls that were under way end as done or as unavailable, and repeating them gives one effect', async () => {
    const inputs = Array.from({ length: 12 }, () => publishInput(fleet, host, { desired: { ...publishInput(fleet, host).desired, cpuCount: 0, memoryBytes: 0 } }));
    const attempts = inputs.map((input) => db.microvms.publish(input, fleet.epoch, actor).then(() => 'done', (error: { code: string }) => error.code));
    await postgres.crash();
    const outcomes = await Promise.all(attempts);
    expect(outcomes.filter((outcome) => outcome !== 'done' && outcome !== 'DATABASE_UNAVAILABLE')).toEqual([]);
    await postgres.start();
    for (const input of inputs) await publish(fleet, input);
    const rows = await server.query('select count(*)::int as n from nkudo.operations where microvm_id = any($1)', [inputs.map((input) => input.microvmId)]);
    expect(rows).toEqual([{ n: 12 }]);
  });
});
