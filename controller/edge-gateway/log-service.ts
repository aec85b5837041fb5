/**
 * Takes console and VMM bytes of hosts: each chunk is stored before it is acknowledged. What arrives meanwhile is bounded,
 * so that a slow database slows the sender instead of filling this process.
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

/** Received and not stored: so much waits for the database, and no more is read from the host until it is stored. */
const waitingBytesMax = 524_288;
const waitingChunksMax = 256;

interface Received {
  readonly message: StreamLogsRequest;
  readonly chunk: LogChunk;
}

type Receiving = { readonly received: readonly Received[] } | { readonly failure: unknown } | null;

/**
 * Reads ahead of the one who takes: what arrives while a batch is being stored is the next batch, so that one commit
 * serves few chunks of a quiet host and many of a talkative one.
 */
function createReadAhead(stream: Pick<Stream<StreamLogsRequest, StreamLogsResponse>, 'receive'>): { take(): Promise<Receiving> } {
  let waiting: Received[] = [];
  let bytes = 0;
  let end: { readonly failure?: unknown } | null = null;
  let wakeTaker = (): void => {};
  let wakeReader = (): void => {};
  const read = async (): Promise<void> => {
    for (let message = await stream.receive(); message !== null; message = await stream.receive()) {
      const chunk = decodeLogChunk(message);
      waiting.push({ message: { ...message, data: Buffer.alloc(0) }, chunk });
      bytes += chunk.data.byteLength;
      wakeTaker();
      while (bytes >= waitingBytesMax || waiting.length >= waitingChunksMax) await new Promise<void>((resolve) => (wakeReader = resolve));
    }
  };
  read().then(
    () => (end = {}),
    (failure: unknown) => (end = { failure }),
  ).finally(() => wakeTaker());
  return {
    take: async () => {
      while (waiting.length === 0 && end === null) await new Promise<void>((resolve) => (wakeTaker = resolve));
      if (waiting.length === 0) return end !== null && 'failure' in end ? { failure: end.failure } : null;
      const received = waiting;
      waiting = [];
      bytes = 0;
      wakeReader();
      return { received };
    },
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
  const ahead = createReadAhead(stream);
  for (let taken = await ahead.take(); taken !== null; taken = await ahead.take()) {
    if ('failure' in taken) throw taken.failure;
    const chunks = taken.received.map(({ chunk }) => chunk);
    const nextOffsets = await deps.logs.appendAll(identity.tenantId, identity.hostId, chunks);
    deps.metrics.countLogBytes(chunks.reduce((sum, chunk) => sum + chunk.data.byteLength, 0));
    for (const microvmId of new Set(chunks.map((chunk) => chunk.microvmId))) deps.onLogStored(microvmId);
    for (const [index, { message }] of taken.received.entries()) await stream.send({ stream: message.stream, nextOffset: nextOffsets[index] ?? 0 });
  }
}
