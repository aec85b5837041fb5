/**
 * Leadership of one replica: wins the Lease, takes the next leadership epoch in Postgres, runs the
 * reconcilers, and gives up whole. A process leads at most once; whoever loses ends.
 */
import { randomUUID } from 'node:crypto';
import { isAppError } from '#api/model/error-codes.ts';
import type { Actor } from './ports/audit.ts';
import type { LeadershipEpoch } from './ports/leadership-store.ts';
import { startReconcilers } from './reconcilers/compose.ts';
import { campaign } from './runtime/leader-election.ts';
import type { Manager } from './runtime/manager.ts';
import { pause } from './runtime/time.ts';
import type { Core } from './serve.ts';

const leaseName = 'nkudo-controller';
const acquireRetryMs = 1_000;

export interface Leader {
  /** Resolves when the leadership was lost, by Lease or by epoch. */
  readonly lost: Promise<void>;
  /** False only while this replica leads and its informers have not seen everything. */
  isSynced(): boolean;
  /** Stops reconciling, then gives the Lease back. */
  stop(): Promise<void>;
}

async function acquireEpoch(core: Core, signal: AbortSignal): Promise<LeadershipEpoch | null> {
  const actor: Actor = { kind: 'controller', name: core.config.replica, from: '' };
  while (!signal.aborted) {
    try {
      return await core.database.leadership.acquire(actor);
    } catch (error) {
      if (!isAppError(error) || error.retry !== 'backoff') throw error;
      core.log.warn({ code: error.code, error: error.message }, 'the leadership epoch can not be taken yet');
      await pause(core.time, acquireRetryMs, signal);
    }
  }
  return null;
}

export function lead(core: Core): Leader {
  const ending = new AbortController();
  const lost = Promise.withResolvers<void>();
  const log = core.log.child({ part: 'leader' });
  const leadership = campaign({ api: core.kubernetes, namespace: core.config.namespace, name: leaseName, identity: core.config.replica, time: core.time, log });
  let manager = null as Manager | null; // Set later, from inside a promise.
  void leadership.lost.then(() => lost.resolve());

  const run = async (): Promise<void> => {
    if (!(await leadership.won)) return;
    const epoch = await acquireEpoch(core, ending.signal);
    if (epoch === null) return;
    log.info({ epoch: epoch.epoch, incarnation: epoch.incarnation }, 'leading');
    core.metrics.setLeading(true);
    const { config, database } = core;
    manager = startReconcilers({
      kube: core.kubernetes,
      stores: { sites: database.sites, hosts: database.hosts, microvms: database.microvms, enrollment: database.enrollment },
      hints: core.hints,
      changes: database.changes,
      time: core.time,
      ids: { uuid: () => randomUUID() },
      faults: core.faults,
      log: core.log.child({ part: 'reconcilers' }),
      epoch: epoch.epoch,
      replica: config.replica,
      settings: config,
      pki: { endpoints: core.endpoints, pins: () => core.pki.pins() },
    });
    // Not awaited: a stop must not wait for an API server that is away.
    void manager.ready.then(() => log.info('all objects are known; reconciling'));
  };
  const running = run().catch((error: unknown) => {
    // Half a leader is worse than none: another replica, or this one restarted, does it whole.
    log.error({ err: error }, 'the leader can not work');
    lost.resolve();
  });

  return {
    lost: lost.promise,
    isSynced: () => !leadership.isLeader() || (manager?.isReady() ?? false),
    stop: async () => {
      ending.abort();
      await manager?.stop();
      await leadership.stop();
      await running;
      core.metrics.setLeading(false);
    },
  };
}
