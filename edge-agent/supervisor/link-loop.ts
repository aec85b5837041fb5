/**
 * Keeps a session with the control plane: connects, says hello, beats, hands operations to the
 * registry and answers with receipts, and after an end waits as the reason asks. MicroVMs are never
 * touched by what happens here: the agent does offline everything that it does online.
 */
import { transition } from 'xstate';
import { AppError, isAppError } from '#api/model/error-codes.ts';
import { sessionId } from '#api/model/ids.ts';
import { X509Certificate } from 'node:crypto';
import type { HostFacts } from '#api/model/host.ts';
import { linkDelayMs, type LinkEnd } from '../domain/link-delay.ts';
import { around, type EdgeFaultPoints } from '../fault-points.ts';
import { controlLinkMachine, type ControlLinkEvent, type ControlLinkSnapshot } from '../machines/control-link.machine.ts';
import type { Clock, Entropy } from '../ports/clock.ts';
import type { ControlMessage, ControlPlane, ControlSession, Receipt, RenewedCertificate } from '../ports/control-plane.ts';
import type { HostFactsSource } from '../ports/host-facts.ts';
import type { Identity } from '../ports/identity-store.ts';
import type { Logger } from '../ports/logger.ts';
import { createBeats, type Beats } from './beats.ts';
import type { LeaseKeeper } from './lease-keeper.ts';
import type { MicroVMRegistry } from './microvm-registry.ts';
import type { TrustedTime } from './trusted-time.ts';

export interface LinkLoopDeps {
  readonly controlPlane: ControlPlane;
  readonly time: TrustedTime;
  /** Makes a certificate durable that was got by a proof of the key. */
  readonly onRecovered: (recovered: RenewedCertificate) => void;
  readonly registry: MicroVMRegistry;
  readonly facts: HostFactsSource;
  /** The identity as it is now; it changes with renewals. */
  readonly identity: () => Identity;
  /** A welcome may bring other endpoints and roots. */
  readonly onWelcome: (welcome: ControlMessage & { kind: 'welcome' }) => void;
  /** Takes an order about the mesh; never waits for it. */
  readonly onMeshOrder: (message: ControlMessage & { kind: 'mesh' }) => void;
  /** Takes an order for the agent's own version; never waits for it. */
  readonly onAgentOrder: (message: ControlMessage & { kind: 'agent' }) => void;
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
  /** Opens a session with the renewed certificate and ends the old one once it stands: the link is not lost in between. */
  handOver(): void;
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
  /** A session that is to follow the present one, until it does. */
  let successor: Promise<LinkEnd> | undefined;
  const open = new Set<ControlSession>();
  /** Serial number of the certificate that a proof of the key gave in this run: a wrong clock asks for no second one. */
  let recoveredSerial = '';
  let isRecoveryDue = false;
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
    const end = await keep(endpoint, identity);
    for (const each of open) each.close();
    open.clear();
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

  /** Sessions that follow each other without a gap. */
  async function keep(endpoint: string, identity: Identity): Promise<LinkEnd> {
    const refused = await recoverIfDue(endpoint, identity);
    if (refused !== null) return refused;
    let end = await hold(endpoint, deps.identity());
    for (let next = successor; next !== undefined; next = successor) {
      successor = undefined;
      end = await next;
    }
    return end;
  }

  /** Null when the certificate is good, or is a new one now. */
  async function recoverIfDue(endpoint: string, identity: Identity): Promise<LinkEnd | null> {
    const certificate = new X509Certificate(identity.chainPem);
    const isExpired = certificate.validToDate.getTime() <= deps.time.now() && certificate.serialNumber !== recoveredSerial;
    if (!isExpired && !isRecoveryDue) return null;
    try {
      logger.info({ expiredAt: certificate.validTo, endpoint }, 'the certificate is not accepted any more: asking for a new one with a proof of the key');
      const facts = await deps.facts.read(AbortSignal.timeout(factsDeadlineMs));
      const recovered = await deps.controlPlane.recover(endpoint, identity, facts, AbortSignal.timeout(recoveryDeadlineMs));
      deps.onRecovered(recovered);
      recoveredSerial = new X509Certificate(recovered.chainPem).serialNumber;
      isRecoveryDue = false;
      logger.info({}, 'the certificate was recovered');
      return null;
    } catch (error) {
      if (!isAppError(error) || error.code === 'JOURNAL_FAILED') throw error;
      const isOver = error.code === 'RECOVERY_WINDOW_PASSED';
      logger[isOver ? 'error' : 'warn']({ code: error.code, reason: error.message, whatToDo: error.remedy, endpoint }, 'the certificate could not be recovered');
      // Unexpired by the control plane's clock and refused all the same: the ordinary way is tried again.
      if (!isExpired) isRecoveryDue = false;
      return { reason: reasonOf(error), retryAfterMs: isOver ? windowPassedRetryMs : 0 };
    }
  }

