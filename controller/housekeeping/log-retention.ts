/**
 * Keeps partitions of logs and of executions ahead of today and drops those past the retention, while this replica leads.
 * Looks once an hour and writes only when there is something to do: one transaction for the partitions of a week, a few for
 * each day or month dropped.
 */
import type { MaintenanceStore } from '../ports/maintenance.ts';
import { errorFields } from '../runtime/log.ts';
import { pause, type Time } from '../runtime/time.ts';
import type { LogRetentionMetrics } from '../telemetry/metrics.ts';

const lookMs = 3_600_000;
const retryMs = 60_000;
/** With fewer days ahead than this somebody must look why no more were made. */
const alarmBelowDays = 2;
const alarmBelowMonths = 2;

export interface LogRetentionDeps {
  readonly maintenance: MaintenanceStore;
  readonly time: Time;
  readonly log: {
    info(fields: object, message: string): void;
    warn(fields: object, message: string): void;
    error(fields: object, message: string): void;
  };
  readonly metrics: LogRetentionMetrics;
  readonly keepDays: number;
  readonly keepMonths: number;
}

export function startLogRetention(deps: LogRetentionDeps): { stop(): Promise<void> } {
  const ending = new AbortController();
  const run = async (): Promise<void> => {
    while (!ending.signal.aborted) await pause(deps.time, await look(deps), ending.signal);
  };
  const running = run();
  return {
    stop: async () => {
      ending.abort();
      await running;
    },
  };
}

/** Milliseconds until the next look. */
async function look({ maintenance, keepDays, keepMonths, metrics, log }: LogRetentionDeps): Promise<number> {
  try {
    const { daysAhead, made, dropped } = await maintenance.maintainLogs(keepDays);
    metrics.setPartitionsAhead(daysAhead);
    metrics.countPartitionsDropped(dropped);
    if (made > 0 || dropped > 0) log.info({ made, dropped, keepDays }, 'log partitions were made and dropped');
    if (daysAhead < alarmBelowDays) log.error({ daysAhead }, 'logs of the next days have no partition');
    const executions = await maintenance.maintainExecutions(keepMonths);
    metrics.setExecutionPartitionsAhead(executions.monthsAhead);
    metrics.countPartitionsDropped(executions.dropped);
    if (executions.made > 0 || executions.dropped > 0) log.info({ made: executions.made, dropped: executions.dropped, keepMonths }, 'partitions of executions were made and dropped');
    if (executions.monthsAhead < alarmBelowMonths) log.error({ monthsAhead: executions.monthsAhead }, 'executions of the next months have no partition');
    return lookMs;
  } catch (error) {
    log.warn(errorFields(error), 'partitions could not be looked after');
    return retryMs;
  }
}
