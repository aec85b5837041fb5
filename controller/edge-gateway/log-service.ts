/**
 * Takes console and VMM bytes of hosts: each chunk is stored before it is acknowledged and before the
 * next one is read, so that a slow database slows the sender instead of filling this process.
 */
import { logSourceMap } from '#api/codec/edge-codec.ts';
import { id, integer, invalid, present } from '#api/codec/validate.ts';
import type { StreamLogsRequest, StreamLogsResponse } from '#api/gen/nkudo/edge/v1/edge.pb.ts';
import { microVMId } from '#api/model/ids.ts';
import type { LogChunk } from '#controller/ports/log-store.ts';
import type { Stream } from '#controller/grpc/calls.ts';
import type { GatewayDeps } from './deps.ts';
import { assertMayWork, type HostCaller } from './peer-identity.ts';

/** Largest chunk, bytes. */
export const logChunkBytesMax = 65_536;

/** @throws INVALID_REQUEST */
export function decodeLogChunk(message: StreamLogsRequest): LogChunk {
  const stream = present('stream', message.stream);
  if (message.data.byteLength > logChunkBytesMax) throw invalid('data', `must have at most ${logChunkBytesMax} bytes`);
  return {
    microvmId: id('stream.microvm_id', microVMId, stream.microvmId),
    source: logSourceMap.decode('stream.source', stream.source),
    incarnation: integer('stream.incarnation', stream.incarnation, 1),
    offset: integer('offset', message.offset, 0),
    data: message.data,
    gapBytes: integer('gap_bytes', message.gapBytes, 0),
  };
}

/** Runs until the host has no more to send. @throws INVALID_REQUEST, DATABASE_UNAVAILABLE */
export async function streamLogs(
  deps: Pick<GatewayDeps, 'logs' | 'metrics' | 'onLogStored'>,
  stream: Stream<StreamLogsRequest, StreamLogsResponse>,
  caller: HostCaller,
): Promise<void> {
  const { identity } = caller;
  assertMayWork(identity);
  for (let message = await stream.receive(); message !== null; message = await stream.receive()) {
    const chunk = decodeLogChunk(message);
    const { nextOffset } = await deps.logs.append(identity.tenantId, identity.hostId, chunk);
    deps.metrics.countLogBytes(chunk.data.byteLength);
    deps.onLogStored(chunk.microvmId);
    await stream.send({ stream: message.stream, nextOffset });
  }
}
