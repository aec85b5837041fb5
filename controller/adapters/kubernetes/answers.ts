/**
 * Reads what an API server answers, and translates its errors once: the HTTP status chooses the code, the
 * server's own sentence is the message. Everything from outside is checked here and nowhere else.
 */
import type { IncomingMessage } from 'node:http';
import { AppError, isAppError, type ErrorCode } from '#api/model/error-codes.ts';
import type { KubernetesObject, ListPage, WatchEvent } from '#controller/runtime/kubernetes-api.ts';

interface CallName {
  readonly method: string;
  readonly path: string;
}

/** Source: Kubernetes API conventions, "HTTP status codes". */
const codesByStatus: Readonly<Record<number, ErrorCode>> = {
  400: 'INVALID_REQUEST',
  401: 'UNAUTHENTICATED',
  403: 'PERMISSION_DENIED',
  404: 'NOT_FOUND',
  409: 'CONFLICT',
  410: 'CONFLICT',
  422: 'INVALID_REQUEST',
  429: 'UNAVAILABLE',
  500: 'UNAVAILABLE',
  502: 'UNAVAILABLE',
  503: 'UNAVAILABLE',
  504: 'DEADLINE_EXCEEDED',
};

export function refusalOf(call: CallName, response: IncomingMessage, body: unknown): AppError {
  const status = response.statusCode ?? 0;
  const retryAfterSeconds = Number(response.headers['retry-after'] ?? Number.NaN);
  return statusError(`${call.method} ${call.path}`, status, body, retryAfterSeconds);
}

function statusError(what: string, status: number, body: unknown, retryAfterSeconds: number): AppError {
  const fields = isRecord(body) ? body : {};
  const sentence = typeof fields['message'] === 'string' ? fields['message'] : `status ${status}`;
  const reason = typeof fields['reason'] === 'string' ? fields['reason'] : '';
  return new AppError(codesByStatus[status] ?? 'UNAVAILABLE', `${what}: ${sentence}`, {
    details: { status, reason, sentence, ...(isFieldConflict(fields) ? { isFieldConflict: true } : {}) },
    ...(Number.isFinite(retryAfterSeconds) ? { retryAfterMs: retryAfterSeconds * 1000 } : {}),
  });
}

/** Source: Kubernetes, CauseTypeFieldManagerConflict. */
function isFieldConflict(fields: Record<string, unknown>): boolean {
  const causes = isRecord(fields['details']) ? fields['details']['causes'] : undefined;
  return Array.isArray(causes) && causes.some((cause) => isRecord(cause) && cause['reason'] === 'FieldManagerConflict');
}

export function unreachable(call: CallName, cause: unknown): AppError {
  if (isAppError(cause)) return cause;
  const sentence = cause instanceof Error ? cause.message : String(cause);
  return new AppError('UNAVAILABLE', `${call.method} ${call.path}: ${sentence}`, { cause });
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The answer to a dry run of a create: what was not stored has no version yet. */
export function parseDryRun(value: unknown): KubernetesObject {
  const metadata = isRecord(value) && isRecord(value['metadata']) ? value['metadata'] : {};
  return parseObject({ ...(isRecord(value) ? value : {}), metadata: { resourceVersion: '', ...metadata } });
}

export function parseObject(value: unknown): KubernetesObject {
  const metadata = isRecord(value) ? value['metadata'] : undefined;
  if (
    isRecord(metadata) &&
    typeof metadata['name'] === 'string' &&
    typeof metadata['uid'] === 'string' &&
    typeof metadata['resourceVersion'] === 'string'
  ) {
    // The API server vouches for the rest of the metadata.
    return value as unknown as KubernetesObject;
  }
  throw new AppError('INTERNAL', 'the API server answered with something that is no object');
}

export function parseListPage(value: unknown): ListPage {
  const metadata = isRecord(value) ? value['metadata'] : undefined;
  // Measured on kube-apiserver v1.34: an empty list of metadata alone has null here.
  const items = isRecord(value) ? (value['items'] ?? []) : undefined;
  if (!isRecord(metadata) || typeof metadata['resourceVersion'] !== 'string' || !Array.isArray(items)) {
    throw new AppError('INTERNAL', 'the API server answered with something that is no list');
  }
  return {
    items: items.map(parseObject),
    resourceVersion: metadata['resourceVersion'],
    continueToken: typeof metadata['continue'] === 'string' ? metadata['continue'] : '',
  };
}

/** @throws what the server sent as an error inside the stream */
export function parseWatchEvent(line: string): WatchEvent {
  let event: unknown;
  try {
    event = JSON.parse(line);
  } catch (error) {
    throw new AppError('UNAVAILABLE', 'a watch sent a line that is no JSON', { cause: error });
  }
  const type = isRecord(event) ? event['type'] : undefined;
  const object = isRecord(event) ? event['object'] : undefined;
  switch (type) {
    case 'ADDED':
    case 'MODIFIED':
    case 'DELETED':
      return { type, object: parseObject(object) };
    case 'BOOKMARK': {
      const metadata = isRecord(object) ? object['metadata'] : undefined;
      const version = isRecord(metadata) ? metadata['resourceVersion'] : undefined;
      if (typeof version !== 'string') throw new AppError('UNAVAILABLE', 'a watch sent a bookmark without version');
      return { type, resourceVersion: version };
    }
    case 'ERROR': {
      const status = isRecord(object) && typeof object['code'] === 'number' ? object['code'] : 500;
      throw statusError('watch', status, object, Number.NaN);
    }
    default:
      throw new AppError('UNAVAILABLE', 'a watch sent an event of unknown type');
  }
}
