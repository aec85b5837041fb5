/** The ControlPlane port over gRPC with mutual TLS. One channel for each session, so that a renewed certificate is used at once. */
import type { ChannelCredentials } from '@grpc/grpc-js';
import { decodeOperation, decodeSecretValues, dispositionMap, encodeExecution, encodeHostFacts, encodeObservation, logSourceMap } from '#api/codec/edge-codec.ts';
import { decodeMeshOrder, encodeMeshReport } from '#api/codec/mesh-codec.ts';
import { decodeAgentOrder, encodeAgentReport } from '#api/codec/release-order-codec.ts';
import { decodeTimestamp, encodeTimestamp } from '#api/codec/timestamp.ts';
import {
  EdgeServiceClient,
  EnrollmentServiceClient,
  Goodbye_Reason,
  type HeartbeatRequest,
  type HeartbeatResponse,
  type LogStream_Source,
  type OperationReceipt_Disposition,
  type RenewCertificateResponse,
  type ReportExecutionsResponse,
} from '#api/gen/nkudo/edge/v1/edge.pb.ts';
import { isAppError } from '#api/model/error-codes.ts';
import { hostId, isUuid, microVMId, operationId, type HostId } from '#api/model/ids.ts';
import type { AgentMessage, ControlMessage, ControlPlane, ControlSession, GoodbyeReason, Hello, LogSession } from '../../ports/control-plane.ts';
import { channelOptions } from './channel.ts';
import { recoverCertificate } from './recovery.ts';
import { pipeStream } from './stream-pipe.ts';
import { createTolerantCredentials } from './tolerant-credentials.ts';
import { unary } from './unary.ts';

/** @param newestTimeMs newest time heard from the control plane, for a host whose clock is wrong; 0 when none was */
export function createControlPlaneGrpc(newestTimeMs: () => number): ControlPlane {
  return {
    connect: async (endpoint, identity, hello) => {
      const { trustBundlePem } = identity;
      return openSession(endpoint, { self: hostId(identity.hostId), secure: createTolerantCredentials({ trustBundlePem, client: identity }, newestTimeMs) }, hello);
    },
    recover: (endpoint, identity, facts, signal) => recoverCertificate(endpoint, { identity, facts, newestTimeMs }, signal),
  };
}

async function openSession(endpoint: string, { self, secure }: { readonly self: HostId; readonly secure: ChannelCredentials }, hello: Hello): Promise<ControlSession> {
  const client = new EdgeServiceClient(endpoint, secure, channelOptions);
  const pipe = pipeStream<HeartbeatRequest, HeartbeatResponse>(client.heartbeat());
  await pipe.send({
    message: {
      $case: 'hello',
      value: { sessionId: hello.sessionId, facts: encodeHostFacts(hello.facts), known: hello.known.map((known) => ({ ...known })), agentInstance: hello.agentInstance, sentAt: encodeTimestamp(hello.sentAtMs) },
    },
  });

  return {
    endpoint,
    messages: decodeMessages(pipe.received, self),
    send: (message) => pipe.send(encodeMessage(message)),
    report: (batch, signal) =>
      unary<ReportExecutionsResponse>(signal, (metadata, done) =>
        client.reportExecutions(
          { executions: batch.executions.map(encodeExecution), observations: batch.observations.map(encodeObservation) },
          metadata,
          done,
        ),
      ).then((response) => response.refused.map(({ id, errorCode }) => ({ id, code: errorCode }))),
    openLogs: () => openLogs(client),
    renewCertificate: async (csrDer, signal) => {
      const enrollment = new EnrollmentServiceClient(endpoint, secure, channelOptions);
      try {
        const response = await unary<RenewCertificateResponse>(signal, (metadata, done) => enrollment.renewCertificate({ csrDer: Buffer.from(csrDer) }, metadata, done));
        return { chainPem: response.certificateChainPem, trustBundlePem: response.trustBundlePem };
      } finally {
        enrollment.close();
      }
    },
    close() {
      pipe.cancel();
      client.close();
    },
  };
}

