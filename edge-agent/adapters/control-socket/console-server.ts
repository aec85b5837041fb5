/**
 * The agent's side of a console on the control socket: an upgraded connection that carries frames. Owns the pace: what a
 * person's terminal does not take is left out by the session, never waited for by the guest, and what the guest does
 * not take stays with the person's side. It leaves who may come to the desk.
 */
import type { Duplex } from 'node:stream';
import type { ConsoleSession } from '../../ports/consoles.ts';
import { createFrameReader, encodeFrames } from './frames.ts';
import type { ConsoleEndMessage } from './protocol.ts';

export interface ServedConsole {
  readonly ended: Promise<void>;
  /** The agent ends: the person is told. */
  stop(): void;
}

/** A guest that does not take input now is asked again after this time, milliseconds. */
const inputRetryMs = 20;
/** For what is left to say to a terminal that takes nothing, milliseconds. */
const goodbyeMs = 1_000;

/** @param first bytes that came with the request already */
export function serveConsole(socket: Duplex, first: Uint8Array, session: ConsoleSession): ServedConsole {
  const ended = Promise.withResolvers<void>();
  let isStopping = false;
  let retry: NodeJS.Timeout | undefined;

  const read = createFrameReader((kind, bytes) => void (kind === 'input' && type(bytes)));
  const inputs: Uint8Array[] = [];
  function type(bytes: Uint8Array): void {
    inputs.push(Uint8Array.from(bytes));
    pass();
  }
  /** In order; while some is left no more is read. */
  function pass(): void {
    clearTimeout(retry);
    for (let next = inputs[0]; next !== undefined; next = inputs[0]) {
      if (!session.write(next)) {
        socket.pause();
        retry = setTimeout(pass, inputRetryMs);
        return;
      }
      inputs.shift();
    }
    socket.resume();
  }
  function take(bytes: Uint8Array): void {
    if (!read(bytes)) socket.destroy();
  }

  async function print(): Promise<void> {
    if (session.history.length > 0) socket.write(encodeFrames('history', session.history));
    for await (const bytes of session.output) {
      if (socket.destroyed) return;
      if (!socket.write(encodeFrames('output', bytes))) await drained(socket);
    }
    const end = await session.ended;
    const message: ConsoleEndMessage = isStopping ? { reason: 'agentEnds' } : end;
    clearTimeout(retry);
    socket.end(encodeFrames('end', Buffer.from(JSON.stringify(message))));
    socket.resume();
  }

  socket.on('error', () => socket.destroy());
  socket.once('end', () => session.close());
  socket.once('close', () => {
    clearTimeout(retry);
    session.close();
    ended.resolve();
  });
  socket.on('data', take);
  if (first.length > 0) take(first);
  print().catch(() => socket.destroy()); // The person sees that the connection is lost; the guest goes on.
  void session.ended.then(() => {
    const giveUp = setTimeout(() => socket.destroy(), goodbyeMs);
    socket.once('close', () => clearTimeout(giveUp));
  });
  return {
    ended: ended.promise,
    stop() {
      isStopping = true;
      session.close();
    },
  };
}

/** Also when the connection ends; leaves no listener behind, since a slow terminal waits here again and again. */
function drained(socket: Duplex): Promise<void> {
  return new Promise((resolve) => {
    const goOn = (): void => {
      socket.off('drain', goOn).off('close', goOn);
      resolve();
    };
    socket.on('drain', goOn).on('close', goOn);
  });
}
