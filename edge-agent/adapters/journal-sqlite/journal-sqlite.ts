/**
 * The Journal on node:sqlite: one file, WAL, synchronous FULL, STRICT tables. Records are JSON
 * documents beside the columns that the fence needs, so that a later version adds fields without a
 * migration and the one before it still reads them.
 */
import { DatabaseSync } from 'node:sqlite';
import { AppError } from '#api/model/error-codes.ts';
import type { ExecutionReport } from '#api/model/plan.ts';
import type { MicroVMRecord } from '../../domain/microvm-record.ts';
import { tombstonesMax, type Journal } from '../../ports/journal.ts';

/** Raised only by a change that an older agent can't read; additive changes keep it. */
const schemaVersion = 1;
/** How long a reader (`status`, a backup) may hold the file, milliseconds. */
const busyTimeoutMs = 5_000;

const schema = `
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS microvms (
  microvm_id TEXT PRIMARY KEY,
  epoch INTEGER NOT NULL CHECK (epoch > 0),
  revision INTEGER NOT NULL CHECK (revision >= 0),
  is_tombstone INTEGER NOT NULL CHECK (is_tombstone IN (0, 1)),
  saved INTEGER NOT NULL,
  document TEXT NOT NULL CHECK (json_valid(document))
) STRICT;
CREATE INDEX IF NOT EXISTS microvms_tombstones ON microvms (saved) WHERE is_tombstone = 1;
CREATE TABLE IF NOT EXISTS outbox (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT,
  operation_id TEXT NOT NULL UNIQUE,
  report TEXT NOT NULL CHECK (json_valid(report))
) STRICT;
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS log_offsets (microvm_id TEXT PRIMARY KEY, incarnation INTEGER NOT NULL, log_offset INTEGER NOT NULL) STRICT;
CREATE TRIGGER IF NOT EXISTS microvms_fence BEFORE UPDATE ON microvms
WHEN NEW.epoch < OLD.epoch OR (NEW.epoch = OLD.epoch AND NEW.revision < OLD.revision)
BEGIN SELECT RAISE(ABORT, 'epoch and revision never go back'); END;
`;

/** @throws JOURNAL_FAILED when the file can't be opened, is damaged, or was written by a later schema */
export function openJournal(path: string): Journal {
  return guard('open', () => {
    const database = new DatabaseSync(path, { timeout: busyTimeoutMs });
    database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;');
    checkVersion(database);
    return createJournal(database);
  });
}

/** For looking beside a running agent or without one: the file is not changed. @throws JOURNAL_FAILED */
export function openJournalForReading(path: string): Journal {
  return guard('open', () => {
    const database = new DatabaseSync(path, { timeout: busyTimeoutMs, readOnly: true });
    if (versionOf(database) > schemaVersion) throw tooNew();
    return createJournal(database);
  });
}

function checkVersion(database: DatabaseSync): void {
  if (versionOf(database) > schemaVersion) throw tooNew();
  database.exec(`BEGIN IMMEDIATE; ${schema} PRAGMA user_version = ${schemaVersion}; COMMIT;`);
}

function versionOf(database: DatabaseSync): number {
  return Number(database.prepare('PRAGMA user_version').get()?.['user_version'] ?? 0);
}

function tooNew(): AppError {
  return new AppError('JOURNAL_FAILED', 'the journal was written by a later version of the agent');
}

function guard<Value>(what: string, work: () => Value): Value {
  try {
    return work();
  } catch (error) {
    if (error instanceof AppError) throw error;
    throw new AppError('JOURNAL_FAILED', `${what} of the journal failed`, { cause: error });
  }
}

