/**
 * The services for agents put together, and what runs beside them: hints become pushes, a safety read
 * every poll interval finds what a lost hint missed and who lost the right to be connected, and beats
 * are flushed. Runs on every replica; leads nothing.
 */
import { EdgeServiceService, type EdgeServiceServer } from '#api/gen/nkudo/edge/v1/edge.pb.ts';
import { createCallers, type AccessTable, type Callers, type RegisteredService } from '#controller/grpc/access.ts';
import { duplex, unary, type CallDeps } from '#controller/grpc/calls.ts';
import { createBeats } from './beats.ts';
import { coalesced } from '#controller/domain/coalesced.ts';
import type { GatewayDeps } from './deps.ts';
import { createEnrollmentService } from './enrollment-service.ts';
import { goodbyeMessages, refusalOf, serveHeartbeat } from './heartbeat-service.ts';
import type { HostSession } from './host-session.ts';
import { createLeaseGrants } from './lease-grants.ts';
import { streamLogs } from './log-service.ts';
import { createLogStreams, type LogStream, type LogStreams } from './log-streams.ts';
import { createAgentPush, type AgentPush } from './agent-push.ts';
import { createMeshPush, type MeshPush } from './mesh-push.ts';
import { createAuthenticator, type HostCaller } from './peer-identity.ts';
import { reportExecutions } from './report-service.ts';
import { createSessionRegistry, type SessionRegistry } from './session-registry.ts';

/** Everything but enrollment and recovery needs the certificate of a host. */
export const edgeAccess: AccessTable = {
  '/nkudo.edge.v1.EnrollmentService/Enroll': 'public',
  '/nkudo.edge.v1.EnrollmentService/GetRecoveryNonce': 'public',
  '/nkudo.edge.v1.EnrollmentService/RecoverCertificate': 'public',
  '/nkudo.edge.v1.EnrollmentService/RenewCertificate': 'caller',
  '/nkudo.edge.v1.EdgeService/Heartbeat': 'caller',
  '/nkudo.edge.v1.EdgeService/ReportExecutions': 'caller',
  '/nkudo.edge.v1.EdgeService/StreamLogs': 'caller',
};

/** Identities that are read at once in a safety read; those asked for together are one statement. */
const identityReadsAtOnce = 1_000;
/** A beat waits for a part of the interval only, so that what is stored is nearly as fresh as what was heard. */
const flushesPerBeat = 4;
/** Changes of other replicas that come in this time share one look at all identities. */
const remoteIdentityDelayMs = 200;
/** A host that says nothing for so many beats loses its stream. */
const silentBeatsMax = 6;

export interface EdgeGateway {
  readonly services: readonly RegisteredService[];
  readonly callers: Callers<HostCaller>;
  /** Begins safety reads and flushes. */
  start(): void;
  /** Says goodbye to every host, stores the last beats, stops what runs beside the services. */
  stop(): Promise<void>;
}

export function createEdgeGateway(deps: GatewayDeps, calls: CallDeps): EdgeGateway {
  const sessions = createSessionRegistry(deps.metrics);
  const logStreams = createLogStreams();
  const beats = createBeats(deps);
  const callers = createCallers({ table: { ...edgeAccess, '/grpc.health.v1.Health/Check': 'public', '/grpc.health.v1.Health/Watch': 'public' }, authenticate: createAuthenticator(deps), log: deps.log });
  let isStopping = false;
  const heartbeat = { ...deps, beats, grants: createLeaseGrants(deps), sessions, isStopping: () => isStopping };
  const edge: EdgeServiceServer = {
    heartbeat: duplex(calls, async (stream, context) => serveHeartbeat(heartbeat, stream, { ...context, caller: callers.of(context.auth) })),
    reportExecutions: unary(calls, async (request, context) => reportExecutions(deps, request, { peer: context.peer, caller: callers.of(context.auth) })),
    streamLogs: duplex(calls, async (stream, context) => {
      const caller = callers.of(context.auth);
      await logStreams.guard(caller, stream, (guarded) => streamLogs(deps, guarded, caller));
    }),
  };
  const [meshPush, agentPush] = [createMeshPush(deps), createAgentPush(deps)];
  const orders = { refresh: async (all: readonly HostSession[]) => void (await Promise.all([meshPush.refresh(all), agentPush.refresh(all)])) };
  const safetyRead = createSafetyRead(deps, { sessions, logStreams, orders });
  const timers: NodeJS.Timeout[] = [];
  deps.hints.onHint((hint) => {
    if (hint.kind === 'operations') sessions.get(hint.hostId)?.wake();
    if (hint.kind === 'cancels') sessions.get(hint.hostId)?.wakeForCancels();
    if (hint.kind === 'recovery') void safetyRead.wakeWaiting();
    if (hint.kind === 'host') {
      const session = sessions.get(hint.hostId);
      void safetyRead.checkIdentity(session).then(() => (session === undefined ? undefined : orders.refresh([session])));
      void safetyRead.checkLogStreams(hint.hostId);
    }
  });
  // What waits for a host goes out at once; identities, which cost a read each, follow a moment later for all changes since.
  let identityTimer: NodeJS.Timeout | null = null;
  deps.hints.onRemoteChange(() => {
    void safetyRead.wakeWaiting();
    identityTimer ??= setTimeout(() => {
      identityTimer = null;
      void safetyRead.run();
    }, remoteIdentityDelayMs);
  });
  return {
    callers,
    services: [createEnrollmentService(deps, callers, calls), { definition: EdgeServiceService, implementation: edge }],
    start: () => {
      timers.push(setInterval(() => void safetyRead.run(), deps.settings.pollIntervalMs));
      timers.push(setInterval(() => void beats.flush(), deps.settings.heartbeatIntervalMs / flushesPerBeat));
    },
    stop: async () => {
      isStopping = true;
      for (const timer of timers) clearInterval(timer);
      if (identityTimer !== null) clearTimeout(identityTimer);
      for (const session of sessions.all()) session.dismiss('SHUTTING_DOWN');
      await beats.flush();
    },
  };
}

