/**
 * One attempt to get the rest of a file over HTTP: redirects, the range, and the stream of bytes.
 * It keeps nothing; what arrived and whether it is right is the caller's. Proxies are those that the
 * environment names (HTTP_PROXY, HTTPS_PROXY, NO_PROXY).
 */
import { Agent as HttpAgent, request as requestHttp, type IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as requestHttps } from 'node:https';
import { AppError, isAppError } from '#api/model/error-codes.ts';
import { isAllowedServer, readTransferStart } from '../../domain/images.ts';

const redirectsMax = 5;
/** Without a byte for so long a connection counts as dead, milliseconds. */
const silenceMaxMs = 30_000;

export interface Transfer {
  /** Whether the bytes follow what is there; else they begin anew. */
  readonly isAppended: boolean;
  /** Length of the whole file; undefined when the server does not say. */
  readonly totalBytes: number | undefined;
  readonly body: AsyncIterable<Uint8Array>;
}

export interface TransferRequest {
  readonly url: string;
  readonly have: number;
  readonly allowed: readonly string[];
  /** The first server was judged by the caller; only those that it points to are judged here. */
  readonly isFirstAllowed?: boolean;
  /** Media types, for a server that has several forms of one thing. */
  readonly accept?: string;
  /** Sent to the server of `url` only, never to one that it points to. */
  readonly access?: Access;
  readonly signal: AbortSignal;
}

/** How a server is asked that wants to know who asks. */
export interface Access {
  /** Value of the Authorization header, if one is known by now. */
  authorization(): string | undefined;
  /** Takes up what a 401 asks for. @returns whether it is worth asking again. @throws IMAGE_ACCESS_DENIED, IMAGE_UNAVAILABLE */
  answer(challenge: string): Promise<boolean>;
}

export type OpenTransfer = (request: TransferRequest) => Promise<Transfer>;

export function createHttpTransfer(environment: Readonly<Record<string, string | undefined>>): OpenTransfer {
  const agents = { http: new HttpAgent({ proxyEnv: { ...environment } }), https: new HttpsAgent({ proxyEnv: { ...environment } }) };

  function send(url: URL, { have, signal, accept }: TransferRequest, authorization: string | undefined): Promise<IncomingMessage> {
    return new Promise((resolve, reject) => {
      const headers = {
        'accept-encoding': 'identity',
        'user-agent': 'nkudo-edge',
        ...(accept === undefined ? {} : { accept }),
        ...(authorization === undefined ? {} : { authorization }),
        ...(have === 0 ? {} : { range: `bytes=${have}-` }),
      };
      const call = url.protocol === 'https:' ? requestHttps(url, { agent: agents.https, headers, signal }) : requestHttp(url, { agent: agents.http, headers, signal });
      call.setTimeout(silenceMaxMs, () => call.destroy(new Error('the server is silent')));
      call.once('response', resolve);
      call.once('error', reject);
      call.end();
    });
  }

  return async function open(request) {
    let url = new URL(request.url);
    const { origin } = url;
    let hasAnswered = false;
    for (let redirects = 0; ; redirects += 1) {
      const isJudged = redirects === 0 && request.isFirstAllowed === true;
      if (!isJudged && !isAllowedServer(url, request.allowed)) throw new AppError('REGISTRY_NOT_ALLOWED', `the Site does not allow images from ${url.host}${redirects === 0 ? '' : ', where the server points to'}`);
      const access = url.origin === origin ? request.access : undefined;
      const response = await send(url, request, access?.authorization()).catch((error: unknown) => {
        throw unavailable(url, error, request.signal);
      });
      const { statusCode: status = 0, headers } = response;
      if (status === 416 && request.have > 0) {
        // There is no byte after those that are there, so they belong to another file: begin anew.
        response.destroy();
        return open({ ...request, have: 0 });
      }
      if (status === 401 && access !== undefined && !hasAnswered) {
        response.destroy();
        hasAnswered = true;
        redirects -= 1;
        if (await access.answer(headers['www-authenticate'] ?? '')) continue;
        throw new AppError('IMAGE_ACCESS_DENIED', `${url.host} answered 401`);
      }
      if (status >= 300 && status < 400 && headers.location !== undefined) {
        response.destroy();
        const next = URL.canParse(headers.location, url.href) ? new URL(headers.location, url) : null;
        if (next === null || redirects >= redirectsMax || !isSafe(url, next)) throw new AppError('IMAGE_NOT_FOUND', `${url.host} redirects to where an image is not fetched from`);
        url = next;
        continue;
      }
      const start = readTransferStart({ status, contentRange: headers['content-range'] }, request.have);
      if (start.kind === 'refused') {
        response.destroy();
        throw new AppError(start.error.code, `${url.host}: ${start.error.message}`, { cause: start.error });
      }
      const length = Number(headers['content-length'] ?? Number.NaN);
      const before = start.kind === 'append' ? request.have : 0;
      return { isAppended: start.kind === 'append', totalBytes: Number.isSafeInteger(length) ? before + length : undefined, body: readBody(response, url, request.signal) };
    }
  };
}

/** A redirect never leaves encryption, and never the two protocols. */
function isSafe(from: URL, to: URL): boolean {
  return to.protocol === 'https:' || (to.protocol === 'http:' && from.protocol === 'http:');
}

async function* readBody(response: IncomingMessage, url: URL, signal: AbortSignal): AsyncIterable<Uint8Array> {
  try {
    for await (const chunk of response) yield chunk as Uint8Array; // Without an encoding a response yields buffers.
  } catch (error) {
    throw unavailable(url, error, signal);
  }
}

function unavailable(url: URL, error: unknown, signal: AbortSignal): unknown {
  if (signal.aborted) return signal.reason;
  if (isAppError(error)) return error;
  const why = error instanceof Error && 'code' in error ? String(error.code) : error instanceof Error ? error.message : 'unknown';
  return new AppError('IMAGE_UNAVAILABLE', `${url.host} can not be read: ${why}`, { cause: error });
}
