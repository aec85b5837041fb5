/** One TCP address in front of several, as a layer-4 load balancer of an installation is. Passes bytes on and nothing else. */
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { fileScope } from '#test/harness/file-scope.ts';

export interface TcpRouter {
  /** `host:port` that clients dial. */
  readonly address: string;
  /** Where the next connections go: these in turn. With none, connections are refused. */
  route(targets: readonly string[]): void;
  /** Ends every connection; new ones go where `route` said. */
  cut(): void;
}

export async function startTcpRouter(): Promise<TcpRouter> {
  const sockets = new Set<Socket>();
  let targets: readonly string[] = [];
  let turn = 0;
  // A router that waits to fill its packets would add 40 ms to each of them.
  const server = createServer({ noDelay: true }, (client) => {
    const target = targets[turn++ % Math.max(1, targets.length)];
    if (target === undefined) return void client.destroy();
    const [host = '', port = ''] = target.split(':');
    const upstream = connect({ port: Number(port), host, noDelay: true });
    for (const [socket, other] of [[client, upstream], [upstream, client]] as const) {
      sockets.add(socket);
      socket.on('error', () => other.destroy());
      socket.on('close', () => {
        sockets.delete(socket);
        other.destroy();
      });
      socket.pipe(other);
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const cut = (): void => {
    for (const socket of sockets) socket.destroy();
  };
  fileScope().defer(() => {
    server.close();
    cut();
  });
  const { port } = server.address() as AddressInfo; // It listens on TCP.
  return {
    address: `127.0.0.1:${port}`,
    route: (next) => {
      targets = next;
      turn = 0;
    },
    cut,
  };
}