  /** One session from connect to end. Only a journal that can't be written escapes. */
  async function hold(endpoint: string, identity: Identity): Promise<LinkEnd> {
    let cancelDeadline = (): void => {};
    let opened: ControlSession | undefined;
    const beats = createBeats({ clock, leases: deps.leases });
    try {
      const facts = await deps.facts.read(AbortSignal.timeout(factsDeadlineMs));
      const known = await deps.registry.known();
      const target = await deps.controlPlane.connect(endpoint, identity, { sessionId: sessionId(entropy.uuid()), facts, known, agentInstance, sentAtMs: clock.now().wallMs });
      opened = target;
      open.add(target);
      session ??= target;
      if (isStopped) return { reason: 'broken', retryAfterMs: 0 };
      sentFacts = JSON.stringify(facts);
      feed({ type: 'stream.opened' });
      cancelDeadline = clock.after(welcomeDeadlineMs, () => target.close());
      for await (const message of target.messages) {
        if (message.kind === 'goodbye') return said(message);
        if (message.kind === 'welcome') cancelDeadline();
        await receive(message, target, beats);
      }
      return { reason: 'broken', retryAfterMs: 0 };
    } catch (error) {
      if (!isAppError(error) || error.code === 'JOURNAL_FAILED') throw error;
      logger.warn({ code: error.code, error: error.message, endpoint }, 'the session with the control plane failed');
      // The control plane does not know an expired certificate at all, and by our clock it may not even be one.
      if (error.code === 'UNAUTHENTICATED' || error.code === 'CERTIFICATE_EXPIRED') isRecoveryDue = true;
      return { reason: reasonOf(error), retryAfterMs: 0 };
    } finally {
      cancelDeadline();
      beats.stop();
      if (opened !== undefined) {
        opened.close();
        open.delete(opened);
      }
    }
  }

  function said({ reason, retryAfterMs, message }: ControlMessage & { kind: 'goodbye' }): LinkEnd {
    if (message !== '') logger.warn({ reason, detail: message }, 'the control plane ended the session');
    return { reason, retryAfterMs };
  }

  /** The new one stands: the old one has nothing more to do. */
  function takeOver(target: ControlSession): void {
    const former = session;
    session = target;
    isHurried = false;
    if (former !== undefined && former !== target) former.close();
  }

  async function receive(message: ControlMessage, target: ControlSession, beats: Beats): Promise<void> {
    switch (message.kind) {
      case 'welcome':
        feed({ type: 'welcome.received' });
        takeOver(target);
        isOnline = true;
        if (message.serverTimeMs !== null) deps.time.learn(message.serverTimeMs);
        if (message.awaitsApproval) logger.warn({}, 'this host waits for its approval: nothing is ordered until spec.approved of its Host is true');
        logger.info({ endpoint: target.endpoint, heartbeatIntervalMs: message.heartbeatIntervalMs }, 'online');
        deps.onWelcome(message);
        beats.start(message.heartbeatIntervalMs, target);
        deps.onSession(target);
        return;
      case 'beatAck':
        return beats.acknowledged(message.sequence, message.leaseMs);
      case 'operation': {
        logger.info({ operationId: message.operation.id, microvmId: message.operation.microvmId, kind: message.operation.kind, revision: message.operation.revision }, 'received an operation');
        return answer(await deps.registry.accept(message.operation, message.secrets), target);
      }
      case 'cancel':
        return answer(await deps.registry.cancel(message.operationId), target);
      case 'mesh':
        return deps.onMeshOrder(message);
      case 'agent':
        return deps.onAgentOrder(message);
      case 'unreadable':
        logger.error({ operationId: message.operationId, error: message.message }, 'a message of the control plane can not be read');
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
    handOver() {
      const former = session;
      if (former === undefined || !isOnline || isStopped) return;
      isHurried = true;
      successor = hold(former.endpoint, deps.identity()).catch((error: unknown) => {
        deps.onFatal(error);
        return { reason: 'broken', retryAfterMs: 0 };
      });
      // When the new session never stood, the old one ends too, and the ordinary way is taken.
      void successor.then(() => {
        if (session === former) former.close();
      });
    },
    factsChanged: () => factsChanged().catch((error: unknown) => {
      if (!(error instanceof AppError)) throw error;
    }),
    async stop() {
      isStopped = true;
      cancelRetry();
      for (const each of open) each.close();
      await running;
    },
  };
}

const factsDeadlineMs = 5_000;
const recoveryDeadlineMs = 30_000;
/** A certificate that is past recovery stays so, unless somebody there widens the window. */
const windowPassedRetryMs = 3_600_000;

function reasonOf(error: AppError): LinkEnd['reason'] {
  return error.code === 'HOST_REVOKED' ? 'revoked' : error.code === 'HOST_QUARANTINED' ? 'quarantined' : 'broken';
}
