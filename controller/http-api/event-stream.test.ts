import { createServer, type ServerResponse } from 'node:http';
import { connect, type AddressInfo, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { createLongAnswer, eventText, type AnswerShape } from './event-stream.ts';
import type { Problem } from './problem.ts';

const shape: AnswerShape<string> = { headers: { 'content-type': 'text/event-stream' }, encode: (text) => text, comment: ':\n\n', failure: (problem) => eventText({ name: 'problem', data: problem.code }) };
const problem: Problem = { type: 't', title: 't', status: 403, code: 'PERMISSION_DENIED', detail: 'd', remedy: 'r' };
const ends: (() => void)[] = [];
afterEach(() => ends.splice(0).forEach((end) => end()));

/** A response of a real server, and the reader at its other end, which takes nothing until it is told to. */
async function open(): Promise<{ readonly response: ServerResponse; readonly reader: Socket }> {
  const { promise, resolve } = Promise.withResolvers<ServerResponse>();
  const server = createServer((_request, response) => resolve(response)).listen(0, '127.0.0.1');
  await new Promise((listening) => server.once('listening', listening));
  const reader = connect((server.address() as AddressInfo).port, '127.0.0.1'); // A TCP server has an AddressInfo once it listens.
  reader.pause().on('error', () => {}).write('GET / HTTP/1.1\r\nhost: x\r\n\r\n');
  ends.push(() => reader.destroy(), () => server.close());
  return { response: await promise, reader };
}

const textOf = async (reader: Socket): Promise<string> => {
  let text = '';
  reader.setEncoding('utf8').on('data', (piece: string) => (text += piece)).resume();
  await new Promise((resolve) => reader.once('close', resolve));
  return text;
};

describe('a long answer', () => {
  it('waits for its reader: never more than one piece is buffered, however slow the reader is', async () => {
    const { response, reader } = await open();
    const answer = createLongAnswer(response, shape);
    const piece = 'x'.repeat(64 * 1024);
    const pieces = 300;
    let received = 0;
    const everything = new Promise<void>((resolve) => {
      reader.on('data', (bytes) => {
        received += bytes.length;
        if (received >= pieces * piece.length) resolve();
        reader.pause();
        setImmediate(() => reader.resume());
      });
    });
    let buffered = 0;
    for (let sent = 0; sent < pieces; sent += 1) {
      const sending = answer.send(piece);
      buffered = Math.max(buffered, response.writableLength);
      // Only now, so that what the sockets take by themselves is taken.
      if (sent === 0) reader.resume();
      await sending;
    }
    await everything;
    expect(buffered).toBeLessThan(2 * piece.length);
    answer.finish();
  });

  it('is refused with a status as long as nothing was sent, and in the stream afterwards', async () => {
    const early = await open();
    expect(createLongAnswer(early.response, shape).fail(problem)).toBe(problem);
    expect(early.response.headersSent).toBe(false);

    const late = await open();
    const answer = createLongAnswer(late.response, shape);
    await answer.send(eventText({ id: '1', name: 'site', data: {} }));
    expect(answer.fail(problem)).toBeNull();
    late.reader.end();
    expect(await textOf(late.reader)).toMatch(/id: 1\nevent: site\ndata: \{\}\n\n[^]*event: problem\ndata: "PERMISSION_DENIED"\n\n/);
  });

  it('ends with its reader, and sends nothing any more', async () => {
    const { response, reader } = await open();
    const answer = createLongAnswer(response, shape);
    await answer.send('a');
    const ended = new Promise<void>((resolve) => answer.signal.addEventListener('abort', () => resolve()));
    reader.destroy();
    await ended;
    await answer.send('b');
  });
});
