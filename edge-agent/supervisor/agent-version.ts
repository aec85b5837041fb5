/**
 * Follows the control plane's order for the version of the agent itself: makes it durable, installs it once, asks to be
 * started anew, and tells how far that is. MicroVMs and the session go on meanwhile; whatever fails in here ends nothing.
 *
 * Invariant: an order whose version did not get ready is never tried again: the attempt is durable before the launcher
 * is asked to try it.
 */
import { AppError, isAppError } from '#api/model/error-codes.ts';
import type { AgentOrder, AgentReport } from '#api/model/release.ts';
import { agentOrderFact, decideAgent, encodeAgentOrderRecord, parseAgentOrderRecord, type AgentOrderRecord } from '../domain/agent-order.ts';
import { fullJitterMs } from '../domain/retry-delay.ts';
import { around } from '../fault-points.ts';
import type { Clock, Entropy } from '../ports/clock.ts';
import type { ControlSession } from '../ports/control-plane.ts';
import type { Journal } from '../ports/journal.ts';
import type { Logger } from '../ports/logger.ts';
import { installRelease, type InstallDeps } from './install-release.ts';

export interface AgentVersionDeps extends InstallDeps {
  readonly journal: Pick<Journal, 'loadFact' | 'saveFact'>;
  readonly deadlineSeconds: number;
  /** Asks the process to end and the launcher to start the selected version. */
  readonly restart: () => void;
  readonly clock: Clock;
  readonly entropy: Entropy;
  readonly logger: Logger;
  /** The journal can't be written. */
  readonly onFatal: (error: unknown) => void;
}

export interface AgentVersionKeeper {
  start(): void;
  /** Older ones than the last are ignored. Never waits for what follows. */
  ordered(order: AgentOrder): void;
  /** The session to tell; undefined when there is none. */
  use(session: ControlSession | undefined): void;
  stop(): Promise<void>;
}

const retryLimits = { baseMs: 5_000, capMs: 600_000 } as const;

export function createAgentVersionKeeper(deps: AgentVersionDeps): AgentVersionKeeper {
  const { journal, versions, clock, entropy, faults, logger } = deps;
  const stopping = new AbortController();
  let record: AgentOrderRecord | null = parseAgentOrderRecord(journal.loadFact(agentOrderFact));
  let session: ControlSession | undefined;
  let received: AgentOrder | undefined;
  /** What the session was told last. */
  let told = '';
  let failures = 0;
  let isDue = false;
  let isRunning = false;
  let running: Promise<void> = Promise.resolve();
  let cancelRetry = (): void => {};
  /** Ends the transfer of an order that was replaced. */
  let attempt: AbortController | undefined;

  function wake(): void {
    isDue = true;
    if (isRunning || stopping.signal.aborted) return;
    cancelRetry();
    isRunning = true;
    running = runWhileDue();
  }

  async function runWhileDue(): Promise<void> {
    try {
      while (isDue && !stopping.signal.aborted) {
        isDue = false;
        await turn();
      }
    } catch (error) {
      if (stopping.signal.aborted) return;
      if (isAppError(error) && error.code === 'JOURNAL_FAILED') return deps.onFatal(error);
      logger.error({ err: error }, 'the order for the version of the agent could not be looked after; it is tried again');
      cancelRetry = clock.after(retryLimits.capMs, wake);
    } finally {
      isRunning = false; // In the same turn as the last look at isDue, so that no wake is lost.
    }
  }

  async function turn(): Promise<void> {
    await takeOrder();
    if (record === null) return;
    const { previousVersion, trialVersion, failed } = versions.state();
    const failedReason = failed?.version === record.order.version ? failed.reason : null;
    const decision = decideAgent(record, { runningVersion: deps.runningVersion, previousVersion, trialVersion, failedReason });
    if (decision.report !== null) await tell(decision.report);
    if (decision.action === 'conclude') {
      await save('journal.agentAttempt', { ...record, refusal: decision.refusal });
      return wake();
    }
    if (decision.action === 'install') await install(record, decision.report);
  }

  async function takeOrder(): Promise<void> {
    const order = received;
    received = undefined;
    if (order === undefined || (record !== null && order.revision <= record.order.revision)) return;
    failures = 0;
    await save('journal.agentOrder', { order, isSelected: false, refusal: null });
    logger.info({ version: order.version, revision: order.revision }, 'another version of the agent was ordered');
  }

  async function save(step: 'journal.agentOrder' | 'journal.agentAttempt', next: AgentOrderRecord): Promise<void> {
    await around(faults, step, () => journal.saveFact(agentOrderFact, encodeAgentOrderRecord(next)));
    record = next;
  }

  async function install(tried: AgentOrderRecord, report: AgentReport): Promise<void> {
    const { order } = tried;
    attempt = new AbortController();
    const signal = AbortSignal.any([stopping.signal, attempt.signal]);
    try {
      const trial = { needs: 'session', deadlineSeconds: deps.deadlineSeconds } as const;
      // The host had a session when it was ordered this, so a version that gets none is not one to keep.
      const result = await installRelease(deps, { location: order.manifestUrl, version: order.version, trial, beforeSelect: () => save('journal.agentAttempt', { ...tried, isSelected: true }) }, signal);
      if (result.kind === 'present') return wake();
      await tell({ ...report, phase: 'Starting' });
      logger.info({ version: order.version }, 'starting anew with another version; the microVMs go on');
      deps.restart();
    } catch (error) {
      if (stopping.signal.aborted) return;
      if (signal.aborted) return wake();
      if (!isAppError(error) || error.code === 'JOURNAL_FAILED') throw error;
      logger.warn({ code: error.code, reason: error.message, version: order.version }, 'the ordered version of the agent can not be installed');
      if (error.retry === 'never') {
        await save('journal.agentAttempt', { ...tried, isSelected: false, refusal: { code: error.code, message: error.message } });
        return wake();
      }
      failures += 1;
      await tell({ ...report, errorCode: error.code, problem: error.message });
      cancelRetry = clock.after(fullJitterMs(failures, entropy.random(), retryLimits), wake);
    }
  }

  /** What did not reach the session is said to the next one. */
  async function tell(report: AgentReport): Promise<void> {
    const text = JSON.stringify(report);
    if (session === undefined || text === told) return;
    told = text;
    try {
      await session.send({ kind: 'agent', report });
    } catch (error) {
      if (!(error instanceof AppError)) throw error;
      told = '';
    }
  }

  return {
    start: wake,
    ordered(order) {
      received = order;
      if (record !== null && order.revision > record.order.revision) attempt?.abort(new AppError('UNAVAILABLE', 'another version was ordered meanwhile'));
      wake();
    },
    use(next) {
      session = next;
      told = '';
      if (next !== undefined) wake();
    },
    async stop() {
      stopping.abort(new AppError('UNAVAILABLE', 'the agent stops'));
      cancelRetry();
      await running;
    },
  };
}
