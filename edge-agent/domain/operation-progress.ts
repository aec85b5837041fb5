/**
 * The life of the accepted operation inside the record: its executions and the reports they give.
 * Pure. `accepted -> running -> done`; a failed attempt that will be repeated stays `running`.
 */
import type { AppError } from '#api/model/error-codes.ts';
import { executionId, type ExecutionId } from '#api/model/ids.ts';
import type { ExecutionReport } from '#api/model/plan.ts';
import type { MicroVMRecord, Now, OperationRecord, Problem } from './microvm-record.ts';
import { omit } from './omit.ts';

export interface Progress {
  readonly record: MicroVMRecord;
  /** To be made durable with the record and sent afterwards. */
  readonly reports: readonly ExecutionReport[];
}

const messageMax = 1024;

export function problemOf(error: AppError): Problem {
  return { code: error.code, message: error.message.slice(0, messageMax) };
}

/** Begins an attempt when none runs; the earlier intent can't come back from here on. */
export function startOperation(record: MicroVMRecord, newId: ExecutionId, now: Now): MicroVMRecord {
  const { operation } = record;
  if (operation === undefined || operation.state === 'done' || operation.startedAtMs !== undefined) return record;
  return { ...omit(record, 'previous'), operation: { ...operation, state: 'running', attempt: operation.attempt + 1, executionId: newId, startedAtMs: now.wallMs } };
}

/** @param newId used when no attempt was begun because there was nothing to do */
export function succeedOperation(record: MicroVMRecord, newId: ExecutionId, now: Now): Progress {
  const rest = omit(startOperation(record, newId, now), 'problem');
  const { operation } = rest;
  if (operation === undefined || operation.state === 'done') return { record: rest, reports: [] };
  const done: OperationRecord = { ...operation, state: 'done', result: { status: 'Succeeded', finishedAtMs: now.wallMs } };
  return { record: { ...rest, operation: done }, reports: [reportOf(done)] };
}

/** Ends the operation without its effect for a reason that is no fault of the microVM: nothing is tried again for it. */
export function concludeOperation(record: MicroVMRecord, why: Problem, newId: ExecutionId, now: Now): Progress {
  const { record: ended, reports } = failOperation(startOperation(omit(record, 'problem'), newId, now), why, true, now);
  return { record: omit(ended, 'problem'), reports };
}

/** @param isFinal false: the next attempt follows by itself, as its own execution */
export function failOperation(record: MicroVMRecord, problem: Problem, isFinal: boolean, now: Now): Progress {
  const { operation } = record;
  if (operation === undefined || operation.state === 'done') return { record: { ...record, problem }, reports: [] };
  const ended: OperationRecord = { ...operation, state: 'done', result: { status: 'Failed', finishedAtMs: now.wallMs, error: problem } };
  if (isFinal) return { record: { ...record, problem, operation: ended }, reports: [reportOf(ended)] };
  return { record: { ...record, problem, operation: omit(operation, 'executionId', 'startedAtMs') }, reports: [{ ...reportOf(ended), isFinal: false }] };
}

/** The report that an unfinished operation gets when it ends without having been carried out. */
export function endUnfinished(operation: OperationRecord, status: 'Expired' | 'Dropped', newId: ExecutionId, now: Now): ExecutionReport {
  return {
    executionId: operation.executionId ?? newId,
    operationId: operation.id,
    attempt: Math.max(1, operation.attempt),
    status,
    startedAtMs: operation.startedAtMs ?? now.wallMs,
    finishedAtMs: now.wallMs,
    isFinal: true,
  };
}

/** That an attempt runs; undefined when none does. */
export function runningReport(record: MicroVMRecord): ExecutionReport | undefined {
  const { operation } = record;
  if (operation?.state !== 'running' || operation.executionId === undefined || operation.startedAtMs === undefined) return undefined;
  return {
    executionId: operation.executionId,
    operationId: operation.id,
    attempt: operation.attempt,
    status: 'Running',
    startedAtMs: operation.startedAtMs,
    isFinal: false,
  };
}

/** The final report once more, for a delivery of an operation that has ended. */
export function repeatReport(record: MicroVMRecord): ExecutionReport | undefined {
  const { operation } = record;
  return operation?.result === undefined || operation.executionId === undefined ? undefined : reportOf(operation);
}

function reportOf(operation: OperationRecord): ExecutionReport {
  const { result } = operation;
  return {
    executionId: operation.executionId ?? executionId(operation.id),
    operationId: operation.id,
    attempt: Math.max(1, operation.attempt),
    status: result?.status ?? 'Running',
    startedAtMs: operation.startedAtMs ?? result?.finishedAtMs ?? 0,
    ...(result === undefined ? {} : { finishedAtMs: result.finishedAtMs }),
    ...(result?.error === undefined ? {} : { error: result.error }),
    isFinal: result !== undefined,
  };
}
