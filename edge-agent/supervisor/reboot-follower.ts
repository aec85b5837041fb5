/**
 * Follows the events of one live VMM: counts the reboots that its guest makes in place, notices its
 * panic, and tells of every event and of the end of the process. Events are hints; the next look decides.
 */
import { isAppError } from '#api/model/error-codes.ts';
import type { RebootsSeen } from '../domain/notes.ts';
import type { EventCursor, Hypervisor } from '../ports/hypervisor.ts';
import type { Clock } from '../ports/clock.ts';
import type { Logger } from '../ports/logger.ts';

/** Between two tries to follow the events of one VMM, milliseconds. */
const pauseAfterFailureMs = 5_000;

export interface RebootFollower {
  rebootsSeen(): number;
  /** The guest reported a panic and was not reset since. */
  hasPanicked(): boolean;
  /** The reboots since the last take, and where the count goes on. */
  take(): RebootsSeen;
  /** Resolves when the VMM is gone or the follower was stopped; never rejects. */
  readonly ended: Promise<void>;
}

export function followReboots(options: {
  readonly hypervisor: Hypervisor;
  readonly directory: string;
  readonly cursor: EventCursor | null;
  readonly signal: AbortSignal;
  readonly onNews: () => void;
  readonly clock: Clock;
  readonly logger: Logger;
}): RebootFollower {
  let count = 0;
  let hasPanicked = false;
  let cursor = options.cursor;
  const run = async (): Promise<void> => {
    try {
      for await (const event of options.hypervisor.events(options.directory, cursor, options.signal)) {
        cursor = event.cursor;
        if (event.source === 'vm' && event.event === 'rebooted') {
          count += 1;
          hasPanicked = false;
        }
        if (event.source === 'guest' && event.event === 'panic') hasPanicked = true;
        options.onNews();
      }
    } catch (error) {
      if (options.signal.aborted) return;
      // The look-around finds the end of the process too; only reboots are missed.
      options.logger.warn({ err: error, code: isAppError(error) ? error.code : undefined }, 'the events of the VMM can not be followed');
      await new Promise<void>((resolve) => {
        const cancel = options.clock.after(pauseAfterFailureMs, resolve);
        options.signal.addEventListener('abort', () => (cancel(), resolve()), { once: true });
      });
    }
  };
  return {
    rebootsSeen: () => count,
    hasPanicked: () => hasPanicked,
    take() {
      const seen = { count, cursor: cursor ?? { pid: 0, startTime: '0', offset: 0 } };
      count = 0;
      return seen;
    },
    ended: run(),
  };
}
