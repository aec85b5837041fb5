/** Logs by offset: each byte once, in order, gaps recorded. */
import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { microVMId, type MicroVMId } from '#api/model/ids.ts';
import type { Database } from '#db/database.ts';
import { newsStatement, nextStatement } from '#db/stores/log-export-store.ts';
import type { Statement } from '#db/tx.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';
import { until } from '#test/harness/until.ts';
import { makeFleet, makeHost, openTestDatabase, publish, publishInput, type Fleet, type TestHost } from './builders.ts';

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

const append = (microvmId: MicroVMId, offset: number, text: string, incarnation = 1) =>
  db.logs.append(fleet.tenantId, host.hostId, { microvmId, source: 'serial', incarnation, offset, data: Buffer.from(text), gapBytes: 0 });
const read = async (microvmId: MicroVMId, afterId = 0) => {
  const chunks = await db.logs.read(fleet.tenantId, microvmId, 'serial', afterId, 256);
  return chunks.map((chunk) => ({ ...chunk, data: Buffer.from(chunk.data).toString() }));
};

it('stores each byte once when chunks come again, overlap or arrive many at a time', async () => {
  const { microvmId } = await publish(fleet, publishInput(fleet, host));
  const text = 'abcdefghijklmnopqrstuvwxyz';
  expect(await append(microvmId, 0, text.slice(0, 4))).toEqual({ nextOffset: 4 });
  expect(await append(microvmId, 0, text.slice(0, 4))).toEqual({ nextOffset: 4 });
  expect(await append(microvmId, 2, text.slice(2, 8))).toEqual({ nextOffset: 8 });
  await Promise.all(Array.from({ length: 10 }, () => append(microvmId, 8, text.slice(8))));
  const chunks = await read(microvmId);
  expect(chunks.map((chunk) => chunk.data).join('')).toBe(text);
  expect(chunks.map((chunk) => [chunk.offset, chunk.gapBytes])).toEqual([[0, 0], [4, 0], [8, 0]]);
});

it('records a jump as a gap, keeps boots apart and reads on after an id', async () => {
  const { microvmId } = await publish(fleet, publishInput(fleet, host));
  await append(microvmId, 100, 'late');
  expect(await append(microvmId, 50, 'lost for good')).toEqual({ nextOffset: 104 });
  await append(microvmId, 0, 'second boot', 2);
  const chunks = await read(microvmId);
  expect(chunks).toMatchObject([{ incarnation: 1, offset: 100, gapBytes: 100, data: 'late' }, { incarnation: 2, offset: 0, gapBytes: 0, data: 'second boot' }]);
  expect(await read(microvmId, chunks[0]?.id)).toMatchObject([{ data: 'second boot' }]);
});

it('acknowledges and drops what belongs to no microVM of the host', async () => {
  const stranger = microVMId(randomUUID());
  expect(await append(stranger, 0, 'hello')).toEqual({ nextOffset: 5 });
  expect(await read(stranger)).toEqual([]);
});

it('makes the partition of the day when it is missing', async () => {
  const { microvmId } = await publish(fleet, publishInput(fleet, host));
  await server.query(`do $$ declare part text; begin for part in select relname from pg_class where relname ~ '^logs_[0-9]{8}$' and relkind = 'r' loop execute 'drop table nkudo.' || part; end loop; end $$`);
  expect(await append(microvmId, 0, 'again')).toEqual({ nextOffset: 5 });
  expect(await read(microvmId)).toMatchObject([{ data: 'again' }]);
});

