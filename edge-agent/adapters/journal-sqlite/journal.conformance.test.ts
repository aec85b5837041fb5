/** What every Journal promises, on the one in SQLite and on the fake. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterEach, describe, expect, test } from 'vitest';
import { makeEpoch } from '#api/model/epoch.ts';
import { executionId, microVMId, operationId } from '#api/model/ids.ts';
import type { ExecutionReport } from '#api/model/plan.ts';
import { testMicroVMId, testRecord } from '#test/builders/edge-microvm.ts';
import { createMemoryJournal } from '#test/fakes/memory-journal.ts';
import { tombstonesMax, type Journal } from '../../ports/journal.ts';
import { openJournal, openJournalForReading } from './journal-sqlite.ts';

const directories: string[] = [];

function newPath(): string {
  const directory = mkdtempSync(join(tmpdir(), 'nkudo-journal-'));
  directories.push(directory);
  return join(directory, 'journal.db');
}

afterEach(() => {
  for (const directory of directories.splice(0)) rmSync(directory, { recursive: true });
});

function report(operation: number, status: ExecutionReport['status'] = 'Running'): ExecutionReport {
  return {
    executionId: executionId(`eeeeeeee-0000-4000-8000-00000000000${operation}`),
    operationId: operationId(`bbbbbbbb-0000-4000-8000-00000000000${operation}`),
    attempt: 1,
    status,
    startedAtMs: 1,
    isFinal: status !== 'Running',
  };
}

describe.each<[string, () => Journal]>([
  ['SQLite', () => openJournal(newPath())],
  ['fake', createMemoryJournal],
])('the journal (%s)', (_name, create) => {
  test('gives back the record that was saved last', () => {
    const journal = create();
    journal.saveMicroVM(testRecord());
    journal.saveMicroVM(testRecord({ revision: 2, problem: { code: 'INTERNAL', message: 'why' } }));
    expect(journal.loadMicroVMs()).toEqual([testRecord({ revision: 2, problem: { code: 'INTERNAL', message: 'why' } })]);
    journal.close();
  });

  test('refuses a record with an older fence, and keeps what it had', () => {
    const journal = create();
    journal.saveMicroVM(testRecord({ epoch: makeEpoch(1, 2), revision: 5 }));
    for (const older of [{ epoch: makeEpoch(1, 1), revision: 9 }, { epoch: makeEpoch(1, 2), revision: 4 }]) {
      expect(() => journal.saveMicroVM(testRecord(older), [report(1)])).toThrowError(expect.objectContaining({ code: 'JOURNAL_FAILED' }));
    }
    expect(journal.loadMicroVMs()).toHaveLength(1);
    expect(journal.loadOutbox(10)).toEqual([]);
    journal.close();
  });

  test('keeps the latest report of each operation, in the order of arrival, until it is acknowledged', () => {
    const journal = create();
    journal.saveMicroVM(testRecord(), [report(1)]);
    journal.enqueue(report(2));
    const first = journal.loadOutbox(1);
    expect(first.map((entry) => entry.report)).toEqual([report(1)]);
    journal.enqueue(report(1, 'Succeeded'));
    // The acknowledgement of the earlier report must not swallow the later one.
    journal.acknowledge(first.map((entry) => entry.sequence));
    expect(journal.loadOutbox(10).map((entry) => entry.report)).toEqual([report(2), report(1, 'Succeeded')]);
    journal.acknowledge(journal.loadOutbox(10).map((entry) => entry.sequence));
    expect(journal.loadOutbox(10)).toEqual([]);
    journal.close();
  });

  test('never gives out a sequence twice', () => {
    const journal = create();
    const first = journal.reserveSequences(1000, 1);
    expect([first, journal.reserveSequences(1, 1), journal.reserveSequences(5, 900)]).toEqual([1, 1001, 1002]);
    expect([journal.reserveSequences(10, 5000), journal.reserveSequences(1, 1)]).toEqual([5000, 5010]);
    journal.close();
  });

  test('remembers log offsets until the microVM is gone', () => {
    const journal = create();
    journal.saveMicroVM(testRecord());
    journal.saveLogOffset(testMicroVMId, { incarnation: 2, offset: 77 });
    expect(journal.loadLogOffset(testMicroVMId)).toEqual({ incarnation: 2, offset: 77 });
    journal.saveMicroVM(testRecord({ isTombstone: true }));
    expect(journal.loadLogOffset(testMicroVMId)).toBeUndefined();
    journal.close();
  });

  test('remembers facts', () => {
    const journal = create();
    journal.saveFact('host', 'a');
    journal.saveFact('host', 'b');
    expect([journal.loadFact('host'), journal.loadFact('other')]).toEqual(['b', undefined]);
    journal.close();
  });
});

test('tombstones are bounded and the oldest go first', () => {
  const journal = createMemoryJournal();
  const id = (index: number) => microVMId(`aaaaaaaa-0000-4000-8000-${String(index).padStart(12, '0')}`);
  for (let index = 0; index <= tombstonesMax; index += 1) journal.saveMicroVM(testRecord({ microvmId: id(index), isTombstone: true }));
  const kept = journal.loadMicroVMs().map((record) => record.microvmId);
  expect(kept).toHaveLength(tombstonesMax);
  expect(kept).not.toContain(id(0));
});

test('a journal is found again after it was closed, and read beside the agent that writes it', () => {
  const path = newPath();
  const journal = openJournal(path);
  journal.saveMicroVM(testRecord(), [report(1)]);
  const beside = openJournalForReading(path);
  expect(beside.loadMicroVMs()).toEqual([testRecord()]);
  beside.close();
  journal.close();
  const reader = openJournalForReading(path);
  expect(reader.loadOutbox(10)).toHaveLength(1);
  expect(() => reader.saveFact('a', 'b')).toThrowError(expect.objectContaining({ code: 'JOURNAL_FAILED' }));
  reader.close();
  const again = openJournal(path);
  expect(again.loadMicroVMs()).toEqual([testRecord()]);
  again.close();
});

test('a journal of a later schema is left alone', () => {
  const path = newPath();
  openJournal(path).close();
  const database = new DatabaseSync(path);
  database.exec('PRAGMA user_version = 99');
  database.close();
  expect(() => openJournal(path)).toThrowError(expect.objectContaining({ code: 'JOURNAL_FAILED' }));
});

test('the file is in WAL mode', () => {
  const path = newPath();
  openJournal(path).close();
  const database = new DatabaseSync(path);
  expect(database.prepare('PRAGMA journal_mode').get()).toEqual({ journal_mode: 'wal' });
  database.close();
});
