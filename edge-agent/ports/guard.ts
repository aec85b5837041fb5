/**
 * The guard of the host: a process that outlives the agent and ends VMMs whose lease ran out. It goes by a table that
 * is replaced as a whole, and looks at the VMMs itself, by pid and start time and by their directory.
 */
import type { BootMoment } from '../domain/microvm-record.ts';

export interface GuardEntry {
  readonly vmDirectory: string;
  /** No VMM may live there from this moment on. */
  readonly end: BootMoment;
}

export interface Guard {
  /** What the guard goes by now, also when an earlier agent wrote it; empty when that was in another boot of the host. */
  load(): readonly GuardEntry[];
  /** Replaces the table. The guard has it at its next look, within a second. @throws AppError GUARD_FAILED */
  save(entries: readonly GuardEntry[]): void;
  /** Resolves when a guard runs; starts one when there is none. @throws AppError GUARD_FAILED */
  ensure(): Promise<void>;
  /** Starts the watcher of a VMM that was started before it was guarded; one that has one keeps it. */
  watch(vmDirectory: string, process: { readonly pid: number; readonly startTime: string }): void;
  /** Directory that a VMM's own watcher has to know. */
  readonly directory: string;
  /** Calls back when the guard ended although it is needed. */
  onLost(callback: () => void): void;
  /** Stops looking after the guard; it goes on. */
  close(): void;
}
