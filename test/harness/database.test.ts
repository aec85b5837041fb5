/** Shows that a test database is migrated, reachable by its roles, and separate from the others. */
import pg from 'pg';
import { expect, it } from 'vitest';
import { useDatabase } from './postgres.ts';

it('makes migrated databases that do not see each other, with a login for each role', async () => {
  const [one, two] = await Promise.all([useDatabase(), useDatabase()]);

  const logins = await Promise.all([one.appUrl, one.systemUrl, two.appUrl].map(currentLogin));

  expect(logins).toEqual([
    { role: 'nkudo_app', database: one.name },
    { role: 'nkudo_system', database: one.name },
    { role: 'nkudo_app', database: two.name },
  ]);
  expect(await one.query('SELECT count(*)::int AS rows FROM nkudo.microvms')).toEqual([{ rows: 0 }]);
});

async function currentLogin(connectionString: string): Promise<unknown> {
  const client = new pg.Client({ connectionString });
  await client.connect();
  try {
    const result: { rows: unknown[] } = await client.query('SELECT current_user AS role, current_database() AS database');
    return result.rows[0];
  } finally {
    await client.end();
  }
}
