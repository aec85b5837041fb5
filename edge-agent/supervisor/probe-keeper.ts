/**
 * Tries the probes of all guests that run, and wakes a worker when what they show has changed. Owns when
 * a try may run: never under a microVM that is stopped, paused or on its way down, and never more than
 * {@link triesMax} at once on the host. What a try means is decided in domain/probes.ts; what follows
 * from it by the worker. Keeps nothing durable: after a start of the agent readiness is asked anew.
 */
import { withDeadline } from '#api/model/deadline.ts';
import type { MicroVMId } from '#api/model/ids.ts';
import type { ProbeRole, ProbeSpec, ProbeSpecs } from '#api/model/microvm.ts';
import { createSlots } from '#api/model/slots.ts';
import type { MicroVMRecord } from '../domain/microvm-record.ts';
import type { SeenVmm } from '../domain/observed-state.ts';
import { beginHealth, dueRoles, judge, nextDueMs, resumeHealth, suspendHealth, tryBegan, tryEnded, type Health, type HealthJudgement, type ProbeOutcome } from '../domain/probes.ts';
import type { Clock } from '../ports/clock.ts';
import type { LogFiles } from '../ports/log-files.ts';
import type { Logger } from '../ports/logger.ts';
import type { Prober } from '../ports/probes.ts';
import { createConsoleSearch, type ConsoleSearch } from './console-search.ts';

export interface ProbeKeeper {
  /** What a look at the microVM found; begins, suspends or ends its probes. `onNews` is called when they show something else. */
  noticed(record: MicroVMRecord, vmm: SeenVmm, onNews: () => void): void;
  /** Undefined while the guest has no probes or does not run. */
  viewOf(record: MicroVMRecord): HealthJudgement | undefined;
  /** Ends the probes of one microVM. */
  forget(microvmId: MicroVMId): void;
  /** Resolves when no try runs any more. */
  stop(): Promise<void>;
}

/** Tries that run at once, over all microVMs of the host: each is a socket, and a busy guest keeps it until its timeout. */
export const triesMax = 64;

interface Session {
  /** The boot, the probes and the address that it is for. */
  readonly key: string;
  readonly specs: ProbeSpecs;
  readonly address: string | undefined;
  readonly vsockSocket: string;
  readonly search: ConsoleSearch;
  readonly ending: AbortController;
  /** Ends the tries that run; replaced by each pause. */
  tries: AbortController;
  health: Health;
  judged: string;
  onNews: () => void;
  cancelTimer: () => void;
}

