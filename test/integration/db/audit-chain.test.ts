/** The chainer at a real database: order of commits, races, rest, its rights, a restore; and the upkeep of log partitions. */
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createChainer } from '#controller/audit/chainer.ts';
import { createCheckpointSigner, createSignatureCheck } from '#controller/audit/checkpoint-signer.ts';
import { exportAudit, readExport, verifyAudit } from '#controller/audit/commands.ts';
import type { AuditChainStore } from '#controller/ports/audit-chain.ts';
import { createTime } from '#controller/runtime/time.ts';
import { createMaintenanceStore } from '#db/maintenance.ts';
import { deriveChainerUrl } from '#db/roles.ts';
import { createAuditStore } from '#db/stores/audit-store.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';
import { until } from '#test/harness/until.ts';

const { privateKey, publicKey } = generateKeyPairSync('ed25519');
const publicKeysPem = publicKey.export({ type: 'spki', format: 'pem' }).toString();
const signer = createCheckpointSigner(privateKey.export({ type: 'pkcs8', format: 'pem' }).toString());
const isSigned = createSignatureCheck(publicKeysPem);
const permissionDenied = '42501';

let server: TestDatabase;
let chain: AuditChainStore;
const clients: pg.Client[] = [];

async function connect(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  clients.push(client);
  return client;
}

beforeAll(async () => {
  server = await useDatabase();
  chain = createAuditStore({ url: deriveChainerUrl(server.systemUrl) ?? '' });
});
afterAll(async () => {
  await Promise.all([...clients.map((client) => client.end()), chain.close()]);
});

let tenant: string;
beforeEach(() => {
  tenant = randomUUID();
});

/** As a store would, under the application role; the transaction is the caller's. */
async function append(client: pg.Client, action: string, to = tenant): Promise<void> {
  await client.query(`select set_config('app.tenant_id', $1, true)`, [to]);
  await client.query(
    `insert into nkudo.audit_events (tenant_id, actor_kind, actor_name, actor_from, action, subject_kind, subject_id) values ($1, 'system', 'test', '', $2, 'site', gen_random_uuid())`,
    [to, action],
  );
}

async function appendAndCommit(client: pg.Client, action: string, to = tenant): Promise<void> {
  await client.query('begin');
  await append(client, action, to);
  await client.query('commit');
}

/** Actions in the order of the chain. */
async function linked(of = tenant): Promise<readonly string[]> {
  const actions: string[] = [];
  for await (const row of chain.rows(of)) actions.push(row.action);
  return actions;
}

const linkAll = (): Promise<void> => until(async () => (await chain.link(100)).unlinkedAgeMs === null, 'all rows to be linked');

async function signAll(): Promise<void> {
  await chain.addCheckpoints((await chain.unsignedHeads()).map((head) => signer.sign(head, Date.UTC(2026, 0, 1))));
}

