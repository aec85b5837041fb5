/**
 * Links audit rows and signs checkpoints while this replica leads. Owns when; what a link is belongs to the store, what
 * a signature covers to `checkpoint-signer.ts`.
 *
 * Invariant: it writes only what is new. Without a new audit row there is one read in `idleReadMs` and no write; a chain
 * gets a checkpoint when it was quiet for `quietMs`, and while rows keep coming one in the checkpoint interval.
 */
import type { AuditChainStore } from '../ports/audit-chain.ts';
import type { HintBus } from '../ports/hints.ts';
import { errorFields } from '../runtime/log.ts';
import type { Time } from '../runtime/time.ts';
import type { AuditMetrics } from '../telemetry/metrics.ts';
import type { CheckpointSigner } from './checkpoint-signer.ts';

/** Not every commit is hinted at; with the pass itself a row is linked within a second of its commit. */
const idleReadMs = 500;
/** Hints that come in a burst make one pass. */
const gatherMs = 150;
const quietMs = 2_000;
/** Rows of one linking transaction. */
const batchMax = 1_000;
const retryMs = 1_000;
const retryMaxMs = 30_000;
/** A row that waits longer for its link than this is an alarm. */
export const unlinkedAlarmMs = 10_000;

export interface ChainerLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface ChainerDeps {
  readonly chain: AuditChainStore;
  /** Asked until it answers; linking does not wait for it. */
  readonly loadSigner: () => Promise<CheckpointSigner>;
  readonly hints: Pick<HintBus, 'onHint' | 'onRemoteChange'>;
  readonly time: Time;
  readonly log: ChainerLog;
  readonly metrics: AuditMetrics;
  readonly checkpointIntervalMs: number;
}

export interface Chainer {
  /** Resolves when the pass under way has ended. */
  stop(): Promise<void>;
}

/** Something that can be woken while it waits. */
function createAlarmClock(time: Time) {
  let ring: (() => void) | null = null;
  let isRung = false;
  return {
    wake: (): void => {
      isRung = true;
      ring?.();
    },
    /** Until woken, or the delay is over. A wake that came before counts. */
    wait: (delayMs: number): Promise<void> =>
      new Promise((resolve) => {
        const finish = (): void => {
          cancel();
          ring = null;
          isRung = false;
          resolve();
        };
        const cancel = time.schedule(isRung ? 0 : delayMs, finish);
        ring = finish;
      }),
  };
}

/** Subscribes to hints once; terms of leadership come and go. */
export function createChainer(deps: ChainerDeps): { start(): Chainer } {
  let clock = null as ReturnType<typeof createAlarmClock> | null;
  deps.hints.onHint(() => clock?.wake());
  deps.hints.onRemoteChange(() => clock?.wake());
  return {
    start: () => {
      const own = createAlarmClock(deps.time);
      clock = own;
      const ending = new AbortController();
      const running = runTerm(deps, own, ending.signal);
      return {
        stop: async () => {
          ending.abort();
          own.wake();
          if (clock === own) clock = null;
          await running;
        },
      };
    },
  };
}

async function runTerm(deps: ChainerDeps, clock: ReturnType<typeof createAlarmClock>, signal: AbortSignal): Promise<void> {
  const pass = createPass(deps);
  let failures = 0;
  while (!signal.aborted) {
    try {
      const isMore = await pass();
      if (failures > 0) deps.log.info({}, 'audit rows are linked again');
      failures = 0;
      if (!isMore) await clock.wait(idleReadMs);
      if (!isMore && !signal.aborted) await new Promise<void>((resolve) => void deps.time.schedule(gatherMs, resolve));
    } catch (error) {
      failures += 1;
      deps.metrics.setChaining(false);
      if (failures === 1) deps.log.warn(errorFields(error), 'audit rows can not be linked: rows are still written, and nothing vouches for the new ones');
      await clock.wait(Math.min(retryMaxMs, retryMs * 2 ** Math.min(failures - 1, 10)));
    }
  }
  deps.metrics.setChaining(false);
}

/** One pass: links a batch, and signs what is due. True when there is more to link at once. */
function createPass(deps: ChainerDeps): () => Promise<boolean> {
  const { chain, time, metrics, log } = deps;
  let signer: CheckpointSigner | null = null;
  // What the leader before did not sign is due as soon as it was looked at.
  let unsignedSinceMs: number | null = time.monotonicMs() - quietMs;
  let linkedAtMs = time.monotonicMs() - quietMs;
  let signAgainMs = 0;
  let isAlarmed = false;

  const watchAge = (ageMs: number): void => {
    metrics.setUnlinkedAgeMs(ageMs);
    const isLate = ageMs > unlinkedAlarmMs;
    if (isLate && !isAlarmed) log.error({ ageMs: Math.round(ageMs) }, 'an audit row waits for its link: a transaction is open for too long, or the chainer can not keep up');
    isAlarmed = isLate;
  };
  const signDue = async (): Promise<void> => {
    signer ??= await deps.loadSigner();
    const use = signer;
    const checkpoints = (await chain.unsignedHeads()).map((head) => use.sign(head, time.nowMs()));
    await chain.addCheckpoints(checkpoints);
    metrics.countCheckpoints(checkpoints.length);
    // The log takes each checkpoint out of the reach of whoever can write the database.
    for (const checkpoint of checkpoints) log.info({ checkpoint }, 'audit checkpoint');
    unsignedSinceMs = null;
  };
  return async () => {
    const { linked, isMore, unlinkedAgeMs } = await chain.link(batchMax);
    const now = time.monotonicMs();
    metrics.setChaining(true);
    metrics.countLinks(linked);
    watchAge(unlinkedAgeMs ?? 0);
    if (linked > 0) {
      linkedAtMs = now;
      unsignedSinceMs ??= now;
    }
    const isDue = unsignedSinceMs !== null && (now - linkedAtMs >= quietMs || now - unsignedSinceMs >= deps.checkpointIntervalMs);
    if (isDue && now >= signAgainMs) {
      await signDue().catch((error: unknown) => {
        signAgainMs = now + retryMaxMs;
        log.warn(errorFields(error), 'audit checkpoints could not be signed; rows are linked all the same');
      });
    }
    return isMore;
  };
}
