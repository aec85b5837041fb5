/** The Journal port in memory; passes the same conformance suite as the real one. */
import { AppError } from '#api/model/error-codes.ts';
import type { MicroVMId } from '#api/model/ids.ts';
import type { ExecutionReport } from '#api/model/plan.ts';
import { compareFence, type MicroVMRecord } from '#edge-agent/domain/microvm-record.ts';
import { tombstonesMax, type Journal, type LogOffset, type OutboxEntry } from '#edge-agent/ports/journal.ts';

export function createMemoryJournal(): Journal {
  const records = new Map<MicroVMId, MicroVMRecord>();
  const outbox = new Map<string, OutboxEntry>();
  const offsets = new Map<MicroVMId, LogOffset>();
  const facts = new Map<string, string>();
  let sequence = 0;
  let observations = 0;
  const enqueue = (report: ExecutionReport): void => {
    outbox.delete(report.operationId);
    sequence += 1;
    outbox.set(report.operationId, { sequence, report: structuredClone(report) });
  };
  return {
    loadMicroVMs: () => structuredClone([...records.values()]),
    saveMicroVM(record, reports = []) {
      const earlier = records.get(record.microvmId);
      if (earlier !== undefined && compareFence(record, earlier) < 0) throw new AppError('JOURNAL_FAILED');
      records.delete(record.microvmId);
      records.set(record.microvmId, structuredClone(record));
      if (record.isTombstone) offsets.delete(record.microvmId);
      const tombstones = [...records.values()].filter((entry) => entry.isTombstone);
      for (const oldest of tombstones.slice(0, Math.max(0, tombstones.length - tombstonesMax))) records.delete(oldest.microvmId);
      for (const report of reports) enqueue(report);
    },
    enqueue,
    loadOutbox: (limit) => structuredClone([...outbox.values()].sort((a, b) => a.sequence - b.sequence).slice(0, limit)),
    acknowledge(sequences) {
      for (const [key, entry] of outbox) if (sequences.includes(entry.sequence)) outbox.delete(key);
    },
    reserveSequences(count, atLeast) {
      observations = Math.max(observations, atLeast - 1) + count;
      return observations - count + 1;
    },
    loadLogOffset: (microvmId) => offsets.get(microvmId),
    saveLogOffset: (microvmId, offset) => void offsets.set(microvmId, offset),
    loadFact: (name) => facts.get(name),
    saveFact: (name, value) => void facts.set(name, value),
    isSpaceLow: () => false,
    onSpaceLow: () => {},
    regainSpace: () => true,
    close: () => {},
  };
}
