/**
 * Keeps this host in the mesh as ordered: looks slowly, joins with a key that it asks the control plane for, leaves, and
 * tells what changed. One thing at a time; nothing of it is waited for by anybody, so whatever the mesh software does,
 * microVMs and the session with the control plane go on.
 *
 * Invariant: the order and the note of a membership are durable before the first effect; a key is held in memory only,
 * until the one attempt that uses it.
 */
import { isAppError } from '#api/model/error-codes.ts';
import type { MeshOrder, MeshReport } from '#api/model/mesh.ts';
import { decideMesh, describeMesh, isMeshIdle, type MeshDecision, type MeshLook, type MeshMembership } from '../domain/mesh.ts';
import { meshRetryMs, settleMs } from '../domain/mesh-pace.ts';
import { encodeMeshRecord, meshFact, parseMeshRecord, sameOrder, type MeshRecord } from '../domain/mesh-record.ts';
import { around, type EdgeFaultPoints } from '../fault-points.ts';
import type { Clock, Entropy } from '../ports/clock.ts';
import type { ControlSession } from '../ports/control-plane.ts';
import type { Journal } from '../ports/journal.ts';
import type { Logger } from '../ports/logger.ts';
import type { Mesh, MeshOutcome } from '../ports/mesh.ts';
import { leaveMesh } from './mesh-leave.ts';

export interface MeshMembershipDeps {
  readonly mesh: Mesh;
  readonly journal: Pick<Journal, 'loadFact' | 'saveFact'>;
  /** Id of this host as it is enrolled now; undefined: not enrolled, so nothing is joined. */
  readonly hostId: () => string | undefined;
  /** Time between two looks when nothing happens, milliseconds. */
  readonly pollMs: number;
  readonly clock: Clock;
  readonly entropy: Entropy;
  readonly faults: EdgeFaultPoints;
  readonly logger: Logger;
  /** The journal can't be written. */
  readonly onFatal: (error: unknown) => void;
}

export interface MeshKeeper {
  start(): void;
  /** An order of the control plane, with a key or without. Older ones than the last of the same session are ignored. */
  ordered(order: MeshOrder, revealKey: (() => string) | null): void;
  /** The session to tell; undefined when there is none. */
  use(session: ControlSession | undefined): void;
  /** Ends a command that runs, without an effect on what was joined. */
  stop(): Promise<void>;
}

