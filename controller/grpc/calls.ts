/**
 * Calls as promises: a unary handler is a function that returns the answer, a stream is
 * {receive, send, signal} with one terminal result. Owns deadlines, back-pressure and the rule that
 * no error of a stream ever leaves the stream.
 */
import type {
  handleBidiStreamingCall,
  handleServerStreamingCall,
  handleUnaryCall,
  Metadata,
  ServerDuplexStream,
  ServerWritableStream,
} from '@grpc/grpc-js';
import type { Logger } from 'pino';
import { AppError } from '#api/model/error-codes.ts';
import { toStatus } from './errors.ts';

/** A unary handler that takes longer is answered with DEADLINE_EXCEEDED; what it began goes on to its end. */
export const unaryDeadlineMs = 30_000;
/** A peer that takes nothing for this long while messages wait for it loses its stream. */
export const sendStallMs = 30_000;

export interface CallContext {
  /** Key for `Callers.of`. */
  readonly auth: object | null | undefined;
  /** Remote `ip:port`. */
  readonly peer: string;
  readonly metadata: Metadata;
}

export interface CallDeps {
  readonly log: Logger;
  /** Counts ended calls by method and code; `OK` when all went well. */
  readonly onEnd?: (path: string, code: string) => void;
}

interface AnyCall {
  getAuthContext(): object | null;
  getPeer(): string;
  getPath(): string;
  readonly metadata: Metadata;
}

function contextOf(call: AnyCall): CallContext {
  return { auth: call.getAuthContext(), peer: call.getPeer(), metadata: call.metadata };
}

function codeOf(error: unknown): string {
  return error instanceof AppError ? error.code : 'INTERNAL';
}

/** Rejects with DEADLINE_EXCEEDED when the work is not done in time. */
async function withDeadline<Result>(work: Promise<Result>, timeoutMs: number): Promise<Result> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new AppError('DEADLINE_EXCEEDED')), timeoutMs);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

export function unary<In, Out>(deps: CallDeps, handle: (request: In, context: CallContext) => Promise<Out>): handleUnaryCall<In, Out> {
  return (call, callback) => {
    const path = call.getPath();
    const work = Promise.resolve().then(() => handle(call.request, contextOf(call)));
    withDeadline(work, unaryDeadlineMs).then(
      (response) => {
        deps.onEnd?.(path, 'OK');
        callback(null, response);
      },
      (error: unknown) => {
        deps.onEnd?.(path, codeOf(error));
        callback(toStatus(error, deps.log.child({ path })));
      },
    );
  };
}

/** The sending side of a stream. */
export interface Outgoing<Out> {
  /** Resolves when the peer has room for more; at once when the stream has ended. */
  send(message: Out): Promise<void>;
  /** Aborted when the stream ended, whoever ended it. */
  readonly signal: AbortSignal;
}

export interface Stream<In, Out> extends Outgoing<Out> {
  /** The next message; null when the peer has no more, or the stream has ended. */
  receive(): Promise<In | null>;
}

type WritableCall<In, Out> = ServerWritableStream<In, Out> | ServerDuplexStream<In, Out>;

function outgoing<In, Out>(call: WritableCall<In, Out>): Outgoing<Out> & { readonly end: (failure: unknown) => void; readonly controller: AbortController } {
  const controller = new AbortController();
  const { signal } = controller;
  // grpc-js reports the end of a stream in any of these ways, some of them twice.
  for (const event of ['cancelled', 'close', 'error', 'finish']) call.on(event, () => controller.abort());
  const drained = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const finish = (): void => {
        clearTimeout(timer);
        call.off('drain', finish);
        signal.removeEventListener('abort', finish);
        resolve();
      };
      const timer = setTimeout(() => {
        finish();
        reject(new AppError('DEADLINE_EXCEEDED', 'the peer takes no messages'));
      }, sendStallMs);
      call.once('drain', finish);
      signal.addEventListener('abort', finish, { once: true });
    });
  return {
    signal,
    controller,
    send: async (message) => {
      if (signal.aborted || call.writableEnded || call.destroyed) return;
      if (!call.write(message)) await drained();
    },
    end: (failure) => {
      if (!call.writableEnded && !call.destroyed) {
        // The call's own listener turns this into the status of the stream.
        if (failure === null) call.end();
        else call.emit('error', failure);
      }
      controller.abort();
    },
  };
}

/** Runs `handle` on the stream; its return ends the stream well, its rejection with the status of the error. */
export function duplex<In, Out>(deps: CallDeps, handle: (stream: Stream<In, Out>, context: CallContext) => Promise<void>): handleBidiStreamingCall<In, Out> {
  return (call) => {
    const path = call.getPath();
    const { end, controller, ...out } = outgoing(call);
    const messages = call[Symbol.asyncIterator]() as AsyncIterator<In>; // Node types the items as any.
    const receive = async (): Promise<In | null> => {
      if (out.signal.aborted) return null;
      try {
        const next = await messages.next();
        return next.done === true ? null : next.value;
      } catch {
        controller.abort(); // The peer went away: a terminal result like any other.
        return null;
      }
    };
    handle({ ...out, receive }, contextOf(call)).then(
      () => {
        deps.onEnd?.(path, 'OK');
        end(null);
      },
      (error: unknown) => {
        deps.onEnd?.(path, codeOf(error));
        end(toStatus(error, deps.log.child({ path })));
      },
    );
  };
}

/** As {@link duplex}, for one request and many answers. */
export function serverStream<In, Out>(deps: CallDeps, handle: (request: In, out: Outgoing<Out>, context: CallContext) => Promise<void>): handleServerStreamingCall<In, Out> {
  return (call) => {
    const path = call.getPath();
    const { end, send, signal } = outgoing(call);
    handle(call.request, { send, signal }, contextOf(call)).then(
      () => {
        deps.onEnd?.(path, 'OK');
        end(null);
      },
      (error: unknown) => {
        deps.onEnd?.(path, codeOf(error));
        end(toStatus(error, deps.log.child({ path })));
      },
    );
  };
}
