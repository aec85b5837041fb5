/**
 * The tenants' API over HTTPS: serves exactly the routes of the table, each behind the same authentication, rights and
 * limits as gRPC. Owns the limits of HTTP itself; what a call does is in `controller/fleet-api`.
 *
 * Invariants: a route outside the table fails the start; nothing is answered to a caller that was granted no right.
 */
import Fastify, { type FastifyError, type FastifyInstance, type FastifyReply, type FastifyRequest, type RawServerDefault } from 'fastify';
import type { experimental } from '@grpc/grpc-js';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { Logger } from 'pino';
import { AppError, isAppError } from '#api/model/error-codes.ts';
import type { Caller } from '#controller/fleet-api/apply-plan.ts';
import type { Authentication, FleetCaller, Ticket } from '#controller/fleet-api/authentication.ts';
import { fleetRules, type FleetCalls } from '#controller/fleet-api/fleet-calls.ts';
import { check, refuse, type FieldProblem, type Rule } from '#controller/fleet-api/validation.ts';
import { unaryDeadlineMs } from '#controller/grpc/calls.ts';
import type { Listener } from '#controller/grpc/listener.ts';
import type { Clock } from '#controller/ports/clock.ts';
import { createCors, type Cors } from './cors.ts';
import { messagesOf } from './descriptors.ts';
import { createLongAnswer, type LongAnswer } from './event-stream.ts';
import { eventShape, runLongCall, textShape, type Piece } from './long-calls.ts';
import { decodeJson, decodeTexts, encodeMessage, type MessageValue } from './message-json.ts';
import { describeApi } from './openapi.ts';
import { jsonPath, problemHeaders, toProblem, type Problem } from './problem.ts';
import { createResumption } from './resumption.ts';
import { descriptionPath, httpRoutes, pathParameters, templateOf, type HttpRoute } from './routes.ts';

/** As the largest message over gRPC. */
const bodyBytesMax = 4 * 2 ** 20;
const headerBytesMax = 16 * 1024;
const urlBytesMax = 8 * 1024;
const connectionsMax = 4_096;
const requestsPerConnectionMax = 10_000;
/** A connection that is older is closed after its next answer, so that new certificates and new replicas come into use. */
const connectionAgeMs = 12 * 3_600_000;
/** A stream that is older ends well; its reader comes back. */
const streamAgeMs = 3_600_000;
/** Until a whole request was received, headers first. */
const requestTimeoutMs = 30_000;
const headersTimeoutMs = 10_000;
const handshakeTimeoutMs = 10_000;
const idleTimeoutMs = 65_000;

export interface HttpApiDeps {
  readonly calls: FleetCalls;
  readonly authentication: Pick<Authentication, 'authenticateHeader' | 'open'>;
  readonly log: Logger;
  readonly clock: Clock;
  readonly uuid: () => string;
  /** Origins of web pages that may call from a browser. */
  readonly allowedOrigins: readonly string[];
  /** Counts ended requests by route and code; `OK` when all went well. */
  readonly onEnd?: (route: string, code: string) => void;
}

/** What belongs to one request. */
interface Admission {
  readonly from: Caller;
  readonly ticket: Ticket;
  /** Null until it streams. */
  answer: LongAnswer<Piece> | null;
}

const nameOf = (route: HttpRoute): string => `${route.method} ${route.path}`;

function peerOf(request: FastifyRequest): string {
  const { remoteAddress = '', remotePort = 0 } = request.raw.socket;
  return `${remoteAddress.replace(/^::ffff:/, '')}:${remotePort}`;
}

