/**
 * The database side of one term of leadership: takes the epoch, compares the database with what was noted of it outside,
 * and watches during the term that it does not become an older copy of itself. An older one means recovery: the
 * incarnation rises, and what that holds back is the recovery's (ports/recovery.ts).
 */
import { isAppError } from '#api/model/error-codes.ts';
import type { Core } from './core.ts';
import { advance, decideRecovery, encodePosition, furthest, parsePosition, type DatabasePosition } from '#api/model/recovery.ts';
import type { Actor } from './ports/audit.ts';
import type { LeadershipEpoch } from './ports/leadership-store.ts';
import { createDatabaseWitness, witnessAnnotation } from './runtime/database-witness.ts';
import type { Leadership } from './runtime/leader-election.ts';
import { errorFields } from './runtime/log.ts';
import { pause } from './runtime/time.ts';

const acquireRetryMs = 1_000;

export interface TermKeeper {
  /** For the Lease: how far the database has come, as far as this process knows. */
  notes(): Readonly<Record<string, string>>;
  /** Null when the signal ended it. */
  acquire(term: Pick<Leadership, 'notesBefore'>, signal: AbortSignal): Promise<LeadershipEpoch | null>;
  /** Resolves with a sentence when the term must end because of the database; never while the signal is quiet and nothing changed. */
  watch(epoch: LeadershipEpoch, signal: AbortSignal): Promise<string>;
}

export function createTermKeeper(core: Core): TermKeeper {
  const log = core.log.child({ part: 'leader' });
  const witness = createDatabaseWitness(core.kubernetes, core.config.namespace);
  /** The furthest position that this process has seen. */
  let known: DatabasePosition | null = null;

  /** Tries until it is done, the signal ends it, or the reason is not one that passes. */
  const untilDone = async <Result>(what: string, signal: AbortSignal, work: () => Promise<Result>): Promise<Result | null> => {
    while (!signal.aborted) {
      try {
        return await work();
      } catch (error) {
        if (!isAppError(error) || error.retry !== 'backoff') throw error;
        log.warn(errorFields(error), `${what} yet`);
        await pause(core.time, acquireRetryMs, signal);
      }
    }
    return null;
  };

  /** A ConfigMap that may not be read or written costs the second witness, not the leadership. */
  const optional = async <Result>(what: string, fallback: Result, work: () => Promise<Result>): Promise<Result> => {
    try {
      return await work();
    } catch (error) {
      log.error(errorFields(error), what);
      return fallback;
    }
  };

  /** What polls have seen, and what this process has committed since. */
  const furthestKnown = (): DatabasePosition | null => (known === null ? null : { ...known, auditId: Math.max(known.auditId, core.database.leadership.seenAuditId()) });

  return {
    notes: () => {
      const position = furthestKnown();
      return position === null ? {} : { [witnessAnnotation]: encodePosition(position) };
    },
    acquire: async (term, signal) => {
      const kept = await optional('the ConfigMap that shows a restored database can not be read: only the Lease tells now', undefined, () => witness.read());
      const noted = furthest(parsePosition(kept), parsePosition(term.notesBefore()[witnessAnnotation]));
      const actor: Actor = { kind: 'controller', name: core.config.replica, from: '' };
      const epoch = await untilDone('the leadership epoch can not be taken', signal, () => core.database.leadership.acquire(actor, furthest(noted, furthestKnown())));
      if (epoch === null) return null;
      known = epoch.position;
      core.metrics.recovery.setIncarnation(epoch.incarnation);
      if (epoch.recovery !== null) {
        core.metrics.recovery.countRecovery();
        log.error(
          { incarnation: epoch.incarnation, reason: epoch.recovery },
          'the database is an older copy: nothing that was bound is placed or replaced until the hosts of its site have reported; see docs/operations.md, "After a restore"',
        );
        core.hints.publish({ kind: 'recovery' });
      }
      await optional('how far the database has come can not be kept in a ConfigMap: only the Lease keeps it now', undefined, () => witness.write(encodePosition(epoch.position)));
      return epoch;
    },
    watch: async (epoch, signal) => {
      let early = Promise.withResolvers<void>();
      const unlisten = core.database.leadership.onRefused(() => early.resolve());
      try {
        while (!signal.aborted) {
          const waited = new AbortController();
          await Promise.race([pause(core.time, core.config.pollIntervalMs, AbortSignal.any([signal, waited.signal])), early.promise]);
          waited.abort();
          early = Promise.withResolvers<void>();
          if (signal.aborted) break;
          const found = await core.database.leadership.position().catch((error: unknown) => {
            log.warn(errorFields(error), 'how far the database has come could not be read');
            return null;
          });
          if (found === null) continue;
          const { present, durable } = found;
          if (present.epoch > epoch.epoch) return 'another replica took the leadership';
          const before = furthestKnown() ?? epoch.position;
          const { reason } = decideRecovery({ ...present, kept: before }, before);
          if (reason !== null) return `the database is an older copy: ${reason}`;
          known = advance(before, durable);
        }
        return 'it was stopped';
      } finally {
        unlisten();
      }
    },
  };
}
