/**
 * What the agent does when the file system of its state is full: says so, and looks again now and then until there is
 * room. MicroVMs go on all the while; what is refused is decided where operations enter.
 */
import type { Clock } from '../ports/clock.ts';
import type { Journal } from '../ports/journal.ts';
import type { Logger } from '../ports/logger.ts';

/** What a host says of itself meanwhile. */
export const spaceProblem =
  'no space is left for the journal of the agent: free space on the file system of its state directory; microVMs go on, and nothing new is begun';

/** Between two looks while space is low, milliseconds. */
const lookAgainMs = 10_000;

export interface SpaceKeeper {
  stop(): void;
}

export function createSpaceKeeper(deps: {
  readonly journal: Pick<Journal, 'isSpaceLow' | 'onSpaceLow' | 'regainSpace'>;
  readonly clock: Pick<Clock, 'after'>;
  readonly logger: Logger;
  /** Space became low, or is there again. */
  readonly onChange: () => void;
}): SpaceKeeper {
  const { journal, clock, logger } = deps;
  let cancel = (): void => {};

  function tell(): void {
    logger.error({ detail: spaceProblem }, 'the file system of the state directory is full: the space that was kept for this is in use');
    deps.onChange();
    lookLater();
  }

  function lookLater(): void {
    cancel();
    cancel = clock.after(lookAgainMs, () => {
      if (!journal.regainSpace()) return lookLater();
      logger.info({}, 'there is space for the journal again');
      deps.onChange();
    });
  }

  journal.onSpaceLow(tell);
  if (journal.isSpaceLow()) tell();
  return { stop: () => cancel() };
}
