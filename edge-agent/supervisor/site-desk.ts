/**
 * Takes orders of people at the site: decides (pure), makes durable, and hands the record to the worker. It brings
 * nothing about itself.
 *
 * Invariant: an order is answered as taken only when it is in the journal.
 */
import { withDeadline } from '#api/model/deadline.ts';
import { AppError, isAppError } from '#api/model/error-codes.ts';
import type { MicroVMId } from '#api/model/ids.ts';
import { formatSiteOperator } from '#api/model/site-orders.ts';
import { consoleRefusal, decideSiteOrder, noteVisit } from '../domain/site-orders.ts';
import type { EdgeFaultPoints } from '../fault-points.ts';
import type { Clock } from '../ports/clock.ts';
import type { Journal } from '../ports/journal.ts';
import type { Logger } from '../ports/logger.ts';
import type { ConsoleSession } from '../ports/consoles.ts';
import type { SiteConsoleRequest, SiteDesk } from '../ports/site-desk.ts';
import type { ConsoleKeeper } from './console-keeper.ts';
import type { LeaseKeeper } from './lease-keeper.ts';
import type { MicroVMRegistry } from './microvm-registry.ts';
import type { MicroVMWorker } from './microvm-worker.ts';

export interface SiteDeskDeps {
  readonly registry: Pick<MicroVMRegistry, 'workers'>;
  readonly journal: Journal;
  readonly leases: Pick<LeaseKeeper, 'viewOf'>;
  readonly consoles: Pick<ConsoleKeeper, 'open'>;
  readonly clock: Clock;
  readonly faults: EdgeFaultPoints;
  readonly logger: Logger;
  /** A journal that can't be written. */
  readonly onFatal: (error: unknown) => void;
}

/** An agent that just started looks first; whether a guest runs decides what a start means. */
const firstLookMs = 10_000;

export function createSiteDesk(deps: SiteDeskDeps): SiteDesk {
  const { registry, journal, leases, clock, faults, logger } = deps;

  function workerOf(microvmId: MicroVMId): MicroVMWorker {
    for (const worker of registry.workers()) if (worker.record().microvmId === microvmId && !worker.record().isTombstone) return worker;
    throw new AppError('NOT_FOUND', `no microVM ${microvmId} is on this host`, { remedy: 'see the names: nkudo-edge vm ls' });
  }

  return {
    async order(microvmId, request) {
      const worker = workerOf(microvmId);
      if (request.kind === 'Start' || request.kind === 'Restart') await firstLook(worker);
      await faults.reach('journal.siteOrder:before');
      // From here until the worker has the record nothing is awaited: its own writes can't come between.
      const record = worker.record();
      const now = clock.now();
      const decision = decideSiteOrder(record, request, { state: worker.state(), lease: leases.viewOf(record, now) }, now);
      switch (decision.kind) {
        case 'refuse':
          throw new AppError(decision.code, decision.message, { remedy: decision.remedy });
        case 'already':
          return { result: 'already', message: decision.message };
        case 'take':
          save(() => journal.saveMicroVM(decision.record));
          logger.info({ microvmId, order: decision.order.kind, user: decision.order.by.user, uid: decision.order.by.uid }, 'somebody at the site gave an order');
          worker.take(decision.record);
          await faults.reach('journal.siteOrder:after');
          return { result: 'taken', message: decision.message };
      }
    },
    async situation(microvmId, signal) {
      const worker = workerOf(microvmId);
      await until(worker, () => worker.situation().progress !== 'busy', signal);
      return worker.situation();
    },
    async openConsole(microvmId, request) {
      const worker = workerOf(microvmId);
      await firstLook(worker);
      const { types, takesOver, by } = request;
      const session = await enter(worker, request);
      try {
        await faults.reach('journal.siteOrder:before');
        // From here until the worker has the record nothing is awaited.
        const kind = !types ? 'ReadConsole' : takesOver ? 'TakeConsole' : 'OpenConsole';
        const noted = noteVisit(worker.record(), { kind, by }, clock.now());
        save(() => journal.saveMicroVM(noted));
        logger.info({ microvmId, order: kind, user: by.user, uid: by.uid }, 'somebody at the site is at the console');
        worker.noted(noted);
        await faults.reach('journal.siteOrder:after');
        return session;
      } catch (error) {
        session.close();
        throw error;
      }
    },
  };

  async function enter(worker: MicroVMWorker, { types, takesOver, by, historyBytes }: SiteConsoleRequest): Promise<ConsoleSession> {
    const record = worker.record();
    try {
      return await deps.consoles.open(record.microvmId, { types, takesOver, by: formatSiteOperator(by), historyBytes });
    } catch (error) {
      if (!isAppError(error)) throw error;
      if (error.code === 'CONSOLE_UNAVAILABLE') {
        const { message, remedy } = consoleRefusal(record, worker.state(), types);
        throw new AppError('CONSOLE_UNAVAILABLE', message, { remedy, cause: error });
      }
      if (error.code === 'CONSOLE_IN_USE' && types && !takesOver) {
        throw new AppError('CONSOLE_IN_USE', error.message, { remedy: 'wait until they leave, watch with --read-only, or take it over from them: --take-over', cause: error });
      }
      throw error;
    }
  }

  function save(write: () => void): void {
    try {
      write();
    } catch (error) {
      deps.onFatal(error);
      throw error;
    }
  }
}

async function firstLook(worker: MicroVMWorker): Promise<void> {
  await withDeadline(new AbortController().signal, firstLookMs, (signal) => until(worker, () => worker.state() !== 'unknown', signal));
  if (worker.state() === 'unknown') throw new AppError('UNAVAILABLE', 'the microVM can not be looked at', { remedy: 'repeat the command; if it lasts, look at the log of the agent' });
}

/** Resolves when it is so, or when the signal ends the wait. */
function until(worker: MicroVMWorker, condition: () => boolean, signal: AbortSignal): Promise<void> {
  if (condition() || signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const end = (): void => {
      forget();
      signal.removeEventListener('abort', end);
      resolve();
    };
    const forget = worker.onSituation(() => void (condition() && end()));
    signal.addEventListener('abort', end);
  });
}
