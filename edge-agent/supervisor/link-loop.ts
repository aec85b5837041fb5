/**
 * Keeps a session with the control plane: connects, says hello, beats, hands operations to the
 * registry and answers with receipts, and after an end waits as the reason asks. MicroVMs are never
 * touched by what happens here: the agent does offline everything that it does online.
 */
import { transition } from 'xstate';
import { AppError, isAppError } from '#api/model/error-codes.ts';
import { sessionId } from '#api/model/ids.ts';
import type { HostFacts } from '#api/model/host.ts';
import { linkDelayMs, type LinkEnd } from '../domain/link-delay.ts';
import { around, type EdgeFaultPoints } from '../fault-points.ts';
import { controlLinkMachine, type ControlLinkEvent, type ControlLinkSnapshot } from '../machines/control-link.machine.ts';
import type { Clock, Entropy } from '../ports/clock.ts';
import type { ControlMessage, ControlPlane, ControlSession, Receipt } from '../ports/control-plane.ts';
import type { HostFactsSource } from '../ports/host-facts.ts';
import type { Identity } from '../ports/identity-store.ts';
import type { Logger } from '../ports/logger.ts';
import { createBeats, type Beats } from './beats.ts';
import type { LeaseKeeper } from './lease-keeper.ts';
import type { MicroVMRegistry } from './microvm-registry.ts';

export interface LinkLoopDeps {
  readonly controlPlane: ControlPlane;
  readonly registry: MicroVMRegistry;
  readonly facts: HostFactsSource;
  /** The identity as it is now; it changes with renewals. */
  readonly identity: () => Identity;
  /** A welcome may bring other endpoints and roots. */
  readonly onWelcome: (welcome: ControlMessage & { kind: 'welcome' }) => void;
  /** Takes an order about the mesh; never waits for it. */
  readonly onMeshOrder: (message: ControlMessage & { kind: 'mesh' }) => void;
  /** Told of each session when it is online, and of its end. */
  readonly onSession: (session: ControlSession | undefined) => void;
  readonly leases: LeaseKeeper;
  readonly clock: Clock;
  readonly entropy: Entropy;
  readonly faults: EdgeFaultPoints;
  readonly logger: Logger;
  readonly onFatal: (error: unknown) => void;
}

export interface LinkLoop {
  start(): void;
  /** Ends the session and connects anew at once, such as with a renewed certificate. */
  reconnect(): void;
  /** Facts may have changed. */
  factsChanged(): Promise<void>;
  stop(): Promise<void>;
}

/** A welcome must come within this time of the hello, milliseconds. */
const welcomeDeadlineMs = 15_000;

