/**
 * The Journal on node:sqlite: one file, WAL, synchronous FULL, STRICT tables. Records are JSON
 * documents beside the columns that the fence needs, so that a later version adds fields without a
 * migration and the one before it still reads them.
 *
 * A full file system costs the reserve beside it, and only then the process. A damaged file is never written to: it is
 * put aside by its owner, who begins a new one; the directories of the microVMs keep the fence.
 */
import { renameSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { AppError } from '#api/model/error-codes.ts';
import type { ExecutionReport } from '#api/model/plan.ts';
import type { MicroVMRecord } from '../../domain/microvm-record.ts';
import { tombstonesMax, type Journal } from '../../ports/journal.ts';
import { syncDirectory } from '../system/durable-file.ts';
import { createSpaceReserve, type SpaceReserve } from './space-reserve.ts';

/** Raised only by a change that an older agent can't read; additive changes keep it. */
export const journalSchemaVersion = 1;
/** How long a reader (`status`, a backup) may hold the file, milliseconds. */
const busyTimeoutMs = 5_000;
/** Pages in the log before they go into the file: the log stays at about 1 MiB, and is used again and again. */
const checkpointPages = 256;
/** What the journal may still need when nothing else is left: its log once more, and growth of the file. */
export const journalReserveBytes = 4 * 2 ** 20;
export const journalReserveFile = 'journal.reserve';
/** Primary result codes. Source: https://www.sqlite.org/rescode.html */
const sqliteCorrupt = 11;
const sqliteFull = 13;
const sqliteNotADatabase = 26;

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
export function openJournal(path: string, { reserveBytes = journalReserveBytes }: { readonly reserveBytes?: number } = {}): Journal {
  const reserve = createSpaceReserve(join(dirname(path), journalReserveFile), reserveBytes);
  return guard('opening', () => {
    const database = new DatabaseSync(path, { timeout: busyTimeoutMs });
    try {
      const open = (): void => {
        database.exec(`PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = ${checkpointPages};`);
        checkVersion(database);
      };
      let isLow = false;
      try {
        open();
      } catch (error) {
        if (!isResult(error, sqliteFull) || !reserve.giveUp()) throw error;
        isLow = true;
        open();
      }
      checkWhole(database);
      return createJournal(database, { reserve, isLow: isLow || !reserve.keep() });
    } catch (error) {
      database.close();
      throw error;
    }
  });
}

/** For looking beside a running agent or without one: the file is not changed. @throws JOURNAL_FAILED */
export function openJournalForReading(path: string): Journal {
  return guard('opening', () => {
    const database = new DatabaseSync(path, { timeout: busyTimeoutMs, readOnly: true });
    if (versionOf(database) > journalSchemaVersion) throw tooNew();
    return createJournal(database, { reserve: { keep: () => true, giveUp: () => false }, isLow: false });
  });
}

/** The damaged journal that was put aside last; an earlier one gives way. */
export const damagedJournalFile = 'journal.damaged.db';

/**
 * As {@link openJournal}, but a damaged file is renamed and a new one is begun. For the owner of the state directory only.
 * @returns `damage` when that was done: what was wrong
 */
export function openJournalOrBegin(path: string): { readonly journal: Journal; readonly damage?: string } {
  try {
    return { journal: openJournal(path) };
  } catch (error) {
    if (!(error instanceof AppError) || error.details['damage'] === undefined) throw error;
    const aside = join(dirname(path), damagedJournalFile);
    // Its log goes with it, so that a person finds all there is; the index can be made anew.
    for (const suffix of ['', '-wal']) {
      rmSync(`${aside}${suffix}`, { force: true });
      renameIfThere(`${path}${suffix}`, `${aside}${suffix}`);
    }
    rmSync(`${path}-shm`, { force: true });
    syncDirectory(dirname(path));
    return { journal: openJournal(path), damage: String(error.details['damage']) };
  }
}

function renameIfThere(from: string, to: string): void {
  try {
    renameSync(from, to);
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
  }
}

/** Writes nothing where all is there already, so that a full file system keeps no agent from starting. */
function checkVersion(database: DatabaseSync): void {
  const version = versionOf(database);
  if (version > journalSchemaVersion) throw tooNew();
  database.exec(`BEGIN IMMEDIATE; ${schema} ${version === journalSchemaVersion ? '' : `PRAGMA user_version = ${journalSchemaVersion};`} COMMIT;`);
}

/** Pages, indexes and the rules of the columns, such as that a document can be parsed. The journal is small: milliseconds. */
function checkWhole(database: DatabaseSync): void {
  const found = database.prepare('PRAGMA quick_check(1)').get()?.['quick_check'];
  if (found !== 'ok') throw damaged(String(found));
}

function damaged(damage: string, cause?: unknown): AppError {
  return new AppError('JOURNAL_FAILED', `the journal is damaged: ${damage}`, {
    details: { damage },
    remedy: 'nothing: the agent puts the file aside and begins a new one; look at the disk for the reason',
    cause,
  });
}

function versionOf(database: DatabaseSync): number {
  return Number(database.prepare('PRAGMA user_version').get()?.['user_version'] ?? 0);
}

function tooNew(): AppError {
  return new AppError('JOURNAL_FAILED', 'the journal was written by a later version of the agent', { remedy: 'install that version again; the file was not changed' });
}

function isResult(error: unknown, ...primaryCodes: readonly number[]): boolean {
  return error instanceof Error && 'errcode' in error && typeof error.errcode === 'number' && primaryCodes.includes(error.errcode & 0xff);
}

function guard<Value>(what: string, work: () => Value): Value {
  try {
    return work();
  } catch (error) {
    if (error instanceof AppError) throw error;
    if (isResult(error, sqliteCorrupt, sqliteNotADatabase)) throw damaged(error instanceof Error ? error.message : String(error), error);
    const why = isResult(error, sqliteFull) ? ': no space is left on its file system' : '';
    throw new AppError('JOURNAL_FAILED', `${what} of the journal failed${why}`, { cause: error });
  }
}

function createJournal(database: DatabaseSync, space: { readonly reserve: SpaceReserve; readonly isLow: boolean }): Journal {
  const { reserve } = space;
  let { isLow } = space;
  let tellLow = (): void => {};
  const statement = (sql: string): ReturnType<DatabaseSync['prepare']> => prepared.get(sql) ?? remember(sql);
  const prepared = new Map<string, ReturnType<DatabaseSync['prepare']>>();
  const remember = (sql: string) => {
    const made = database.prepare(sql);
    prepared.set(sql, made);
    return made;
  };
  const transact = (work: () => void): void => {
    database.exec('BEGIN IMMEDIATE');
    try {
      work();
      database.exec('COMMIT');
    } catch (error) {
      if (database.isTransaction) database.exec('ROLLBACK');
      throw error;
    }
  };
  const write = (what: string, work: () => void): void =>
    guard(what, () => {
      try {
        transact(work);
      } catch (error) {
        // Nothing of it is in the file: SQLite takes a transaction back that did not fit.
        if (!isResult(error, sqliteFull) || !reserve.giveUp()) throw error;
        isLow = true;
        tellLow();
        transact(work);
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
    isSpaceLow: () => isLow,
    onSpaceLow(callback) {
      tellLow = callback;
    },
    regainSpace: () => {
      if (isLow) isLow = !reserve.keep();
      return !isLow;
    },
    close: () => database.close(),
  };
}