/** Fields from path, query and body as one message. @throws INVALID_REQUEST with every problem of form and rules */
function decodeRequest(route: HttpRoute, request: FastifyRequest): MessageValue {
  const { input } = messagesOf(route.call);
  const inPath = pathParameters(route.path);
  const without = new Set([...inPath, ...(route.without ?? [])]);
  const takesRest = (name: string): boolean => !without.has(name);
  const path = decodeTexts(input, request.params as Record<string, unknown>, (name) => inPath.includes(name)); // Texts by the router.
  const query = decodeTexts(input, request.query as Record<string, unknown>, (name) => route.takes === 'query' && takesRest(name)); // Texts, or lists of them.
  const body = route.method === 'GET' || (route.takes === 'nothing' && request.body === undefined) ? null : decodeJson(input, request.body, (name) => route.takes === 'body' && takesRest(name));
  const given = { ...query.message, ...body?.message };
  const message: MessageValue = { ...given, ...Object.fromEntries(inPath.map((name) => [name, path.message[name]])) };
  const ofForm: readonly FieldProblem[] = [...path.problems, ...query.problems, ...(body?.problems ?? [])];
  const known = new Set(ofForm.map(({ field }) => field));
  const rules = fleetRules[route.call] as readonly Rule<unknown>[]; // Rules of the request whose descriptor made the message.
  refuse([...ofForm, ...check(rules, message).filter(({ field }) => !known.has(jsonPath(field)))]);
  return message;
}

/** Rejects with DEADLINE_EXCEEDED when the work is not done in time; what it began goes on to its end. */
async function inTime<Result>(work: Promise<Result>): Promise<Result> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new AppError('DEADLINE_EXCEEDED')), unaryDeadlineMs);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

type App = FastifyInstance;

function sendProblem(reply: FastifyReply, problem: Problem): void {
  // As bytes: of a text fastify would name the charset, which this type has none of.
  void reply.code(problem.status).headers(problemHeaders(problem)).send(Buffer.from(JSON.stringify(problem)));
}

/** What fastify itself refuses, in the words of the catalogue. */
function toProblemOf(error: unknown, log: Logger): Problem {
  const { statusCode } = error as Partial<FastifyError>; // Anything may be thrown; of fastify it has a status.
  if (isAppError(error) || statusCode === undefined || statusCode < 400 || statusCode >= 500) return toProblem(error, log);
  const sentences: Readonly<Record<number, string>> = {
    413: `the body must have at most ${bodyBytesMax} bytes`,
    414: `the URL must have at most ${urlBytesMax} bytes`,
    415: 'the body must be JSON, with the content type application/json',
  };
  return toProblem(new AppError('INVALID_REQUEST', sentences[statusCode] ?? 'the request is not well-formed: a body must be one JSON value'), log, statusCode);
}

function isListed(method: unknown, url: string): boolean {
  if (url === descriptionPath) return method === 'GET';
  return httpRoutes.some((route) => route.method === method && templateOf(route.path) === url);
}

export interface HttpApi {
  readonly app: App;
  /** Ends streams well. */
  endStreams(): void;
}