function encodeMessage(message: AgentMessage): HeartbeatRequest {
  switch (message.kind) {
    case 'beat':
      return { message: { $case: 'beat', value: { sequence: message.sequence, wantsLease: message.asking && true, holdsLease: message.asking?.holdsLease } } };
    case 'facts':
      return { message: { $case: 'facts', value: encodeHostFacts(message.facts) } };
    case 'mesh':
      return { message: { $case: 'mesh', value: encodeMeshReport(message.report) } };
    case 'agent':
      return { message: { $case: 'agent', value: encodeAgentReport(message.report) } };
    case 'receipt': {
      const { operationId: id, disposition, error } = message.receipt;
      return {
        message: {
          $case: 'receipt',
          value: {
            operationId: id,
            disposition: dispositionMap.encode(disposition) as OperationReceipt_Disposition, // The table holds the numbers of this enum.
            errorCode: error?.code ?? '',
            errorMessage: error?.message ?? '',
          },
        },
      };
    }
  }
}

async function* decodeMessages(received: AsyncIterable<HeartbeatResponse>, self: HostId): AsyncGenerator<ControlMessage> {
  for await (const response of received) {
    const decoded = decodeMessage(response, self);
    if (decoded !== null) yield decoded;
  }
}

const goodbyeReasons: Readonly<Record<number, GoodbyeReason>> = {
  [Goodbye_Reason.SHUTTING_DOWN]: 'shuttingDown',
  [Goodbye_Reason.REPLACED]: 'replaced',
  [Goodbye_Reason.REVOKED]: 'revoked',
  [Goodbye_Reason.QUARANTINED]: 'quarantined',
  [Goodbye_Reason.NOT_APPROVED]: 'notApproved',
};

/** Null for a kind of message that this version does not know. */
function decodeMessage({ message }: HeartbeatResponse, self: HostId): ControlMessage | null {
  switch (message?.$case) {
    case 'welcome': {
      const { heartbeatIntervalMs, endpoints, trustBundlePem, serverTime, renewNow, awaitsApproval } = message.value;
      return { kind: 'welcome', heartbeatIntervalMs: Math.min(heartbeatMaxMs, Math.max(heartbeatMinMs, heartbeatIntervalMs)), endpoints, trustBundlePem, serverTimeMs: serverTime === undefined ? null : decodeTimestamp('welcome.server_time', serverTime), renewNow, awaitsApproval };
    }
    case 'ack':
      return { kind: 'beatAck', sequence: message.value.sequence, ...(message.value.leaseMs === undefined ? {} : { leaseMs: message.value.leaseMs }) };
    case 'operation':
      try {
        return { kind: 'operation', operation: decodeOperation(message.value, self), secrets: decodeSecretValues(message.value) };
      } catch (error) {
        if (!isAppError(error)) throw error;
        const id = message.value.operationId;
        return { kind: 'unreadable', operationId: isUuid(id) ? operationId(id) : null, message: error.message };
      }
    case 'mesh':
      try {
        return { kind: 'mesh', ...decodeMeshOrder(message.value) };
      } catch (error) {
        if (!isAppError(error)) throw error;
        return { kind: 'unreadable', operationId: null, message: error.message };
      }
    case 'agent':
      try {
        return { kind: 'agent', order: decodeAgentOrder(message.value) };
      } catch (error) {
        if (!isAppError(error)) throw error;
        return { kind: 'unreadable', operationId: null, message: error.message };
      }
    case 'cancel':
      return isUuid(message.value.operationId) ? { kind: 'cancel', operationId: operationId(message.value.operationId) } : null;
    case 'goodbye':
      return { kind: 'goodbye', reason: goodbyeReasons[message.value.reason] ?? 'unspecified', retryAfterMs: message.value.retryAfterMs, message: message.value.message };
    default:
      return null;
  }
}

/** A welcome can't make an agent flood the control plane or fall silent. */
const heartbeatMinMs = 50;
const heartbeatMaxMs = 60_000;

function openLogs(client: EdgeServiceClient): LogSession {
  const pipe = pipeStream(client.streamLogs());
  const source = logSourceMap.encode('serial') as LogStream_Source; // The table holds the numbers of this enum.
  async function* acks() {
    for await (const { stream, nextOffset } of pipe.received) {
      if (stream !== undefined && isUuid(stream.microvmId)) yield { microvmId: microVMId(stream.microvmId), incarnation: stream.incarnation, nextOffset };
    }
  }
  return {
    send: ({ microvmId, incarnation, offset, data, gapBytes, readAtMs }) =>
      pipe.send({ stream: { microvmId, source, incarnation }, offset, data: Buffer.from(data), gapBytes, readAt: encodeTimestamp(readAtMs) }),
    acks: acks(),
    close: () => pipe.cancel(),
  };
}
