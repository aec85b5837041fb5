/**
 * Turns errors into gRPC statuses: an AppError keeps its code in a trailer, everything else becomes
 * INTERNAL with a neutral sentence and is logged here, so that nothing internal crosses the wire.
 */
import { Metadata, status } from '@grpc/grpc-js';
import type { Logger } from 'pino';
import { AppError, errorCatalogue, isAppError } from '#api/model/error-codes.ts';

/** Trailer with a code of docs/errors.md. */
export const errorCodeTrailer = 'nkudo-error-code';
/** Trailer with milliseconds until a retry can help; absent when nothing is known. */
export const retryAfterTrailer = 'nkudo-retry-after-ms';

/** The same for clients with a retry policy. Source: https://github.com/grpc/proposal/blob/master/A6-client-retries.md */
const pushbackTrailer = 'grpc-retry-pushback-ms';

/** Long texts make trailers that HTTP/2 refuses. */
const detailsMax = 1024;

/** What both grpc-js handlers and interceptors take as the end of a call. */
export interface CallStatus extends Error {
  readonly code: status;
  readonly details: string;
  readonly metadata: Metadata;
}

export function toStatus(error: unknown, log: Logger): CallStatus {
  const known = isAppError(error) ? error : new AppError('INTERNAL');
  if (!isAppError(error)) log.error({ err: error }, 'a call failed');
  const metadata = new Metadata();
  metadata.set(errorCodeTrailer, known.code);
  if (known.retryAfterMs !== undefined) {
    metadata.set(retryAfterTrailer, String(known.retryAfterMs));
    metadata.set(pushbackTrailer, String(known.retryAfterMs));
  }
  const details = known.message.slice(0, detailsMax);
  return { name: 'AppError', message: details, details, code: status[errorCatalogue[known.code].grpcStatus], metadata };
}