/** The routes on a server that does not listen yet. @throws Error when a route is added that is not in the table */
export function createHttpApi(deps: HttpApiDeps, makeServer: (handler: Parameters<typeof createServer>[1]) => Server): HttpApi {
  const { log } = deps;
  const cors = createCors(deps.allowedOrigins);
  const resumption = createResumption({ clock: deps.clock, uuid: deps.uuid });
  const admissions = new WeakMap<FastifyRequest, Admission>();
  const streams = new Set<LongAnswer<Piece>>();
  const connectedAtMs = new WeakMap<object, number>();
  const app = Fastify({
    serverFactory: (handler) => {
      const server = makeServer(handler as Parameters<typeof createServer>[1]); // fastify's handler is one of node:http.
      server.on('secureConnection', (socket) => connectedAtMs.set(socket, deps.clock.monotonicMs()));
      return server as unknown as RawServerDefault; // node:https has what fastify uses of node:http.
    },
    logger: false,
    bodyLimit: bodyBytesMax,
    exposeHeadRoutes: false,
    routerOptions: { maxParamLength: 512, ignoreTrailingSlash: false },
    frameworkErrors: (error, _request, reply) => sendProblem(reply, toProblemOf(error, log)),
  }) as unknown as App; // As above.
  app.removeContentTypeParser('text/plain');
  app.addHook('onRoute', ({ method, url }) => {
    if (!isListed(method, url)) throw new Error(`no access rule for ${String(method)} ${url}`);
  });
  app.addHook('onRequest', async (request, reply) => {
    reply.headers({ ...cors.headersFor(request.raw), 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' });
    const preflight = cors.preflightFor(request.raw);
    if (preflight !== null) return reply.code(204).headers(preflight).send();
    if ((request.raw.url ?? '').length > urlBytesMax) return sendProblem(reply, toProblemOf({ statusCode: 414 }, log));
  });
  app.addHook('onSend', async (request, reply) => {
    const sinceMs = connectedAtMs.get(request.raw.socket);
    if (sinceMs !== undefined && deps.clock.monotonicMs() - sinceMs > connectionAgeMs) reply.header('connection', 'close');
  });
  app.setErrorHandler((error, request, reply) => {
    const problem = toProblemOf(error, log);
    const route = routeOf(request);
    if (route !== undefined) deps.onEnd?.(nameOf(route), problem.code);
    sendProblem(reply, problem);
  });
  app.setNotFoundHandler((request, reply) => {
    const url = (request.raw.url ?? '').split('?')[0] ?? '';
    const methods = httpRoutes.filter((route) => patternOf(route).test(url)).map((route) => route.method);
    if (methods.length === 0) return sendProblem(reply, toProblem(new AppError('NOT_FOUND', `there is no such path; ${descriptionPath} describes them all`), log));
    reply.header('allow', [...new Set(methods)].join(', '));
    sendProblem(reply, toProblem(new AppError('INVALID_REQUEST', `this path takes ${methods.join(' or ')} only`), log, 405));
  });

  const admit = (route: HttpRoute) => async (request: FastifyRequest, reply: FastifyReply): Promise<void> => {
    const peer = peerOf(request);
    const caller: FleetCaller = await deps.authentication.authenticateHeader(request.headers.authorization, peer);
    const admission: Admission = {
      from: { caller, peer },
      ticket: deps.authentication.open(caller, { isStream: route.kind !== 'json', end: (error) => admission.answer?.cut(toProblem(error, log)) }),
      answer: null,
    };
    admissions.set(request, admission);
    reply.raw.once('close', () => admission.ticket.close());
    // Its client may have gone while it was authenticated; then nobody else tells.
    if (reply.raw.destroyed) admission.ticket.close();
  };
  const admissionOf = (request: FastifyRequest): Admission => {
    const found = admissions.get(request);
    if (found === undefined) throw new AppError('UNAUTHENTICATED');
    return found;
  };
  /** A handler that answers without asking for a right is cut off: its answer never leaves. */
  const mustBeGranted = (route: HttpRoute, admission: Admission): void => {
    if (admission.ticket.isGranted) return;
    log.error({ route: nameOf(route) }, 'a handler answered without asking for a right');
    throw new AppError('INTERNAL');
  };

  const answerOnce = (route: HttpRoute) => async (request: FastifyRequest, reply: FastifyReply): Promise<void> => {
    const admission = admissionOf(request);
    const call = deps.calls[route.call] as unknown as (message: MessageValue, from: Caller) => Promise<object>; // Its request was decoded by its descriptor.
    const answer = await inTime(call(decodeRequest(route, request), admission.from));
    mustBeGranted(route, admission);
    deps.onEnd?.(nameOf(route), 'OK');
    void reply.header('content-type', 'application/json; charset=utf-8').send(JSON.stringify(encodeMessage(messagesOf(route.call).output, answer as MessageValue))); // ts-proto's messages are records.
  };
  const answerLong = (route: HttpRoute) => async (request: FastifyRequest, reply: FastifyReply): Promise<void> => {
    const admission = admissionOf(request);
    const message = decodeRequest(route, request);
    const lastEventId = request.headers['last-event-id'];
    reply.hijack();
    await stream({ route, message, admission, lastEventId: typeof lastEventId === 'string' ? lastEventId.slice(0, 128) : undefined, cors: cors.headersFor(request.raw) }, reply);
  };

  interface StreamInput {
    readonly route: HttpRoute;
    readonly message: MessageValue;
    readonly admission: Admission;
    readonly lastEventId: string | undefined;
    readonly cors: ReturnType<Cors['headersFor']>;
  }

  async function stream({ route, message, admission, lastEventId, cors: corsHeaders }: StreamInput, reply: FastifyReply): Promise<void> {
    const shape = route.kind === 'text' ? textShape : eventShape;
    const answer = createLongAnswer<Piece>(reply.raw, { ...shape, headers: { ...shape.headers, ...corsHeaders } });
    admission.answer = answer;
    streams.add(answer);
    const age = setTimeout(() => answer.finish(), streamAgeMs).unref();
    const guarded: LongAnswer<Piece> = {
      ...answer,
      send: (piece) => {
        mustBeGranted(route, admission);
        return answer.send(piece);
      },
    };
    try {
      await runLongCall(deps.calls, resumption, guarded, { route, request: message, from: admission.from, lastEventId, cut: () => answer.finish() });
      deps.onEnd?.(nameOf(route), 'OK');
      answer.finish();
    } catch (error) {
      const problem = answer.fail(toProblem(error, log));
      deps.onEnd?.(nameOf(route), isAppError(error) ? error.code : 'INTERNAL');
      if (problem !== null && !reply.raw.destroyed) reply.raw.writeHead(problem.status, { ...corsHeaders, ...problemHeaders(problem) }).end(JSON.stringify(problem));
    } finally {
      clearTimeout(age);
      streams.delete(answer);
    }
  }

  for (const route of httpRoutes) {
    app.route({ method: route.method, url: templateOf(route.path), onRequest: admit(route), handler: route.kind === 'json' ? answerOnce(route) : answerLong(route) });
  }
  const description = JSON.stringify(describeApi());
  app.get(descriptionPath, (_request, reply) => {
    void reply.header('content-type', 'application/json; charset=utf-8').send(description);
  });
  return {
    app,
    endStreams: () => {
      for (const answer of streams) answer.finish();
    },
  };
}

function patternOf(route: HttpRoute): RegExp {
  return new RegExp(`^${route.path.replaceAll(/\{\w+\}/g, '[^/]+')}$`);
}

function routeOf(request: FastifyRequest): HttpRoute | undefined {
  return httpRoutes.find((route) => route.method === request.method && templateOf(route.path) === request.routeOptions.url);
}

/** Takes each new certificate into use without closing anything; resolves with the first one. */
function followCertificates(certificates: experimental.CertificateProvider, use: (pair: experimental.IdentityCertificateUpdate) => void): { readonly first: Promise<experimental.IdentityCertificateUpdate>; stop(): void } {
  const { promise: first, resolve } = Promise.withResolvers<experimental.IdentityCertificateUpdate>();
  let isFirst = true;
  const listener = (pair: experimental.IdentityCertificateUpdate | null): void => {
    if (pair === null) return;
    if (isFirst) resolve(pair);
    else use(pair);
    isFirst = false;
  };
  certificates.addIdentityCertificateListener(listener);
  return { first, stop: () => certificates.removeIdentityCertificateListener(listener) };
}

export async function startHttpApi(deps: HttpApiDeps, input: { readonly listen: { readonly host: string; readonly port: number }; readonly certificates: experimental.CertificateProvider }): Promise<Listener> {
  let server: Server | null = null;
  const certificates = followCertificates(input.certificates, (pair) => server?.setSecureContext({ cert: pair.certificate, key: pair.privateKey }));
  const pair = await certificates.first;
  const api = createHttpApi(deps, (handler) => {
    const made = createServer(
      {
        cert: pair.certificate, key: pair.privateKey, minVersion: 'TLSv1.2', handshakeTimeout: handshakeTimeoutMs, maxHeaderSize: headerBytesMax,
        requestTimeout: requestTimeoutMs, headersTimeout: headersTimeoutMs, keepAliveTimeout: idleTimeoutMs, connectionsCheckingInterval: 5_000,
      },
      handler,
    );
    made.maxConnections = connectionsMax;
    made.maxRequestsPerSocket = requestsPerConnectionMax;
    server = made;
    return made;
  });
  const host = input.listen.host.replace(/^\[(.*)\]$/, '$1');
  await api.app.listen({ host, port: input.listen.port });
  const bound = api.app.server.address() as AddressInfo; // A TCP server has an AddressInfo once it listens.
  return {
    address: `${input.listen.host}:${bound.port}`,
    stop: async (graceMs) => {
      certificates.stop();
      const timer = setTimeout(() => server?.closeAllConnections(), graceMs);
      api.endStreams();
      await api.app.close();
      clearTimeout(timer);
    },
  };
}
