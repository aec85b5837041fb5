/**
 * Leadership of one replica: wins the Lease, takes the next leadership epoch in Postgres, runs the
 * reconcilers. When the Lease can't be renewed in time (the API server is away, or somebody else leads) it steps down
 * and runs for it again, so that the hosts connected to this replica notice nothing; what a late write of the old
 * term would do is fenced by its epoch. When it can't step down in time the process must end.
 */
import { randomUUID } from 'node:crypto';
import { isAppError } from '#api/model/error-codes.ts';
import { createGuestSecrets } from './adapters/kubernetes/guest-secrets.ts';
import { createHousekeeping } from './housekeeping/housekeeping.ts';
import type { Core } from './core.ts';
import type { ObjectIdentity } from './ports/identity-store.ts';
import { startReconcilers, type Reconcilers } from './reconcilers/compose.ts';
import { areBindingsEqual, createIdentities, viewIdentities, type Identities } from './reconcilers/identities.ts';
import { campaign, fenceWrites, type Leadership } from './runtime/leader-election.ts';
import type { Manager } from './runtime/manager.ts';
import { pause, type Time } from './runtime/time.ts';
import { meterPlans } from './telemetry/metered-stores.ts';
import { traceReconcilers } from './telemetry/traced-stores.ts';
import { createTermKeeper } from './term.ts';

const leaseName = 'nkudo-controller';
/** The database does not answer at the moment. */
const identitiesRetryMs = 1_000;
/** Nobody waits for a rebind by the millisecond. */
const bindingsPollMinMs = 2_000;
/** Running reconciles get so long to end after the Lease was lost; together with the renew deadline below the Lease's duration. */
const stepDownMs = 3_000;

export interface Leader {
  /** Resolves when the process must end: it lost the leadership and could not let go of it. */
  readonly failed: Promise<void>;
  /** False only while this replica leads and its informers have not seen everything. */
  isSynced(): boolean;
  /** Stops reconciling, then gives the Lease back. */
  stop(): Promise<void>;
}

/** True when the work was done in time. */
async function inTime(work: Promise<void>, time: Time, limitMs: number): Promise<boolean> {
  const done = new AbortController();
  try {
    return await Promise.race([work.then(() => true), pause(time, limitMs, done.signal).then(() => false)]);
  } finally {
    done.abort();
  }
}

function start(core: Core, term: Leadership, { epoch, identities }: { readonly epoch: number; readonly identities: Identities }): Reconcilers {
  const { config, database, metrics, time } = core;
  const metered = meterPlans(database.microvms, () => time.monotonicMs(), (kind, outcome, seconds) => metrics.observePlan(kind, outcome, seconds));
  const { kube, microvms } = traceReconcilers({ kube: viewIdentities(fenceWrites(core.kubernetes, term), identities), microvms: metered }, core.tracing, time);
  return startReconcilers({
    kube,
    onReconciled: (queue, outcome, durationMs) => metrics.leader.observeReconcile(queue, outcome, durationMs / 1000),
    stores: { sites: database.sites, hosts: database.hosts, microvms, enrollment: database.enrollment, plans: database.plans, evictions: database.evictions, apiKeys: database.apiKeys, leases: database.leases, replacements: database.replacements, agentRollouts: database.agentRollouts, recovery: database.recovery, identities: database.identities },
    identities,
    onAwaitedHosts: (count) => core.metrics.recovery.setAwaitedHosts(count),
    guestSecrets: createGuestSecrets(core.kubernetes),
    hints: core.hints,
    changes: database.changes,
    time: core.time,
    ids: { uuid: () => randomUUID() },
    faults: core.faults,
    log: core.log.child({ part: 'reconcilers' }),
    epoch,
    replica: config.replica,
    settings: config,
    pki: { endpoints: core.endpoints, pins: () => core.pki.pins() },
    mesh: { store: database.mesh, openAccount: core.openMeshAccount, faults: core.meshFaults, metrics: core.metrics.mesh, times: config },
  });
}