it('stores a batch of several microVMs and boots in one commit, in the order of arrival, and writes nothing when it comes again', async () => {
  const roomy = { desired: { ...publishInput(fleet, host).desired, cpuCount: 0, memoryBytes: 0 } };
  const [first, second] = [await publish(fleet, publishInput(fleet, host, roomy)), await publish(fleet, publishInput(fleet, host, roomy))];
  const chunk = (microvmId: MicroVMId, incarnation: number, offset: number, text: string) =>
    ({ microvmId, source: 'serial' as const, incarnation, offset, data: Buffer.from(text), gapBytes: 0 });
  const batch = [chunk(first.microvmId, 1, 0, 'one '), chunk(second.microvmId, 1, 0, 'other'), chunk(first.microvmId, 1, 4, 'two'), chunk(first.microvmId, 2, 0, 'boot')];
  expect(await db.logs.appendAll(fleet.tenantId, host.hostId, batch)).toEqual([7, 5, 7, 4]);
  expect(await db.logs.appendAll(fleet.tenantId, host.hostId, batch)).toEqual([7, 5, 7, 4]);
  expect((await read(first.microvmId)).map((row) => [row.incarnation, row.offset, row.data])).toEqual([[1, 0, 'one two'], [2, 0, 'boot']]);
  expect((await read(second.microvmId)).map((row) => row.data)).toEqual(['other']);
});

it('reads the last bytes without the ones before', async () => {
  const { microvmId } = await publish(fleet, publishInput(fleet, host, { desired: { ...publishInput(fleet, host).desired, cpuCount: 0, memoryBytes: 0 } }));
  for (let offset = 0; offset < 100; offset += 10) await append(microvmId, offset, '0123456789');
  const last = async (bytes: number) => (await db.logs.readLast(fleet.tenantId, microvmId, 'serial', bytes)).map((row) => row.offset);
  expect(await last(10)).toEqual([90]);
  expect(await last(11)).toEqual([80, 90]);
  expect(await last(1_000_000)).toHaveLength(10);
});

/** Pages that the statement touches, as its role sees the rows. */
async function pagesOf(url: string, { text }: Statement, values: readonly unknown[]): Promise<number> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(`select set_config('app.tenant_id', '${fleet.tenantId}', false)`);
    const { rows } = await client.query<{ 'QUERY PLAN': readonly { readonly Plan: { readonly 'Shared Hit Blocks': number; readonly 'Shared Read Blocks': number } }[] }>(`explain (analyze, buffers, format json) ${text}`, [...values]);
    const plan = rows[0]?.['QUERY PLAN'][0]?.Plan;
    if (plan === undefined) throw new Error('there is no plan');
    return plan['Shared Hit Blocks'] + plan['Shared Read Blocks'];
  } finally {
    await client.end();
  }
}

it('finds what a sink has not got without reading what it has got', async () => {
  const { microvmId } = await publish(fleet, publishInput(fleet, host));
  const rows = 20_000;
  await server.query(
    `insert into nkudo.logs (tenant_id, microvm_id, source, incarnation, byte_offset, gap_bytes, data) select $1, $2, 'serial', 1, n, 0, 'x' from generate_series(1, ${rows}) n`,
    [fleet.tenantId, microvmId],
  );
  await server.query(`insert into nkudo.log_exports select tenant_id, 'loki', max(xact::text)::xid8, max(id) from nkudo.logs where tenant_id = $1 group by tenant_id`, [fleet.tenantId]);
  await server.query('vacuum analyze nkudo.logs');
  await append(microvmId, 0, 'new');
  // Rows count once every transaction before them has ended, in other databases of the cluster as well.
  await until(async () => (await db.logExports.tenantsWithNews('loki')).includes(fleet.tenantId), 'the news');
  const [row, ...others] = await db.logExports.next(fleet.tenantId, 'loki');
  if (row === undefined) throw new Error('there is news');
  expect([Buffer.from(row.data).toString(), others]).toEqual(['new', []]);
  await db.logExports.advance(fleet.tenantId, 'loki', row.position);
  expect(await db.logExports.tenantsWithNews('loki')).toEqual([]);
  expect(await pagesOf(server.systemUrl, newsStatement, ['loki'])).toBeLessThan(rows / 100);
  expect(await pagesOf(server.appUrl, nextStatement, [fleet.tenantId, 'loki'])).toBeLessThan(rows / 100);
});
