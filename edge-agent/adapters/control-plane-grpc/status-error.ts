/** Turns the status of a call into an AppError, once. The product's own code comes in a trailer. */
import { Metadata, status } from '@grpc/grpc-js';
import { AppError, isErrorCode, type ErrorCode } from '#api/model/error-codes.ts';

/** The trailer with a code of docs/errors.md. */
const errorCodeTrailer = 'nkudo-error-code';

/** For answers that come from something else than the control plane, such as a proxy or the transport. */
const codeByStatus: Partial<Record<status, ErrorCode>> = {
  [status.UNAVAILABLE]: 'UNAVAILABLE',
  [status.DEADLINE_EXCEEDED]: 'DEADLINE_EXCEEDED',
  [status.CANCELLED]: 'UNAVAILABLE',
  [status.UNAUTHENTICATED]: 'UNAUTHENTICATED',
  [status.PERMISSION_DENIED]: 'PERMISSION_DENIED',
  [status.UNIMPLEMENTED]: 'NOT_IMPLEMENTED',
  [status.RESOURCE_EXHAUSTED]: 'UNAVAILABLE',
};

export function toAppError(error: unknown): AppError {
  if (error instanceof AppError) return error;
  if (!(error instanceof Error) || !('code' in error) || typeof error.code !== 'number') {
    return new AppError('INTERNAL', error instanceof Error ? error.message : String(error), { cause: error });
  }
  const named = 'metadata' in error && error.metadata instanceof Metadata ? error.metadata.get(errorCodeTrailer)[0] : undefined;
  const details = 'details' in error && typeof error.details === 'string' ? error.details : error.message;
  if (typeof named === 'string' && isErrorCode(named)) return new AppError(named, details, { cause: error });
  return new AppError(codeByStatus[error.code as status] ?? 'INTERNAL', details, { cause: error }); // A number outside the enum finds nothing.
}
