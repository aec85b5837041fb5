/**
 * Partitions of what grows with time: made ahead in batches, dropped when their whole time is past the retention. Made by
 * functions that run as nkudo_maintenance, the owner of the partitions; dropped by that role itself, because no function can
 * detach a partition without a lock on the whole table. Retention is one setting for the installation.
 */
import { isAppError } from '#api/model/error-codes.ts';
import type { ExecutionPartitions, LogPartitions, MaintenanceStore } from '#controller/ports/maintenance.ts';
import { silentLog, type DatabaseLog } from './log.ts';
import { executionPartitionMonthsAhead, logPartitionDaysAhead } from './migrate.ts';
import { createPool } from './pool.ts';
import { deriveMaintenanceUrl } from './roles.ts';
import { createTransactions, type Transactions } from './tx.ts';

/** Fewer than this ahead, and new ones are made: at rest one writing transaction in a week, or in a month. */
const fewDaysAhead = 7;
const fewMonthsAhead = 2;
/** Somebody reads the partition: https://www.postgresql.org/docs/current/errcodes-appendix.html */
const lockNotAvailable = '55P03';

/** A table by its partitions, whose names end in the first day of each. */
interface Family {
  readonly table: 'logs' | 'execution_records';
  /** Of the names of partitions, before the underscore. */
  readonly prefix: string;
  /** Of the names of partitions. */
  readonly pattern: string;
  readonly dateFormat: 'YYYYMMDD' | 'YYYYMM';
  readonly unit: 'day' | 'month';
}

const logs: Family = { table: 'logs', prefix: 'logs', pattern: '^logs_[0-9]{8}$', dateFormat: 'YYYYMMDD', unit: 'day' };
const executions: Family = { table: 'execution_records', prefix: 'executions', pattern: '^executions_[0-9]{6}$', dateFormat: 'YYYYMM', unit: 'month' };

interface Past {
  readonly name: string;
  readonly state: 'attached' | 'detaching' | 'detached';
}

/**
 * `url` is of role nkudo_system, which may call the functions that make partitions; the maintenance role's is derived from it
 * unless it is given. With neither, logs are dropped by a function, under a lock, and executions are kept. Opens no
 * connection yet, and keeps none for long.
 */
export function createMaintenanceStore(options: { readonly url: string; readonly maintenanceUrl?: string; readonly log?: DatabaseLog }): MaintenanceStore {
  const log = options.log ?? silentLog;
  const poolOf = (url: string) => createPool({ url, name: 'nkudo-maintenance', max: 1, log });
  const ownerUrl = options.maintenanceUrl ?? deriveMaintenanceUrl(options.url);
  const pools = { system: poolOf(options.url), owner: ownerUrl === null ? null : poolOf(ownerUrl) };
  const system = createTransactions({ app: pools.system, system: pools.system });
  const owner = pools.owner === null ? null : createTransactions({ app: pools.owner, system: pools.owner });
  const call = async (name: string, argument: number): Promise<number> => {
    const { rows } = await system.systemQuery<{ count: number }>({ name, text: `select nkudo.${name}($1) as count` }, [argument]);
    return rows[0]?.count ?? 0;
  };
  const makeAhead = async (family: Family, few: number, name: string, wanted: number): Promise<{ readonly ahead: number; readonly made: number }> => {
    const ahead = await countAhead(system, family);
    const made = ahead < few ? await unlessLocked(() => call(name, wanted)) : 0;
    return { ahead: ahead + made, made };
  };
  const dropPast = async (family: Family, keep: number): Promise<number> => {
    if (owner === null) return family === logs && (await listPast(system, family, keep)).length > 0 ? unlessLocked(() => call('drop_log_partitions', keep)) : 0;
    let dropped = 0;
    for (const past of await listPast(system, family, keep)) dropped += await unlessLocked(() => drop(owner, family, past));
    return dropped;
  };
  return {
    maintainLogs: async (keepDays): Promise<LogPartitions> => {
      const { ahead, made } = await makeAhead(logs, fewDaysAhead, 'ensure_log_partitions', logPartitionDaysAhead);
      return { daysAhead: ahead, made, dropped: await dropPast(logs, keepDays) };
    },
    maintainExecutions: async (keepMonths): Promise<ExecutionPartitions> => {
      const { ahead, made } = await makeAhead(executions, fewMonthsAhead, 'ensure_execution_partitions', executionPartitionMonthsAhead);
      return { monthsAhead: ahead, made, dropped: await dropPast(executions, keepMonths) };
    },
    close: async () => {
      await Promise.all([pools.system.end(), pools.owner?.end()]);
    },
  };
}

/** What waited as long as it may is done by the next call. */
async function unlessLocked(work: () => Promise<number>): Promise<number> {
  try {
    return await work();
  } catch (error) {
    if (isAppError(error) && error.details['sqlstate'] === lockNotAvailable) return 0;
    throw error;
  }
}

async function countAhead(system: Transactions, { table, prefix, pattern, dateFormat, unit }: Family): Promise<number> {
  const { rows } = await system.systemQuery<{ ahead: number }>({
    name: 'count-partitions-ahead',
    text: `select count(*)::int as ahead from pg_inherits i join pg_class c on c.oid = i.inhrelid
      where i.inhparent = 'nkudo.${table}'::regclass and c.relname ~ '${pattern}'
        and to_date(substr(c.relname, ${prefix.length + 2}), '${dateFormat}') > date_trunc('${unit}', now() at time zone 'UTC')`,
  });
  return rows[0]?.ahead ?? 0;
}

/** Also those that an earlier call detached, or began to, and could not drop. Oldest first. */
async function listPast(system: Transactions, { table, prefix, pattern, dateFormat, unit }: Family, keep: number): Promise<readonly Past[]> {
  const { rows } = await system.systemQuery<Past>(
    {
      name: 'list-past-partitions',
      text: `select c.relname as name, case when i.inhrelid is null then 'detached' when i.inhdetachpending then 'detaching' else 'attached' end as state
        from pg_class c join pg_namespace n on n.oid = c.relnamespace left join pg_inherits i on i.inhrelid = c.oid and i.inhparent = 'nkudo.${table}'::regclass
        where n.nspname = 'nkudo' and c.relkind = 'r' and c.relname ~ '${pattern}'
          and to_date(substr(c.relname, ${prefix.length + 2}), '${dateFormat}') < date_trunc('${unit}', now() at time zone 'UTC') - make_interval(${unit}s => $1::int)
        order by c.relname`,
    },
    [keep],
  );
  return rows;
}

/** Three statements, each its own transaction; whatever ends it in between, the next call goes on. Returns 1. */
async function drop(owner: Transactions, { table }: Family, { name, state }: Past): Promise<number> {
  const run = (statement: string, text: string): Promise<unknown> => owner.systemQuery({ name: statement, text });
  // Who waits for a lock makes everybody who comes later wait behind it. The pool has one connection.
  await run('bound-lock-wait', `set lock_timeout = '2s'`);
  if (state === 'attached') await run('detach-partition', `alter table nkudo.${table} detach partition nkudo.${name} concurrently`);
  if (state === 'detaching') await run('finish-detach', `alter table nkudo.${table} detach partition nkudo.${name} finalize`);
  await run('drop-partition', `drop table nkudo.${name}`);
  return 1;
}
