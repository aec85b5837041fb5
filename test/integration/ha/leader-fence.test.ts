/**
 * Every call of every port that takes a leadership epoch goes through the fence, before it does anything else: found by
 * reading the ports, so that a new one is covered on the day it is written.
 */
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import ts from 'typescript';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { repositoryRoot } from '#hack/build-cache.ts';
import { openDatabase, type Database } from '#db/database.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';
import { until } from '#test/harness/until.ts';
import { actor, ids, makeFleet, makeHost, publishInput } from '../db/builders.ts';

interface FencedCall {
  readonly port: string;
  readonly method: string;
  readonly parameters: readonly string[];
}

/** Methods of the ports with a parameter of that name. */
function findFencedCalls(): readonly FencedCall[] {
  const directory = join(repositoryRoot, 'controller/ports');
  return readdirSync(directory).flatMap((file) => {
    const source = ts.createSourceFile(file, readFileSync(join(directory, file), 'utf8'), ts.ScriptTarget.Latest);
    return source.statements.filter(ts.isInterfaceDeclaration).flatMap((declaration) =>
      declaration.members.filter(ts.isMethodSignature).flatMap((member) => {
        const parameters = member.parameters.map((parameter) => parameter.name.getText(source));
        return parameters.includes('epoch') ? [{ port: declaration.name.text, method: member.name.getText(source), parameters }] : [];
      }),
    );
  });
}

let server: TestDatabase;
let database: Database;

beforeAll(async () => {
  server = await useDatabase();
  database = openDatabase({ appUrl: server.appUrl, systemUrl: server.systemUrl, ids });
});
afterAll(() => database.close());

/** Any value where an input is wanted: every field of it is a valid id, which no row has. */
function anyInput(): unknown {
  const id = '00000000-0000-4000-8000-00000000000a';
  const target = (): string => id;
  return new Proxy(target, {
    get: (_, name) => {
      if (name === Symbol.toPrimitive || name === 'toString' || name === 'valueOf' || name === 'toJSON') return () => id;
      return name === Symbol.iterator ? [][Symbol.iterator] : anyInput();
    },
  });
}

describe('[C6] the leadership fence', () => {
  const calls = findFencedCalls();

  it('stands in front of every call that takes an epoch', async () => {
    expect(calls.length).toBeGreaterThan(15);
    const stores: readonly Record<string, unknown>[] = Object.values(database).filter((store) => typeof store === 'object');
    const outcomes: string[] = [];
    for (const { port, method, parameters } of calls) {
      const store = stores.find((candidate) => typeof candidate[method] === 'function' && portOf(candidate, port));
      const run = store?.[method];
      if (store === undefined || typeof run !== 'function') {
        outcomes.push(`${port}.${method}: no store of the database has it`);
        continue;
      }
      // An epoch of the wrong kind is refused by the fence itself, before any statement.
      const fenced: unknown = await Promise.resolve()
        .then((): unknown => run.apply(store, parameters.map((name) => (name === 'epoch' ? -1 : name === 'actor' ? actor : anyInput()))))
        .then(() => 'it went through', (error: unknown) => (error instanceof Error ? error.message : error));
      if (fenced !== 'a leadership epoch is a whole number from 0') outcomes.push(`${port}.${method}: ${String(fenced)}`);
    }
    expect(outcomes).toEqual([]);
  });

  it('makes the next leader wait for an open transaction of the last one, and refuses the last one afterwards', async () => {
    const fleet = await makeFleet(database);
    const host = await makeHost(fleet);
    const input = publishInput(fleet, host);
    // Holds the publisher between its fence and its commit.
    const blocker = new pg.Client({ connectionString: server.adminUrl });
    await blocker.connect();
    await blocker.query('begin');
    await blocker.query('select from nkudo.hosts where id = $1 for update', [host.hostId]);
    const publishing = database.microvms.publish(input, fleet.epoch, actor);
    const waits = (text: string) => async (): Promise<boolean> => (await server.query(`select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database() and query like $1`, [`%${text}%`])).length > 0;
    await until(waits('for no key update of h'), 'the publisher to wait for the host');
    let isAcquired = false;
    const acquiring = database.leadership.acquire({ ...actor, name: 'replica-2' }).then((acquired) => {
      isAcquired = true;
      return acquired;
    });
    await until(waits('nkudo.leadership l set epoch'), 'the next leader to wait for the publisher');
    expect(isAcquired).toBe(false);
    await blocker.query('commit');
    await blocker.end();
    expect(await publishing).toMatchObject({ outcome: 'published' });
    expect((await acquiring).epoch).toBe(fleet.epoch + 1);
    await expect(database.microvms.publish({ ...input, generation: 2 }, fleet.epoch, actor)).rejects.toMatchObject({ code: 'LEADERSHIP_LOST' });
  });

  it('does not let a leader that stopped inside a transaction hold up the next one for more than three seconds', async () => {
    const fleet = await makeFleet(database);
    const stopped = new pg.Client({ connectionString: server.appUrl });
    stopped.on('error', () => {}); // Postgres ends it.
    await stopped.connect();
    await stopped.query(`begin; set local idle_in_transaction_session_timeout = '3s'`);
    await stopped.query('select * from nkudo.assert_leader_since($1, 0)', [fleet.epoch]);
    expect((await database.leadership.acquire({ ...actor, name: 'replica-3' })).epoch).toBe(fleet.epoch + 1);
    await expect(stopped.query('select 1')).rejects.toThrow();
    const [setting] = await server.query(`select prosrc like '%for share%' as is_shared from pg_proc where proname = 'assert_leader_since'`);
    expect(setting).toEqual({ is_shared: true });
  });
});

/** Two ports may have methods of one name: the store is the one that has all methods of the port. */
function portOf(store: Record<string, unknown>, port: string): boolean {
  return findFencedCalls().filter((call) => call.port === port).every((call) => typeof store[call.method] === 'function');
}