export function createProbeKeeper(deps: {
  readonly prober: Prober;
  readonly files: Pick<LogFiles, 'size' | 'read'>;
  readonly pathsOf: (microvmId: MicroVMId) => { readonly serialLog: string; readonly vsockSocket: string };
  readonly clock: Clock;
  readonly logger: Logger;
}): ProbeKeeper {
  const { prober, clock, logger } = deps;
  const sessions = new Map<MicroVMId, Session>();
  /** Those whose guest this process has seen down, so that a boot that follows is no adopted one. */
  const seenDown = new Set<MicroVMId>();
  const slots = createSlots(triesMax);
  const running = new Set<Promise<void>>();

  function noticed(record: MicroVMRecord, vmm: SeenVmm, onNews: () => void): void {
    const { microvmId, desired, run } = record;
    const isUp = vmm.kind === 'live' && (vmm.api === 'running' || vmm.api === 'paused');
    // A VMM that is busy for a moment is no news of its guest.
    const isUnclear = vmm.kind === 'live' && vmm.api === 'unreachable' && run.stop === undefined;
    if (!isUp && !isUnclear) seenDown.add(microvmId);
    if (desired?.probes === undefined || record.isDeleting || run.stop !== undefined || run.phase !== 'started' || (!isUp && !isUnclear)) return end(microvmId);
    const key = keyOf(record);
    const known = sessions.get(microvmId);
    if (known?.key !== key) {
      end(microvmId);
      if (isUp) begin(record, desired.probes, key, onNews);
    }
    const session = sessions.get(microvmId);
    if (session === undefined) return;
    session.onNews = onNews;
    const isPaused = vmm.kind === 'live' && vmm.api === 'paused';
    if (isUp && isPaused !== session.health.isSuspended) pause(session, isPaused);
  }

  function begin(record: MicroVMRecord, specs: ProbeSpecs, key: string, onNews: () => void): void {
    const { microvmId, run } = record;
    const now = clock.now();
    const paths = deps.pathsOf(microvmId);
    const session: Session = {
      key,
      specs,
      address: addressOf(record),
      vsockSocket: paths.vsockSocket,
      search: createConsoleSearch(deps.files, paths.serialLog),
      ending: new AbortController(),
      tries: new AbortController(),
      health: beginHealth(specs, {
        nowMs: now.bootMs,
        upMs: run.bootedAtMs === undefined ? 0 : now.wallMs - run.bootedAtMs,
        isAdopted: !seenDown.has(microvmId),
        isStartedUp: run.startedUpIn === run.incarnation,
      }),
      judged: '',
      onNews,
      cancelTimer: () => {},
    };
    session.judged = JSON.stringify(judge(session.health));
    sessions.set(microvmId, session);
    // Another boot of the same process is none that was adopted.
    seenDown.add(microvmId);
    goOn(session);
  }

  function pause(session: Session, isPaused: boolean): void {
    session.tries.abort();
    session.tries = new AbortController();
    take(session, isPaused ? suspendHealth(session.health) : resumeHealth(session.health, clock.now().bootMs), false);
  }

  /** @param tells false: the caller is the worker itself, which reads the change at once */
  function take(session: Session, health: Health, tells: boolean): void {
    session.health = health;
    const judged = JSON.stringify(judge(health));
    if (judged !== session.judged) {
      session.judged = judged;
      if (tells) session.onNews();
    }
    goOn(session);
  }

  function goOn(session: Session): void {
    session.cancelTimer();
    if (session.ending.signal.aborted) return;
    const { bootMs } = clock.now();
    for (const role of dueRoles(session.health, bootMs)) {
      session.health = tryBegan(session.health, role);
      const trying = tryOnce(session, role).finally(() => running.delete(trying));
      running.add(trying);
    }
    const nextMs = nextDueMs(session.health);
    if (nextMs !== undefined) session.cancelTimer = clock.after(Math.max(1, nextMs - bootMs), () => goOn(session));
  }

  async function tryOnce(session: Session, role: ProbeRole): Promise<void> {
    const spec = session.specs[role];
    if (spec === undefined) return;
    const tries = session.tries.signal;
    const outcome = await slots.run(() => outcomeOf(session, spec, tries));
    if (session.ending.signal.aborted || tries !== session.tries.signal) return;
    const before = session.judged;
    take(session, tryEnded(session.specs, session.health, role, outcome, clock.now().bootMs), true);
    if (session.judged !== before) logger.info({ probe: role, outcome: outcome.kind, ...('message' in outcome ? { error: outcome.message } : {}) }, 'a probe shows something else');
  }

  async function outcomeOf(session: Session, { action, timeoutMs }: ProbeSpec, tries: AbortSignal): Promise<ProbeOutcome> {
    if (tries.aborted) return { kind: 'cut' };
    try {
      return await withDeadline(tries, timeoutMs, async (signal) => {
        if (action.kind !== 'console') return prober.probe({ action, vsockSocket: session.vsockSocket, ...(session.address === undefined ? {} : { address: session.address }) }, signal);
        const isFound = await session.search.contains(action.contains, signal);
        return isFound ? { kind: 'success' } : { kind: 'failure', message: `the serial console has not printed ${JSON.stringify(action.contains)} in this boot` };
      });
    } catch (error) {
      if (tries.aborted) return { kind: 'cut' };
      if (error instanceof DOMException && error.name === 'TimeoutError') return { kind: 'failure', message: `no answer within ${timeoutMs} ms` };
      logger.warn({ err: error }, 'a probe could not be tried');
      return { kind: 'cut' };
    }
  }

  function end(microvmId: MicroVMId): void {
    const session = sessions.get(microvmId);
    if (session === undefined) return;
    sessions.delete(microvmId);
    session.cancelTimer();
    session.ending.abort();
    session.tries.abort();
  }

  return {
    noticed,
    viewOf(record) {
      const session = sessions.get(record.microvmId);
      return session === undefined || session.key !== keyOf(record) || session.health.isSuspended ? undefined : judge(session.health);
    },
    forget(microvmId) {
      end(microvmId);
      seenDown.delete(microvmId);
    },
    async stop() {
      for (const microvmId of [...sessions.keys()]) end(microvmId);
      await Promise.all(running);
    },
  };
}

function keyOf(record: MicroVMRecord): string {
  return JSON.stringify([record.run.incarnation, record.desired?.probes, addressOf(record)]);
}

/** Of the first network that has one that n-kudo knows. */
function addressOf({ desired }: MicroVMRecord): string | undefined {
  return desired?.networks?.find(({ address }) => address !== undefined)?.address?.split('/')[0];
}