export function createMeshKeeper(deps: MeshMembershipDeps): MeshKeeper {
  const { mesh, journal, clock, entropy, faults, logger } = deps;
  const stopping = new AbortController();
  let record: MeshRecord = parseMeshRecord(journal.loadFact(meshFact));
  let session: ControlSession | undefined;
  let sessionRevision = 0;
  /** The order that is to become durable, and the key that came with it. */
  let received: { readonly order: MeshOrder; readonly revealKey: (() => string) | null } | undefined;
  let heldKey: (() => string) | undefined;
  let isDue = false;
  let isRunning = false;
  let running: Promise<void> = Promise.resolve();
  let cancelTimer = (): void => {};

  let attempt = freshAttempt();
  let connectingSinceMs: number | undefined;
  let looksWhileConnecting = 0;
  /** What the session was told last. */
  let told = '';

  function wake(): void {
    isDue = true;
    if (isRunning || stopping.signal.aborted) return;
    cancelTimer();
    isRunning = true;
    running = runWhileDue();
  }

  async function runWhileDue(): Promise<void> {
    let delayMs: number | null = null;
    try {
      while (isDue && !stopping.signal.aborted) {
        isDue = false;
        delayMs = await turn();
      }
    } catch (error) {
      if (stopping.signal.aborted) return;
      if (isAppError(error) && error.code === 'JOURNAL_FAILED') return deps.onFatal(error);
      // A fault in here is no reason to end an agent whose microVMs are well.
      logger.error({ err: error }, 'the mesh could not be looked after; it is tried again');
      delayMs = deps.pollMs;
    } finally {
      isRunning = false; // In the same turn as the last look at isDue, so that no wake is lost.
    }
    if (delayMs !== null && !stopping.signal.aborted) cancelTimer = clock.after(delayMs, wake);
  }

  /** One look and at most one action. Returns the time to the next, null for never. */
  async function turn(): Promise<number | null> {
    await takeOrder();
    if (isMeshIdle(record.order, record.membership)) {
      heldKey = undefined;
      if (record.order !== null) await tell(describeMesh(idle, { order: record.order, look: nothingSeen }));
      return null;
    }
    const look = await mesh.look(stopping.signal);
    const decision = decide(look);
    noteConnecting(decision);
    if (decision.state === 'Connected') attempt = freshAttempt();
    return act(decision, look);
  }

  function decide(look: MeshLook): MeshDecision {
    return decideMesh({
      order: record.order,
      membership: record.membership,
      hostId: deps.hostId() ?? '',
      look,
      lastProblem: attempt.problem,
      connectingForMs: connectingSinceMs === undefined ? 0 : clock.now().bootMs - connectingSinceMs,
    });
  }

  async function act(decision: MeshDecision, look: MeshLook): Promise<number> {
    const { order } = record;
    const report = describeMesh(decision, { order, look });
    switch (decision.action) {
      case 'none':
        heldKey = undefined; // Not needed now; a key that comes too early is worth nothing later.
        await tell(report);
        return decision.state === 'Connecting' ? settleMs(looksWhileConnecting, deps.pollMs) : deps.pollMs;
      case 'forget':
        await saveMembership(null);
        return again();
      case 'leave':
        await tell(report);
        if (waitMs() > 0) return waitMs();
        return leave();
      case 'connect':
        await tell(report);
        if (waitMs() > 0) return waitMs();
        return order === null ? deps.pollMs : join(order, null);
      case 'join':
        return order === null || deps.hostId() === undefined ? deps.pollMs : joinOrAsk(order, report);
    }
  }

  async function joinOrAsk(order: MeshOrder, report: MeshReport): Promise<number> {
    const key = heldKey;
    heldKey = undefined;
    // One that nobody asked for does not shorten a delay; it is dropped, and another is asked for in time.
    if (key !== undefined && attempt.hasAsked) return join(order, key);
    const leftMs = waitMs();
    // Between two questions nothing changes, so nothing is said.
    if (leftMs > 0) {
      await tell({ ...report, wantsKey: attempt.hasAsked });
      return Math.min(leftMs, deps.pollMs);
    }
    if (session === undefined) return deps.pollMs;
    const questions = attempt.questions + 1;
    attempt = { ...attempt, questions, hasAsked: true, nextMs: clock.now().bootMs + meshRetryMs(questions, entropy.random()) };
    told = ''; // A question is repeated, though it is the same.
    await tell({ ...report, wantsKey: true });
    return Math.min(waitMs(), deps.pollMs);
  }

  async function join(order: MeshOrder, key: (() => string) | null): Promise<number> {
    await saveMembership({ managementUrl: order.managementUrl, hostId: deps.hostId() ?? '' });
    logger.info({ managementUrl: order.managementUrl, hostName: order.hostName, withKey: key !== null }, 'joining the mesh');
    const outcome = await around(faults, 'mesh.up', () => mesh.join(order, key, stopping.signal));
    return attempted('join', outcome);
  }

  async function leave(): Promise<number> {
    logger.info({}, 'leaving the mesh');
    const outcome = await leaveMesh(deps, stopping.signal);
    const nextMs = attempted('leave', outcome);
    if (outcome.kind === 'failed') return nextMs;
    record = { ...record, membership: null };
    attempt = freshAttempt();
    return nextMs;
  }

  function attempted(what: 'join' | 'leave', outcome: MeshOutcome): number {
    connectingSinceMs = undefined;
    looksWhileConnecting = 0;
    if (outcome.kind === 'failed') logger.warn({ what, error: outcome.problem }, 'the mesh software refused; it is tried again');
    // Counts until a look finds it connected, so that a command that only says that it worked is not run in a loop.
    const failures = attempt.failures + 1;
    attempt = {
      failures,
      questions: failures - 1,
      hasAsked: false,
      problem: outcome.kind === 'failed' ? outcome.problem : '',
      nextMs: clock.now().bootMs + meshRetryMs(failures, entropy.random()),
    };
    return again();
  }

  /** A look at once: it tells what came of it. */
  function again(): number {
    isDue = true;
    return 0;
  }

  function waitMs(): number {
    return Math.max(0, attempt.nextMs - clock.now().bootMs);
  }

  function noteConnecting({ state }: MeshDecision): void {
    const isConnecting = state === 'Connecting';
    if (!isConnecting) connectingSinceMs = undefined;
    else connectingSinceMs ??= clock.now().bootMs;
    looksWhileConnecting = isConnecting ? looksWhileConnecting + 1 : 0;
  }

  async function takeOrder(): Promise<void> {
    const news = received;
    received = undefined;
    if (news === undefined) return;
    if (!sameOrder(record.order, news.order)) {
      await around(faults, 'journal.meshOrder', () => save({ ...record, order: news.order }));
      logger.info({ join: news.order.join, managementUrl: news.order.managementUrl, revision: news.order.revision }, 'the mesh order changed');
      attempt = freshAttempt();
    }
    if (news.revealKey !== null) heldKey = news.revealKey;
  }

  async function saveMembership(membership: MeshMembership | null): Promise<void> {
    const earlier = record.membership;
    if (membership === null ? earlier === null : earlier?.managementUrl === membership.managementUrl && earlier.hostId === membership.hostId) return;
    await around(faults, 'journal.meshMembership', () => save({ ...record, membership }));
  }

  function save(changed: MeshRecord): void {
    journal.saveFact(meshFact, encodeMeshRecord(changed));
    record = changed;
  }

  /** Tells the session what it was not told yet. A lost session is told anew by its successor. */
  async function tell(report: MeshReport): Promise<void> {
    const target = session;
    const text = JSON.stringify(report);
    if (target === undefined || text === told) return;
    try {
      await around(faults, 'mesh.report', () => target.send({ kind: 'mesh', report }));
      if (target === session) told = text;
    } catch (error) {
      if (!isAppError(error)) throw error; // The link sees the same end.
    }
  }

  return {
    start: wake,
    ordered(order, revealKey) {
      if (order.revision < sessionRevision) return;
      sessionRevision = order.revision;
      // A second order without a key must not push away the key of the first.
      received = { order, revealKey: revealKey ?? (received?.order.revision === order.revision ? received.revealKey : null) };
      wake();
    },
    use(next) {
      session = next;
      sessionRevision = 0;
      told = '';
      // A question that may have been lost with the last session is repeated with the report.
      if (next !== undefined) wake();
    },
    async stop() {
      stopping.abort(new Error('the agent stops'));
      cancelTimer();
      await running;
    },
  };
}

interface Attempt {
  /** Attempts since it was last connected. */
  readonly failures: number;
  /** Questions for a key since the last attempt, and the failures before. */
  readonly questions: number;
  /** A key was asked for since the last attempt. */
  readonly hasAsked: boolean;
  readonly problem: string;
  /** Boot clock: nothing is asked or tried before. */
  readonly nextMs: number;
}

function freshAttempt(): Attempt {
  return { failures: 0, questions: 0, hasAsked: false, problem: '', nextMs: 0 };
}

const idle: MeshDecision = { action: 'none', state: 'NotConfigured', problem: '' };
const nothingSeen: MeshLook = { kind: 'missing', problem: '', daemonMemoryBytes: 0 };