export function createLinkLoop(deps: LinkLoopDeps): LinkLoop {
  const { clock, entropy, logger } = deps;
  let snapshot: ControlLinkSnapshot = controlLinkMachine.resolveState({ value: 'waiting', context: { failures: 0 } });
  let session: ControlSession | undefined;
  let isOnline = false;
  let isStopped = false;
  let isHurried = false;
  let endpointIndex = 0;
  let cancelRetry = (): void => {};
  let sentFacts = '';
  let running: Promise<void> = Promise.resolve();
  const agentInstance = entropy.uuid();

  const feed = (event: ControlLinkEvent): void => {
    [snapshot] = transition(controlLinkMachine, snapshot, event);
  };

  async function connectOnce(): Promise<void> {
    feed({ type: 'retry.due' });
    const identity = deps.identity();
    const endpoint = identity.endpoints[endpointIndex % identity.endpoints.length] ?? '';
    const end = await hold(endpoint, identity);
    session?.close();
    session = undefined;
    if (isOnline) deps.onSession(undefined);
    isOnline = false;
    endpointIndex += 1;
    feed({ type: 'link.ended', reason: end.reason });
    if (isStopped) return;
    if (snapshot.matches('halted')) return logger.error({ reason: end.reason }, 'the identity of this host was revoked; its microVMs go on, enroll it again to manage them');
    const delay = isHurried ? 0 : linkDelayMs(end, snapshot.context.failures, entropy.random());
    isHurried = false;
    logger.info({ reason: end.reason, delayMs: delay }, 'no session with the control plane');
    cancelRetry = clock.after(delay, begin);
  }

  function begin(): void {
    cancelRetry();
    running = connectOnce().catch(deps.onFatal);
  }

  /** One session from connect to end. Only a journal that can't be written escapes. */
  async function hold(endpoint: string, identity: Identity): Promise<LinkEnd> {
    let cancelDeadline = (): void => {};
    const beats = createBeats({ clock, leases: deps.leases });
    try {
      const facts = await deps.facts.read(AbortSignal.timeout(factsDeadlineMs));
      const known = await deps.registry.known();
      const opened = await deps.controlPlane.connect(endpoint, identity, { sessionId: sessionId(entropy.uuid()), facts, known, agentInstance, sentAtMs: clock.now().wallMs });
      session = opened;
      if (isStopped) return { reason: 'broken', retryAfterMs: 0 };
      sentFacts = JSON.stringify(facts);
      feed({ type: 'stream.opened' });
      cancelDeadline = clock.after(welcomeDeadlineMs, () => opened.close());
      for await (const message of opened.messages) {
        if (message.kind === 'goodbye') return { reason: message.reason, retryAfterMs: message.retryAfterMs };
        if (message.kind === 'welcome') cancelDeadline();
        await receive(message, opened, beats);
      }
      return { reason: 'broken', retryAfterMs: 0 };
    } catch (error) {
      if (!isAppError(error) || error.code === 'JOURNAL_FAILED') throw error;
      logger.warn({ code: error.code, reason: error.message, endpoint }, 'the session with the control plane failed');
      return { reason: error.code === 'HOST_REVOKED' ? 'revoked' : error.code === 'HOST_QUARANTINED' ? 'quarantined' : 'broken', retryAfterMs: 0 };
    } finally {
      cancelDeadline();
      beats.stop();
    }
  }

  async function receive(message: ControlMessage, target: ControlSession, beats: Beats): Promise<void> {
    switch (message.kind) {
      case 'welcome':
        feed({ type: 'welcome.received' });
        isOnline = true;
        logger.info({ endpoint: target.endpoint, heartbeatIntervalMs: message.heartbeatIntervalMs }, 'online');
        deps.onWelcome(message);
        beats.start(message.heartbeatIntervalMs, target);
        deps.onSession(target);
        return;
      case 'beatAck':
        return beats.acknowledged(message.sequence, message.leaseMs);
      case 'operation': {
        logger.info({ operationId: message.operation.id, microvmId: message.operation.microvmId, kind: message.operation.kind, revision: message.operation.revision }, 'received an operation');
        return answer(await deps.registry.accept(message.operation), target);
      }
      case 'cancel':
        return answer(await deps.registry.cancel(message.operationId), target);
      case 'mesh':
        return deps.onMeshOrder(message);
      case 'unreadable':
        logger.error({ operationId: message.operationId, reason: message.message }, 'a message of the control plane can not be read');
        if (message.operationId === null) return;
        return answer({ operationId: message.operationId, disposition: 'Refused', error: { code: 'INVALID_REQUEST', message: message.message } }, target);
      case 'goodbye':
        return;
    }
  }

  const answer = (receipt: Receipt, target: ControlSession): Promise<void> =>
    around(deps.faults, 'receipt.send', () => target.send({ kind: 'receipt', receipt }));

  async function factsChanged(): Promise<void> {
    const facts: HostFacts = await deps.facts.read(AbortSignal.timeout(factsDeadlineMs));
    const text = JSON.stringify(facts);
    if (!isOnline || session === undefined || text === sentFacts) return;
    sentFacts = text;
    await session.send({ kind: 'facts', facts });
  }

  return {
    start: begin,
    reconnect() {
      isHurried = true;
      if (session === undefined) return;
      session.close();
    },
    factsChanged: () => factsChanged().catch((error: unknown) => {
      if (!(error instanceof AppError)) throw error;
    }),
    async stop() {
      isStopped = true;
      cancelRetry();
      session?.close();
      await running;
    },
  };
}

const factsDeadlineMs = 5_000;
