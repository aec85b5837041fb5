/**
 * Logs on their way to Loki and to an OTLP collector: real rows in a real Postgres, real HTTP, and a server that reads what
 * it gets by the documented format of each. It refuses, stays away and answers late as the test says.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { BinaryReader } from '@bufbuild/protobuf/wire';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createLogSink } from '#controller/adapters/log-sinks/log-sink.ts';
import { startLogExport } from '#controller/housekeeping/log-export.ts';
import { createTime } from '#controller/runtime/time.ts';
import type { Database } from '#db/database.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';
import { until } from '#test/harness/until.ts';
import { desired, makeFleet, makeHost, openTestDatabase, publish, publishInput, type Fleet, type TestHost } from '../db/builders.ts';

interface Received {
  readonly path: string;
  readonly headers: IncomingMessage['headers'];
  readonly body: Buffer;
}

let server: TestDatabase;
let db: Database;
let fleet: Fleet;
let host: TestHost;

beforeAll(async () => {
  server = await useDatabase();
  db = openTestDatabase(server);
  fleet = await makeFleet(db);
  host = await makeHost(fleet);
});
afterAll(() => db.close());

/** A sink's server; `answers` are given one after another, then 204. */
async function startSinkServer(answers: number[] = []) {
  const received: Received[] = [];
  const http = createServer((request: IncomingMessage, response: ServerResponse) => {
    const parts: Buffer[] = [];
    request.on('data', (part: Buffer) => parts.push(part));
    request.on('end', () => {
      const status = answers.shift() ?? 200;
      const raw = Buffer.concat(parts);
      if (status === 200) received.push({ path: request.url ?? '', headers: request.headers, body: request.headers['content-encoding'] === 'gzip' ? gunzipSync(raw) : raw });
      response.writeHead(status).end();
    });
  });
  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
  fileScope().defer(() => void http.close());
  return { received, url: (path: string) => `http://127.0.0.1:${(http.address() as AddressInfo).port}${path}` }; // A TCP server that listens.
}

/** Starts an exporter that waits hardly at all between its looks, and writes down what it says. */
function startExport(kind: 'loki' | 'otlp', url: string, tokenFile: string | null = null) {
  const clock = createTime({ nowMs: () => Date.now(), monotonicMs: () => performance.now(), random: () => 0.5 });
  const said: string[] = [];
  const counted = { delivered: 0, refused: 0, failures: 0 };
  const exporting = startLogExport({
    store: db.logExports,
    sink: createLogSink({ kind, url, tokenFile }),
    time: { ...clock, schedule: (_delayMs, run) => clock.schedule(5, run) },
    log: { warn: (_fields, message) => void said.push(message), error: (_fields, message) => void said.push(message) },
    metrics: { countExported: (lines) => (counted.delivered += lines), countExportRefused: (lines) => (counted.refused += lines), countExportFailure: () => (counted.failures += 1) },
  });
  fileScope().defer(() => exporting.stop());
  return { said, counted, stop: () => exporting.stop() };
}

async function newLog(name: string) {
  const { microvmId } = await publish(fleet, publishInput(fleet, host, { name, desired: desired({ name, cpuCount: 0, memoryBytes: 0 }) }));
  let offset = 0;
  return {
    microvmId,
    append: async (text: string, skip = 0): Promise<void> => {
      const data = Buffer.from(text);
      offset += skip;
      await db.logs.append(fleet.tenantId, host.hostId, { microvmId, source: 'serial', incarnation: 1, offset, data, gapBytes: 0 });
      offset += data.length;
    },
  };
}

interface LokiPush {
  readonly streams: readonly { readonly stream: Record<string, string>; readonly values: readonly [string, string, Record<string, string>][] }[];
}

