/**
 * One request to the management API: token, deadline, bounded answer, and every failure translated to the error codes
 * of the port. Owns the shared state of an account: its limiter, and how often in a row it failed.
 *
 * Invariant: neither the token nor a request's body is in any error. Errors of `fetch` are never passed on: one about
 * an invalid header quotes the header.
 */
import createClient, { type Client } from 'openapi-fetch';
import { AppError } from '#api/model/error-codes.ts';
import { backoffMs, type Time } from '#controller/runtime/time.ts';
import type { paths } from './gen/api.ts';
import { createLimiter, type Limiter, type LimiterLimits } from './limiter.ts';

/** A whole request, from its start to the last byte of the answer. */
const deadlineMs = 15_000;
/** About 20,000 peers. */
const answerBytesMax = 32 * 1024 * 1024;
/** What is kept of a server's own words. */
const messageCharactersMax = 300;
/**
 * Nothing says how many requests the cloud takes; a self-hosted server has no limit by default.
 * A site of ten hosts is made with about 80 requests and looked at with 25.
 */
export const defaultLimits: LimiterLimits = { concurrencyMax: 4, perSecond: 10, burst: 100, waitersMax: 1000 };
/** Full jitter between these when the account can not be reached. */
const backoff = { initialMs: 1000, maxMs: 300_000 } as const;
/** A 429 without Retry-After; the real server sends none. */
const rateLimitPauseMs = 30_000;
const retryAfterMinMs = 1000;
const retryAfterMaxMs = 600_000;

/** What one account shares among all that use it. */
export interface AccountTraffic {
  readonly limiter: Limiter;
  failuresInARow: number;
}

export function createTraffic(time: Time, limits: LimiterLimits): AccountTraffic {
  return { limiter: createLimiter(limits, time), failuresInARow: 0 };
}

export type NetbirdClient = Client<paths>;

/** What a caller needs of an answer of the generated client. */
interface Answered<Data> {
  readonly data?: Data;
  readonly response: Response;
}

/** Makes the typed client. Each call carries its own signal. @throws MESH_UNAUTHORIZED for a token that no header can hold */
export function createNetbirdClient(input: { readonly managementUrl: string; readonly token: string; readonly traffic: AccountTraffic; readonly time: Time }): NetbirdClient {
  const token = input.token.trim();
  if (!/^[\x21-\x7e]+$/.test(token)) throw new AppError('MESH_UNAUTHORIZED', 'the API token of the mesh is empty or holds characters that no token has');
  return createClient<paths>({
    baseUrl: input.managementUrl.replace(/\/+$/, ''),
    fetch: (request: Request) => send(request, token, input.traffic, input.time),
  });
}

async function send(request: Request, token: string, traffic: AccountTraffic, time: Time): Promise<Response> {
  const pausedMs = traffic.limiter.pausedForMs();
  if (pausedMs > 0) throw new AppError('MESH_RATE_LIMITED', undefined, { retryAfterMs: Math.ceil(pausedMs) });
  const release = await traffic.limiter.take(request.signal).catch((error: unknown) => {
    if (error instanceof RangeError) throw new AppError('MESH_RATE_LIMITED', error.message, { retryAfterMs: rateLimitPauseMs });
    throw error;
  });
  try {
    const response = await exchange(request, token, time);
    if (response.status >= 500 || response.status === 408) throw unavailable(traffic, time, describe(request, `answered ${response.status}`), { status: response.status });
    traffic.failuresInARow = 0;
    if (response.status === 429) throw rateLimited(response, traffic, time);
    return response;
  } catch (error) {
    if (request.signal.aborted) throw request.signal.reason;
    if (error instanceof AppError) throw error;
    throw unavailable(traffic, time, describe(request, 'got no whole answer'), { errno: errnoOf(error) });
  } finally {
    release();
  }
}

/**
 * Reads the whole answer before anybody sees its status, so that half an answer is no answer. The deadline holds whatever
 * becomes of the abort: a signal that follows others can be collected as garbage before they fire, and `fetch` then waits
 * for ever (measured with AbortSignal.any on Node 24.21).
 */