describe('the chainer', () => {
  it('[C5] links no row while an older transaction may still commit before it, says how long it waits, and then links in order', async () => {
    const [slow, quick] = await Promise.all([connect(server.appUrl), connect(server.appUrl)]);
    await slow.query('begin');
    await append(slow, 'first');
    await appendAndCommit(quick, 'second');
    const held = await chain.link(100);
    expect(held.linked).toBe(0);
    expect(held.unlinkedAgeMs).toBeGreaterThanOrEqual(0);
    expect(await linked()).toEqual([]);
    await append(slow, 'third');
    await slow.query('commit');
    await appendAndCommit(quick, 'fourth');
    await linkAll();
    expect(await linked()).toEqual(['first', 'third', 'second', 'fourth']);
  });

  it('links each row once when two chainers and many writers run at the same time', async () => {
    const other = createAuditStore({ url: deriveChainerUrl(server.systemUrl) ?? '' });
    const writers = await Promise.all(Array.from({ length: 4 }, () => connect(server.appUrl)));
    let isWriting = true;
    const writing = Promise.all(
      writers.map(async (client, writer) => {
        for (let row = 0; row < 50; row += 1) await appendAndCommit(client, `w${writer}-${row}`);
      }),
    ).finally(() => (isWriting = false));
    const link = async (store: AuditChainStore): Promise<void> => {
      while (isWriting) await store.link(7);
    };
    await Promise.all([writing, link(chain), link(other)]);
    await linkAll();
    await other.close();
    const actions = await linked();
    expect(actions).toHaveLength(200);
    expect(new Set(actions).size).toBe(200);
    // Each writer's own rows stand in the order in which it committed them.
    for (let writer = 0; writer < 4; writer += 1) expect(actions.filter((action) => action.startsWith(`w${writer}-`))).toEqual(Array.from({ length: 50 }, (_, row) => `w${writer}-${row}`));
    expect(await chain.verify(tenant, [], isSigned)).toMatchObject({ rows: 200, provedTo: 0, unlinked: 0, bad: null });
  });

  it('writes nothing when there is nothing new', async () => {
    await linkAll();
    await signAll();
    const versions = (): Promise<unknown> => server.query(`select (select xmin::text from nkudo.audit_chain) as chain, (select count(*)::int from nkudo.audit_links) as links, (select count(*)::int from nkudo.audit_checkpoints) as checkpoints`);
    const before = await versions();
    for (let pass = 0; pass < 20; pass += 1) expect(await chain.link(100)).toEqual({ linked: 0, isMore: false, unlinkedAgeMs: null });
    expect(await chain.unsignedHeads()).toEqual([]);
    expect(await versions()).toEqual(before);
  });

  it('makes one checkpoint when two sign the same head', async () => {
    const client = await connect(server.appUrl);
    await appendAndCommit(client, 'only');
    await linkAll();
    const heads = await chain.unsignedHeads();
    const own = heads.filter((head) => head.tenantId === tenant);
    expect(own).toMatchObject([{ position: 1, previousPosition: 0 }]);
    await Promise.all([signAll(), signAll()]);
    expect(await chain.verify(tenant, [], isSigned)).toMatchObject({ rows: 1, provedTo: 1, bad: null });
  });

  it('can append and read, and no more; other roles can not append links', async () => {
    const chainer = await connect(deriveChainerUrl(server.systemUrl) ?? '');
    const app = await connect(server.appUrl);
    const refused = [
      ...['audit_events', 'audit_links', 'audit_checkpoints'].flatMap((table) => [`delete from nkudo.${table}`, `update nkudo.${table} set tenant_id = tenant_id`, `truncate nkudo.${table} cascade`]),
      `insert into nkudo.audit_events (tenant_id, actor_kind, actor_name, actor_from, action, subject_kind, subject_id) values (gen_random_uuid(), 'system', 'x', '', 'x', 'x', gen_random_uuid())`,
      'select * from nkudo.microvms', 'delete from nkudo.audit_chain', 'select nkudo.drop_log_partitions(1)',
    ];
    for (const sql of refused) await expect(chainer.query(sql), sql).rejects.toMatchObject({ code: permissionDenied });
    for (const sql of ['insert into nkudo.audit_links values (gen_random_uuid(), 1, 1, sha256(\'\'), sha256(\'\'))', 'update nkudo.audit_chain set linked_below = linked_below', 'select * from nkudo.audit_chain']) {
      await expect(app.query(sql), sql).rejects.toMatchObject({ code: permissionDenied });
    }
    await expect(chainer.query(`update nkudo.audit_chain set linked_below = '3'`)).rejects.toMatchObject({ code: 'NK005' });
  });

  it('goes on after a restore into a cluster whose transaction ids are lower', async () => {
    const client = await connect(server.appUrl);
    await appendAndCommit(client, 'before');
    await linkAll();
    // What such a restore leaves: rows and the chainer's mark carry ids that this cluster has not reached.
    await server.query(`do $$ begin
      set local session_replication_role = replica;
      update nkudo.audit_chain set linked_below = '900000000000';
      insert into nkudo.audit_events (tenant_id, xact, actor_kind, actor_name, actor_from, action, subject_kind, subject_id) values ('${tenant}', '900000000001', 'system', 'test', '', 'brought', 'site', gen_random_uuid());
    end $$`);
    await appendAndCommit(client, 'after');
    await linkAll();
    expect((await linked()).toSorted()).toEqual(['after', 'before', 'brought']);
    expect(await chain.verify(tenant, [], isSigned)).toMatchObject({ rows: 3, unlinked: 0, bad: null });
    const [mark] = await server.query(`select linked_below < pg_snapshot_xmax(pg_current_snapshot()) as is_of_this_cluster from nkudo.audit_chain`);
    expect(mark).toEqual({ is_of_this_cluster: true });
    await appendAndCommit(client, 'later');
    await linkAll();
    expect((await linked()).at(-1)).toBe('later');
  });
});

