/**
 * Transactions: of one tenant, of the leader for one tenant, and across tenants. Owns BEGIN, the tenant setting, the
 * leadership fence, COMMIT, bounded retries and giving back the connection, with its error when there was one.
 * When the connection is lost during COMMIT the outcome is unknown: the caller gets DATABASE_UNAVAILABLE and repeats,
 * which every store call allows.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { AppError } from '#api/model/error-codes.ts';
import { isUuid, type TenantId } from '#api/model/ids.ts';
import { createFairQueue } from './fair-queue.ts';
import { isConnectionLost, isRetryable, translateDatabaseError } from './pool.ts';

/** Times that a transaction is run when Postgres undoes it for a deadlock or a serialisation failure. */
const transactionAttempts = 6;
const retryDelayMs = 5;
/** A leader that stopped inside a transaction loses it after this time, so that it can't hold up the next leader. */
const leaderIdleTimeout = `set local idle_in_transaction_session_timeout = '3s'`;
/** Times that a fresh connection is tried when a pooled one turns out to be dead before anything was sent on it. */
const beginAttempts = 4;

/** A statement: its name is for errors and, when `isHot`, the name under which the connection keeps it prepared. */
export interface Statement {
  readonly name: string;
  readonly text: string;
  readonly isHot?: boolean;
}

export interface Tx {
  /** @throws AppError, translated */
  query<Row extends pg.QueryResultRow = Record<never, never>>(statement: Statement, values?: readonly unknown[]): Promise<pg.QueryResult<Row>>;
  /** Notes the number of an audit row that this transaction wrote: once it is committed, a database without it is an older one. */
  audited(id: number): void;
}

export interface LeaderTx extends Tx {
  /** First part of fencing epochs. */
  readonly incarnation: number;
}

export interface LeaderSteps<Result> {
  /** Reads only. The result when there is nothing to do, else undefined. */
  readonly settled?: (tx: Tx) => Promise<Result | undefined>;
  /** Runs behind the fence; reads again whatever it decides from. */
  readonly work: (tx: LeaderTx) => Promise<Result>;
}

export interface Transactions {
  /** One transaction that sees and writes rows of this tenant only. Work may run several times. */
  tenant<Result>(tenantId: TenantId, work: (tx: Tx) => Promise<Result>): Promise<Result>;
  /**
   * As `tenant`, but `work` is refused with LEADERSHIP_LOST unless `epoch` leads; a new leader waits until it ends.
   * The fence is itself a write, so `settled` looks first: what it finds ends the transaction with nothing written.
   */
  leader<Result>(tenantId: TenantId, epoch: number, steps: LeaderSteps<Result>): Promise<Result>;
  /** One transaction under the cross-tenant role. */
  system<Result>(work: (tx: Tx) => Promise<Result>): Promise<Result>;
  /** One statement under the cross-tenant role, its own transaction. */
  systemQuery<Row extends pg.QueryResultRow>(statement: Statement, values?: readonly unknown[]): Promise<pg.QueryResult<Row>>;
  /** One read under each role. */
  ping(): Promise<void>;
  /** Called when a leader transaction was refused with LEADERSHIP_LOST. Returns the end of listening. */
  onRefused(listener: () => void): () => void;
  /** Newest audit row that a committed transaction of this process has written or, as leader, seen; 0 before the first. */
  seenAuditId(): number;
  /** A new leadership has looked at the database as it is: an older copy that it began to use is no longer refused. */
  beginLeadership(auditId: number): void;
  /** Called after each COMMIT. */
  onCommit(listener: () => void): void;
  close(): Promise<void>;
}

/** A transaction waits so long for its tenant's turn at the connections. */
const turnWaitMaxMs = 5_000;

export function createTransactions(pools: { readonly app: pg.Pool; readonly system: pg.Pool }): Transactions {
  const { max } = pools.app.options;
  // A third stays for others, however much one tenant asks for.
  const fair = createFairQueue({ slots: max, perKey: Math.max(1, Math.ceil((max * 2) / 3)), waitMaxMs: turnWaitMaxMs });
  const refusals = new Set<() => void>();
  const commits: (() => void)[] = [];
  /** A database that lacks this audit row is an older one. Raised by commits only: what a crash takes back is drawn again. */
  let seenAuditId = 0;
  const run = async <Result>(pool: pg.Pool, begin: string, work: (client: pg.PoolClient) => Promise<Result>): Promise<Result> => {
    const { result, auditId } = await runRepeatedly(pool, begin, work);
    seenAuditId = Math.max(seenAuditId, auditId);
    for (const listener of commits) listener();
    return result;
  };
  return {
    tenant: (tenantId, work) => fair.run(tenantId, () => run(pools.app, `begin; ${tenantSetting(tenantId)}`, (client) => work(txOf(client)))),
    leader: async (tenantId, epoch, { settled, work }) => {
      if (!Number.isSafeInteger(epoch) || epoch < 0) throw new RangeError('a leadership epoch is a whole number from 0');
      let auditId = 0;
      try {
        const result = await fair.run(tenantId, () => run(pools.app, `begin; ${leaderIdleTimeout}; ${tenantSetting(tenantId)}`, async (client) => {
          const tx = txOf(client);
          const found = await settled?.(tx);
          if (found !== undefined) return found;
          const held = await fence(tx, { epoch, seenAuditId });
          auditId = held.auditId;
          return work({ ...tx, incarnation: held.incarnation });
        }));
        seenAuditId = Math.max(seenAuditId, auditId);
        return result;
      } catch (error) {
        if (error instanceof AppError && error.code === 'LEADERSHIP_LOST') for (const listener of refusals) listener();
        throw error;
      }
    },
    onRefused: (listener) => {
      refusals.add(listener);
      return () => void refusals.delete(listener);
    },
    seenAuditId: () => seenAuditId,
    beginLeadership: (auditId) => {
      seenAuditId = auditId;
    },
    onCommit: (listener) => void commits.push(listener),
    system: (work) => run(pools.system, 'begin', (client) => work(txOf(client))),
    systemQuery: async (statement, values) => {
      const client = await openWith(pools.system, '');
      try {
        return await txOf(client).query(statement, values);
      } finally {
        // Outside a transaction a failed statement leaves a sound connection; a dead one fails the next probe.
        client.release();
      }
    },
    ping: async () => {
      await Promise.all([pools.app, pools.system].map((pool) => run(pool, 'begin', (client) => txOf(client).query({ name: 'ping', text: 'select epoch from nkudo.leadership' }))));
    },
    close: async () => {
      await Promise.all([pools.app.end(), pools.system.end()]);
    },
  };
}

