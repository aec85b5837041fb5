/**
 * Where lines of logs go beside Postgres, and how far they went. Delivery is at least once, from rows that are committed:
 * a sink that is away delays its lines and nothing else, until retention drops them.
 */
import type { MicroVMId, TenantId } from '#api/model/ids.ts';
import type { LogSource } from './log-store.ts';

/** One line, or what was lost between two. */
export interface LogLine {
  readonly tenantId: TenantId;
  readonly namespace: string;
  readonly siteName: string;
  readonly microvmId: MicroVMId;
  readonly microvmName: string;
  readonly source: LogSource;
  readonly incarnation: number;
  /** Of its first byte. The same line has the same offset and time whenever it is delivered. */
  readonly offset: number;
  /** Without its line end; bytes that are no UTF-8 are replaced. */
  readonly text: string;
  /** Bytes lost before `offset`; 0 for a line. */
  readonly gapBytes: number;
  /** When the controller stored its end. */
  readonly receivedAtMs: number;
}

export interface LogSink {
  /** `loki` or `otlp`; the name under which progress is kept. */
  readonly name: string;
  /**
   * Resolves when the sink has taken the lines. @throws UNAVAILABLE when it may take them later; INVALID_REQUEST when it
   * never will, so that they are left out
   */
  deliver(lines: readonly LogLine[]): Promise<void>;
  close(): Promise<void>;
}

/** A row of the log store with the names that a sink shows. */
export interface ExportedRow {
  /** Position in the order of commits; opaque, for {@link LogExportStore.advance}. */
  readonly position: { readonly xact: string; readonly id: number };
  readonly namespace: string;
  readonly siteName: string;
  readonly microvmId: MicroVMId;
  readonly microvmName: string;
  readonly source: LogSource;
  readonly incarnation: number;
  readonly offset: number;
  readonly gapBytes: number;
  readonly data: Uint8Array;
  readonly receivedAtMs: number;
}

export interface LogExportStore {
  /** Tenants that have rows which the sink has not. Reads only. */
  tenantsWithNews(sink: string): Promise<readonly TenantId[]>;
  /** The next rows of the tenant in the order of their commits; rows of open transactions, and those behind them, come later. At most about 2 MiB. */
  next(tenantId: TenantId, sink: string): Promise<readonly ExportedRow[]>;
  /** Everything up to the row was delivered. */
  advance(tenantId: TenantId, sink: string, position: ExportedRow['position']): Promise<void>;
  /** The unfinished line before a row, at most 64 KiB: what follows the last line end of its boot. */
  unfinished(tenantId: TenantId, row: ExportedRow): Promise<Uint8Array>;
}