describe('the chainer while it runs', () => {
  const run = (url: string): { readonly seen: { links: number; checkpoints: number; chaining: boolean[]; logged: string[] }; wake(): void; stop(): Promise<void>; close(): Promise<void> } => {
    const seen = { links: 0, checkpoints: 0, chaining: [] as boolean[], logged: [] as string[] };
    const own = createAuditStore({ url });
    const listeners: (() => void)[] = [];
    const log = (_fields: object, message: string): void => void seen.logged.push(message);
    const chainer = createChainer({
      chain: own,
      loadSigner: () => Promise.resolve(signer),
      hints: { onHint: () => () => {}, onRemoteChange: (listener) => (listeners.push(listener), () => {}) },
      time: createTime({ nowMs: () => Date.now(), monotonicMs: () => performance.now(), random: () => 0.5 }),
      log: { info: log, warn: log, error: log },
      metrics: { setChaining: (is) => void seen.chaining.push(is), setUnlinkedAgeMs: () => {}, countLinks: (count) => (seen.links += count), countCheckpoints: (count) => (seen.checkpoints += count) },
      checkpointIntervalMs: 60_000,
    }).start();
    return { seen, wake: () => listeners.forEach((listener) => listener()), stop: () => chainer.stop(), close: () => own.close() };
  };

  it('links and signs what is committed, and logs each checkpoint out of the reach of the database', async () => {
    const running = run(deriveChainerUrl(server.systemUrl) ?? '');
    await appendAndCommit(await connect(server.appUrl), 'done');
    running.wake();
    await until(async () => (await chain.verify(tenant, [], isSigned)).provedTo === 1, 'the row to be linked and signed');
    expect(running.seen.logged.filter((message) => message === 'audit checkpoint').length).toBe(running.seen.checkpoints);
    await running.stop();
    await running.close();
  });

  it('says that it is off when its role can not log in, while everybody else goes on', async () => {
    const url = new URL(deriveChainerUrl(server.systemUrl) ?? '');
    url.password = 'wrong';
    const running = run(url.href);
    await until(() => running.seen.chaining.length > 0, 'the first try');
    await appendAndCommit(await connect(server.appUrl), 'written all the same');
    await running.stop();
    await running.close();
    expect(new Set(running.seen.chaining)).toEqual(new Set([false]));
    expect(running.seen.logged).toHaveLength(1);
    await linkAll();
    expect(await linked()).toEqual(['written all the same']);
  });
});

