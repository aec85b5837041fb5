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
  /**
   * Appends one chunk under the lock of its cursor: bytes below the cursor are trimmed, a jump above it is stored
   * as a gap. Returns the next offset. A chunk of a microVM that is not bound to the host is dropped and
   * acknowledged.
   */
  append(tenantId: TenantId, hostId: HostId, chunk: LogChunk): Promise<{ readonly nextOffset: number }>;
  /** Chunks after `afterId`, oldest first, at most `limit` (≤ 256). */
  read(tenantId: TenantId, microvmId: MicroVMId, source: LogSource, afterId: number, limit: number): Promise<readonly StoredLogChunk[]>;
}
