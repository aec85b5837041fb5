/**
 * Makes a gRPC stream safe to use: sending waits for the transport, reading is an iteration with
 * back-pressure, and every end comes out once, as an AppError or as the end of the iteration.
 */
import type { ClientDuplexStream } from '@grpc/grpc-js';
import { AppError } from '#api/model/error-codes.ts';
import { toAppError } from './status-error.ts';

export interface StreamPipe<Out, In> {
  /** Resolves when the transport took it. @throws UNAVAILABLE when the stream is over */
  send(message: Out): Promise<void>;
  readonly received: AsyncIterable<In>;
  /** Ends the stream at once; idempotent. */
  cancel(): void;
}

export function pipeStream<Out, In>(call: ClientDuplexStream<Out, In>): StreamPipe<Out, In> {
  let isOver = false;
  const waiting = new Set<() => void>();
  const wakeAll = (): void => {
    for (const resolve of waiting) resolve();
    waiting.clear();
  };
  const end = (): void => {
    isOver = true;
    wakeAll();
  };
  // An error may come twice, and also after the iteration has ended: without a listener it would end the process.
  call.on('error', end);
  call.on('close', end);
  call.on('drain', wakeAll);

  async function* receive(): AsyncGenerator<In> {
    try {
      for await (const message of call) yield message as In; // The stream is typed by the service definition, its iterator is not.
    } catch (error) {
      throw toAppError(error);
    } finally {
      end();
    }
  }

  return {
    async send(message) {
      if (isOver) throw new AppError('UNAVAILABLE', 'the stream is over');
      if (call.write(message)) return;
      await new Promise<void>((resolve) => waiting.add(resolve));
      if (isOver) throw new AppError('UNAVAILABLE', 'the stream is over');
    },
    received: receive(),
    cancel() {
      end();
      call.cancel();
    },
  };
}
