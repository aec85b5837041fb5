/**
 * Sends executions and observations, one batch at a time, and forgets them only when they are
 * acknowledged. Only news wakes it; at rest it does nothing.
 */
import { withDeadline } from '#api/model/deadline.ts';
import { AppError, isAppError } from '#api/model/error-codes.ts';
import { retryDelayMs } from '../domain/retry-delay.ts';
import { around, type EdgeFaultPoints } from '../fault-points.ts';
import type { Clock, Entropy } from '../ports/clock.ts';
import type { ControlSession } from '../ports/control-plane.ts';
import type { Journal } from '../ports/journal.ts';
import type { Logger } from '../ports/logger.ts';
import type { ObservationReporter } from './observation-reporter.ts';

export interface ReportSender {
  /** A session to send on; undefined while there is none. */
  use(session: ControlSession | undefined): void;
  wake(): void;
}

/** The most that one request may hold of each kind. */
const batchMax = 256;
const reportDeadlineMs = 10_000;

export function createReportSender(deps: {
  readonly journal: Journal;
  readonly reporter: ObservationReporter;
  readonly clock: Clock;
  readonly entropy: Entropy;
  readonly faults: EdgeFaultPoints;
  readonly logger: Logger;
  readonly onFatal: (error: unknown) => void;
}): ReportSender {
  const { journal, reporter, clock, entropy, faults, logger } = deps;
  let session: ControlSession | undefined;
  let ending = new AbortController();
  let isRunning = false;
  let isWanted = false;
  let failures = 0;
  let cancelRetry = (): void => {};

  function wake(): void {
    isWanted = true;
    if (isRunning || session === undefined) return;
    isRunning = true;
    run().then(
      () => {
        isRunning = false;
        if (isWanted && session !== undefined) wake();
      },
      deps.onFatal,
    );
  }

  async function run(): Promise<void> {
    cancelRetry();
    // Whatever the same event has to say besides goes into the same batch.
    await new Promise((resolve) => setImmediate(resolve));
    while (session !== undefined) {
      isWanted = false;
      const outbox = journal.loadOutbox(batchMax);
      const observations = reporter.pending(batchMax);
      if (outbox.length === 0 && observations.length === 0) return;
      const target = session;
      try {
        await around(faults, 'report.send', async () => {
          const batch = { executions: outbox.map((entry) => entry.report), observations };
          const refused = await withDeadline(ending.signal, reportDeadlineMs, (signal) => target.report(batch, signal));
          for (const item of refused) logger.warn({ reportId: item.id, code: item.code }, 'the control plane refused a report for good');
        });
      } catch (error) {
        return retryLater(error);
      }
      failures = 0;
      if (outbox.length > 0) journal.acknowledge(outbox.map((entry) => entry.sequence));
      reporter.acknowledged(observations);
    }
  }

  function retryLater(error: unknown): void {
    if (error instanceof AppError && error.code === 'JOURNAL_FAILED') throw error;
    failures += 1;
    isWanted = false;
    logger.debug({ code: isAppError(error) ? error.code : undefined, failures }, 'reports were not taken, they are sent again');
    cancelRetry = clock.after(Math.min(30_000, retryDelayMs(failures, entropy.random())), wake);
  }

  return {
    use(next) {
      session = next;
      ending.abort();
      ending = new AbortController();
      failures = 0;
      cancelRetry();
      if (next !== undefined) wake();
    },
    wake,
  };
}
