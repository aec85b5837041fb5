/**
 * Removes what a crash or a removed state left on the host, control groups and networks: once when the agent starts, and again later, with
 * growing delays, as long as a look failed or a directory without a record keeps a network. Guests don't wait for it.
 */
import type { MicroVMId } from '#api/model/ids.ts';
import { retryDelayMs } from '../domain/retry-delay.ts';
import type { Clock, Entropy } from '../ports/clock.ts';
import type { Journal } from '../ports/journal.ts';
import type { Logger } from '../ports/logger.ts';
import type { VmmIsolation } from '../ports/isolation.ts';
import type { GuestNetworks } from '../ports/network.ts';
import type { VmDirectories } from '../ports/vm-directories.ts';

export interface NetworkSweeper {
  /** The first look. Never rejects. */
  start(): Promise<void>;
  stop(): Promise<void>;
}

interface SweeperDeps {
  readonly networks: Pick<GuestNetworks, 'sweep'>;
  readonly isolation: Pick<VmmIsolation, 'sweep'>;
  readonly journal: Pick<Journal, 'loadMicroVMs'>;
  readonly directories: Pick<VmDirectories, 'list'>;
  readonly clock: Pick<Clock, 'after'>;
  readonly entropy: Pick<Entropy, 'random'>;
  readonly logger: Logger;
}

const sweepDeadlineMs = 20_000;
/** The first delay before another look is that of the third failure of a step, 2 to 4 s. */
const failuresAtFirst = 2;

export function createNetworkSweeper(deps: SweeperDeps): NetworkSweeper {
  let looks = 0;
  let isStopped = false;
  let cancelTimer = (): void => {};
  let running: Promise<void> = Promise.resolve();

  async function look(): Promise<void> {
    looks += 1;
    const isDone = await sweep();
    if (isDone || isStopped) return;
    cancelTimer = deps.clock.after(retryDelayMs(failuresAtFirst + looks, deps.entropy.random()), () => void (running = look()));
  }

  /** @returns whether nothing is left that another look could remove */
  async function sweep(): Promise<boolean> {
    try {
      const recorded = new Set<MicroVMId>(deps.journal.loadMicroVMs().filter(({ isTombstone }) => !isTombstone).map(({ microvmId }) => microvmId));
      const listed = await deps.directories.list();
      const kept = new Set([...recorded, ...listed]);
      const groups = await deps.isolation.sweep(kept);
      if (groups.length > 0) deps.logger.info({ removed: groups }, 'removed control groups of microVMs that are gone');
      const removed = await deps.networks.sweep(kept, AbortSignal.timeout(sweepDeadlineMs));
      if (removed.length > 0) deps.logger.info({ removed }, 'removed network devices of microVMs that are gone');
      return listed.every((microvmId) => recorded.has(microvmId));
    } catch (error) {
      deps.logger.warn({ err: error }, 'the networks of guests could not be looked at');
      return false;
    }
  }

  return {
    start: () => (running = look()),
    async stop() {
      isStopped = true;
      cancelTimer();
      await running;
    },
  };
}
