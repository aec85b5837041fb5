import { Duplex } from 'node:stream';
import { expect, it } from 'vitest';
import type { ConsoleSession } from '../../ports/consoles.ts';
import { serveConsole } from './console-server.ts';

const chunks = 40;

/** A terminal that takes one piece after the other. */
function slowTerminal(): { readonly socket: Duplex; readonly mostListeners: () => number } {
  let most = 0;
  const socket: Duplex = new Duplex({
    highWaterMark: 1,
    read: () => {},
    write: (_bytes, _encoding, taken) => {
      most = Math.max(most, socket.listenerCount('close'));
      setImmediate(taken);
    },
  });
  return { socket, mostListeners: () => most };
}

function sessionThat(output: () => AsyncGenerator<Uint8Array>): ConsoleSession {
  const ended = Promise.withResolvers<{ reason: 'closed' }>();
  return { history: new Uint8Array(), output: output(), ended: ended.promise, write: () => true, close: () => ended.resolve({ reason: 'closed' }) };
}

it('a terminal that is slow again and again is waited for without leaving a listener behind each time', async () => {
  const { socket, mostListeners } = slowTerminal();
  const session = sessionThat(async function* () {
    for (let chunk = 0; chunk < chunks; chunk += 1) yield Uint8Array.of(65);
    session.close();
  });
  const served = serveConsole(socket, new Uint8Array(), session);
  socket.push(null);
  await served.ended;
  expect(mostListeners()).toBeGreaterThan(0);
  expect(mostListeners()).toBeLessThan(chunks / 4);
});

it('a session that fails ends the connection and nothing else', async () => {
  const { socket } = slowTerminal();
  const served = serveConsole(socket, new Uint8Array(), sessionThat(async function* () {
    yield Uint8Array.of(65);
    throw new Error('the serial line broke');
  }));
  await served.ended;
  expect(socket.destroyed).toBe(true);
});
