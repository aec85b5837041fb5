/**
 * The socket on which the running agent takes commands of people at the site. Who may open it is a matter of file modes
 * (0600 in a directory of the agent's user): Node tells nothing of the other side of a unix socket, so the name of the
 * user is what the command says, and only root and the agent's own user can say anything.
 */
import { chmodSync, rmSync } from 'node:fs';
import { createServer, STATUS_CODES, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { withDeadline } from '#api/model/deadline.ts';
import { AppError, isAppError } from '#api/model/error-codes.ts';
import { microVMId } from '#api/model/ids.ts';
import { id } from '#api/codec/validate.ts';
import type { Logger } from '../../ports/logger.ts';
import type { SiteDesk } from '../../ports/site-desk.ts';
import { serveConsole, type ServedConsole } from './console-server.ts';
import { bodyBytesMax, consoleUpgrade, parseConsoleRequest, parseOrder, parseWaitMs, protocolVersion } from './protocol.ts';

export interface ControlServer {
  /** Ends what waits, and removes the socket. */
  close(): Promise<void>;
}

export interface ControlServerOptions {
  readonly path: string;
  readonly version: string;
  readonly desk: SiteDesk;
  readonly logger: Logger;
}

/** Of sun_path, with its end. Source: unix(7). */
const pathBytesMax = 107;
const connectionsMax = 32;
/** Of those; orders find room beside them. */
const consolesMax = 16;
/** For the head and the body of a request to arrive. */
const requestMs = 10_000;

/** An agent whose socket can't be made says so and goes on: its microVMs matter more than its commands. */
export async function startControlServer({ path, version, desk, logger }: ControlServerOptions): Promise<ControlServer> {
  if (Buffer.byteLength(path) > pathBytesMax) {
    logger.error({ detail: path }, 'the path of the control socket is too long: no command can reach this agent; choose a shorter --state-dir');
    return { close: () => Promise.resolve() };
  }
  const ending = new AbortController();
  const server = createServer({ requestTimeout: requestMs, headersTimeout: requestMs, maxHeaderSize: bodyBytesMax }, (request, response) => {
    void answer(request, response);
  });
  server.maxConnections = connectionsMax;

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      reply(response, 200, await route(request, response));
    } catch (error) {
      const refusal = isAppError(error) ? error : new AppError('INTERNAL', undefined, { cause: error });
      if (!isAppError(error)) logger.error({ err: error }, 'a command of the site failed');
      reply(response, statusOf(refusal), refusalBody(refusal));
    }
  }

  const consoles = new Set<ServedConsole>();
  server.on('upgrade', (request: IncomingMessage, socket: Duplex, first: Buffer) => {
    socket.on('error', () => socket.destroy());
    void upgrade(request, socket, first);
  });

  async function upgrade(request: IncomingMessage, socket: Duplex, first: Uint8Array): Promise<void> {
    try {
      const url = new URL(request.url ?? '/', 'http://agent');
      const [, root, kind, named, what] = url.pathname.split('/');
      if (request.headers.upgrade !== consoleUpgrade || root !== 'v1' || kind !== 'microvms' || named === undefined || what !== 'console') throw unknownRequest(request.method, url);
      if (consoles.size >= consolesMax) throw new AppError('CONSOLE_IN_USE', `${consolesMax} consoles of this host are open already`);
      const session = await desk.openConsole(id('id', microVMId, named), parseConsoleRequest(url.searchParams.get('request')));
      if (socket.destroyed || ending.signal.aborted) {
        session.close();
        throw new AppError('UNAVAILABLE', 'the agent ends');
      }
      socket.write(`HTTP/1.1 101 ${STATUS_CODES[101] ?? ''}\r\nConnection: Upgrade\r\nUpgrade: ${consoleUpgrade}\r\n\r\n`);
      const served = serveConsole(socket, first, session);
      consoles.add(served);
      await served.ended;
      consoles.delete(served);
    } catch (error) {
      const refusal = isAppError(error) ? error : new AppError('INTERNAL', undefined, { cause: error });
      if (!isAppError(error)) logger.error({ err: error }, 'a console of the site failed');
      const text = JSON.stringify(refusalBody(refusal));
      const status = statusOf(refusal);
      socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(text)}\r\nConnection: close\r\n\r\n${text}`);
    }
  }

  async function route(request: IncomingMessage, response: ServerResponse): Promise<object> {
    const url = new URL(request.url ?? '/', 'http://agent');
    const [, root, kind, named, what] = url.pathname.split('/');
    if (request.method === 'GET' && url.pathname === '/v1/agent') return { protocol: protocolVersion, version };
    if (root === 'v1' && kind === 'microvms' && named !== undefined) {
      const microvmId = id('id', microVMId, named);
      if (request.method === 'POST' && what === 'orders') return desk.order(microvmId, parseOrder(await readBody(request)));
      if (request.method === 'GET' && what === 'situation') {
        const waitMs = parseWaitMs(url.searchParams.get('waitMs'));
        const gone = new AbortController();
        const end = (): void => gone.abort();
        response.on('close', end);
        ending.signal.addEventListener('abort', end);
        try {
          return await withDeadline(gone.signal, waitMs, (signal) => desk.situation(microvmId, signal));
        } finally {
          ending.signal.removeEventListener('abort', end);
        }
      }
    }
    throw unknownRequest(request.method, url);
  }

  function unknownRequest(method: string | undefined, url: URL): AppError {
    return new AppError('INVALID_REQUEST', `the running agent (version ${version}) has no ${method ?? ''} ${url.pathname}`, { remedy: 'use the nkudo-edge command of the version that runs, or restart the agent with the new one; its microVMs go on' });
  }

  // What an agent that was killed left; whoever starts this one holds the lock of the directory.
  rmSync(path, { force: true });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, resolve);
  });
  server.on('error', (error) => logger.error({ err: error }, 'the control socket failed'));
  server.unref();
  chmodSync(path, 0o600);
  return {
    async close() {
      ending.abort();
      for (const console of consoles) console.stop();
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeIdleConnections();
        setImmediate(() => server.closeAllConnections());
      });
      rmSync(path, { force: true });
    },
  };
}

async function readBody(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) { // Without an encoding its chunks are buffers.
    bytes += chunk.length;
    if (bytes > bodyBytesMax) throw new AppError('INVALID_REQUEST', `a request has at most ${bodyBytesMax} bytes`);
    chunks.push(chunk);
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString()) as unknown;
  } catch (error) {
    throw new AppError('INVALID_REQUEST', 'the body of the request is no JSON', { cause: error });
  }
}

function reply(response: ServerResponse, status: number, body: object): void {
  if (response.destroyed || response.headersSent) return;
  const text = JSON.stringify(body);
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text), connection: 'close' });
  response.end(text);
}

function refusalBody({ code, message, remedy }: AppError): object {
  return { error: { code, message, remedy } };
}

function statusOf({ code }: AppError): number {
  switch (code) {
    case 'NOT_FOUND':
      return 404;
    case 'INVALID_REQUEST':
      return 400;
    case 'INTERNAL':
    case 'JOURNAL_FAILED':
      return 500;
    case 'UNAVAILABLE':
      return 503;
    default:
      return 409;
  }
}
