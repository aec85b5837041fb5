/**
 * What the verifier of the audit chain says after somebody with all rights over the database has tampered with it: each
 * time the first bad row by its position. Tampering happens in a transaction that is rolled back, with triggers and
 * foreign keys off, and the verifier reads in the same one.
 */
import { generateKeyPairSync } from 'node:crypto';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createCheckpointSigner, createSignatureCheck, type CheckpointSigner } from '#controller/audit/checkpoint-signer.ts';
import type { AuditChainStore, Checkpoint, SignatureCheck, TenantVerdict } from '#controller/ports/audit-chain.ts';
import { deriveChainerUrl } from '#db/roles.ts';
import { firstPreviousHash, linkHash, verifyChain } from '#db/audit-chain.ts';
import { createAuditStore, openChainSource, type Query } from '#db/stores/audit-store.ts';
import { createRandom, testSeed } from '#test/chaos/seed.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';
import { until } from '#test/harness/until.ts';

const defects = 1_000;
const tenants = ['11111111-1111-4111-8111-111111111111', '22222222-2222-4222-8222-222222222222'] as const;
const rounds = 3;
const rowsPerRound = 20;
const chainLength = rounds * rowsPerRound;

let server: TestDatabase;
let chain: AuditChainStore;
let admin: pg.Client;
let signer: CheckpointSigner;
let isSigned: SignatureCheck;
let exported: readonly Checkpoint[];

beforeAll(async () => {
  server = await useDatabase();
  chain = createAuditStore({ url: deriveChainerUrl(server.systemUrl) ?? '' });
  const { privateKey, publicKey } = generateKeyPairSync('ed25519');
  signer = createCheckpointSigner(privateKey.export({ type: 'pkcs8', format: 'pem' }).toString());
  isSigned = createSignatureCheck(publicKey.export({ type: 'spki', format: 'pem' }).toString());
  admin = new pg.Client({ connectionString: server.adminUrl });
  await admin.connect();
  for (let round = 0; round < rounds; round += 1) {
    for (let row = 0; row < rowsPerRound; row += 1) {
      // One transaction for both tenants, so that their rows lie between each other.
      await admin.query(`insert into nkudo.audit_events (tenant_id, actor_kind, actor_name, actor_from, action, subject_kind, subject_id, before_hash, after_hash)
        select t, 'controller', 'replica-1', '10.0.0.1:5', 'saved', 'site', gen_random_uuid(), repeat('a', 64), repeat('b', 64) from unnest($1::uuid[]) t`, [tenants]);
    }
    // Transactions of other databases in the cluster hold up the order for a moment.
    await until(async () => (await chain.link(7)).unlinkedAgeMs === null, 'all rows to be linked');
    await chain.addCheckpoints((await chain.unsignedHeads()).map((head) => signer.sign(head, Date.UTC(2026, 0, 1 + round))));
  }
  const kept: Checkpoint[] = [];
  for (const tenant of tenants) for await (const checkpoint of chain.checkpoints(tenant)) kept.push(checkpoint);
  exported = kept;
});
afterAll(async () => {
  await Promise.all([admin.end(), chain.close()]);
});

const query: Query = (statement, values) => admin.query(statement.text, values === undefined ? [] : [...values]);

async function verify(tenantId: string, against: readonly Checkpoint[]): Promise<TenantVerdict> {
  return verifyChain(tenantId, await openChainSource(query, tenantId, against), isSigned);
}

interface Place {
  readonly tenant: string;
  readonly position: number;
}

/** What is done, and what the verifier has to name. */
interface Tampering {
  readonly name: string;
  readonly sql: readonly string[];
  readonly expected: Place & { readonly table: 'links' | 'checkpoints' };
  /** Without the exported file it can't be seen. */
  readonly needsExport: boolean;
}

const checkpointPositions = Array.from({ length: rounds }, (_, round) => (round + 1) * rowsPerRound);
const link = ({ tenant, position }: Place): string => `tenant_id = '${tenant}' and position = ${position}`;
const event = (place: Place): string => `tenant_id = '${place.tenant}' and id = (select event_id from nkudo.audit_links where ${link(place)})`;

type Choose = <Item>(items: readonly Item[]) => Item;