function createJournal(database: DatabaseSync): Journal {
  const statement = (sql: string): ReturnType<DatabaseSync['prepare']> => prepared.get(sql) ?? remember(sql);
  const prepared = new Map<string, ReturnType<DatabaseSync['prepare']>>();
  const remember = (sql: string) => {
    const made = database.prepare(sql);
    prepared.set(sql, made);
    return made;
  };
  const write = (what: string, work: () => void): void =>
    guard(what, () => {
      database.exec('BEGIN IMMEDIATE');
      try {
        work();
        database.exec('COMMIT');
      } catch (error) {
        if (database.isTransaction) database.exec('ROLLBACK');
        throw error;
      }
    });
  /** Gives the new value: the old one, or `atLeast` when that is more, plus `by`. */
  const nextCounter = (name: string, by: number, atLeast = 0): number =>
    Number(
      statement('INSERT INTO counters (name, value) VALUES (?1, ?3 + ?2) ON CONFLICT (name) DO UPDATE SET value = max(value, ?3) + ?2 RETURNING value').get(name, by, atLeast)?.['value'],
    );
  const put = (report: ExecutionReport): void => {
    statement('DELETE FROM outbox WHERE operation_id = ?').run(report.operationId);
    statement('INSERT INTO outbox (operation_id, report) VALUES (?, ?)').run(report.operationId, JSON.stringify(report));
  };
  return {
    loadMicroVMs: () =>
      guard('reading', () =>
        // Written by this file only, from values of the type.
        statement('SELECT document FROM microvms').all().map((row) => JSON.parse(String(row['document'])) as MicroVMRecord),
      ),
    saveMicroVM: (record, reports = []) =>
      write('writing', () => {
        statement(
          `INSERT INTO microvms (microvm_id, epoch, revision, is_tombstone, saved, document) VALUES (?, ?, ?, ?, ?, ?)
           ON CONFLICT (microvm_id) DO UPDATE SET epoch = excluded.epoch, revision = excluded.revision,
             is_tombstone = excluded.is_tombstone, saved = excluded.saved, document = excluded.document`,
        ).run(record.microvmId, record.epoch, record.revision, record.isTombstone ? 1 : 0, nextCounter('saved', 1), JSON.stringify(record));
        if (record.isTombstone) {
          statement('DELETE FROM log_offsets WHERE microvm_id = ?').run(record.microvmId);
          statement(
            'DELETE FROM microvms WHERE is_tombstone = 1 AND saved <= (SELECT saved FROM microvms WHERE is_tombstone = 1 ORDER BY saved DESC LIMIT 1 OFFSET ?)',
          ).run(tombstonesMax);
        }
        for (const report of reports) put(report);
      }),
    enqueue: (report) => write('writing', () => put(report)),
    loadOutbox: (limit) =>
      guard('reading', () =>
        statement('SELECT sequence, report FROM outbox ORDER BY sequence LIMIT ?')
          .all(limit)
          .map((row) => ({ sequence: Number(row['sequence']), report: JSON.parse(String(row['report'])) as ExecutionReport })),
      ),
    acknowledge: (sequences) =>
      write('writing', () => {
        for (const sequence of sequences) statement('DELETE FROM outbox WHERE sequence = ?').run(sequence);
      }),
    reserveSequences: (count, atLeast) => {
      let last = 0;
      write('writing', () => (last = nextCounter('observation', count, Math.max(0, atLeast - 1))));
      return last - count + 1;
    },
    loadLogOffset: (microvmId) =>
      guard('reading', () => {
        const row = statement('SELECT incarnation, log_offset FROM log_offsets WHERE microvm_id = ?').get(microvmId);
        return row === undefined ? undefined : { incarnation: Number(row['incarnation']), offset: Number(row['log_offset']) };
      }),
    saveLogOffset: (microvmId, { incarnation, offset }) =>
      write('writing', () => {
        statement(
          'INSERT INTO log_offsets (microvm_id, incarnation, log_offset) VALUES (?, ?, ?) ON CONFLICT (microvm_id) DO UPDATE SET incarnation = excluded.incarnation, log_offset = excluded.log_offset',
        ).run(microvmId, incarnation, offset);
      }),
    loadFact: (name) =>
      guard('reading', () => {
        const row = statement('SELECT value FROM facts WHERE name = ?').get(name);
        return row === undefined ? undefined : String(row['value']);
      }),
    saveFact: (name, value) =>
      write('writing', () => {
        statement('INSERT INTO facts (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value').run(name, value);
      }),
    close: () => database.close(),
  };
}