describe('the commands', () => {
  it('export what verify takes, whole and for the owner only, and verify tells one bad chain from the sound ones', async () => {
    const client = await connect(server.appUrl);
    for (const action of ['one', 'two', 'three']) await appendAndCommit(client, action);
    await linkAll();
    await signAll();
    const file = join(fileScope().directory, 'export.jsonl');
    const counts = await exportAudit({ chain, file, withRows: true, publicKeysPem, nowMs: Date.UTC(2026, 0, 2) });
    expect(counts.rows).toBeGreaterThanOrEqual(3);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(readFileSync(file, 'utf8').split('\n')[0]).toContain('"format":"nkudo-audit-export/1"');
    const exported = await readExport(file);
    expect(exported).toHaveLength(counts.checkpoints);
    const printed: string[] = [];
    const run = (): Promise<number> => verifyAudit({ chain, isSigned, exported, print: (line) => void printed.push(line) });
    expect(await run()).toBe(0);
    expect(printed).toContain(`${tenant}: sound, 3 rows; proved up to row 3, signed 2026-01-01T00:00:00.000Z`);
    await server.query(`do $$ begin set local session_replication_role = replica; delete from nkudo.audit_events where tenant_id = '${tenant}' and action = 'two'; end $$`);
    expect(await run()).toBe(3);
    expect(printed.at(-1)).toMatch(/^BAD: 1 of \d+ chains$/);
    expect(printed.find((line) => line.startsWith(tenant) && line.includes('BAD'))).toContain('BAD at position 2');
    // A whole chain that is gone is known to the file alone.
    await server.query(`do $$ begin set local session_replication_role = replica;
      delete from nkudo.audit_events where tenant_id = '${tenant}'; delete from nkudo.audit_links where tenant_id = '${tenant}'; delete from nkudo.audit_checkpoints where tenant_id = '${tenant}'; end $$`);
    printed.length = 0;
    expect(await run()).toBe(3);
    expect(printed.find((line) => line.startsWith(tenant))).toContain('the chain ends at 0, and a signed checkpoint shows that it had 3 rows');
    expect(await verifyAudit({ chain, isSigned, exported: [], print: () => {} })).toBe(0);
  });

  it('refuse a file that is no export', async () => {
    const file = join(fileScope().directory, 'other.jsonl');
    for (const [content, sentence] of [['', /is empty/], ['{"a":1}\n', /was not written by/], ['no json\n', /not JSON/], ['{"format":"nkudo-audit-export/1"}\n{"checkpoint":{}}\n', /without tenantId/]] as const) {
      writeFileSync(file, content);
      await expect(readExport(file)).rejects.toThrow(sentence);
    }
  });
});

describe('the upkeep of log partitions', () => {
  const partitions = async (): Promise<number> => Number((await server.query(`select count(*)::int as n from pg_inherits where inhparent = 'nkudo.logs'::regclass`))[0]?.['n']);
  const addOld = async (daysAgo: number): Promise<void> => {
    await server.query(`do $$ declare day date := (now() at time zone 'UTC')::date - ${daysAgo}; begin
      execute format('create table nkudo.%I partition of nkudo.logs for values from (%L) to (%L)', 'logs_' || to_char(day, 'YYYYMMDD'), day::timestamp at time zone 'UTC', (day + 1)::timestamp at time zone 'UTC');
      execute format('alter table nkudo.%I owner to nkudo_maintenance', 'logs_' || to_char(day, 'YYYYMMDD'));
    end $$`);
  };

  it('drops the days past the retention and no other, and makes days ahead when few are left', async () => {
    const maintenance = createMaintenanceStore({ url: server.systemUrl });
    expect(await maintenance.maintainLogs(14)).toEqual({ daysAhead: 14, made: 0, dropped: 0 });
    const before = await partitions();
    for (const daysAgo of [13, 14, 15, 40]) await addOld(daysAgo);
    expect(await maintenance.maintainLogs(14)).toEqual({ daysAhead: 14, made: 0, dropped: 2 });
    expect(await partitions()).toBe(before + 2);
    await server.query(`do $$ declare part text; begin
      for part in select relname from pg_class where relname ~ '^logs_[0-9]{8}$' and relkind = 'r' and to_date(substr(relname, 6), 'YYYYMMDD') > (now() at time zone 'UTC')::date + 1 loop
        execute format('drop table nkudo.%I', part);
      end loop; end $$`);
    expect(await maintenance.maintainLogs(14)).toEqual({ daysAhead: 14, made: 13, dropped: 0 });
    await maintenance.close();
  });

  it('leaves a day that is being read until the next look, instead of holding up everybody behind it', async () => {
    const maintenance = createMaintenanceStore({ url: server.systemUrl });
    const reader = await connect(server.adminUrl);
    await addOld(30);
    await reader.query('begin; select count(*) from nkudo.logs');
    expect(await maintenance.maintainLogs(14)).toMatchObject({ dropped: 0 });
    await reader.query('commit');
    expect(await maintenance.maintainLogs(14)).toMatchObject({ dropped: 1 });
    await maintenance.close();
  });
});