const eventEdits = [
  `action = action || 'x'`, `actor_name = 'mallory'`, `actor_kind = 'system'`, `actor_from = '10.6.6.6:6'`, `subject_kind = 'host'`, 'subject_id = gen_random_uuid()',
  `before_hash = repeat('c', 64)`, `after_hash = null`, `at = at + interval '1 microsecond'`, `xact = (xact::text::bigint + 1)::text::xid8`,
];
const linkEdits = [`hash = sha256(hash)`, `previous_hash = sha256(previous_hash)`, 'event_id = 999999'];
const checkpointEdits = ['root = sha256(root)', 'signature = sha256(signature)', `key_id = repeat('0', 64)`, `made_at = made_at + interval '1 hour'`, 'previous_position = position - 1'];

function editing(choose: Choose, at: Place): Tampering {
  const [kind, sql] = choose([
    ['event', `update nkudo.audit_events set ${choose(eventEdits)} where ${event(at)}`],
    ['event', `update nkudo.audit_events set ${choose(eventEdits)} where ${event(at)}`],
    ['event of another tenant', `update nkudo.audit_events set tenant_id = '${at.tenant === tenants[0] ? tenants[1] : tenants[0]}' where ${event(at)}`],
    ['link', `update nkudo.audit_links set ${choose(linkEdits)} where ${link(at)}`],
  ] as const);
  return { name: `edit of ${kind}: ${sql}`, sql: [sql], expected: { ...at, table: 'links' }, needsExport: false };
}

function editingCheckpoint(choose: Choose, at: Place): Tampering {
  const place = { tenant: at.tenant, position: choose(checkpointPositions) };
  const sql = `update nkudo.audit_checkpoints set ${choose(checkpointEdits)} where ${link(place)}`;
  return { name: sql, sql: [sql], expected: { ...place, table: 'checkpoints' }, needsExport: false };
}

function deleting(choose: Choose, at: Place): Tampering {
  const parts = choose([['event'], ['link'], ['event', 'link']]);
  const sql = parts.map((part) => (part === 'event' ? `delete from nkudo.audit_events where ${event(at)}` : `delete from nkudo.audit_links where ${link(at)}`));
  return { name: `deletion of ${parts.join(' and ')} at ${at.position}`, sql, expected: { ...at, table: 'links' }, needsExport: false };
}

function deletingCheckpoint(choose: Choose, at: Place): Tampering {
  const place = { tenant: at.tenant, position: choose(checkpointPositions) };
  return { name: `deletion of checkpoint ${place.position}`, sql: [`delete from nkudo.audit_checkpoints where ${link(place)}`], expected: { ...place, table: 'checkpoints' }, needsExport: place.position === chainLength };
}

function reordering(choose: Choose, at: Place): Tampering {
  const other = { tenant: at.tenant, position: choose(Array.from({ length: chainLength }, (_, index) => index + 1).filter((position) => position !== at.position)) };
  const swap = (table: string, columns: string, key: string): string =>
    `update nkudo.${table} t set (${columns}) = (select ${columns} from pair p where p.${key} <> t.${key}) where t.tenant_id = '${at.tenant}' and t.${key} in (select ${key} from pair)`;
  const pairOf = (table: string, filter: string): string => `create temp table pair on commit drop as select * from nkudo.${table} where (${filter})`;
  const both = `tenant_id = '${at.tenant}' and position in (${at.position}, ${other.position})`;
  const [kind, sql] = choose([
    ['contents of two events', [pairOf('audit_events', `(${event(at)}) or (${event(other)})`), swap('audit_events', 'xact, at, subject_id', 'id')]],
    ['events of two links', [pairOf('audit_links', both), `update nkudo.audit_links set event_id = -position where ${both}`,
      `update nkudo.audit_links l set event_id = (select p.event_id from pair p where p.position <> l.position) where ${both}`]],
    ['positions of two links', [`update nkudo.audit_links set position = 1000000 where ${link(at)}`, `update nkudo.audit_links set position = ${at.position} where ${link(other)}`,
      `update nkudo.audit_links set position = ${other.position} where ${link({ tenant: at.tenant, position: 1_000_000 })}`]],
    ['hashes of two links', [pairOf('audit_links', both), swap('audit_links', 'hash, previous_hash', 'position')]],
  ] as const);
  return { name: `reorder: ${kind}, ${at.position} and ${other.position}`, sql, expected: { tenant: at.tenant, position: Math.min(at.position, other.position), table: 'links' }, needsExport: false };
}

