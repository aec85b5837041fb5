/** Which web pages may call the API from a browser: none, unless their origin is named in the settings. */
import type { IncomingMessage } from 'node:http';

export type CorsHeaders = Readonly<Record<string, string>>;

/** Browsers keep the answer to a preflight for so long. */
const preflightSeconds = 600;

export interface Cors {
  /** Of every answer to that request; empty when its origin is not allowed. */
  headersFor(request: Pick<IncomingMessage, 'headers'>): CorsHeaders;
  /** Of the answer to a preflight; null when the request is none or its origin is not allowed. */
  preflightFor(request: Pick<IncomingMessage, 'headers' | 'method'>): CorsHeaders | null;
}

export function createCors(allowedOrigins: readonly string[]): Cors {
  const allowed = new Set(allowedOrigins);
  const headersFor: Cors['headersFor'] = ({ headers }) => {
    const { origin } = headers;
    if (allowed.size === 0) return {};
    if (origin === undefined || !allowed.has(origin)) return { vary: 'Origin' };
    return { vary: 'Origin', 'access-control-allow-origin': origin, 'access-control-expose-headers': 'Retry-After' };
  };
  return {
    headersFor,
    preflightFor: (request) => {
      const headers = headersFor(request);
      if (request.method !== 'OPTIONS' || request.headers['access-control-request-method'] === undefined || headers['access-control-allow-origin'] === undefined) return null;
      return {
        ...headers,
        'access-control-allow-methods': 'GET, POST',
        'access-control-allow-headers': 'Authorization, Content-Type, Last-Event-ID',
        'access-control-max-age': String(preflightSeconds),
      };
    },
  };
}
