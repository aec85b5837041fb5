/**
 * Logs by stream and offset. The cursors of the streams are read behind the locks of their logs and advanced in the
 * transaction that inserts, so each byte is stored once, in order, and what is missing is recorded as a gap. A partition
 * that is missing is made by the call that finds it so. Few transactions at a time: logs never take all connections.
 */
import { AppError } from '#api/model/error-codes.ts';
import type { HostId, MicroVMId, TenantId } from '#api/model/ids.ts';
import type { LogChunk, LogSource, LogStore, StoredLogChunk } from '#controller/ports/log-store.ts';
import { logPartitionDaysAhead } from '../migrate.ts';
import { isPartitionMissing } from '../pool.ts';
import type { Transactions, Tx } from '../tx.ts';
import { createSlots } from '#api/model/slots.ts';
import { planAppend, streamKey, type LogAppend } from './log-append.ts';

/** Most chunks that one read returns. */
const readMax = 256;
/** Most chunks that the last bytes are looked for in. */
const lastChunksMax = 4096;
const lastBytesMax = 1_048_576;
/** Transactions of one replica that append, and that read, at the same time: of twelve connections. */
const appendsAtOnce = 4;
const readsAtOnce = 3;

export function createLogStore(transactions: Transactions): LogStore {
  const appending = createSlots(appendsAtOnce);
  const reading = createSlots(readsAtOnce);
  const append = (tenantId: TenantId, hostId: HostId, chunks: readonly LogChunk[]): Promise<readonly number[]> =>
    appending.run(() => transactions.tenant(tenantId, (tx) => appendChunks(tx, { tenantId, hostId, chunks })));
  const appendAll: LogStore['appendAll'] = async (tenantId, hostId, chunks) => {
    if (chunks.length === 0) return [];
    try {
      return await append(tenantId, hostId, chunks);
    } catch (error) {
      if (!isPartitionMissing(error, 'append-logs')) throw error;
      await transactions.systemQuery({ name: 'ensure-log-partitions', text: 'select nkudo.ensure_log_partitions($1)' }, [logPartitionDaysAhead]);
      return append(tenantId, hostId, chunks);
    }
  };
  const select = (tenantId: TenantId, statement: typeof readStatement, values: readonly unknown[]): Promise<readonly StoredLogChunk[]> =>
    reading.run(() =>
      transactions.tenant(tenantId, async (tx) => {
        const { rows } = await tx.query<LogRow>(statement, values);
        return rows.map((row) => ({ id: row.id, incarnation: row.incarnation, offset: row.byte_offset, gapBytes: row.gap_bytes, data: row.data, receivedAtMs: row.received_at }));
      }),
    );
  return {
    appendAll,
    append: async (tenantId, hostId, chunk) => {
      const [nextOffset] = await appendAll(tenantId, hostId, [chunk]);
      if (nextOffset === undefined) throw new AppError('INTERNAL', 'an append gave no offset');
      return { nextOffset };
    },
    read: (tenantId, microvmId, source, afterId, limit) =>
      select(tenantId, readStatement, [tenantId, microvmId, source, afterId, Math.min(Math.max(1, limit), readMax)]),
    readLast: (tenantId, microvmId, source, bytes) =>
      select(tenantId, readLastStatement, [tenantId, microvmId, source, Math.min(Math.max(0, bytes), lastBytesMax)]),
  };
}

interface AppendInput {
  readonly tenantId: TenantId;
  readonly hostId: HostId;
  readonly chunks: readonly LogChunk[];
}

async function appendChunks(tx: Tx, input: AppendInput): Promise<readonly number[]> {
  const { tenantId, chunks } = input;
  const bound = await lockBound(tx, input);
  const plan = planAppend(chunks, bound, await readCursors(tx, tenantId, chunks.filter(({ microvmId }) => bound.has(microvmId))));
  if (plan.rows.length > 0) await write(tx, tenantId, plan);
  return plan.nextOffsets;
}

/**
 * The microVMs of the chunks that are bound to the host, with their logs locked until the end of the transaction: the whole
 * log of a microVM and source, so that ids rise in the order of commits also over two boots. In one order, so that two
 * calls can't wait for each other. An advisory lock is no write: chunks that come again write nothing.
 */
