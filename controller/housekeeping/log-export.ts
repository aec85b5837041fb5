/**
 * Hands logs to a sink while this replica leads: from committed rows, tenant by tenant, the position kept after each
 * delivery. A leader that was replaced may deliver some lines again, never leave some out. A sink that is away delays its
 * lines; what it refuses for good is left out, counted and said. Looks once a second and writes nothing when there is nothing.
 */
import { isAppError } from '#api/model/error-codes.ts';
import type { TenantId } from '#api/model/ids.ts';
import type { ExportedRow, LogExportStore, LogLine, LogSink } from '../ports/log-sink.ts';
import { errorFields } from '../runtime/log.ts';
import { pause, type Time } from '../runtime/time.ts';
import type { LogExportMetrics } from '../telemetry/metrics.ts';
import { cutLines } from './log-lines.ts';

const lookMs = 1_000;
const retryMinMs = 1_000;
const retryMaxMs = 60_000;
/** Logs whose unfinished line is remembered; of others it is read again. */
const carriesMax = 4_096;

export interface LogExportDeps {
  readonly store: LogExportStore;
  readonly sink: LogSink;
  readonly time: Time;
  readonly log: { warn(fields: object, message: string): void; error(fields: object, message: string): void };
  readonly metrics: LogExportMetrics;
}

export function startLogExport(deps: LogExportDeps): { stop(): Promise<void> } {
  const ending = new AbortController();
  const exporter = createExporter(deps, ending.signal);
  const run = async (): Promise<void> => {
    let failures = 0;
    while (!ending.signal.aborted) {
      try {
        const hasMore = await exporter.round();
        failures = 0;
        if (!hasMore) await pause(deps.time, lookMs, ending.signal);
      } catch (error) {
        failures += 1;
        deps.metrics.countExportFailure();
        deps.log.warn({ sink: deps.sink.name, ...errorFields(error) }, 'logs could not be handed to the sink; they wait in the database');
        await pause(deps.time, Math.min(retryMaxMs, retryMinMs * 2 ** (failures - 1)), ending.signal);
      }
    }
  };
  const running = run();
  return {
    stop: async () => {
      ending.abort();
      await running;
    },
  };
}

function createExporter({ store, sink, log, metrics }: LogExportDeps, signal: AbortSignal) {
  /** By log; valid only for the row that follows. */
  const carries = new Map<string, { readonly incarnation: number; readonly nextOffset: number; readonly bytes: Uint8Array }>();

  const carryOf = async (tenantId: TenantId, row: ExportedRow): Promise<Uint8Array> => {
    const known = carries.get(`${row.microvmId}/${row.source}`);
    if (row.offset - row.gapBytes === 0) return new Uint8Array();
    if (known?.incarnation === row.incarnation && known.nextOffset === row.offset - row.gapBytes) return known.bytes;
    return store.unfinished(tenantId, row);
  };

  const remember = (row: ExportedRow, bytes: Uint8Array): void => {
    const key = `${row.microvmId}/${row.source}`;
    carries.delete(key); // The one that was used last is the youngest.
    carries.set(key, { incarnation: row.incarnation, nextOffset: row.offset + row.data.byteLength, bytes: Buffer.from(bytes) });
    const [oldest] = carries.keys();
    if (carries.size > carriesMax && oldest !== undefined) carries.delete(oldest);
  };

  /** True when the tenant may have more. */
  const exportSome = async (tenantId: TenantId): Promise<boolean> => {
    const rows = await store.next(tenantId, sink.name);
    const last = rows.at(-1);
    if (last === undefined) return false;
    const lines: LogLine[] = [];
    for (const row of rows) {
      const cut = cutLines(tenantId, row, await carryOf(tenantId, row));
      lines.push(...cut.lines);
      remember(row, cut.carry);
    }
    try {
      if (lines.length > 0) await sink.deliver(lines);
      metrics.countExported(lines.length);
    } catch (error) {
      carries.clear(); // They are of rows that come again.
      if (!isAppError(error) || error.code !== 'INVALID_REQUEST') throw error;
      metrics.countExportRefused(lines.length);
      log.error({ sink: sink.name, tenantId, lines: lines.length, error: error.message }, 'the sink refuses lines for good; they are left out');
    }
    await store.advance(tenantId, sink.name, last.position);
    return true;
  };

  return {
    /** One batch of each tenant that has something new, so that a talkative one does not silence the others. */
    round: async (): Promise<boolean> => {
      let hasMore = false;
      for (const tenantId of await store.tenantsWithNews(sink.name)) {
        if (signal.aborted) return false;
        hasMore = (await exportSome(tenantId)) || hasMore;
      }
      return hasMore;
    },
  };
}
