/**
 * Logs by stream and offset. The cursor of a stream is locked and advanced in the transaction that inserts, so each
 * byte is stored once, in order, and what is missing is recorded as a gap. The day's partition is made when it is
 * missing, so that no timer has to.
 */
import { AppError, isAppError } from '#api/model/error-codes.ts';
import type { HostId, MicroVMId, TenantId } from '#api/model/ids.ts';
import type { LogChunk, LogSource, LogStore } from '#controller/ports/log-store.ts';
import type { Transactions, Tx } from '../tx.ts';

/** Most chunks that one read returns. */
const readMax = 256;
/** Daily partitions made ahead when one is missing. */
const partitionDaysAhead = 14;
/** No partition takes the row: https://www.postgresql.org/docs/current/ddl-partitioning.html */
const checkViolation = '23514';

export function createLogStore(transactions: Transactions): LogStore {
  const append = (tenantId: TenantId, hostId: HostId, chunk: LogChunk): Promise<{ readonly nextOffset: number }> =>
    transactions.tenant(tenantId, (tx) => appendChunk(tx, { tenantId, hostId, chunk }));
  return {
    append: async (tenantId, hostId, chunk) => {
      try {
        return await append(tenantId, hostId, chunk);
      } catch (error) {
        if (!isAppError(error) || error.details['sqlstate'] !== checkViolation) throw error;
        await transactions.systemQuery({ name: 'ensure-log-partitions', text: 'select nkudo.ensure_log_partitions($1)' }, [partitionDaysAhead]);
        return append(tenantId, hostId, chunk);
      }
    },
    read: (tenantId, microvmId, source, afterId, limit) => transactions.tenant(tenantId, (tx) => readChunks(tx, { tenantId, microvmId, source, afterId, limit })),
  };
}

interface AppendInput {
  readonly tenantId: TenantId;
  readonly hostId: HostId;
  readonly chunk: LogChunk;
}

async function appendChunk(tx: Tx, input: AppendInput): Promise<{ readonly nextOffset: number }> {
  const { chunk } = input;
  if (!(await isBound(tx, input))) return { nextOffset: chunk.offset + chunk.data.length };
  const stored = await readCursor(tx, input);
  const end = chunk.offset + chunk.data.length;
  // Looked at first without the lock: a chunk that came again writes nothing.
  if (stored >= end) return { nextOffset: stored };
  const next = await lockCursor(tx, input);
  if (next >= end) return { nextOffset: next };
  const trimmed = Math.max(0, next - chunk.offset);
  await tx.query(
    {
      name: 'insert-log',
      isHot: true,
      text: `insert into nkudo.logs (tenant_id, microvm_id, source, incarnation, byte_offset, gap_bytes, data) values ($1, $2, $3, $4, $5, $6, $7)`,
    },
    [
      input.tenantId, chunk.microvmId, chunk.source, chunk.incarnation, chunk.offset + trimmed, Math.max(0, chunk.offset - next),
      Buffer.from(chunk.data.subarray(trimmed)),
    ],
  );
  await tx.query(
    {
      name: 'advance-log-cursor',
      isHot: true,
      text: 'update nkudo.log_cursors set next_offset = $5 where tenant_id = $1 and microvm_id = $2 and source = $3 and incarnation = $4',
    },
    [input.tenantId, chunk.microvmId, chunk.source, chunk.incarnation, end],
  );
  return { nextOffset: end };
}

async function isBound(tx: Tx, input: AppendInput): Promise<boolean> {
  const { rowCount } = await tx.query(
    {
      name: 'find-binding-for-log',
      isHot: true,
      text: 'select from nkudo.bindings where tenant_id = $1 and microvm_id = $2 and host_id = $3 and released_at is null',
    },
    [input.tenantId, input.chunk.microvmId, input.hostId],
  );
  return rowCount === 1;
}

async function readCursor(tx: Tx, { tenantId, chunk }: AppendInput): Promise<number> {
  const { rows } = await tx.query<{ next_offset: number }>(
    {
      name: 'read-log-cursor',
      isHot: true,
      text: 'select next_offset from nkudo.log_cursors where tenant_id = $1 and microvm_id = $2 and source = $3 and incarnation = $4',
    },
    [tenantId, chunk.microvmId, chunk.source, chunk.incarnation],
  );
  return rows[0]?.next_offset ?? 0;
}

/**
 * Locks the whole log of the microVM and source, so that ids rise in the order of commits also over two boots, then
 * the cursor.
 */
async function lockCursor(tx: Tx, { tenantId, chunk }: AppendInput): Promise<number> {
  await tx.query(
    { name: 'lock-log', isHot: true, text: `select pg_advisory_xact_lock(hashtextextended($1 || '/' || $2, 0))` },
    [chunk.microvmId, chunk.source],
  );
  const { rows } = await tx.query<{ next_offset: number }>(
    {
      name: 'lock-log-cursor',
      isHot: true,
      text: `insert into nkudo.log_cursors as c (tenant_id, microvm_id, source, incarnation, next_offset) values ($1, $2, $3, $4, 0)
        on conflict (tenant_id, microvm_id, source, incarnation) do update set next_offset = c.next_offset
        returning next_offset`,
    },
    [tenantId, chunk.microvmId, chunk.source, chunk.incarnation],
  );
  const [row] = rows;
  if (row === undefined) throw new AppError('INTERNAL', 'the log cursor gave no row');
  return row.next_offset;
}

interface ReadInput {
  readonly tenantId: TenantId;
  readonly microvmId: MicroVMId;
  readonly source: LogSource;
  readonly afterId: number;
  readonly limit: number;
}

async function readChunks(tx: Tx, input: ReadInput): ReturnType<LogStore['read']> {
  const { rows } = await tx.query<{ id: number; incarnation: number; byte_offset: number; gap_bytes: number; data: Buffer; received_at: number }>(
    {
      name: 'read-logs',
      isHot: true,
      text: `select id, incarnation, byte_offset, gap_bytes, data, received_at from nkudo.logs
        where tenant_id = $1 and microvm_id = $2 and source = $3 and id > $4 order by id limit $5`,
    },
    [input.tenantId, input.microvmId, input.source, input.afterId, Math.min(Math.max(1, input.limit), readMax)],
  );
  return rows.map((row) => ({
    id: row.id, incarnation: row.incarnation, offset: row.byte_offset, gapBytes: row.gap_bytes, data: row.data, receivedAtMs: row.received_at,
  }));
}
