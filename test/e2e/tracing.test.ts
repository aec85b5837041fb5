/** One apply as a collector sees it: from the reconcile that published it to the VMM on the host and back to the status. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { beforeAll, expect, it } from 'vitest';
import { fileScope } from '#test/harness/file-scope.ts';
import { until } from '#test/harness/until.ts';
import { createWorld, type World } from './world.ts';

interface Span {
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly name: string;
  readonly startTimeUnixNano: string;
  readonly endTimeUnixNano: string;
}

const spans: Span[] = [];
let world: World;

/** Takes OTLP over HTTP in JSON. Source: OpenTelemetry protocol, ExportTraceServiceRequest. */
async function startCollector(): Promise<string> {
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk)).on('end', () => {
      const body = JSON.parse(Buffer.concat(chunks).toString('utf8')) as { resourceSpans: { scopeSpans: { spans: Span[] }[] }[] }; // As the source says.
      spans.push(...body.resourceSpans.flatMap(({ scopeSpans }) => scopeSpans.flatMap((scope) => scope.spans)));
      response.writeHead(200, { 'content-type': 'application/json' }).end('{}');
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  fileScope().defer(() => {
    server.close();
    server.closeAllConnections();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`; // It listens on TCP.
}

beforeAll(async () => {
  world = await createWorld({ controllerEnvironment: { OTEL_EXPORTER_OTLP_ENDPOINT: await startCollector() } });
  await world.startController();
  await world.createSite();
  await world.addHost('edge-1');
});

it('one trace follows an apply to the VMM and back, under the id of its operation', async () => {
  await world.applyMicroVM('web');
  const object = await world.waitForCondition('microvms', 'web', { type: 'Running', status: 'True' });
  const find = async () => (await world.database.query('select id, status from nkudo.operations where microvm_id = $1', [object.metadata.uid]))[0];
  await until(async () => (await find())?.['status'] === 'Succeeded', 'the operation to end');
  const traceId = String((await find())?.['id']).replaceAll('-', '');
  // What waits is sent at the end.
  await world.stopController();
  const trace = spans.filter((span) => span.traceId === traceId);
  const names = ['publish', 'hand over', 'accepted by host', 'executed by host', 'store report', 'write status'];
  expect([...new Set(trace.map(({ name }) => name))].toSorted()).toEqual(names.toSorted());
  const roots = trace.filter(({ parentSpanId }) => (parentSpanId ?? '') === '');
  expect(roots.map(({ name }) => name)).toEqual(['publish']);
  expect(new Set(trace.filter((span) => span !== roots[0]).map(({ parentSpanId }) => parentSpanId))).toEqual(new Set([roots[0]?.spanId]));
  const startOf = (name: string): bigint => trace.filter((span) => span.name === name).map((span) => BigInt(span.startTimeUnixNano)).toSorted((a, b) => (a < b ? -1 : 1))[0] ?? 0n;
  expect(startOf('publish')).toBeLessThanOrEqual(startOf('hand over'));
  expect(startOf('hand over')).toBeLessThanOrEqual(startOf('executed by host'));
  expect(startOf('executed by host')).toBeLessThanOrEqual(startOf('store report'));
});
