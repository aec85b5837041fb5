/**
 * Open log streams of this replica. Each ends by itself when its host has no more to send; this ends those of hosts that
 * lost the right to be connected, whatever their sender does.
 */
import { AppError, type ErrorCode } from '#api/model/error-codes.ts';
import type { Stream } from '#controller/grpc/calls.ts';
import type { HostCaller } from './peer-identity.ts';

export interface LogStream {
  readonly caller: HostCaller;
  /** Ends the stream with that code. May be called twice. */
  end(code: ErrorCode): void;
}

export interface LogStreams {
  /** Runs `serve` on the stream; rejects with the code when it was ended. */
  guard<In, Out>(caller: HostCaller, stream: Stream<In, Out>, serve: (guarded: Stream<In, Out>) => Promise<void>): Promise<void>;
  all(): readonly LogStream[];
}

export function createLogStreams(): LogStreams {
  const open = new Set<LogStream>();
  return {
    all: () => [...open],
    guard: async (caller, stream, serve) => {
      const ended = Promise.withResolvers<never>();
      // Rejects for whoever waits for it, and for nobody when the stream ended before.
      ended.promise.catch(() => {});
      const entry: LogStream = { caller, end: (code) => ended.reject(new AppError(code)) };
      open.add(entry);
      try {
        await Promise.race([serve(stream), ended.promise]);
      } finally {
        open.delete(entry);
      }
    },
  };
}
