/**
 * Opens and closes the sessions of hosts: hello, session row, welcome, then the session runs. A host
 * that may not work is told why and when to come again.
 */
import { decodeHostFacts, decodeKnown } from '#api/codec/edge-codec.ts';
import { decodeTimestamp, encodeTimestamp } from '#api/codec/timestamp.ts';
import { id, invalid, text } from '#api/codec/validate.ts';
import type { Hello } from '#api/gen/nkudo/edge/v1/edge.pb.ts';
import { AppError, isAppError, type ErrorCode } from '#api/model/error-codes.ts';
import { sessionId } from '#api/model/ids.ts';
import type { CallContext } from '#controller/grpc/calls.ts';
import type { Beats } from './beats.ts';
import type { GatewayDeps } from './deps.ts';
import { HostSession, sendGoodbye, type GoodbyeReason, type HostStream } from './host-session.ts';
import type { LeaseGrants } from './lease-grants.ts';
import type { HostCaller } from './peer-identity.ts';
import type { SessionRegistry } from './session-registry.ts';

/** A peer that opens a stream and says nothing is dropped after this. */
const helloDeadlineMs = 10_000;

export type HeartbeatDeps = GatewayDeps & { readonly beats: Beats; readonly grants: LeaseGrants; readonly sessions: SessionRegistry; readonly isStopping: () => boolean };

/** Why a host may not have a session now; null when it may. */
export function refusalOf(identity: HostCaller['identity']): GoodbyeReason | null {
  if (identity.isRevoked) return 'REVOKED';
  if (identity.isQuarantined) return 'QUARANTINED';
  return null;
}

/** A host whose wall clock differs by more than this is named in the log; what a hello takes on its way is far below. */
const clockSkewMaxMs = 5_000;

/** Longer than the session of an agent that is gone without a word counts as alive; then the host is heard anew. */
const contestedMs = 45_000;

/** What the person who looks at the host is told with a goodbye. */
export const goodbyeMessages: Readonly<Partial<Record<GoodbyeReason, string>>> = {
  REVOKED: 'the identity of this host was revoked; its microVMs go on; to manage them again: nkudo-edge enroll --replace with a new token',
  QUARANTINED: 'two machines, or two agents with copies of one state directory, use the identity of this host; its microVMs go on; the Host object says who they are and what to type',
  NOT_APPROVED: 'this host waits for its approval: set spec.approved of its Host to true',
};

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
  const refuse = (reason: GoodbyeReason): Promise<void> => sendGoodbye(stream, reason, goodbyeMessages[reason]);
  // Whoever claims the identity of a quarantined host is heard, so that a person sees between whom to choose.
  if (refusal !== null && refusal !== 'QUARANTINED') return refuse(refusal);
  const hello = await receiveHello(stream);
  // Positive: the clock of the host is ahead. Older agents do not say.
  const clockSkewMs = hello.sentAt === undefined ? null : decodeTimestamp('hello.sent_at', hello.sentAt) - deps.clock.nowMs();
  const record = { tenantId, hostId, sessionId: id('hello.session_id', sessionId, hello.sessionId) };
  const input = { ...record, replica: deps.settings.replica, facts: decodeHostFacts('hello.facts', hello.facts), known: decodeKnown('hello.known', hello.known), certificateSerial: serial, agentInstance: text('hello.agent_instance', hello.agentInstance, { max: 64, allowEmpty: true }) };
  // What a process said that is gone by now must not count as its return.
  if (stream.signal.aborted) return;
  let renewNow: boolean;
  let isContested: boolean;
  try {
    const { forgotten, ...opened } = await deps.hosts.openSession(input, { kind: 'host', name: hostId, from: peer });
    ({ renewNow, isContested } = opened);
    for (const microvmId of forgotten) deps.hints.publish({ kind: 'microvm', tenantId: input.tenantId, microvmId });
  } catch (error) {
    const reason = isAppError(error) ? goodbyeByCode[error.code] : undefined;
    if (reason === undefined) throw error;
    // A quarantine that was found just now ends the stream of the other one, on any replica.
    if (reason === 'QUARANTINED') deps.hints.publish({ kind: 'host', tenantId, hostId });
    return refuse(reason);
  }
  const session = new HostSession(deps, { caller, sessionId: record.sessionId, stream, peer, isHeld: caller.identity.awaitsApproval });
  deps.sessions.add(session);
  const log = deps.log.child({ hostId, sessionId: record.sessionId, peer });
  log.info('a host connected');
  if (clockSkewMs !== null && Math.abs(clockSkewMs) > clockSkewMaxMs) log.warn({ skewMs: clockSkewMs }, 'the clock of a host differs from the clock here; times that it gives are off by that');
  const settling = isContested ? setTimeout(() => session.dismiss('REPLACED'), contestedMs) : undefined;
  settling?.unref();
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
          renewNow,
          awaitsApproval: session.isHeld,
        },
      },
    });
    deps.hints.publish({ kind: 'host', tenantId, hostId });
    session.wake();
    await session.run();
  } finally {
    clearTimeout(settling);
    deps.sessions.remove(session);
    log.info('a host disconnected');
    // Without this the row is only older than it could be: the next session replaces it.
    await deps.hosts.closeSession(record).catch((error: unknown) => log.warn({ err: error }, 'the session could not be closed'));
  }
}