/** Literal instead of a parameter, so that BEGIN, setting and fence are one round trip; the shape is checked. */
function tenantSetting(tenantId: TenantId): string {
  if (!isUuid(tenantId)) throw new TypeError('tenant id must be a lower-case UUID');
  return `select set_config('app.tenant_id', '${tenantId}', true)`;
}

/** Of the transaction that is open on the connection. */
const auditIds = new WeakMap<pg.PoolClient, number>();

function txOf(client: pg.PoolClient): Tx {
  return {
    audited: (id) => void auditIds.set(client, Math.max(auditIds.get(client) ?? 0, id)),
    query: async (statement, values) => {
      try {
        return await client.query({
          text: statement.text,
          values: values === undefined ? [] : [...values],
          ...(statement.isHot === true ? { name: statement.name } : {}),
        });
      } catch (error) {
        throw translateDatabaseError(error, statement.name);
      }
    },
  };
}

interface Committed<Result> {
  readonly result: Result;
  /** Newest audit row that it wrote; 0: none. */
  readonly auditId: number;
}

async function runRepeatedly<Result>(pool: pg.Pool, begin: string, work: (client: pg.PoolClient) => Promise<Result>): Promise<Committed<Result>> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await runOnce(pool, begin, work);
    } catch (error) {
      if (attempt === transactionAttempts || !isRetryable(error)) throw error;
      await delay(retryDelayMs * 2 ** (attempt - 1));
    }
  }
}

async function runOnce<Result>(pool: pg.Pool, begin: string, work: (client: pg.PoolClient) => Promise<Result>): Promise<Committed<Result>> {
  const client = await openWith(pool, begin);
  auditIds.delete(client);
  try {
    const result = await work(client);
    await commit(client);
    const auditId = auditIds.get(client) ?? 0;
    client.release();
    return { result, auditId };
  } catch (error) {
    // The first error is the one that matters; a connection that can't even roll back is thrown away.
    client.release(!(await rollsBack(client)));
    throw error;
  }
}

/** A connection on which `begin` succeeded. A dead one from the pool is thrown away and another is tried. */
async function openWith(pool: pg.Pool, begin: string): Promise<pg.PoolClient> {
  for (let attempt = 1; ; attempt += 1) {
    const client = await connect(pool);
    try {
      // Also an empty statement proves the connection: one that failed later may have taken effect.
      await client.query(begin);
      return client;
    } catch (error) {
      const translated = translateDatabaseError(error, 'begin');
      if (isConnectionLost(translated)) {
        client.release(true);
        if (attempt < beginAttempts) continue;
      } else {
        client.release(!(await rollsBack(client)));
      }
      throw translated;
    }
  }
}

async function connect(pool: pg.Pool): Promise<pg.PoolClient> {
  try {
    return await pool.connect();
  } catch (error) {
    throw translateDatabaseError(error, 'connect');
  }
}

async function commit(client: pg.PoolClient): Promise<void> {
  try {
    const result = await client.query('commit');
    if (result.command !== 'COMMIT') throw new AppError('INTERNAL', 'the transaction was rolled back at its commit');
  } catch (error) {
    throw translateDatabaseError(error, 'commit');
  }
}

async function rollsBack(client: pg.PoolClient): Promise<boolean> {
  try {
    await client.query('rollback');
    return true;
  } catch {
    return false;
  }
}

/** Locks the leadership row until the end of the transaction. */
async function fence(tx: Tx, expected: { readonly epoch: number; readonly seenAuditId: number }): Promise<{ readonly incarnation: number; readonly auditId: number }> {
  const { rows } = await tx.query<{ incarnation: number; audit_id: number }>(
    { name: 'assert-leader', text: 'select incarnation, audit_id from nkudo.assert_leader_since($1, $2)', isHot: true },
    [expected.epoch, expected.seenAuditId],
  );
  const [row] = rows;
  if (row === undefined) throw new AppError('INTERNAL', 'the leadership fence gave no incarnation');
  return { incarnation: row.incarnation, auditId: row.audit_id };
}