/** Null when the term is over before they could be read. */
async function loadIdentities(core: Core, signal: AbortSignal): Promise<readonly ObjectIdentity[] | null> {
  while (!signal.aborted) {
    try {
      return await core.database.identities.loadIdentities();
    } catch (error) {
      if (!isAppError(error) || error.retry !== 'backoff') throw error;
      await pause(core.time, identitiesRetryMs, signal);
    }
  }
  return null;
}

/** Resolves when a tenant or a site was bound again: everything is to be seen anew under the identity that it has now. Reads only. */
async function watchBindings(core: Core, known: readonly ObjectIdentity[], signal: AbortSignal): Promise<string> {
  while (!signal.aborted) {
    await pause(core.time, Math.max(bindingsPollMinMs, core.config.pollIntervalMs), signal);
    if (signal.aborted) break;
    const found = await loadIdentities(core, signal);
    if (found !== null && !areBindingsEqual(known, found)) return 'a tenant or a site was bound again';
  }
  // The end of the term has its own reason.
  return new Promise(() => {});
}

export function lead(core: Core): Leader {
  const ending = new AbortController();
  const aborted = new Promise<void>((resolve) => ending.signal.addEventListener('abort', () => resolve(), { once: true }));
  const failed = Promise.withResolvers<void>();
  const log = core.log.child({ part: 'leader' });
  let leadership = null as Leadership | null; // Set later, from inside a promise, as the next one.
  let manager = null as Manager | null;
  // Also what it does beside reconciling ends with the term.
  const termOnly = fenceWrites(core.kubernetes, { isCurrent: () => leadership?.isCurrent() === true });
  const housekeeping = createHousekeeping({ ...core, kubernetes: { ...termOnly, close: () => {} } });
  const keeper = createTermKeeper(core);

  /** One term, from the campaign to the loss of the Lease or of the database that it began with, or the end of the process. */
  const serveTerm = async (): Promise<void> => {
    const { kubernetes, config, time } = core;
    const term = campaign({ api: kubernetes, namespace: config.namespace, name: leaseName, identity: config.replica, time, log, notes: () => keeper.notes() });
    leadership = term;
    if (!(await term.won)) return;
    const over = new AbortController();
    void term.lost.then(() => over.abort());
    const signal = AbortSignal.any([ending.signal, over.signal]);
    const epoch = await keeper.acquire(term, signal);
    if (epoch === null || ending.signal.aborted) return;
    const known = await loadIdentities(core, signal);
    if (known === null) return;
    log.info({ epoch: epoch.epoch, incarnation: epoch.incarnation }, 'leading');
    core.metrics.setLeading(true);
    const started = start(core, term, { epoch: epoch.epoch, identities: createIdentities(known) });
    manager = started;
    core.metrics.leader.setSource(started);
    housekeeping.start();
    // Not awaited: a stop must not wait for an API server that is away.
    void started.ready.then(() => log.info('all objects are known; reconciling'));
    const end = await Promise.race([term.lost.then(() => 'the Lease could not be renewed in time'), aborted.then(() => null), keeper.watch(epoch, signal), watchBindings(core, known, signal)]);
    if (ending.signal.aborted || end === null) return;
    over.abort();
    core.metrics.setLeading(false);
    log.error({ reason: end }, 'stepping down');
    // Its last statement or delivery has a deadline of its own, which may be longer than a step-down; two leaders do it no harm.
    const housekept = housekeeping.stop();
    if (!(await inTime(started.stop(), time, stepDownMs))) throw new Error('the reconcilers did not end in time');
    manager = null;
    core.metrics.leader.setSource(null);
    // Gives the Lease back, when it is still ours, so that the next term need not wait for its end.
    await term.stop();
    await housekept;
  };

  const run = async (): Promise<void> => {
    while (!ending.signal.aborted) await serveTerm();
  };
  const running = run().catch((error: unknown) => {
    // Half a leader is worse than none: another replica, or this one restarted, does it whole.
    log.error({ err: error }, 'the leader can not go on');
    failed.resolve();
  });

  return {
    failed: failed.promise,
    isSynced: () => leadership?.isLeader() !== true || (manager?.isReady() ?? false),
    stop: async () => {
      ending.abort();
      const housekept = housekeeping.stop();
      await manager?.stop();
      await leadership?.stop();
      await Promise.all([housekept, running]);
      core.metrics.setLeading(false);
    },
  };
}
