/** The migrator: once, twice, from many places, and refusing what was edited. */
import { cpSync, mkdirSync, readdirSync, rmSync, writeFileSync, appendFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { executionTransitions, operationTransitions, planActionTransitions, planTransitions } from '#api/model/plan.ts';
import { migrate } from '#db/migrate.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';

const passwords = { appPassword: 'app-password', systemPassword: 'system-password' };
const migrationsDir = join(import.meta.dirname, '../../../db/migrations');

const files = readdirSync(migrationsDir).filter((name) => name.endsWith('.sql')).toSorted();

/** A folder of its own with the first migration, so that it can be edited. */
function copyFirstMigration(name: string): string {
  const copy = join(fileScope().makeDirectory(name), 'sql');
  mkdirSync(copy);
  cpSync(join(migrationsDir, '0001_mvp1.sql'), join(copy, '0001_mvp1.sql'));
  return copy;
}

describe('the migrator', () => {
  it('runs once when it is started in several databases and several times in each at the same time', async () => {
    const databases = await Promise.all([useDatabase({ migrated: false }), useDatabase({ migrated: false })]);
    const results = await Promise.all([...databases, ...databases, ...databases].map(({ adminUrl }) => migrate({ adminUrl, ...passwords })));
    expect(results.flatMap((result) => result.applied).toSorted()).toEqual([...files, ...files].toSorted());
    for (const database of databases) expect(await database.query('select name from nkudo.migrations order by name')).toEqual(files.map((name) => ({ name })));
  });

  it('changes nothing when it runs again', async () => {
    const database = await useDatabase();
    const before = await database.query(`select (select max(oid) from pg_class)::text as objects, (select count(*)::int from nkudo.migrations) as files`);
    expect(await migrate({ adminUrl: database.adminUrl, ...passwords })).toEqual({ applied: [] });
    expect(await database.query(`select (select max(oid) from pg_class)::text as objects, (select count(*)::int from nkudo.migrations) as files`)).toEqual(before);
  });

  it('gives the login roles the passwords that it was given', async () => {
    const database = await useDatabase();
    const { default: pg } = await import('pg');
    for (const url of [database.appUrl, database.systemUrl]) {
      const client = new pg.Client({ connectionString: url });
      await client.connect();
      await client.end();
    }
  });

  it('refuses a migration that was edited, is missing or comes late, and then runs nothing', async () => {
    const database = await useDatabase({ migrated: false });
    const edited = copyFirstMigration('edited');
    writeFileSync(join(edited, '0002_more.sql'), 'create table nkudo.more (id integer primary key);');
    await migrate({ adminUrl: database.adminUrl, ...passwords, migrationsDir: edited });
    appendFileSync(join(edited, '0001_mvp1.sql'), '\n-- one more line\n');
    writeFileSync(join(edited, '0003_late.sql'), 'create table nkudo.late (id integer primary key);');
    const again = (): Promise<unknown> => migrate({ adminUrl: database.adminUrl, ...passwords, migrationsDir: edited });
    await expect(again()).rejects.toThrow(/0001_mvp1\.sql was edited after it was applied/);
    rmSync(join(edited, '0001_mvp1.sql'));
    await expect(again()).rejects.toThrow(/0001_mvp1\.sql was applied to this database and is missing/);
    cpSync(join(migrationsDir, '0001_mvp1.sql'), join(edited, '0001_mvp1.sql'));
    writeFileSync(join(edited, '0000_early.sql'), 'select 1;');
    await expect(again()).rejects.toThrow(/0000_early\.sql sorts before 0002_more\.sql/);
    expect(await database.query(`select to_regclass('nkudo.late') as late`)).toEqual([{ late: null }]);
  });

  it('rolls a failing migration back as a whole and names it', async () => {
    const database = await useDatabase({ migrated: false });
    const broken = copyFirstMigration('broken');
    writeFileSync(join(broken, '0002_broken.sql'), 'create table nkudo.half (id integer); select * from nkudo.nothing;');
    await expect(migrate({ adminUrl: database.adminUrl, ...passwords, migrationsDir: broken })).rejects.toThrow(/0002_broken\.sql failed and was rolled back/);
    expect(await database.query(`select to_regclass('nkudo.half') as half, (select count(*)::int from nkudo.migrations) as files`)).toEqual([{ half: null, files: 1 }]);
  });
});

describe('the schema', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await useDatabase();
  });

  it('allows exactly the transitions that the model allows', async () => {
    const rows = await database.query('select entity, from_status, to_status from nkudo.transitions');
    const stored = rows.map((row) => `${row['entity']} ${row['from_status']} ${row['to_status']}`).toSorted();
    const flatten = (entity: string, table: Readonly<Record<string, readonly string[]>>): string[] =>
      Object.entries(table).flatMap(([from, tos]) => tos.map((to) => `${entity} ${from} ${to}`));
    expect(stored).toEqual([...flatten('plan', planTransitions), ...flatten('planAction', planActionTransitions), ...flatten('operation', operationTransitions), ...flatten('execution', executionTransitions)].toSorted());
  });

  it('has log partitions from today to two weeks ahead, none as default, and makes and drops them on demand', async () => {
    const partitions = await database.query(`select relname from pg_class where relname ~ '^logs_[0-9]{8}$' and relkind = 'r'`);
    expect(partitions).toHaveLength(15);
    expect(await database.query('select nkudo.ensure_log_partitions(14) as made')).toEqual([{ made: 0 }]);
    expect(await database.query('select nkudo.ensure_log_partitions(16) as made')).toEqual([{ made: 2 }]);
    await database.query(`create table nkudo.logs_20200101 partition of nkudo.logs for values from ('2020-01-01Z') to ('2020-01-02Z')`);
    await database.query('alter table nkudo.logs_20200101 owner to nkudo_maintenance');
    expect(await database.query('select nkudo.drop_log_partitions(7) as dropped')).toEqual([{ dropped: 1 }]);
    expect(await database.query(`select count(*)::int as n from pg_partitioned_table where partdefid <> 0`)).toEqual([{ n: 0 }]);
  });
});
