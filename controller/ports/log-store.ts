/** Console and VMM logs by stream and offset: each byte once, in order, gaps recorded. */
import type { HostId, MicroVMId, TenantId } from '#api/model/ids.ts';

export type LogSource = 'serial' | 'vmm';

export interface LogChunk {
  readonly microvmId: MicroVMId;
  readonly source: LogSource;
  /** Number of the boot, from 1. */
  readonly incarnation: number;
  readonly offset: number;
  readonly data: Uint8Array;
  readonly gapBytes: number;
}

export interface StoredLogChunk extends Omit<LogChunk, 'microvmId' | 'source'> {
  /** Order within the stream over incarnations. */
  readonly id: number;
  readonly receivedAtMs: number;
}

export interface LogStore {
  /** As {@link appendAll} with one chunk. */
  append(tenantId: TenantId, hostId: HostId, chunk: LogChunk): Promise<{ readonly nextOffset: number }>;
  /**
   * Appends chunks of one host, in their order and in one commit, under the locks of their streams: bytes below a
   * stream's cursor are trimmed, a jump above it is stored as a gap, also by a chunk without bytes. Returns for each
   * chunk the first offset of its stream that is not stored. Chunks of a microVM that is not bound to the host are
   * dropped and acknowledged. Chunks that are all stored already write nothing.
   */
  appendAll(tenantId: TenantId, hostId: HostId, chunks: readonly LogChunk[]): Promise<readonly number[]>;
  /** Chunks after `afterId`, oldest first, at most `limit` (≤ 256). */
  read(tenantId: TenantId, microvmId: MicroVMId, source: LogSource, afterId: number, limit: number): Promise<readonly StoredLogChunk[]>;
  /** The chunks that hold the last `bytes` (≤ 1 MiB), oldest first and whole, but at most the last 4096. */
  readLast(tenantId: TenantId, microvmId: MicroVMId, source: LogSource, bytes: number): Promise<readonly StoredLogChunk[]>;
}
