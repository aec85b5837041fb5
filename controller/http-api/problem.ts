/**
 * Errors over HTTP: one shape, the problem details of RFC 9457, with the code of docs/errors.md and every refused field.
 * The status of a code is decided here and nowhere else.
 */
import type { Logger } from 'pino';
import { AppError, errorCatalogue, isAppError, type ErrorCode, type GrpcStatusName } from '#api/model/error-codes.ts';
import { problemsOf, type FieldProblem } from '#controller/fleet-api/validation.ts';

export const problemType = 'application/problem+json';

export const httpStatuses: Readonly<Record<GrpcStatusName, number>> = {
  INVALID_ARGUMENT: 400,
  UNAUTHENTICATED: 401,
  PERMISSION_DENIED: 403,
  NOT_FOUND: 404,
  ALREADY_EXISTS: 409,
  ABORTED: 409,
  FAILED_PRECONDITION: 409,
  RESOURCE_EXHAUSTED: 429,
  INTERNAL: 500,
  UNIMPLEMENTED: 501,
  UNAVAILABLE: 503,
  DEADLINE_EXCEEDED: 504,
};

export interface Problem {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  /** Of docs/errors.md. */
  readonly code: ErrorCode;
  readonly detail: string;
  readonly remedy: string;
  /** Every field that was refused; absent when the error is not about fields. */
  readonly fields?: readonly FieldProblem[];
  /** Milliseconds until a retry can help; absent when nothing is known. */
  readonly retryAfterMs?: number;
}

const detailMax = 4_096;

/** `microvm_uid` of the rules is `microvmUid` in JSON. */
export function jsonPath(path: string): string {
  return path.replaceAll(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

/** `status` where HTTP has one of its own for what is wrong, such as 413. */
export function toProblem(error: unknown, log: Logger, status?: number): Problem {
  const known = isAppError(error) ? error : new AppError('INTERNAL');
  if (!isAppError(error)) log.error({ err: error }, 'a request failed');
  const fields = problemsOf(known).map(({ field, problem }) => ({ field: jsonPath(field), problem }));
  const detail = fields.length === 0 ? known.message : fields.map(({ field, problem }) => `${field} ${problem}`).join('; ');
  return {
    type: `urn:nkudo:error:${known.code}`,
    title: errorCatalogue[known.code].meaning,
    status: status ?? httpStatuses[errorCatalogue[known.code].grpcStatus],
    code: known.code,
    detail: detail.slice(0, detailMax),
    remedy: known.remedy,
    ...(fields.length === 0 ? {} : { fields }),
    ...(known.retryAfterMs === undefined ? {} : { retryAfterMs: known.retryAfterMs }),
  };
}

/** The headers that belong to a problem. */
export function problemHeaders(problem: Problem): Readonly<Record<string, string>> {
  return {
    'content-type': problemType,
    ...(problem.status === 401 ? { 'www-authenticate': 'Bearer realm="nkudo"' } : {}),
    ...(problem.retryAfterMs === undefined ? {} : { 'retry-after': String(Math.max(1, Math.ceil(problem.retryAfterMs / 1000))) }),
  };
}
