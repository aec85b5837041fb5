/**
 * Opens and closes the sessions of hosts: hello, session row, welcome, then the session runs. A host
 * that may not work is told why and when to come again.
 */
import { decodeHostFacts, decodeKnown } from '#api/codec/edge-codec.ts';
import { encodeTimestamp } from '#api/codec/timestamp.ts';
import { id, invalid } from '#api/codec/validate.ts';
import type { Hello } from '#api/gen/nkudo/edge/v1/edge.pb.ts';
import { AppError, isAppError, type ErrorCode } from '#api/model/error-codes.ts';
import { sessionId } from '#api/model/ids.ts';
import type { CallContext } from '#controller/grpc/calls.ts';
import type { Beats } from './beats.ts';
import type { GatewayDeps } from './deps.ts';
import { HostSession, sendGoodbye, type GoodbyeReason, type HostStream } from './host-session.ts';
import type { HostCaller } from './peer-identity.ts';
import type { SessionRegistry } from './session-registry.ts';

/** A peer that opens a stream and says nothing is dropped after this. */
const helloDeadlineMs = 10_000;

export type HeartbeatDeps = GatewayDeps & { readonly beats: Beats; readonly sessions: SessionRegistry; readonly isStopping: () => boolean };

/** Why a host may not have a session now; null when it may. */
export function refusalOf(identity: HostCaller['identity']): GoodbyeReason | null {
  if (identity.isRevoked) return 'REVOKED';
  if (identity.isQuarantined) return 'QUARANTINED';
  if (identity.awaitsApproval) return 'NOT_APPROVED';
  return null;
}

/** Refusals of the store that tell the host to stay away. */
const goodbyeByCode: Readonly<Partial<Record<ErrorCode, GoodbyeReason>>> = { HOST_REVOKED: 'REVOKED', HOST_QUARANTINED: 'QUARANTINED' };

async function receiveHello(stream: HostStream): Promise<Hello> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new AppError('DEADLINE_EXCEEDED', 'no hello came')), helloDeadlineMs);
  });
  try {
    const first = await Promise.race([stream.receive(), late]);
    if (first?.message?.$case !== 'hello') throw invalid('message', 'must be hello first');
    return first.message.value;
  } finally {
    clearTimeout(timer);
  }
}

/** Runs as long as the stream is open. @throws INVALID_REQUEST, DEADLINE_EXCEEDED, DATABASE_UNAVAILABLE */
export async function serveHeartbeat(deps: HeartbeatDeps, stream: HostStream, context: CallContext & { readonly caller: HostCaller }): Promise<void> {
  const { caller, peer } = context;
  const { tenantId, hostId, serial } = caller.identity;
  const refusal = deps.isStopping() ? 'SHUTTING_DOWN' : refusalOf(caller.identity);
  if (refusal !== null) return sendGoodbye(stream, refusal);
  const hello = await receiveHello(stream);
  const record = { tenantId, hostId, sessionId: id('hello.session_id', sessionId, hello.sessionId) };
  const input = { ...record, replica: deps.settings.replica, facts: decodeHostFacts('hello.facts', hello.facts), known: decodeKnown('hello.known', hello.known), certificateSerial: serial };
  try {
    const { forgotten } = await deps.hosts.openSession(input, { kind: 'host', name: hostId, from: peer });
    for (const microvmId of forgotten) deps.hints.publish({ kind: 'microvm', tenantId: input.tenantId, microvmId });
  } catch (error) {
    const reason = isAppError(error) ? goodbyeByCode[error.code] : undefined;
    if (reason === undefined) throw error;
    return sendGoodbye(stream, reason);
  }
  const session = new HostSession(deps, { caller, sessionId: record.sessionId, stream, peer });
  deps.sessions.add(session);
  const log = deps.log.child({ hostId, sessionId: record.sessionId, peer });
  log.info('a host connected');
  try {
    await stream.send({
      message: {
        $case: 'welcome',
        value: {
          sessionId: record.sessionId,
          heartbeatIntervalMs: deps.settings.heartbeatIntervalMs,
          serverTime: encodeTimestamp(deps.clock.nowMs()),
          endpoints: [...deps.settings.endpoints()],
          trustBundlePem: deps.pki.trustBundlePem(),
          renewNow: false,
          awaitsApproval: false,
        },
      },
    });
    deps.hints.publish({ kind: 'host', tenantId, hostId });
    session.wake();
    await session.run();
  } finally {
    deps.sessions.remove(session);
    log.info('a host disconnected');
    // Without this the row is only older than it could be: the next session replaces it.
    await deps.hosts.closeSession(record).catch((error: unknown) => log.warn({ err: error }, 'the session could not be closed'));
  }
}
