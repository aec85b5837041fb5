/**
 * Connection pools with their limits, and the one place where errors of the driver become AppErrors.
 * A pool survives the loss of its server: dead connections are thrown away and the next call makes a new one.
 * Nothing of a statement's values, nor Postgres' own message (it can quote them), leaves this file.
 */
import pg from 'pg';
import { AppError } from '#api/model/error-codes.ts';
import type { DatabaseLog } from './log.ts';

/** Milliseconds that one statement may take. */
const statementTimeoutMs = 10_000;
/** Milliseconds that a transaction may idle; a leader's is shorter (see tx.ts). */
const idleInTransactionTimeoutMs = 10_000;
/** Milliseconds until a server that answers nothing at all counts as gone; above the statement timeout. */
const answerTimeoutMs = 15_000;
const connectTimeoutMs = 5_000;
const idleTimeoutMs = 60_000;

const int8Oid = 20;
const timestamptzOid = 1184;
const parseDate = pg.types.getTypeParser(timestamptzOid);

/** 64-bit integers as numbers, checked to be exact; times as epoch milliseconds; the rest as pg does it. */
const columnTypes: pg.CustomTypesConfig = {
  getTypeParser: (oid, format) => {
    if (oid === int8Oid) return parseInteger;
    if (oid === timestamptzOid) return parseTimeMs;
    return pg.types.getTypeParser(oid, format);
  },
};

function parseInteger(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value)) throw new RangeError('a 64-bit column holds a value beyond 2^53');
  return value;
}

function parseTimeMs(text: string): number {
  const parsed: unknown = parseDate(text);
  return parsed instanceof Date ? parsed.getTime() : Number.NaN;
}

export interface PoolOptions {
  readonly url: string;
  /** Shown by Postgres and in our log. */
  readonly name: string;
  /** Most connections at a time. */
  readonly max: number;
  readonly log: DatabaseLog;
}

export function createPool(options: PoolOptions): pg.Pool {
  const pool = new pg.Pool({
    connectionString: options.url,
    application_name: options.name,
    max: options.max,
    connectionTimeoutMillis: connectTimeoutMs,
    idleTimeoutMillis: idleTimeoutMs,
    statement_timeout: statementTimeoutMs,
    query_timeout: answerTimeoutMs,
    idle_in_transaction_session_timeout: idleInTransactionTimeoutMs,
    keepAlive: true,
    types: columnTypes,
  });
  // An idle connection that breaks is removed by the pool; without a listener it would end the process.
  pool.on('error', (error) => {
    options.log.warn({ pool: options.name, sqlstate: sqlstateOf(error) ?? null }, 'an idle database connection was lost');
  });
  // The pool listens on idle connections only. One that is lent and between two statements has nobody else, and an
  // unheard 'error' event would end the process; the next statement on it fails and tells the caller.
  pool.on('connect', (client) => void client.on('error', () => {}));
  return pool;
}

/** SQLSTATE of an error that Postgres sent; undefined for one of the network or the driver. */
export function sqlstateOf(error: unknown): string | undefined {
  return error instanceof pg.DatabaseError ? error.code : undefined;
}

/** Classes and codes of SQLSTATE that mean "not now": https://www.postgresql.org/docs/current/errcodes-appendix.html */
const unavailableClasses = new Set(['08', '53', '57', '58']);
const unavailableCodes = new Set(['25006', '25P02', '25P03', '25P04']);
const retryableCodes = new Set(['40001', '40P01']);

/** True when the transaction was undone by Postgres and may simply be run again. */
export function isRetryable(error: unknown): boolean {
  const sqlstate = error instanceof AppError ? error.details['sqlstate'] : undefined;
  return typeof sqlstate === 'string' && retryableCodes.has(sqlstate);
}

/** True when no partition takes a row of the statement; a check that a row breaks looks the same: https://www.postgresql.org/docs/current/ddl-partitioning.html */
export function isPartitionMissing(error: unknown, statement: string): boolean {
  return error instanceof AppError && error.details['sqlstate'] === '23514' && error.details['statement'] === statement;
}

/** True when the connection itself is gone. */
export function isConnectionLost(error: unknown): boolean {
  return error instanceof AppError && error.details['connection'] === 'lost';
}

/**
 * Translates what the driver threw for a statement. The result carries SQLSTATE, constraint and statement name only.
 * @throws nothing; programming errors of the caller come back as INTERNAL
 */
export function translateDatabaseError(error: unknown, statement: string): AppError {
  if (error instanceof AppError) return error;
  const sqlstate = sqlstateOf(error);
  if (sqlstate === undefined) {
    if (error instanceof TypeError || error instanceof RangeError) {
      return new AppError('INTERNAL', `the statement ${statement} got a value that can not be sent or read`, { details: { statement } });
    }
    return new AppError('DATABASE_UNAVAILABLE', undefined, { details: { statement, connection: 'lost' } });
  }
  const constraint = error instanceof pg.DatabaseError && error.constraint !== undefined ? { constraint: error.constraint } : {};
  const details = { statement, sqlstate, ...constraint };
  if (sqlstate === 'NK001') return new AppError('ILLEGAL_TRANSITION', undefined, { details });
  if (sqlstate === 'NK002') return new AppError('LEADERSHIP_LOST', undefined, { details });
  if (retryableCodes.has(sqlstate) || sqlstate === '23505') return new AppError('CONFLICT', undefined, { details });
  if (unavailableClasses.has(sqlstate.slice(0, 2)) || unavailableCodes.has(sqlstate)) {
    // Class 57 except a cancelled statement, and idle timeouts, end the session as well.
    const isLost = sqlstate.startsWith('08') || sqlstate === '25P03' || (sqlstate.startsWith('57P') && sqlstate !== '57P03');
    return new AppError('DATABASE_UNAVAILABLE', undefined, { details: isLost ? { ...details, connection: 'lost' } : details });
  }
  return new AppError('INTERNAL', `the statement ${statement} failed with SQLSTATE ${sqlstate}`, { details });
}