function truncating(choose: Choose, at: Place): Tampering {
  const tables = choose([['audit_links'], ['audit_events', 'audit_links'], ['audit_events', 'audit_links', 'audit_checkpoints']]);
  const from = `tenant_id = '${at.tenant}' and position >= ${at.position}`;
  const sql = tables.map((table) => (table === 'audit_events' ? `delete from nkudo.audit_events where tenant_id = '${at.tenant}' and id in (select event_id from nkudo.audit_links where ${from})` : `delete from nkudo.${table} where ${from}`));
  return { name: `truncation of ${tables.join(', ')} from ${at.position}`, sql, expected: { ...at, table: 'links' }, needsExport: tables.includes('audit_checkpoints') };
}

const kinds = [editing, editing, editingCheckpoint, deleting, deleting, deletingCheckpoint, reordering, truncating];

async function tamper(sql: readonly string[], look: () => Promise<void>): Promise<void> {
  await admin.query('begin; set local session_replication_role = replica');
  try {
    for (const statement of sql) await admin.query(statement);
    await look();
  } finally {
    await admin.query('rollback');
  }
}

/** A chain that an attacker without the key writes anew: the row at the position edited, every hash from there on made again. */
async function rewriteFrom(place: Place): Promise<void> {
  await admin.query(`update nkudo.audit_events set actor_name = 'nobody' where ${event(place)}`);
  const source = await openChainSource(query, place.tenant, []);
  let previousHash = firstPreviousHash;
  for await (const found of source.links) {
    if (found.event === null) throw new Error('a row is missing');
    const hash = linkHash({ tenantId: place.tenant, position: found.position, previousHash }, found.event);
    await admin.query(`update nkudo.audit_links set hash = decode($1, 'hex'), previous_hash = decode($2, 'hex') where ${link({ ...place, position: found.position })}`, [hash, previousHash]);
    previousHash = hash;
  }
}