interface SafetyRead {
  /** Pushes what waits, and lets go of hosts that have to report again. Reads only; what is asked for during a run is covered by the next. Never throws. */
  wakeWaiting(): Promise<void>;
  /** Reads only. Joins a run under way. Never throws. */
  run(): Promise<void>;
  /** Ends the session of a host that was revoked, quarantined, replaced or is no longer approved; releases one that was approved. Never throws. */
  checkIdentity(session: HostSession | undefined): Promise<void>;
  /** As above, for the log streams of one host. */
  checkLogStreams(hostId: string): Promise<void>;
}

interface SafetyReadParts {
  readonly sessions: SessionRegistry;
  readonly logStreams: LogStreams;
  readonly orders: MeshPush & AgentPush;
}

function createSafetyRead(deps: GatewayDeps, { sessions, logStreams, orders }: SafetyReadParts): SafetyRead {
  let isRunning = false;
  const checkIdentity = async (session: HostSession | undefined): Promise<void> => {
    if (session === undefined) return;
    try {
      const identity = await deps.enrollments.identify(session.caller.identity.serial);
      const refusal = identity === null ? 'REVOKED' : refusalOf(identity);
      if (refusal !== null || identity === null) return session.dismiss(refusal, goodbyeMessages[refusal ?? 'REVOKED']);
      // A newer session, perhaps on another replica: of two streams of one host one is not the host any more.
      if (identity.currentSessionId !== undefined && identity.currentSessionId !== session.sessionId) return session.dismiss('REPLACED');
      if (identity.awaitsApproval && !session.isHeld) session.dismiss('NOT_APPROVED', goodbyeMessages.NOT_APPROVED);
      if (!identity.awaitsApproval && session.isHeld) session.release();
    } catch (error) {
      deps.log.warn({ err: error }, 'the identity of an open stream could not be read');
    }
  };
  const checkLogStream = async (stream: LogStream): Promise<void> => {
    try {
      const identity = await deps.enrollments.identify(stream.caller.identity.serial);
      const isExpired = stream.caller.notAfterMs <= deps.clock.nowMs();
      if (identity === null || refusalOf(identity) !== null || isExpired) stream.end(isExpired ? 'CERTIFICATE_EXPIRED' : identity?.isQuarantined === true ? 'HOST_QUARANTINED' : 'HOST_REVOKED');
    } catch (error) {
      deps.log.warn({ err: error }, 'the identity of an open stream could not be read');
    }
  };
  const checkAll = async (): Promise<void> => {
    const waiting = [...sessions.all().map((session) => () => checkIdentity(session)), ...logStreams.all().map((stream) => () => checkLogStream(stream))];
    const next = async (): Promise<void> => {
      for (let check = waiting.pop(); check !== undefined; check = waiting.pop()) await check();
    };
    await Promise.all(Array.from({ length: identityReadsAtOnce }, next));
  };
  const wakeWaiting = coalesced(async () => {
    try {
      const [pending, awaited] = await Promise.all([deps.dispatch.listHostsWithPending(deps.settings.replica), deps.recovery?.listAllAwaited() ?? []]);
      // They connect again at once, and tell then what they know.
      for (const { hostId } of awaited) sessions.get(hostId)?.dismiss('SHUTTING_DOWN');
      for (const { hostId, hasCancels } of pending) {
        if (hasCancels) sessions.get(hostId)?.wakeForCancels();
        else sessions.get(hostId)?.wake();
      }
    } catch (error) {
      deps.log.warn({ err: error }, 'undelivered operations could not be read');
    }
  });
  const endSilent = (): void => {
    const nowMs = deps.clock.nowMs();
    for (const session of sessions.all()) {
      if (session.silentMs > silentBeatsMax * deps.settings.heartbeatIntervalMs || session.caller.notAfterMs <= nowMs) session.dismiss(null);
      else if (session.needsClaim) session.wake();
    }
  };
  return {
    wakeWaiting,
    checkIdentity,
    checkLogStreams: async (hostId) => {
      for (const stream of logStreams.all()) if (stream.caller.identity.hostId === hostId) await checkLogStream(stream);
    },
    run: async () => {
      if (isRunning || (sessions.all().length === 0 && logStreams.all().length === 0)) return;
      isRunning = true;
      try {
        endSilent();
        await Promise.all([wakeWaiting(), checkAll(), orders.refresh(sessions.all())]);
      } finally {
        isRunning = false;
      }
    },
  };
}
