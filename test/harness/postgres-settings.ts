/**
 * Postgres settings of every test cluster. Durability stays on: tests kill Postgres and expect its data back.
 * Nothing writes by itself, so that counting write transactions and WAL bytes at rest is exact.
 */
export const testPostgresSettings: readonly string[] = [
  'autovacuum=off',
  'wal_level=minimal',
  'max_wal_senders=0',
  'max_connections=200',
  'stats_fetch_consistency=none',
];