/** Entries of one microVM. Fails on what Loki's API would not take. */
function lokiEntries(received: readonly Received[], microvm: string): readonly [string, string, Record<string, string>][] {
  return received.flatMap(({ path, headers, body }) => {
    expect(path).toBe('/loki/api/v1/push');
    expect(headers['content-type']).toBe('application/json');
    const push = JSON.parse(body.toString()) as LokiPush; // Checked below.
    return push.streams.flatMap(({ stream, values }) => {
      for (const [label, value] of Object.entries(stream)) {
        expect(label).toMatch(/^[a-zA-Z_][a-zA-Z0-9_]*$/);
        expect(typeof value).toBe('string');
      }
      for (const [time, line, metadata] of values) {
        expect(time).toMatch(/^\d{19}$/);
        expect(typeof line).toBe('string');
        expect(Object.values(metadata).every((value) => typeof value === 'string')).toBe(true);
      }
      return stream['microvm'] === microvm ? values : [];
    });
  });
}

describe('Loki', () => {
  it('gets each line once, whole and labelled, however it was cut into rows, and what was lost', async () => {
    const sink = await startSinkServer();
    const tokenFile = join(fileScope().directory, 'token');
    writeFileSync(tokenFile, 'secret-token\n');
    const log = await newLog('loki-lines');
    await log.append('first li');
    const exporting = startExport('loki', sink.url('/loki/api/v1/push'), tokenFile);
    await log.append('ne\nsecond\nthi');
    await until(() => exporting.counted.delivered >= 2, 'two lines');
    await log.append('rd\n');
    await log.append('after\n', 100);
    await until(() => exporting.counted.delivered >= 5, 'five lines');
    await exporting.stop();
    const entries = lokiEntries(sink.received, 'loki-lines');
    expect(entries.map(([, line]) => line)).toEqual(['first line', 'second', 'third', '100 bytes were lost here', 'after']);
    expect(new Set(entries.map(([time, line]) => `${time} ${line}`)).size).toBe(5);
    expect(entries[0]?.[2]).toMatchObject({ microvm_uid: log.microvmId, incarnation: '1', offset: '0' });
    expect(sink.received[0]?.headers.authorization).toBe('Bearer secret-token');
  });

  it('that is away for a while gets every line afterwards, also from the next leader in the middle of a line', async () => {
    const sink = await startSinkServer([503, 429, 500]);
    const log = await newLog('loki-away');
    const first = startExport('loki', sink.url('/loki/api/v1/push'));
    await log.append('one\ntwo\nthr');
    await until(() => lokiEntries(sink.received, 'loki-away').length >= 2, 'the first lines');
    expect(first.counted.failures).toBe(3);
    expect(first.said).toContain('logs could not be handed to the sink; they wait in the database');
    await first.stop();
    await log.append('ee\nfour\n');
    const second = startExport('loki', sink.url('/loki/api/v1/push'));
    await until(() => lokiEntries(sink.received, 'loki-away').length >= 4, 'the other lines');
    await second.stop();
    expect(lokiEntries(sink.received, 'loki-away').map(([, line]) => line)).toEqual(['one', 'two', 'three', 'four']);
  });

  it('that refuses lines for good does not hold up the ones behind them', async () => {
    const sink = await startSinkServer([400]);
    const log = await newLog('loki-refuses');
    await log.append('poison\n');
    const exporting = startExport('loki', sink.url('/loki/api/v1/push'));
    await until(() => exporting.counted.refused > 0, 'the refusal');
    await log.append('good\n');
    await until(() => lokiEntries(sink.received, 'loki-refuses').length > 0, 'the line behind');
    await exporting.stop();
    expect(lokiEntries(sink.received, 'loki-refuses').map(([, line]) => line)).toEqual(['good']);
    expect(exporting.said).toContain('the sink refuses lines for good; they are left out');
  });

  it('gets nothing of a transaction that is still open, nor what is behind it, and then both', async () => {
    const sink = await startSinkServer();
    const exporting = startExport('loki', sink.url('/loki/api/v1/push'));
    const log = await newLog('loki-open');
    const pg = (await import('pg')).default;
    const open = new pg.Client({ connectionString: server.adminUrl });
    await open.connect();
    await open.query('begin');
    await open.query('select pg_current_xact_id()');
    await log.append('behind\n');
    expect(await db.logExports.next(fleet.tenantId, 'loki')).toEqual([]);
    await open.query('commit');
    await open.end();
    await until(() => lokiEntries(sink.received, 'loki-open').length === 1, 'the line');
    await exporting.stop();
  });
});

