/** The fleet of `npm run db:seed`: believable on the read side, whole in the audit, and the same when it is asked for twice. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tenantId } from '#api/model/ids.ts';
import { deriveChainerUrl } from '#db/roles.ts';
import { createAuditStore } from '#db/stores/audit-store.ts';
import type { Database } from '#db/database.ts';
import { seedFleet, type SeedCounts } from '#hack/seed-fleet.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';
import { until } from '#test/harness/until.ts';
import { openTestDatabase } from './builders.ts';

const size = { tenants: 2, sites: 2, hosts: 2, microvms: 6 };
const nowMs = Date.UTC(2026, 0, 2);

let server: TestDatabase;
let db: Database;
let counts: SeedCounts;

const seed = (): Promise<SeedCounts> => seedFleet({ db, size, seed: 7, nowMs, report: () => {} });

beforeAll(async () => {
  server = await useDatabase();
  db = openTestDatabase(server);
  counts = await seed();
});
afterAll(() => db.close());

describe('a seeded database', () => {
  it('shows tenants with sites, hosts and microVMs in several states', async () => {
    expect(counts).toMatchObject({ tenants: 2, hosts: 8 });
    expect(counts.microvms).toBeGreaterThan(20);
    const states = new Set<string | null>();
    for (const row of await server.query('select tenant_id::text as id from nkudo.tenants')) {
      const tenant = tenantId(String(row['id']));
      expect(await db.fleet.listSites(tenant, null, 0)).toHaveLength(2);
      expect(await db.fleet.listHosts(tenant, null, 0)).toHaveLength(4);
      for (const microvm of (await db.fleet.listMicroVMs(tenant, null, { size: 100, cursor: null })).rows) states.add(microvm.state);
    }
    expect(states.size).toBeGreaterThanOrEqual(3);
    expect(states).toContain('running');
  });

  it('has an audit chain that can be made and is sound', async () => {
    const chain = createAuditStore({ url: deriveChainerUrl(server.systemUrl) ?? '' });
    await until(async () => (await chain.link(1_000)).unlinkedAgeMs === null, 'all rows to be linked');
    for (const tenant of await chain.tenants()) expect(await chain.verify(tenant, [], () => false)).toMatchObject({ unlinked: 0, bad: null });
    await chain.close();
  });

  it('is left as it is by a second call with the same seed', async () => {
    const rows = (): Promise<unknown> => server.query('select (select count(*)::int from nkudo.microvms) as microvms, (select count(*)::int from nkudo.hosts) as hosts, (select count(*)::int from nkudo.operations) as operations');
    const before = await rows();
    expect(await seed()).toEqual({ tenants: 0, hosts: 0, microvms: 0 });
    expect(await rows()).toEqual(before);
  });
});
