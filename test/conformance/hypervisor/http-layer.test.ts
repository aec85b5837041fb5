/**
 * The HTTP layer byte by byte: verbs, bodies, malformed input, limits, connections. One VMM for each
 * target; no case changes its state. Measured on cloud-hypervisor v53.0-246.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { exchange, openConnection, requestBytes } from './raw-http.ts';
import { countCells, describeOnTargets } from './targets.ts';
import { startVmm, stopVmms, until, type VmmUnderTest } from './vmm-under-test.ts';

const root = '/api/v1';
const dropped = 'All previous unanswered requests will be dropped.';
const protocolError = (message: string) => `{ "error": "${message}\n${dropped}" }`;

interface Case {
  readonly name: string;
  readonly send: string;
  readonly status: number;
  readonly body: string | RegExp;
  readonly server?: 'Firecracker API';
}

const json = (call: string, body: string) => requestBytes('PUT', `${root}/${call}`, body);
const unreadable = (message: string) => JSON.stringify(['Failed to deserialize JSON', message]);
const ping = /^\{"build_version":"v[^"]+","version":"\d+\.\d+\.\d+","pid":\d+,"features":\["io_uring","kvm"\]\}$/;
const notFound = '["Not Found"]';
const badRequest = '["Bad Request"]';

const cases: readonly Case[] = [
  { name: 'GET of an unknown path', send: requestBytes('GET', `${root}/nope`), status: 404, body: notFound },
  { name: 'PATCH of an unknown path', send: requestBytes('PATCH', `${root}/nope`), status: 404, body: notFound },
  { name: 'a path without the root', send: requestBytes('GET', '/vmm.ping'), status: 404, body: notFound },
  { name: 'a trailing slash', send: requestBytes('GET', `${root}/vmm.ping/`), status: 404, body: notFound },
  { name: 'a query string', send: requestBytes('GET', `${root}/vmm.ping?x=1`), status: 404, body: notFound },
  { name: 'vmm.info, which does not exist', send: requestBytes('GET', `${root}/vmm.info`), status: 404, body: notFound },
  ...['vm.create', 'vm.boot', 'vm.add-disk', 'vmm.shutdown', 'vm.resize', 'vm.pause'].map((call) => ({ name: `GET of ${call}`, send: requestBytes('GET', `${root}/${call}`), status: 400, body: badRequest })),
  ...['vmm.ping', 'vm.info', 'vm.counters', 'vm.add-disk', 'vm.resize'].map((call) => ({ name: `PUT of ${call} without a body`, send: requestBytes('PUT', `${root}/${call}`), status: 400, body: badRequest })),
  ...['PATCH', 'DELETE'].flatMap((verb) => [
    ...['vm.info', 'vm.create', 'vmm.ping', 'vmm.shutdown'].map((call) => ({ name: `${verb} of ${call}`, send: requestBytes(verb, `${root}/${call}`), status: 400, body: badRequest })),
    ...['vm.boot', 'vm.add-disk', 'vm.counters', 'vm.pause'].map((call) => ({ name: `${verb} of ${call}`, send: requestBytes(verb, `${root}/${call}`), status: 400, body: '' })),
  ]),
  ...['POST', 'OPTIONS', 'HEAD', 'TRACE', 'FOO', 'get'].map((verb) => ({ name: `the verb ${verb}`, send: requestBytes(verb, `${root}/vmm.ping`), status: 400, body: protocolError('Invalid HTTP Method: Unsupported HTTP method.'), server: 'Firecracker API' as const })),
  { name: 'vm.create without a body', send: requestBytes('PUT', `${root}/vm.create`), status: 400, body: '' },
  { name: 'vm.boot with a body', send: json('vm.boot', '{}'), status: 400, body: badRequest },
  { name: 'vm.boot with an empty body', send: json('vm.boot', ''), status: 404, body: /"VM config is missing"/ },
  { name: 'vmm.ping with a body', send: requestBytes('GET', `${root}/vmm.ping`, '{}'), status: 200, body: ping },
  { name: 'a key that is no string', send: json('vm.create', '{x'), status: 400, body: unreadable('key must be a string at line 1 column 2') },
  { name: 'a cut body', send: json('vm.create', '{"payload":'), status: 400, body: unreadable('EOF while parsing a value at line 1 column 11') },
  { name: 'trailing characters', send: json('vm.create', '{} x'), status: 400, body: unreadable('trailing characters at line 1 column 4') },
  { name: 'a string for the configuration', send: json('vm.create', '"x"'), status: 400, body: unreadable('invalid type: string "x", expected struct VmConfig at line 1 column 3') },
  { name: 'a missing field', send: json('vm.create', '{"cpus":{"boot_vcpus":1}}'), status: 400, body: unreadable('missing field `max_vcpus` at line 1 column 24') },
  { name: 'a missing memory size', send: json('vm.create', '{"memory":{}}'), status: 400, body: unreadable('missing field `size` at line 1 column 12') },
  { name: 'a string for a number', send: json('vm.create', '{"cpus":{"boot_vcpus":"1","max_vcpus":1}}'), status: 400, body: unreadable('invalid type: string "1", expected u32 at line 1 column 25') },
  { name: 'a negative size', send: json('vm.create', '{"memory":{"size":-1}}'), status: 400, body: unreadable('invalid value: integer `-1`, expected u64 at line 1 column 20') },
  { name: 'a fraction', send: json('vm.create', '{"memory":{"size":1.5}}'), status: 400, body: unreadable('invalid type: floating point `1.5`, expected u64 at line 1 column 21') },
  { name: 'a number above its type', send: json('vm.create', '{"cpus":{"boot_vcpus":5000000000,"max_vcpus":1}}'), status: 400, body: unreadable('invalid value: integer `5000000000`, expected u32 at line 1 column 32') },
  { name: 'a number for an object', send: json('vm.create', '{"payload":7}'), status: 400, body: unreadable('invalid type: integer `7`, expected struct PayloadConfig at line 1 column 12') },
  { name: 'an object for a list', send: json('vm.create', '{"disks":{}}'), status: 400, body: unreadable('invalid type: map, expected a sequence at line 1 column 9') },
  { name: 'an unknown console mode', send: json('vm.create', '{"serial":{"mode":"Bogus"}}'), status: 400, body: unreadable('unknown variant `Bogus`, expected one of `Off`, `Pty`, `Tty`, `File`, `Socket`, `Null` at line 1 column 26') },
  { name: 'a MAC address that is none', send: json('vm.create', '{"net":[{"mac":"xx"}]}'), status: 400, body: unreadable('The provided MAC address is invalid: parsing of xx into a MAC address failed at line 1 column 20') },
  { name: 'vm.remove-device without an id', send: json('vm.remove-device', '{}'), status: 400, body: unreadable('missing field `id` at line 1 column 2') },
  { name: 'vm.resize-disk without an id', send: json('vm.resize-disk', '{}'), status: 400, body: unreadable('missing field `id` at line 1 column 2') },
  { name: 'vm.add-vsock without a cid', send: json('vm.add-vsock', '{}'), status: 400, body: unreadable('missing field `cid` at line 1 column 2') },
  { name: 'vm.restore without a source', send: json('vm.restore', '{}'), status: 400, body: unreadable('missing field `source_url` at line 1 column 2') },
  { name: 'a chunked body', send: `PUT ${root}/vm.create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n`, status: 400, body: protocolError('Invalid request.'), server: 'Firecracker API' },
  { name: 'garbage', send: 'garbage\r\n\r\n', status: 400, body: protocolError('Invalid request.'), server: 'Firecracker API' },
  { name: 'a request line without a version', send: `GET ${root}/vmm.ping\r\n\r\n`, status: 400, body: protocolError('Invalid request.'), server: 'Firecracker API' },
  { name: 'HTTP/2.0', send: `GET ${root}/vmm.ping HTTP/2.0\r\n\r\n`, status: 400, body: protocolError('Invalid HTTP Version: Unsupported HTTP version.'), server: 'Firecracker API' },
  { name: 'an over-long path', send: requestBytes('GET', `/${'a'.repeat(1030)}`), status: 400, body: protocolError('Invalid request.'), server: 'Firecracker API' },
  { name: 'a path of 900 characters', send: requestBytes('GET', `/${'a'.repeat(900)}`), status: 404, body: notFound },
  { name: 'a header without a colon', send: `GET ${root}/vmm.ping HTTP/1.1\r\nnocolon\r\n\r\n`, status: 400, body: protocolError('Invalid header. Reason: Header is incorrectly formatted. Key: nocolon'), server: 'Firecracker API' },
  { name: 'a content length that is no number', send: `PUT ${root}/vm.boot HTTP/1.1\r\nContent-Length: abc\r\n\r\n`, status: 400, body: protocolError('Invalid header. Reason: Invalid value. Key:Content-Length; Value: abc'), server: 'Firecracker API' },
  { name: 'many headers', send: `GET ${root}/vmm.ping HTTP/1.1\r\n${'X: abc\r\n'.repeat(400)}\r\n`, status: 200, body: ping },
  { name: 'HTTP/1.0', send: `GET ${root}/vmm.ping HTTP/1.0\r\n\r\n`, status: 200, body: ping },
  { name: 'no Host header', send: `GET ${root}/vmm.ping HTTP/1.1\r\n\r\n`, status: 200, body: ping },
  { name: 'an absolute URI', send: `GET http://localhost${root}/vmm.ping HTTP/1.1\r\n\r\n`, status: 200, body: ping },
];

describeOnTargets('HTTP layer', (target) => {
  const cells = countCells(target, 'HTTP layer');
  let vmm: VmmUnderTest;
  beforeAll(async () => {
    vmm = await startVmm(target);
  });
  afterAll(stopVmms);

  test.each(cases)('answers $name', async ({ send, status, body, server }) => {
    const answer = await exchange(vmm.socket, send);
    // The reason phrase is empty, and the space before it is there.
    expect(answer.statusLine).toBe(`HTTP/1.1 ${status} `);
    if (typeof body === 'string') expect(answer.body).toBe(body);
    else expect(answer.body).toMatch(body);
    expect(answer.headers).toMatchObject({ server: server ?? 'Cloud Hypervisor API', connection: 'keep-alive', 'content-type': 'application/json' });
    cells.add();
  });

  test('answers 204 without a content type or length', async () => {
    const answer = await vmm.put('vm.delete');
    expect(answer.statusLine).toBe('HTTP/1.1 204 ');
    expect(Object.keys(answer.headers).toSorted()).toEqual(['connection', 'server']);
    cells.add();
  });

  test('keeps the connection open, also after an error and when asked to close it', async () => {
    const connection = await openConnection(vmm.socket);
    connection.send('POST / HTTP/1.1\r\n\r\n');
    expect((await connection.read()).status).toBe(400);
    connection.send(`GET ${root}/vmm.ping HTTP/1.1\r\nConnection: close\r\n\r\n`);
    expect((await connection.read()).status).toBe(200);
    connection.send(requestBytes('GET', `${root}/vmm.ping`));
    expect((await connection.read()).status).toBe(200);
    expect(connection.isClosed()).toBe(false);
    connection.close();
    cells.add();
  });

  test('answers pipelined requests in order', async () => {
    const connection = await openConnection(vmm.socket);
    connection.send(requestBytes('GET', `${root}/vmm.ping`) + requestBytes('GET', `${root}/vm.info`));
    expect((await connection.read()).status).toBe(200);
    expect((await connection.read()).status).toBe(404);
    connection.close();
    cells.add();
  });

  test('asks for the body that waits for a 100', async () => {
    const connection = await openConnection(vmm.socket);
    connection.send(`PUT ${root}/vm.resize HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n`);
    expect((await connection.read()).statusLine).toBe('HTTP/1.1 100 ');
    connection.send('{}');
    expect((await connection.read()).status).toBe(404);
    connection.close();
    cells.add();
  });

  test('refuses a body above its limit by the announced length', async () => {
    const { version } = JSON.parse((await vmm.get('vmm.ping')).body) as { version: string };
    const limit = version.startsWith('53.') ? 51_200 : 4_194_304;
    const answer = await exchange(vmm.socket, `PUT ${root}/vm.create HTTP/1.1\r\nContent-Length: ${limit + 1}\r\n\r\n`);
    expect(answer.status).toBe(400);
    expect(answer.body).toBe(protocolError(`Request payload with size ${limit + 1} is larger than the limit of ${limit} allowed by server.`));
    cells.add();
  });

  test('refuses the eleventh connection and serves it when another has gone', async () => {
    const connections = await Promise.all(Array.from({ length: 10 }, () => openConnection(vmm.socket)));
    // An answer on each shows that the server has taken all ten.
    for (const connection of connections) {
      connection.send(requestBytes('GET', `${root}/vmm.ping`));
      expect((await connection.read()).status).toBe(200);
    }
    const eleventh = await openConnection(vmm.socket);
    const answer = await eleventh.read();
    expect(answer.statusLine.trim()).toBe('HTTP/1.1 503');
    expect(answer.headers['connection']).toBe('close');
    expect(answer.body).toBe('{ "error": "Too many open connections" }');
    await eleventh.closed;
    connections[0]?.close();
    await until('a free connection', 5_000, async () => (await vmm.get('vmm.ping').catch(() => null))?.status === 200);
    for (const connection of connections) connection.close();
    // The server takes its time to see that they are gone: two free places at once show that it has.
    await until('free connections', 5_000, async () => {
      const pair = await Promise.all([openConnection(vmm.socket), openConnection(vmm.socket)]);
      for (const connection of pair) connection.send(requestBytes('GET', `${root}/vmm.ping`));
      const answers = await Promise.all(pair.map((connection) => connection.read().catch(() => null)));
      for (const connection of pair) connection.close();
      return answers.every((answer) => answer?.status === 200);
    });
    await until('a call that is served', 5_000, async () => (await vmm.get('vmm.ping').catch(() => null))?.status === 200);
    cells.add();
  });

  test('accepts unknown fields and an empty configuration', async () => {
    expect((await vmm.put('vm.create', { bogus: 1 })).status).toBe(204);
    const info = JSON.parse((await vmm.get('vm.info')).body) as Record<string, unknown>;
    expect(info).toMatchObject({ state: 'Created', memory_actual_size: 536_870_912, config: { cpus: { boot_vcpus: 1, max_vcpus: 1 }, serial: { mode: 'Null' }, console: { mode: 'Tty' } } });
    cells.add();
  });
});
