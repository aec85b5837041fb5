/**
 * Partitions of logs: made ahead in weekly batches, dropped when their day is past the retention. Only decides whether
 * there is something to do; the functions that do it run as nkudo_maintenance, the owner of the partitions, who has no
 * login. Retention is one setting for the installation.
 */
import { isAppError } from '#api/model/error-codes.ts';
import type { LogPartitions, MaintenanceStore } from '#controller/ports/maintenance.ts';
import { silentLog, type DatabaseLog } from './log.ts';
import { logPartitionDaysAhead } from './migrate.ts';
import { createPool } from './pool.ts';
import { createTransactions } from './tx.ts';

/** Fewer days ahead than this, and new ones are made: at rest one writing transaction in a week. */
const fewDaysAhead = 7;
/** Somebody reads the partition: https://www.postgresql.org/docs/current/errcodes-appendix.html */
const lockNotAvailable = '55P03';

/** `url` is of role nkudo_system, which may call the two functions. Opens no connection yet, and keeps none for long. */
export function createMaintenanceStore(options: { readonly url: string; readonly log?: DatabaseLog }): MaintenanceStore {
  const pool = createPool({ url: options.url, name: 'nkudo-maintenance', max: 1, log: options.log ?? silentLog });
  const transactions = createTransactions({ app: pool, system: pool });
  const count = async (keepDays: number): Promise<{ readonly ahead: number; readonly past: number }> => {
    const { rows } = await transactions.systemQuery<{ ahead: number; past: number }>(
      {
        name: 'count-log-partitions',
        text: `select count(*) filter (where p.day > t.today)::int as ahead, count(*) filter (where p.day < t.today - $1::int)::int as past
          from (select (now() at time zone 'UTC')::date as today) t
          left join (
            select to_date(substr(c.relname, 6), 'YYYYMMDD') as day from pg_inherits i join pg_class c on c.oid = i.inhrelid
            where i.inhparent = 'nkudo.logs'::regclass and c.relname ~ '^logs_[0-9]{8}$'
          ) p on true`,
      },
      [keepDays],
    );
    return rows[0] ?? { ahead: 0, past: 0 };
  };
  const call = async (name: 'ensure_log_partitions' | 'drop_log_partitions', days: number): Promise<number> => {
    try {
      const { rows } = await transactions.systemQuery<{ count: number }>({ name, text: `select nkudo.${name}($1) as count` }, [days]);
      return rows[0]?.count ?? 0;
    } catch (error) {
      // The function waited as long as it may; the next call tries again.
      if (isAppError(error) && error.details['sqlstate'] === lockNotAvailable) return 0;
      throw error;
    }
  };
  return {
    maintainLogs: async (keepDays): Promise<LogPartitions> => {
      const before = await count(keepDays);
      const made = before.ahead < fewDaysAhead ? await call('ensure_log_partitions', logPartitionDaysAhead) : 0;
      const dropped = before.past > 0 ? await call('drop_log_partitions', keepDays) : 0;
      return { daysAhead: before.ahead + made, made, dropped };
    },
    close: () => pool.end(),
  };
}
