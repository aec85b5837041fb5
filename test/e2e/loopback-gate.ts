/**
 * Lets programs in another network namespace reach servers on this one's loopback, at the same address and port: a small
 * program there listens, and passes bytes through a Unix socket, which belongs to no namespace. No network is touched.
 */
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { fileScope } from '#test/harness/file-scope.ts';

const gate = `const { createServer, connect } = require('node:net');
const [path, port] = process.argv.slice(1);
const server = createServer((client) => {
  const way = connect(path);
  for (const [from, to] of [[client, way], [way, client]]) from.on('error', () => to.destroy()).on('close', () => to.destroy()).pipe(to);
});
server.listen(Number(port), '127.0.0.1', () => console.log('ready'));`;

let gates = 0;

/** @param address `host:port` on the loopback of this namespace. Ends with the test file. */
export async function openGate(namespace: string, address: string): Promise<void> {
  const scope = fileScope();
  gates += 1;
  const path = join(scope.makeDirectory('g'), 's');
  const port = address.slice(address.lastIndexOf(':') + 1);
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const way = connect(Number(port), '127.0.0.1');
    for (const [from, to] of [[client, way], [way, client]] as const) {
      sockets.add(from);
      from.on('error', () => to.destroy()).on('close', () => {
        sockets.delete(from);
        to.destroy();
      }).pipe(to);
    }
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  scope.defer(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const inside = await scope.start({ name: `gate-${gates}`, command: 'ip', args: ['netns', 'exec', namespace, process.execPath, '-e', gate, path, port] });
  await inside.waitForLine((line) => line === 'ready');
}