async function exchange(request: Request, token: string, time: Time): Promise<Response> {
  const ending = new AbortController();
  const ended = Promise.withResolvers<never>();
  const end = (reason: unknown): void => {
    ended.reject(reason);
    ending.abort(reason);
  };
  const onAbort = (): void => end(request.signal.reason);
  const cancel = time.schedule(deadlineMs, () => end(new Error('deadline')));
  request.signal.addEventListener('abort', onAbort, { once: true });
  const headers = new Headers(request.headers);
  headers.set('authorization', `Token ${token}`);
  headers.set('accept', 'application/json');
  const outgoing = new Request(request, { headers, redirect: 'manual', signal: ending.signal });
  try {
    return await Promise.race([fetchWhole(outgoing), ended.promise]);
  } finally {
    cancel();
    request.signal.removeEventListener('abort', onAbort);
  }
}

async function fetchWhole(request: Request): Promise<Response> {
  const response = await fetch(request);
  const text = await readBounded(response);
  const kept = new Headers(response.headers);
  kept.delete('content-encoding');
  kept.delete('content-length');
  return new Response(bodyOf(response, text), { status: response.status, headers: kept });
}

/** These statuses may not have a body in a Response. */
function bodyOf(response: Response, text: string): string | null {
  return response.status === 204 || response.status === 205 || response.status === 304 ? null : text;
}

async function readBounded(response: Response): Promise<string> {
  if (response.body === null) return '';
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of response.body) {
    length += chunk.length;
    if (length > answerBytesMax) throw new AppError('MESH_REFUSED', 'the mesh account is larger than n-kudo reads', { details: { bytesMax: answerBytesMax } });
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/**
 * The data of a good answer; throws what the port promises for any other.
 * `accept` names statuses that the caller handles itself: then the answer is null.
 */
export async function dataOf<Data>(call: Promise<Answered<Data>>, what: string, accept: readonly number[] = []): Promise<Data | null> {
  const answered = await call.catch((error: unknown) => {
    // The generated client parses the body: only that is no JSON can be wrong here.
    if (error instanceof SyntaxError) throw new AppError('MESH_UNAVAILABLE', `${what}: the answer is not JSON; is this the address of a NetBird management API`);
    throw error;
  });
  const { status } = answered.response;
  if (status >= 200 && status < 300) {
    if (answered.data === undefined) throw badAnswer(what);
    return answered.data;
  }
  if (accept.includes(status)) return null;
  throw refusal(status, what, 'error' in answered ? answered.error : null);
}

/** An answer that has the right status and the wrong content. */
export function badAnswer(what: string): AppError {
  return new AppError('MESH_UNAVAILABLE', `${what}: the answer is not what a NetBird management API gives`);
}

function refusal(status: number, what: string, body: unknown): AppError {
  const words = typeof body === 'object' && body !== null && 'message' in body ? String(body.message).slice(0, messageCharactersMax) : '';
  const message = `${what}: status ${status}${words === '' ? '' : `, ${words}`}`;
  if (status === 401 || status === 403) return new AppError('MESH_UNAUTHORIZED', message, { details: { status } });
  return new AppError('MESH_REFUSED', message, { details: { status } });
}

function unavailable(traffic: AccountTraffic, time: Time, message: string, details: Record<string, string | number>): AppError {
  traffic.failuresInARow += 1;
  return new AppError('MESH_UNAVAILABLE', message, { details, retryAfterMs: backoffMs(backoff, traffic.failuresInARow, time.random) });
}

/** The account said how long; nobody asks it before. */
function rateLimited(response: Response, traffic: AccountTraffic, time: Time): AppError {
  const waitMs = retryAfterMs(response.headers.get('retry-after'), time.nowMs()) ?? rateLimitPauseMs;
  traffic.limiter.pauseUntil(time.monotonicMs() + waitMs);
  return new AppError('MESH_RATE_LIMITED', undefined, { retryAfterMs: waitMs, details: { status: 429 } });
}

/** Seconds or an HTTP date, kept between a second and ten minutes. Null: there is none that can be read. */
export function retryAfterMs(header: string | null, nowMs: number): number | null {
  if (header === null) return null;
  const askedMs = /^\d+$/.test(header.trim()) ? Number(header) * 1000 : Date.parse(header) - nowMs;
  return Number.isFinite(askedMs) ? Math.min(retryAfterMaxMs, Math.max(retryAfterMinMs, askedMs)) : null;
}

/** Method and path; never the query, a header or the body. */
function describe(request: Request, what: string): string {
  return `${request.method} ${new URL(request.url).pathname} ${what}`;
}

function errnoOf(error: unknown): string {
  for (let current = error; current instanceof Error; current = current.cause) {
    if ('code' in current && typeof current.code === 'string') return current.code;
  }
  return error instanceof Error && error.message === 'deadline' ? 'DEADLINE' : 'none';
}
