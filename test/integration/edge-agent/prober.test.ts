/** Tries of probes against servers that answer well, badly, for ever, or not at all. */
import { mkdtemp, rm, symlink } from 'node:fs/promises';
import { createServer as createHttpServer } from 'node:http';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { createProber } from '#edge-agent/adapters/probes/prober.ts';
import type { ProbeOutcome } from '#edge-agent/domain/probes.ts';
import type { ProbeTarget } from '#edge-agent/ports/probes.ts';

const cleanUps: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0)) await cleanUp();
});

const prober = createProber();
const success = { kind: 'success' };

/** Serves each connection; `closed` resolves when the first one is gone. */
async function serve(onConnection: (socket: Socket) => void, path?: string): Promise<{ port: number; closed: Promise<void> }> {
  let close = (): void => {};
  const closed = new Promise<void>((resolve) => (close = resolve));
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.once('close', () => close());
    onConnection(socket);
  });
  return { port: await listen(server, path, sockets), closed };
}

async function listen(server: Server, path: string | undefined, sockets: ReadonlySet<Socket> = new Set()): Promise<number> {
  await new Promise<void>((resolve) => (path === undefined ? server.listen(0, '127.0.0.1', resolve) : server.listen(path, resolve)));
  cleanUps.push(() => {
    for (const socket of sockets) socket.destroy();
    return new Promise((resolve) => server.close(resolve));
  });
  // Of a listening TCP server it is an object.
  return path === undefined ? (server.address() as AddressInfo).port : 0;
}

const probe = (action: ProbeTarget['action'], change: Partial<ProbeTarget> = {}, signal: AbortSignal = new AbortController().signal): Promise<ProbeOutcome> =>
  prober.probe({ action, address: '127.0.0.1', vsockSocket: '/nowhere/vsock.sock', ...change }, signal);
const http = (port: number, isTls = false): ProbeTarget['action'] => ({ kind: 'http', port, path: '/healthz', isTls });
const write = (text: string) => (socket: Socket) => void socket.write(text);

describe('tcp', () => {
  test('succeeds with a connection, takes nothing from it, and closes it', async () => {
    const { port, closed } = await serve(write('x'.repeat(1_000_000)));
    expect(await probe({ kind: 'tcp', port })).toEqual(success);
    await closed;
  });

  test('fails without a listener, and can not be tried without an address', async () => {
    const { port } = await serve(() => {});
    for (const cleanUp of cleanUps.splice(0)) await cleanUp();
    expect(await probe({ kind: 'tcp', port })).toEqual({ kind: 'failure', message: `no connection to 127.0.0.1 port ${port}: ECONNREFUSED` });
    expect(await prober.probe({ action: { kind: 'tcp', port }, vsockSocket: '' }, new AbortController().signal)).toMatchObject({ kind: 'impossible' });
  });
});

describe('http', () => {
  test.each([
    [200, success],
    [204, success],
    [399, success],
    [301, success],
    [404, { kind: 'failure' }],
    [500, { kind: 'failure' }],
  ])('a status of %i', async (status, expected) => {
    const paths: (string | undefined)[] = [];
    const server = createHttpServer((request, response) => {
      paths.push(request.url);
      response.writeHead(status, { location: '/elsewhere' }).end();
    });
    const port = await listen(server, undefined);
    expect(await probe(http(port))).toMatchObject(expected);
    // A redirect is an answer: nobody goes there.
    expect(paths).toEqual(['/healthz']);
  });

  test('cuts off an answer that never ends', async () => {
    const { port, closed } = await serve((socket) => {
      socket.write('HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n');
      const more = (): void => void (socket.writable && socket.write(`400\r\n${'x'.repeat(1_024)}\r\n`, () => setImmediate(more)));
      more();
    });
    expect(await probe(http(port))).toEqual(success);
    await closed;
  });

  test('cuts off a head that never ends', async () => {
    const { port, closed } = await serve((socket) => {
      socket.write('HTTP/1.1 200 OK\r\n');
      const more = (): void => void (socket.writable && socket.write(`a: ${'x'.repeat(1_024)}\r\n`, () => setImmediate(more)));
      more();
    });
    expect(await probe(http(port))).toMatchObject({ kind: 'failure', message: expect.stringContaining('HPE_HEADER_OVERFLOW') as string });
    await closed;
  });

  test('fails with what is not HTTP, with an upgrade, and with an end without an answer, and repeats none of it', async () => {
    const garbage = await serve(write('secret nonsense\r\n\r\n'));
    const outcome = await probe(http(garbage.port));
    expect(outcome).toMatchObject({ kind: 'failure' });
    expect(JSON.stringify(outcome)).not.toContain('nonsense');
    const upgrade = await serve(write('HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n'));
    expect(await probe(http(upgrade.port))).toMatchObject({ kind: 'failure' });
    const end = await serve((socket) => socket.end());
    expect(await probe(http(end.port))).toMatchObject({ kind: 'failure' });
    expect(await probe(http(end.port, true))).toMatchObject({ kind: 'failure' });
  });

  test('one that drips ends with its deadline and leaves no connection', async () => {
    const { port, closed } = await serve((socket) => {
      socket.write('HTTP/1.1 200 OK\r\n');
      const drip = setInterval(() => socket.writable && socket.write('a'), 1);
      socket.once('close', () => clearInterval(drip));
    });
    const deadline = new AbortController();
    const waiting = probe(http(port), {}, deadline.signal);
    deadline.abort(new Error('the deadline'));
    await expect(waiting).rejects.toThrow('the deadline');
    await closed;
  });
});

describe('vsock', () => {
  const scene = async (answer: (line: string, socket: Socket) => void): Promise<string> => {
    const directory = await mkdtemp(join(tmpdir(), 'nkudo-prober-'));
    cleanUps.push(() => rm(directory, { recursive: true, force: true }));
    const path = join(directory, 'vsock.sock');
    await serve((socket) => socket.once('data', (bytes: Buffer) => answer(bytes.toString(), socket)), path);
    return path;
  };
  const vsock = { kind: 'vsock', port: 1024 } as const;

  test('succeeds when the VMM says that the guest accepted', async () => {
    const asked: string[] = [];
    const vsockSocket = await scene((line, socket) => {
      asked.push(line);
      socket.write('OK 1073741824\n');
    });
    expect(await probe(vsock, { vsockSocket })).toEqual(success);
    expect(asked).toEqual(['CONNECT 1024\n']);
  });

  test('fails when the guest refuses, answers something else for ever, or has no device', async () => {
    expect(await probe(vsock, { vsockSocket: await scene((_line, socket) => void socket.end()) })).toEqual({ kind: 'failure', message: 'no connection to vsock port 1024: refused by the guest' });
    const endless = await scene((_line, socket) => {
      const more = (): void => void (socket.writable && socket.write('O'.repeat(4_096), () => setImmediate(more)));
      more();
    });
    expect(await probe(vsock, { vsockSocket: endless })).toMatchObject({ kind: 'failure' });
    expect(await probe(vsock)).toMatchObject({ kind: 'failure', message: expect.stringContaining('no socket') as string });
  });

  test('follows no link that a VMM put in the place of its socket', async () => {
    const asked: string[] = [];
    const other = await scene((line) => asked.push(line));
    const vsockSocket = `${other}.link`;
    await symlink(other, vsockSocket);
    expect(await probe(vsock, { vsockSocket })).toMatchObject({ kind: 'failure', message: expect.stringContaining('no socket') as string });
    expect(asked).toEqual([]);
  });
});
