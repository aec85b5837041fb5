/**
 * The agent's durable memory. Every call blocks and is durable on return (it survives a power cut);
 * calls are one transaction each. A failed write is JOURNAL_FAILED, and the process must end: after
 * an I/O error nobody knows what is on the disk (invariant I3).
 */
import type { MicroVMId } from '#api/model/ids.ts';
import type { ExecutionReport } from '#api/model/plan.ts';
import type { MicroVMRecord } from '../domain/microvm-record.ts';

export interface OutboxEntry {
  /** Rises with every enqueued report; a report that was replaced meanwhile has another one. */
  readonly sequence: number;
  readonly report: ExecutionReport;
}

export interface LogOffset {
  readonly incarnation: number;
  /** Everything below is stored by the control plane. */
  readonly offset: number;
}

export interface Journal {
  /** All records, tombstones included, in no particular order. */
  loadMicroVMs(): readonly MicroVMRecord[];

  /**
   * Replaces the record and enqueues the reports. The outbox holds one report for each operation, the
   * latest, which bounds it. Older tombstones than the newest {@link tombstonesMax} are forgotten.
   */
  saveMicroVM(record: MicroVMRecord, reports?: readonly ExecutionReport[]): void;

  /** Enqueues without a change of a record. */
  enqueue(report: ExecutionReport): void;

  /** The oldest unsent reports, at most `limit`. */
  loadOutbox(limit: number): readonly OutboxEntry[];

  /** Forgets reports that were acknowledged; an unknown sequence is ignored. */
  acknowledge(sequences: readonly number[]): void;

  /**
   * Reserves `count` observation sequences that were never given out before; returns the first, which is not below
   * `atLeast`. Passing the wall clock keeps them rising also over a journal that was lost.
   */
  reserveSequences(count: number, atLeast: number): number;

  loadLogOffset(microvmId: MicroVMId): LogOffset | undefined;
  saveLogOffset(microvmId: MicroVMId, offset: LogOffset): void;

  /** Small facts by name, such as the host id that the journal belongs to. */
  loadFact(name: string): string | undefined;
  saveFact(name: string, value: string): void;

  /** True while the room that was kept for a full file system is in use: whatever can wait has to. */
  isSpaceLow(): boolean;
  /** Called when that room had to be given up. */
  onSpaceLow(callback: () => void): void;
  /** Keeps that room again where it can. @returns whether space is not low any more */
  regainSpace(): boolean;

  close(): void;
}

/** Tombstones kept, so that the journal is bounded: a replay older than this many deletions is fenced by the control plane alone. */
export const tombstonesMax = 1024;