async function lockBound(tx: Tx, { tenantId, hostId, chunks }: AppendInput): Promise<ReadonlySet<string>> {
  const logs = [...new Map(chunks.map((chunk) => [`${chunk.microvmId}/${chunk.source}`, chunk])).values()];
  const { rows } = await tx.query<{ microvm_id: string }>(
    {
      name: 'lock-logs',
      isHot: true,
      text: `select l.microvm_id, pg_advisory_xact_lock(hashtextextended(l.microvm_id || '/' || l.source, 0)) from (
          select b.microvm_id, r.source from unnest($3::uuid[], $4::text[]) as r (microvm_id, source)
          join nkudo.bindings b on b.tenant_id = $1 and b.microvm_id = r.microvm_id and b.host_id = $2 and b.released_at is null
          order by b.microvm_id, r.source offset 0
        ) l`,
    },
    [tenantId, hostId, logs.map((log) => log.microvmId), logs.map((log) => log.source)],
  );
  return new Set(rows.map((row) => row.microvm_id));
}

/** A statement of its own, after the locks: it sees what their last holder committed. */
async function readCursors(tx: Tx, tenantId: TenantId, chunks: readonly LogChunk[]): Promise<ReadonlyMap<string, number>> {
  const streams = [...new Map(chunks.map((chunk) => [streamKey(chunk), chunk])).values()];
  if (streams.length === 0) return new Map();
  const { rows } = await tx.query<{ microvm_id: MicroVMId; source: LogSource; incarnation: number; next_offset: number }>(
    {
      name: 'read-log-cursors',
      isHot: true,
      text: `select c.microvm_id, c.source, c.incarnation, c.next_offset from unnest($2::uuid[], $3::text[], $4::bigint[]) as r (microvm_id, source, incarnation)
        join nkudo.log_cursors c on c.tenant_id = $1 and c.microvm_id = r.microvm_id and c.source = r.source and c.incarnation = r.incarnation`,
    },
    [tenantId, streams.map((stream) => stream.microvmId), streams.map((stream) => stream.source), streams.map((stream) => stream.incarnation)],
  );
  return new Map(rows.map((row) => [streamKey({ microvmId: row.microvm_id, source: row.source, incarnation: row.incarnation }), row.next_offset]));
}

async function write(tx: Tx, tenantId: TenantId, { rows, cursors }: LogAppend): Promise<void> {
  const advanced = [...cursors.values()];
  // One value for all bytes: it travels in binary, where an array of them would travel as hexadecimal text.
  const lengths = rows.map((row) => row.parts.reduce((sum, part) => sum + part.byteLength, 0));
  const starts = lengths.map((_, index) => lengths.slice(0, index).reduce((sum, length) => sum + length, 0));
  await tx.query(
    {
      name: 'append-logs',
      isHot: true,
      text: `with advanced as (
          insert into nkudo.log_cursors as c (tenant_id, microvm_id, source, incarnation, next_offset)
            select $1, r.* from unnest($8::uuid[], $9::text[], $10::bigint[], $11::bigint[]) as r
          on conflict (tenant_id, microvm_id, source, incarnation) do update set next_offset = excluded.next_offset
        )
        insert into nkudo.logs (tenant_id, microvm_id, source, incarnation, byte_offset, gap_bytes, data)
          select $1, r.microvm_id, r.source, r.incarnation, r.byte_offset, r.gap_bytes, substring($7::bytea from r.start for r.length)
          from unnest($2::uuid[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $12::integer[], $13::integer[]) with ordinality
            as r (microvm_id, source, incarnation, byte_offset, gap_bytes, start, length, position)
          order by r.position`,
    },
    [
      tenantId,
      rows.map((row) => row.microvmId), rows.map((row) => row.source), rows.map((row) => row.incarnation), rows.map((row) => row.offset),
      rows.map((row) => row.gapBytes), Buffer.concat(rows.flatMap((row) => row.parts)),
      advanced.map(({ chunk }) => chunk.microvmId), advanced.map(({ chunk }) => chunk.source), advanced.map(({ chunk }) => chunk.incarnation),
      advanced.map(({ nextOffset }) => nextOffset),
      starts.map((start) => start + 1), lengths,
    ],
  );
}

interface LogRow {
  readonly id: number;
  readonly incarnation: number;
  readonly byte_offset: number;
  readonly gap_bytes: number;
  readonly data: Buffer;
  readonly received_at: number;
}

const columns = 'id, incarnation, byte_offset, gap_bytes, data, received_at';

const readStatement = {
  name: 'read-logs',
  isHot: true,
  text: `select ${columns} from nkudo.logs where tenant_id = $1 and microvm_id = $2 and source = $3 and id > $4 order by id limit $5`,
};

const readLastStatement = {
  name: 'read-last-logs',
  isHot: true,
  text: `select ${columns} from (
      select ${columns}, sum(length(data)) over (order by id desc) - length(data) as behind from (
        select ${columns} from nkudo.logs where tenant_id = $1 and microvm_id = $2 and source = $3 order by id desc limit ${lastChunksMax}
      ) newest
    ) l where behind < $4 order by id`,
};