describe('the audit verifier', () => {
  it('finds an untouched chain sound and says that it is proved to its last row', async () => {
    for (const tenant of tenants) {
      for (const against of [[], exported]) {
        expect(await verify(tenant, against)).toEqual({ tenantId: tenant, rows: chainLength, provedTo: chainLength, provedAtMs: Date.UTC(2026, 0, rounds), unlinked: 0, bad: null });
      }
    }
    expect(exported).toHaveLength(tenants.length * rounds);
  });

  it(`[C5] names the first bad row for each of ${defects} random edits, deletions, reorders and truncations`, async () => {
    const seed = testSeed();
    const random = createRandom(seed);
    const choose: Choose = (items) => {
      const item = items[Math.floor(random() * items.length)];
      if (item === undefined) throw new Error('nothing to choose from');
      return item;
    };
    const counts = new Map<string, number>();
    const wrong: string[] = [];
    for (let number = 0; number < defects; number += 1) {
      const at = { tenant: choose(tenants), position: 1 + Math.floor(random() * chainLength) };
      const kind = choose(kinds);
      const tampering = kind(choose, at);
      const withExport = tampering.needsExport || random() < 0.5;
      counts.set(kind.name, (counts.get(kind.name) ?? 0) + 1);
      await tamper(tampering.sql, async () => {
        const { bad, provedTo } = await verify(tampering.expected.tenant, withExport ? exported : []);
        const named = bad === null ? 'nothing' : `${bad.table} ${bad.position}`;
        const isNamed = bad?.position === tampering.expected.position && (bad.table === 'audit_checkpoints') === (tampering.expected.table === 'checkpoints');
        // What it says is proved ends before the bad row, except that links up to a bad checkpoint may be proved by the file.
        if (!isNamed || provedTo > tampering.expected.position) wrong.push(`#${number} ${tampering.name}: expected ${tampering.expected.table} ${tampering.expected.position}, named ${named}, proved to ${provedTo}`);
      });
    }
    console.log(`[C5] seed ${seed}: ${[...counts].map(([name, count]) => `${name} ${count}`).join(', ')}`);
    expect(wrong, `NKUDO_TEST_SEED=${seed}`).toEqual([]);
    expect((await verify(tenants[0], exported)).bad).toBeNull();
  });

  it('[C5] names the signed stretch in which a row was changed by somebody who made all later hashes anew', async () => {
    for (const position of [1, 20, 21, 45, 60]) {
      const place = { tenant: tenants[0], position };
      const checkpoint = checkpointPositions.find((candidate) => candidate >= position) ?? 0;
      await tamper([], async () => {
        await rewriteFrom(place);
        const verdict = await verify(place.tenant, []);
        expect(verdict).toMatchObject({ provedTo: checkpoint - rowsPerRound, bad: { table: 'audit_links', position: checkpoint } });
        expect(verdict.bad?.problem).toContain(`rows ${checkpoint - rowsPerRound + 1} to ${checkpoint} do not lead to the signed root`);
        // With the checkpoints taken out as well, only the file shows it.
        await admin.query(`delete from nkudo.audit_checkpoints where tenant_id = '${place.tenant}' and position >= ${checkpoint}`);
        expect(await verify(place.tenant, [])).toMatchObject({ provedTo: checkpoint - rowsPerRound, bad: null });
        expect(await verify(place.tenant, exported)).toMatchObject({ bad: { table: 'audit_links', position: checkpoint } });
      });
    }
  });

  it('[C5] names a row that was put in behind the chainer, and one whose link was taken out at the unsigned end', async () => {
    const put = `insert into nkudo.audit_events (tenant_id, xact, actor_kind, actor_name, actor_from, action, subject_kind, subject_id)
      values ('${tenants[0]}', '5', 'user', 'mallory', '', 'forged', 'site', gen_random_uuid())`;
    await tamper([put], async () => {
      const [forged] = (await admin.query<{ id: string }>(`select id::text as id from nkudo.audit_events where action = 'forged'`)).rows;
      expect((await verify(tenants[0], exported)).bad).toMatchObject({ table: 'audit_events', position: null, eventId: forged?.id });
    });
    await tamper([`delete from nkudo.audit_checkpoints where ${link({ tenant: tenants[0], position: chainLength })}`, `delete from nkudo.audit_links where ${link({ tenant: tenants[0], position: chainLength })}`], async () => {
      expect((await verify(tenants[0], [])).bad).toMatchObject({ table: 'audit_events', position: null });
    });
  });

  it('[C5] says up to where it proved when the end was cut off together with its checkpoints and no file is at hand', async () => {
    const from = `tenant_id = '${tenants[0]}' and position > ${rowsPerRound}`;
    const sql = [`delete from nkudo.audit_events where tenant_id = '${tenants[0]}' and id in (select event_id from nkudo.audit_links where ${from})`, `delete from nkudo.audit_links where ${from}`, `delete from nkudo.audit_checkpoints where ${from}`];
    await tamper(sql, async () => {
      expect(await verify(tenants[0], [])).toMatchObject({ rows: rowsPerRound, provedTo: rowsPerRound, bad: null });
      expect((await verify(tenants[0], exported)).bad).toMatchObject({ position: rowsPerRound + 1, problem: `the chain ends at ${rowsPerRound}, and a signed checkpoint shows that it had ${chainLength} rows` });
    });
  });

  it('trusts no other key: a chain signed anew by somebody else is bad at its first checkpoint', async () => {
    const other = createCheckpointSigner(generateKeyPairSync('ed25519').privateKey.export({ type: 'pkcs8', format: 'pem' }).toString());
    const forged = other.sign(exported[0] ?? { tenantId: '', position: 0, root: '', previousPosition: 0 }, 0);
    await tamper([`update nkudo.audit_checkpoints set signature = decode('${forged.signature}', 'base64'), key_id = '${forged.keyId}', made_at = to_timestamp(0) where ${link({ tenant: forged.tenantId, position: forged.position })}`], async () => {
      expect((await verify(forged.tenantId, [])).bad).toMatchObject({ table: 'audit_checkpoints', position: forged.position });
    });
    expect((await verify(forged.tenantId, [forged])).bad).toMatchObject({ table: 'audit_checkpoints', position: forged.position });
  });
});
