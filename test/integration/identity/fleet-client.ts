/**
 * Calls the tenants' API as a client that knows nothing but the contract: any method over gRPC, any route over HTTPS,
 * with any `authorization` header. What a call ended with is its code of docs/errors.md, `OK` when it was answered.
 */
import { Client, credentials, Metadata, type ServiceError } from '@grpc/grpc-js';
import { request } from 'node:https';
import { FleetServiceService } from '#api/gen/nkudo/v1/fleet.pb.ts';
import type { FleetMethod } from '#controller/fleet-api/rights.ts';
import { messagesOf } from '#controller/http-api/descriptors.ts';
import { encodeMessage } from '#controller/http-api/message-json.ts';
import type { HttpRoute } from '#controller/http-api/routes.ts';
import { serverName } from '#controller/pki/certificates.ts';

export interface Outcome {
  readonly code: string;
  /** First message, or the body; empty when refused. */
  readonly answer: string;
  /** Milliseconds after which a retry can help, as the answer says; undefined when it does not. */
  readonly retryAfterMs: number | undefined;
}

/** A request with the names of the protobuf JSON mapping. */
export type Message = Readonly<Record<string, unknown>>;

const callTimeoutMs = 60_000;
type AnyMethod = (typeof FleetServiceService)['getPlan']; // All methods have this shape, with other messages.

export interface GrpcClient {
  call(method: FleetMethod, message: Message, authorization: string | undefined): Promise<Outcome>;
  /** Opens a stream and leaves it open. `ended` resolves with its code. */
  open(method: FleetMethod, message: Message, authorization: string | undefined): { readonly first: Promise<void>; readonly ended: Promise<string>; cancel(): void };
  close(): void;
}

const definitionOf = (method: FleetMethod): AnyMethod => {
  const found = Object.values(FleetServiceService).find((each) => each.path.endsWith(`/${method}`));
  if (found === undefined) throw new Error(`the service has no method ${method}`);
  return found as unknown as AnyMethod; // As above.
};

function metadataOf(authorization: string | undefined): Metadata {
  const metadata = new Metadata();
  if (authorization !== undefined) metadata.set('authorization', authorization);
  return metadata;
}

function toOutcome(error: ServiceError): Outcome {
  const retryAfter = error.metadata?.get('nkudo-retry-after-ms')[0];
  return { code: String(error.metadata?.get('nkudo-error-code')[0] ?? error.message), answer: '', retryAfterMs: retryAfter === undefined ? undefined : Number(retryAfter) };
}

export function dialGrpc(address: string, trustBundlePem: string): GrpcClient {
  const client = new Client(address, credentials.createSsl(Buffer.from(trustBundlePem)), {
    'grpc.ssl_target_name_override': serverName, 'grpc.default_authority': serverName, 'grpc.use_local_subchannel_pool': 1, 'grpc.enable_retries': 0,
  });
  const open: GrpcClient['open'] = (method, message, authorization) => {
    const definition = definitionOf(method);
    const stream = client.makeServerStreamRequest(definition.path, definition.requestSerialize, definition.responseDeserialize, message as never, metadataOf(authorization), {});
    const first = Promise.withResolvers<void>();
    const ended = Promise.withResolvers<string>();
    stream.on('data', () => first.resolve());
    stream.on('error', (error: ServiceError) => ended.resolve(toOutcome(error).code));
    stream.on('end', () => ended.resolve('OK'));
    return { first: first.promise, ended: ended.promise, cancel: () => stream.cancel() };
  };
  return {
    open,
    close: () => client.close(),
    call: (method, message, authorization) => {
      const definition = definitionOf(method);
      const options = { deadline: Date.now() + callTimeoutMs };
      const { path, requestSerialize, responseDeserialize } = definition;
      return new Promise((resolve) => {
        if (!definition.responseStream) {
          client.makeUnaryRequest(path, requestSerialize, responseDeserialize, message as never, metadataOf(authorization), options, (error, response) => {
            resolve(error === null ? { code: 'OK', answer: JSON.stringify(response), retryAfterMs: undefined } : toOutcome(error));
          });
          return;
        }
        const stream = client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, message as never, metadataOf(authorization), options);
        const seen: unknown[] = [];
        stream.on('error', (error: ServiceError) => resolve(toOutcome(error)));
        stream.on('end', () => resolve({ code: 'OK', answer: JSON.stringify(seen), retryAfterMs: undefined }));
        stream.on('data', (piece: unknown) => {
          seen.push(piece);
          resolve({ code: 'OK', answer: JSON.stringify(seen), retryAfterMs: undefined });
          stream.cancel();
        });
      });
    },
  };
}

const isEmpty = (value: unknown): boolean => value === '' || value === undefined || value === false || value === 0 || (Array.isArray(value) && value.length === 0);

/** Puts the fields where the route takes them. */
export function callHttp(server: { readonly address: string; readonly trustBundlePem: string }, route: HttpRoute, input: { readonly message: Message; readonly authorization: string | undefined }): Promise<Outcome> {
  const rest = new Map(Object.entries(input.message).filter(([, value]) => !isEmpty(value)));
  const path = route.path.replaceAll(/\{(\w+)\}/g, (_, name: string) => {
    const value = rest.get(name);
    rest.delete(name);
    return encodeURIComponent(typeof value === 'string' || typeof value === 'number' ? String(value) : 'none');
  });
  const query = route.takes === 'query' ? `?${new URLSearchParams(Object.fromEntries([...rest].map(([name, value]) => [name, String(value)]))).toString()}` : '';
  const body = route.takes === 'body' ? JSON.stringify(Object.fromEntries(Object.entries(encodeMessage(messagesOf(route.call).input, Object.fromEntries(rest))).filter(([name, value]) => rest.has(name) && !isEmpty(value)))) : null;
  const { hostname, port } = new URL(`https://${server.address}`);
  return new Promise((resolve, reject) => {
    const outgoing = request(
      {
        hostname, port, method: route.method, path: `${path}${query}`, ca: server.trustBundlePem, servername: serverName, timeout: callTimeoutMs,
        headers: { ...(input.authorization === undefined ? {} : { authorization: input.authorization }), ...(body === null ? {} : { 'content-type': 'application/json' }) },
      },
      (response) => {
        let text = '';
        const isLong = route.kind !== 'json' && response.statusCode === 200;
        response.setEncoding('utf8').on('error', () => {}).on('data', (piece: string) => {
          text += piece;
          if (!isLong || text.trim() === '') return;
          resolve({ code: 'OK', answer: text, retryAfterMs: undefined });
          response.destroy();
        });
        response.on('end', () => {
          if (response.statusCode === 200) return resolve({ code: 'OK', answer: text, retryAfterMs: undefined });
          const problem = JSON.parse(text) as { readonly code: string; readonly status: number; readonly retryAfterMs?: number }; // RFC 9457, by the server under test.
          resolve({ code: problem.code, answer: '', retryAfterMs: problem.retryAfterMs });
        });
      },
    );
    outgoing.on('error', reject).end(body ?? undefined);
  });
}
