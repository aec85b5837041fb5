/**
 * Bounds the logs that VMMs write: whoever sees how large one is says so here, and its middle is freed when that is worth a
 * process. One at a time; at rest nothing. Nothing of it is durable: an agent that starts anew frees the same again.
 */
import { endOfMiddle, type LogBounds } from '../domain/log-bounds.ts';
import { around, type EdgeFaultPoints } from '../fault-points.ts';
import type { LogSpace } from '../ports/log-files.ts';
import type { Logger } from '../ports/logger.ts';

export interface LogTrimmer {
  /** The file is so large now. */
  seen(path: string, sizeBytes: number, bounds: LogBounds): void;
  /** The file is gone. */
  forget(path: string): void;
  /** Resolves when nothing is freed any more. */
  stop(): Promise<void>;
}

interface Log {
  readonly bounds: LogBounds;
  /** All before it is freed, but for the head. */
  freedTo: number;
  /** What is to be freed next. */
  wantedTo: number;
  hasWarned: boolean;
}

export function createLogTrimmer({ space, faults, logger }: { readonly space: LogSpace; readonly faults: EdgeFaultPoints; readonly logger: Logger }): LogTrimmer {
  const logs = new Map<string, Log>();
  let working: Promise<void> | undefined;
  let isStopped = false;

  const isDue = ({ bounds, freedTo, wantedTo }: Log): boolean => wantedTo - freedTo >= bounds.stepBytes;

  async function work(): Promise<void> {
    for (let due = nextDue(); due !== undefined; due = nextDue()) {
      const [path, log] = due;
      const { freedTo: from, wantedTo: to } = log;
      // Whether it succeeds or not: a failure is not repeated before the log has grown by as much again.
      log.freedTo = to;
      const isFreed = await around(faults, 'log.free', () => space.free(path, from, to));
      if (isFreed || log.hasWarned) continue;
      log.hasWarned = true;
      logger.warn({ path }, 'the log of a VMM grows without a bound: its file system or the programs of the host can not make holes in files');
    }
  }

  function nextDue(): [string, Log] | undefined {
    return isStopped ? undefined : [...logs].find(([, log]) => isDue(log));
  }

  return {
    seen(path, sizeBytes, bounds) {
      const known = logs.get(path);
      const log: Log = known ?? { bounds, freedTo: bounds.headBytes, wantedTo: bounds.headBytes, hasWarned: false };
      if (known === undefined) logs.set(path, log);
      // A boot has emptied it.
      if (sizeBytes < log.freedTo) log.freedTo = bounds.headBytes;
      log.wantedTo = endOfMiddle(sizeBytes, bounds);
      if (!isDue(log) || isStopped) return;
      working ??= work()
        .catch((error: unknown) => logger.warn({ err: error }, 'the log of a VMM can not be bounded'))
        .finally(() => (working = undefined));
    },
    forget: (path) => void logs.delete(path),
    async stop() {
      isStopped = true;
      await working;
    },
  };
}
