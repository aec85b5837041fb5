/** Reads a stored log from its end or its beginning and follows it; the reader's back-pressure stops the reading. */
import { id, integer } from '#api/codec/validate.ts';
import type { TailLogsRequest, TailLogsResponse } from '#api/gen/nkudo/v1/fleet.pb.ts';
import { microVMId, type TenantId } from '#api/model/ids.ts';
import type { Outgoing } from '#controller/grpc/calls.ts';
import type { LogStore, StoredLogChunk } from '#controller/ports/log-store.ts';
import { decodeLogSource, encodeLogChunk } from './fleet-codec.ts';
import type { WakeUps } from './wake-ups.ts';

const tailBytesMax = 1_048_576;
const readLimit = 64;
/** Longest time between two looks, milliseconds: bytes that another replica took wake nobody here. */
const lookIntervalMs = 1_000;

export interface TailDeps {
  readonly logs: Pick<LogStore, 'read' | 'readLast'>;
  readonly wakeUps: WakeUps;
}

/** The last `bytes` of the chunks, the first of them cut. */
export function lastBytes(chunks: readonly StoredLogChunk[], bytes: number): readonly StoredLogChunk[] {
  const kept: StoredLogChunk[] = [];
  let left = bytes;
  for (const chunk of chunks.toReversed()) {
    if (left <= 0) break;
    const cut = Math.max(0, chunk.data.byteLength - left);
    kept.push(cut === 0 ? chunk : { ...chunk, offset: chunk.offset + cut, data: chunk.data.subarray(cut), gapBytes: 0 });
    left -= chunk.data.byteLength - cut;
  }
  return kept.toReversed();
}

/** What of the chunk is not before the place; null when nothing is. */
export function restOf(chunk: StoredLogChunk, place: { readonly incarnation: number; readonly fromOffset: number }): StoredLogChunk | null {
  if (chunk.incarnation !== place.incarnation) return chunk.incarnation > place.incarnation ? chunk : null;
  const known = place.fromOffset - chunk.offset;
  if (known <= 0) return chunk;
  return known >= chunk.data.byteLength ? null : { ...chunk, offset: chunk.offset + known, gapBytes: 0, data: chunk.data.subarray(known) };
}

/** Runs to the end of the log, or with `follow` until the reader goes. @throws INVALID_REQUEST, DATABASE_UNAVAILABLE */
export async function tailLogs(
  deps: TailDeps,
  out: Outgoing<TailLogsResponse>,
  input: { readonly tenantId: TenantId; readonly request: TailLogsRequest },
): Promise<void> {
  const { tenantId, request } = input;
  const microvmId = id('microvm_uid', microVMId, request.microvmUid);
  const source = decodeLogSource(request.source);
  const tailBytes = integer('tail_bytes', request.tailBytes, 0, tailBytesMax);
  const stored = deps.wakeUps.subscribe(`log/${microvmId}`, out.signal);
  let afterId = 0;
  const next = async (): Promise<readonly StoredLogChunk[]> => {
    const chunks = await deps.logs.read(tenantId, microvmId, source, afterId, readLimit);
    afterId = chunks.at(-1)?.id ?? afterId;
    return chunks;
  };
  const send = async (chunks: readonly StoredLogChunk[]): Promise<void> => {
    for (const chunk of chunks) {
      const rest = restOf(chunk, request);
      if (rest !== null) await out.send(encodeLogChunk(rest));
    }
  };
  if (tailBytes > 0) {
    const tail = await deps.logs.readLast(tenantId, microvmId, source, tailBytes);
    afterId = tail.at(-1)?.id ?? 0;
    await send(lastBytes(tail, tailBytes));
  }
  while (!out.signal.aborted) {
    const chunks = await next();
    await send(chunks);
    if (chunks.length > 0) continue;
    if (!request.follow) return;
    await stored.next(lookIntervalMs);
  }
}
