/**
 * A real HTTP server for images that knows ranges, and a slow link to it that can break. The link counts
 * what it carried: bytes that only wait in a buffer of the server's kernel never used it.
 */
import { createServer as createHttpServer, type Server as HttpServer } from 'node:http';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

export interface ImageServer {
  readonly port: number;
  readonly files: Map<string, Uint8Array>;
  /** Set: the only value of the Authorization header that gets an answer. */
  authorization: string | undefined;
  /** `GET <path> <range>` of each request, in order. */
  readonly requests: string[];
  close(): void;
}

export async function startImageServer(): Promise<ImageServer> {
  const files = new Map<string, Uint8Array>();
  const requests: string[] = [];
  const server = createHttpServer((request, response) => {
    const range = request.headers.range ?? '';
    requests.push(`${request.method} ${request.url} ${range}`.trim());
    if (images.authorization !== undefined && request.headers.authorization !== images.authorization) return void response.writeHead(401).end();
    const file = files.get(request.url ?? '');
    if (file === undefined) return void response.writeHead(404).end();
    const from = Number(/^bytes=(\d+)-$/.exec(range)?.[1] ?? 0);
    if (range !== '' && from >= file.length) return void response.writeHead(416).end();
    const body = file.subarray(from);
    const headers = { 'content-length': body.length, ...(range === '' ? {} : { 'content-range': `bytes ${from}-${file.length - 1}/${file.length}` }) };
    response.writeHead(range === '' ? 200 : 206, headers).end(body);
  });
  const images: ImageServer = { port: await listen(server), files, requests, authorization: undefined, close: () => (server.closeAllConnections(), server.close()) };
  return images;
}

export interface SlowLink {
  readonly port: number;
  /** Bytes that it took from the server so far. */
  carried(): number;
  /** Resolves when so many were carried. */
  untilCarried(bytes: number): Promise<void>;
  /** Ends every connection; new ones go through. */
  cut(): void;
  close(): void;
}

const pieceBytes = 16 * 1024;

export async function startSlowLink(target: number, bytesPerSecond: number): Promise<SlowLink> {
  const sockets = new Set<Socket>();
  const waiting: { readonly bytes: number; readonly resolve: () => void }[] = [];
  let carried = 0;
  const count = (bytes: number): void => {
    carried += bytes;
    for (const wait of waiting) if (carried >= wait.bytes) wait.resolve();
  };
  const server = createServer((client) => {
    const upstream = connect({ port: target, host: '127.0.0.1' });
    for (const [one, other] of [[client, upstream], [upstream, client]] as const) {
      sockets.add(one);
      one.on('error', () => {}).on('close', () => {
        sockets.delete(one);
        other.destroy();
      });
    }
    client.pipe(upstream);
    void carry(upstream, client).catch(() => client.destroy());
  });
  /** One piece after the other: nothing is read from the server before the last piece has gone. */
  async function carry(from: Socket, to: Socket): Promise<void> {
    from.pause();
    for (;;) {
      const chunk = from.read(Math.min(pieceBytes, Math.max(1, from.readableLength))) as Buffer | null; // A socket without an encoding yields buffers.
      if (chunk === null) {
        if (from.readableEnded || from.destroyed) return;
        await new Promise((resolve) => {
          from.once('readable', resolve);
          from.once('close', resolve);
          from.once('end', resolve);
        });
        continue;
      }
      count(chunk.length);
      to.write(chunk);
      await delay((1_000 * chunk.length) / bytesPerSecond);
    }
  }
  const cut = (): void => {
    for (const socket of sockets) socket.destroy();
  };
  return {
    port: await listen(server),
    carried: () => carried,
    untilCarried: (bytes) => (carried >= bytes ? Promise.resolve() : new Promise((resolve) => waiting.push({ bytes, resolve }))),
    cut,
    close: () => (cut(), server.close()),
  };
}

function listen(server: HttpServer | ReturnType<typeof createServer>): Promise<number> {
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve((server.address() as AddressInfo).port))); // A TCP server that listens.
}
