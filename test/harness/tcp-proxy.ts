/** A TCP proxy for tests that cut the network: it passes bytes on until it is told to cut, and again when it heals. */
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { fileScope } from './file-scope.ts';

export interface TcpProxy {
  /** `host:port` to dial. */
  readonly address: string;
  /** Connections that were cut so far. */
  cuts(): number;
  /** Connections that are open now. */
  open(): number;
  /** Ends every connection; new ones go through. */
  drop(): void;
  /** Ends every connection and refuses new ones. */
  cut(): void;
  heal(): void;
}

/** `target` is asked for at each new connection: `host:port`. Closed at the end of the test file. */
export async function startTcpProxy(target: () => string): Promise<TcpProxy> {
  const sockets = new Set<Socket>();
  let isCut = false;
  let cuts = 0;
  const server = createServer((client) => {
    if (isCut) return client.destroy();
    const [, host = '', port = ''] = /^(.*):(\d+)$/.exec(target()) ?? [];
    const upstream = connect(Number(port), host);
    for (const [from, to] of [[client, upstream], [upstream, client]] as const) {
      sockets.add(from);
      from.on('error', () => {}).on('close', () => {
        sockets.delete(from);
        to.destroy();
      });
      from.pipe(to);
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const drop = (): void => {
    cuts += sockets.size / 2;
    for (const socket of sockets) socket.destroy();
  };
  fileScope().defer(() => {
    drop();
    server.close();
  });
  return {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`, // A TCP server that listens.
    cuts: () => cuts,
    open: () => sockets.size / 2,
    drop,
    cut: () => {
      isCut = true;
      drop();
    },
    heal: () => {
      isCut = false;
    },
  };
}
