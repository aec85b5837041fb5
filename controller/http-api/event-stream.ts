/**
 * Writes one long answer over HTTP: events or text, with the reader's back-pressure, comments that keep a quiet stream
 * alive, and an end that says why. Until the first byte an error is still a problem with a status of its own.
 *
 * Invariant: never more is buffered than one message beyond what the socket takes.
 */
import type { ServerResponse } from 'node:http';
import { AppError } from '#api/model/error-codes.ts';
import type { Outgoing } from '#controller/grpc/calls.ts';
import type { Problem } from './problem.ts';

/** A quiet event stream sends a comment this often; nothing else happens then. */
export const heartbeatMs = 15_000;
/** A call that has found nothing to refuse by then is answered with its head, so that a client of a quiet stream knows. */
const headAfterMs = 250;
/** A reader that takes nothing for this long while something waits for it loses its stream. */
const stallMs = 30_000;

export interface LongAnswer<Message> extends Outgoing<Message> {
  /** Sends something that is no message, such as the sign that everything follows anew. */
  sign(text: string): Promise<void>;
  /** Ends the stream well. */
  finish(): void;
  /** Before the first byte: gives the problem to answer with. After it: says so in the stream and ends it; gives null. */
  fail(problem: Problem): Problem | null;
  /** Cuts the stream, for callers that may not go on. */
  cut(problem: Problem): void;
}

export interface AnswerShape<Message> {
  readonly headers: Readonly<Record<string, string>>;
  readonly encode: (message: Message) => string | Uint8Array;
  /** Empty where the shape has no room for one. */
  readonly comment: string;
  readonly failure: (problem: Problem) => string;
}

export function createLongAnswer<Message>(response: ServerResponse, shape: AnswerShape<Message>): LongAnswer<Message> {
  const controller = new AbortController();
  const { signal } = controller;
  let isWaiting = false;
  const head = (): void => {
    if (!response.headersSent && !response.destroyed) response.writeHead(200, { ...shape.headers, 'cache-control': 'no-store', 'x-content-type-options': 'nosniff', 'x-accel-buffering': 'no' }).flushHeaders();
  };
  const early = setTimeout(head, headAfterMs);
  const heartbeat = setInterval(() => {
    if (shape.comment !== '' && !isWaiting && response.headersSent) response.write(shape.comment);
  }, heartbeatMs).unref();
  const end = (): void => {
    clearTimeout(early);
    clearInterval(heartbeat);
    controller.abort();
  };
  response.on('close', end).on('error', end);
  const drained = (): Promise<void> =>
    new Promise((resolve, reject) => {
      isWaiting = true;
      const done = (): void => {
        isWaiting = false;
        clearTimeout(timer);
        response.off('drain', done);
        signal.removeEventListener('abort', done);
        resolve();
      };
      const timer = setTimeout(() => {
        response.destroy();
        done();
        reject(new AppError('DEADLINE_EXCEEDED', 'the reader takes nothing'));
      }, stallMs);
      response.once('drain', done);
      signal.addEventListener('abort', done, { once: true });
    });
  const write = async (bytes: string | Uint8Array): Promise<void> => {
    if (signal.aborted || response.writableEnded) return;
    head();
    if (!response.write(bytes)) await drained();
  };
  const fail = (problem: Problem): Problem | null => {
    end();
    if (!response.headersSent) return problem;
    if (!response.writableEnded) response.end(shape.failure(problem));
    return null;
  };
  return {
    signal,
    send: (message) => write(shape.encode(message)),
    sign: write,
    finish: () => {
      head();
      end();
      response.end();
    },
    fail,
    cut: (problem) => {
      if (fail(problem) !== null) response.destroy();
    },
  };
}

/** One event. The data is one line, as JSON is. */
export function eventText(event: { readonly name: string; readonly data: unknown; readonly id?: string }): string {
  return `${event.id === undefined ? '' : `id: ${event.id}\n`}event: ${event.name}\ndata: ${JSON.stringify(event.data)}\n\n`;
}
