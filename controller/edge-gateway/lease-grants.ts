/**
 * Extends the leases of the hosts that ask, in as few commits as the database allows: while one commit is under way,
 * everything that comes waits for the next. A host hears of its lease only after the commit; when that fails, or its
 * outcome is not known, it hears nothing, and its microVMs end unless another replica does better.
 */
import type { Logger } from 'pino';
import type { Clock } from '#controller/ports/clock.ts';
import type { LeaseRequest, LeaseStore } from '#controller/ports/lease-store.ts';

/** Requests of one commit; more wait for the next. */
const batchMax = 1_000;

export interface LeaseGrants {
  /** Asks for one host. `onGranted` is called at most once, after the commit; never called: there is no grant. Never throws. */
  ask(request: Omit<LeaseRequest, 'ageMs'>, onGranted: (leaseMs: number) => void): void;
}

interface Waiting {
  readonly request: Omit<LeaseRequest, 'ageMs'>;
  readonly heardAtMs: number;
  readonly onGranted: (leaseMs: number) => void;
}

export function createLeaseGrants(deps: { readonly leases: Pick<LeaseStore, 'grant'>; readonly clock: Pick<Clock, 'monotonicMs'>; readonly log: Logger }): LeaseGrants {
  const { leases, clock, log } = deps;
  /** By host: the newest request is the one that counts. */
  const waiting = new Map<string, Waiting>();
  let isCommitting = false;

  async function commit(batch: readonly Waiting[]): Promise<void> {
    const nowMs = clock.monotonicMs();
    try {
      const grants = await leases.grant(batch.map(({ request, heardAtMs }) => ({ ...request, ageMs: nowMs - heardAtMs })));
      const byHost = new Map(grants.map((grant) => [grant.hostId, grant]));
      for (const { request, onGranted } of batch) {
        const grant = byHost.get(request.hostId);
        if (grant !== undefined && grant.sessionId === request.sessionId) onGranted(grant.leaseMs);
      }
    } catch (error) {
      log.warn({ err: error, hosts: batch.length }, 'leases could not be extended; the hosts are told nothing');
    }
  }

  async function commitAll(): Promise<void> {
    isCommitting = true;
    try {
      // What arrives in this turn of the event loop belongs to the same commit.
      await new Promise<void>((resolve) => setImmediate(resolve));
      while (waiting.size > 0) {
        const batch = [...waiting].slice(0, batchMax);
        for (const [hostId] of batch) waiting.delete(hostId);
        await commit(batch.map(([, item]) => item));
      }
    } finally {
      isCommitting = false;
    }
  }

  return {
    ask(request, onGranted) {
      waiting.set(request.hostId, { request, heardAtMs: clock.monotonicMs(), onGranted });
      if (!isCommitting) void commitAll();
    },
  };
}
