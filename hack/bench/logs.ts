/**
 * How many lines of guests' logs one replica takes in, stores and gives to a follower: the controller's own code on a real
 * Postgres, between a host and a reader in memory. Measured against the CPU time of this process, because the budget is for
 * one core and the machine may be busy.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { join } from 'node:path';
import type { StreamLogsRequest } from '#api/gen/nkudo/edge/v1/edge.pb.ts';
import type { TailLogsResponse } from '#api/gen/nkudo/v1/fleet.pb.ts';
import { microVMId, type MicroVMId } from '#api/model/ids.ts';
import type { HostCaller } from '#controller/edge-gateway/peer-identity.ts';
import { streamLogs } from '#controller/edge-gateway/log-service.ts';
import { tailLogs } from '#controller/fleet-api/log-tail.ts';
import { createWakeUps } from '#controller/fleet-api/wake-ups.ts';
import type { LogStore } from '#controller/ports/log-store.ts';
import { openDatabase } from '#db/database.ts';
import { migrate } from '#db/migrate.ts';
import { facts, makeFleet, makeHost, publish, publishInput, desired } from '#test/integration/db/builders.ts';
import { adminUrl, databaseUrl, startPostgres } from '../stack/postgres.ts';
import { createRunDirectory } from '../stack/run-directory.ts';

const line = Buffer.from(`2026-01-02T03:04:05.678Z web[1]: GET /api/items/1234 200 1.5ms\n`);
/** Design: lines per second on one core, stored and followed. */
const budget = 50_000;

interface Case {
  readonly name: string;
  readonly lines: number;
  readonly linesPerChunk: number;
  readonly isOneCommitPerChunk?: boolean;
}

const cases: readonly Case[] = [
  { name: 'a talkative guest, 64 KiB chunks', lines: 1_000_000, linesPerChunk: 1_000 },
  { name: 'chunks of 20 lines', lines: 300_000, linesPerChunk: 20 },
  { name: 'chunks of one line', lines: 60_000, linesPerChunk: 1 },
  { name: 'chunks of one line, one commit each', lines: 6_000, linesPerChunk: 1, isOneCommitPerChunk: true },
];

interface Setting {
  readonly logs: LogStore;
  readonly caller: HostCaller;
  readonly microvmId: MicroVMId;
}

async function run({ logs, caller, microvmId }: Setting, { lines, linesPerChunk, isOneCommitPerChunk = false }: Case): Promise<{ readonly wall: number; readonly perCore: number }> {
  const chunk = Buffer.concat(Array.from({ length: linesPerChunk }, () => line));
  const wakeUps = createWakeUps();
  const ending = new AbortController();
  const total = lines * line.length;
  let followed = 0;
  const tail = tailLogs(
    { logs, wakeUps },
    {
      signal: ending.signal,
      send: async ({ data }: TailLogsResponse) => {
        followed += data.byteLength;
        if (followed >= total) ending.abort();
      },
    },
    { tenantId: caller.identity.tenantId, request: { namespace: '', microvmUid: microvmId, source: 'serial', tailBytes: 0, follow: true, incarnation: 0, fromOffset: 0 } },
  );
  const cpu = process.cpuUsage();
  const startedMs = performance.now();
  let sent = 0;
  let acknowledged = 0;
  let wake = (): void => {};
  const stream = {
    signal: new AbortController().signal,
    receive: async (): Promise<StreamLogsRequest | null> => {
      if (sent === total) return null;
      // As the agent: at most 64 chunks without an acknowledgement.
      while (sent / chunk.length - acknowledged >= 64) await new Promise<void>((resolve) => (wake = resolve));
      const message = { stream: { microvmId, source: 1 as const, incarnation: 1 }, offset: sent, data: chunk, gapBytes: 0, readAt: undefined };
      sent += chunk.length;
      return message;
    },
    send: async (): Promise<void> => {
      acknowledged += 1;
      wake();
    },
  };
  const store = isOneCommitPerChunk ? { appendAll: async (...[tenant, host, chunks]: Parameters<LogStore['appendAll']>) => {
    const offsets: number[] = [];
    for (const each of chunks) offsets.push((await logs.append(tenant, host, each)).nextOffset);
    return offsets;
  } } : logs;
  await streamLogs({ logs: store, metrics: { setSessions() {}, countPush() {}, countBeats() {}, countReports() {}, countLogBytes() {} }, onLogStored: () => wakeUps.wake(`log/${microvmId}`) }, stream, caller);
  await tail;
  const used = process.cpuUsage(cpu);
  return { wall: lines / ((performance.now() - startedMs) / 1000), perCore: lines / ((used.user + used.system) / 1e6) };
}

/** Prints one line for each case. Returns whether the budget was met by every case that it is for. */
export async function benchLogs(say: (text: string) => void): Promise<boolean> {
  const directory = createRunDirectory('nkudo-b-');
  const cluster = await startPostgres({ runDirectory: directory.path, directory: join(directory.path, 'postgres'), logDirectory: directory.path });
  const [app, system] = [randomBytes(12).toString('hex'), randomBytes(12).toString('hex')];
  const url = (user: string, password: string): string => databaseUrl(cluster, { user, password, database: 'postgres' });
  await migrate({ adminUrl: adminUrl(cluster, 'postgres'), appPassword: app, systemPassword: system });
  const db = openDatabase({ appUrl: url('nkudo_app', app), systemUrl: url('nkudo_system', system), ids: { uuid: () => randomUUID() } });
  try {
    const fleet = await makeFleet(db);
    const host = await makeHost(fleet, 'edge-1', facts({ cpuCount: 64 }));
    const identity = { tenantId: fleet.tenantId, siteId: fleet.siteId, hostId: host.hostId, hostName: 'edge-1', serial: host.serial, counter: 1, isRevoked: false, isQuarantined: false, awaitsApproval: false };
    const caller: HostCaller = { identity, notAfterMs: Number.MAX_SAFE_INTEGER };
    const results: number[] = [];
    for (const each of cases) {
      const { microvmId } = await publish(fleet, publishInput(fleet, host, { desired: desired({ cpuCount: 0, memoryBytes: 0 }) }));
      const { wall, perCore } = await run({ logs: db.logs, caller, microvmId: microVMId(microvmId) }, each);
      results.push(perCore);
      say(`logs: ${each.name}: ${Math.round(perCore)} lines/s on one core of the controller (${(perCore / budget).toFixed(1)} of the budget), ${Math.round(wall)} lines/s on the clock`);
    }
    const [, , batched = 0, single = 1] = results;
    say(`logs: one commit for what arrives together instead of one for each line: ${(batched / single).toFixed(1)} times as many lines`);
    return (results[0] ?? 0) >= budget && (results[1] ?? 0) >= budget;
  } finally {
    await db.close();
    await cluster.stop();
    await directory.close();
  }
}