/** The fields of a protobuf message by number; length-delimited ones as bytes. */
function fieldsOf(bytes: Uint8Array): readonly [number, Uint8Array | bigint | number][] {
  const reader = new BinaryReader(bytes);
  const fields: [number, Uint8Array | bigint | number][] = [];
  while (reader.pos < reader.len) {
    const [number, wireType] = reader.tag();
    if (wireType === 2) fields.push([number, reader.bytes()]);
    else if (wireType === 1) fields.push([number, BigInt(reader.fixed64())]);
    else if (wireType === 0) fields.push([number, BigInt(reader.uint64())]);
    else fields.push([number, reader.fixed32()]);
  }
  return fields;
}

function messages(bytes: Uint8Array, number: number): readonly Uint8Array[] {
  return fieldsOf(bytes).flatMap(([field, value]) => (field === number && value instanceof Uint8Array ? [value] : []));
}

const text = (bytes: Uint8Array | undefined): string => Buffer.from(bytes ?? []).toString();

/** Field numbers: https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/logs/v1/logs.proto */
function otlpRecords(received: readonly Received[]): readonly { readonly body: string; readonly time: bigint; readonly attributes: Readonly<Record<string, string>> }[] {
  return received.flatMap(({ path, headers, body }) => {
    expect(path).toBe('/v1/logs');
    expect(headers['content-type']).toBe('application/x-protobuf');
    return messages(body, 1).flatMap((resourceLogs) => messages(resourceLogs, 2).flatMap((scopeLogs) => messages(scopeLogs, 2))).map((record) => {
      const time = fieldsOf(record).find(([number]) => number === 1)?.[1];
      const attributes = messages(record, 6).map((pair): [string, string] => [text(messages(pair, 1)[0]), text(messages(messages(pair, 2)[0] ?? new Uint8Array(), 1)[0])]);
      return { body: text(messages(messages(record, 5)[0] ?? new Uint8Array(), 1)[0]), time: typeof time === 'bigint' ? time : 0n, attributes: Object.fromEntries(attributes) };
    });
  });
}

describe('an OTLP collector', () => {
  it('gets log records of the protocol, with the names of what they are of', async () => {
    const sink = await startSinkServer();
    const log = await newLog('otlp-lines');
    await log.append('hello\nworld\n');
    const exporting = startExport('otlp', sink.url('/v1/logs'));
    const mine = () => otlpRecords(sink.received).filter((record) => record.attributes['nkudo.microvm.name'] === 'otlp-lines');
    await until(() => mine().length >= 2, 'both records');
    await exporting.stop();
    expect(mine().map((record) => record.body)).toEqual(['hello', 'world']);
    expect(mine()[0]?.attributes).toMatchObject({ 'k8s.namespace.name': fleet.namespace, 'nkudo.site.name': 'store-1', 'nkudo.microvm.uid': log.microvmId, 'nkudo.log.source': 'serial' });
    expect(mine()[0]?.time).toBeGreaterThan(0n);
  });

  it.each([400, 413])('that refuses for good with %i is passed over as well', async (status) => {
    const sink = await startSinkServer([status]);
    const log = await newLog(`otlp-refuses-${status}`);
    await log.append('poison\n');
    const exporting = startExport('otlp', sink.url('/v1/logs'));
    await until(() => exporting.counted.refused > 0, 'the refusal');
    await exporting.stop();
    expect(await db.logExports.tenantsWithNews('otlp')).toEqual([]);
  });
});
