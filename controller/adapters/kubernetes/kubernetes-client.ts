/**
 * The API server over HTTPS with kept connections. client-node gives where the server is and who we are;
 * requests are our own, so that each has a deadline, a place in the rate limit and one translation of errors.
 *
 * Invariant: a write is sent once. Reads are repeated after 429 and 503 as the server asks; nothing else is.
 */
import { Agent as HttpAgent, request as httpRequest, type IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest, type RequestOptions } from 'node:https';
import { AppError } from '#api/model/error-codes.ts';
import type { KubernetesApi, KubernetesObject, ListPage, ObjectKey, Resource, WatchEvent } from '#controller/runtime/kubernetes-api.ts';
import { pause, type Time } from '#controller/runtime/time.ts';
import { parseDryRun, parseListPage, parseObject, parseWatchEvent, refusalOf, unreachable } from './answers.ts';
import { createTokenBucket } from './token-bucket.ts';

const requestDeadlineMs = 15_000;
/** A watch's answer begins at once; its body then lasts for minutes. */
const watchHeaderDeadlineMs = 30_000;
/** Repeats of a read after 429 or 503. */
const readRepeatsMax = 3;
/** Credentials are read again after this time, so that rotated files are used soon. */
const credentialsMs = 10_000;
/** Above what one controller needs at 300 creates/s with three writes each; a brake for faults of our own. */
const requestsPerSecond = 1_500;
const requestsBurst = 3_000;
const socketsMax = 64;

/** Where the server is and how to present oneself; client-node's KubeConfig gives it. */
export interface Connection {
  readonly server: string;
  /** TLS material and headers. */
  credentials(): Promise<RequestOptions>;
}

export interface KubernetesClient extends KubernetesApi {
  close(): void;
}

export interface KubernetesClientOptions {
  readonly connection: Connection;
  readonly fieldManager: string;
  readonly userAgent: string;
  readonly time: Time;
  readonly deadlineMs?: number;
}

interface Call {
  readonly method: 'GET' | 'POST' | 'PATCH' | 'DELETE';
  readonly path: string;
  readonly query?: Readonly<Record<string, string>>;
  readonly body?: object;
  readonly contentType?: string;
  readonly accept?: string;
  readonly signal?: AbortSignal;
  readonly deadlineMs: number;
}

export function createKubernetesClient(options: KubernetesClientOptions): KubernetesClient {
  const { connection, time } = options;
  const transport = createTransport(connection, time, options.userAgent);
  const bucket = createTokenBucket({ perSecond: requestsPerSecond, burst: requestsBurst, time });
  const deadlineMs = options.deadlineMs ?? requestDeadlineMs;

  const send = async (call: Call): Promise<unknown> => {
    for (let attempt = 1; ; attempt += 1) {
      await bucket.take();
      const response = await transport.open(call);
      const body = await readJson(response, call);
      const status = response.statusCode ?? 0;
      if (status >= 200 && status < 300) return body;
      const refusal = refusalOf(call, response, body);
      const mayRepeat = call.method === 'GET' && (status === 429 || status === 503) && attempt <= readRepeatsMax;
      if (!mayRepeat) throw refusal;
      await pause(time, refusal.retryAfterMs ?? 1000, call.signal ?? never);
    }
  };
  const write = async (call: Omit<Call, 'deadlineMs'>): Promise<KubernetesObject> => {
    const answer = await send({ ...call, deadlineMs });
    return call.query?.['dryRun'] === undefined ? parseObject(answer) : parseDryRun(answer);
  };

  return {
    list: async (resource, page, signal): Promise<ListPage> =>
      parseListPage(
        await send({
          method: 'GET',
          path: collectionPath(resource, ''),
          query: { limit: String(page.limit), ...(page.continueToken === '' ? {} : { continue: page.continueToken }), ...selection(resource) },
          ...(resource.isMetadataOnly === true ? { accept: metadataListType } : {}),
          signal,
          deadlineMs,
        }),
      ),
    watch: (resource, from, signal) => watch(transport, resource, from, signal),
    get: async (resource, key) => {
      try {
        return await write({ method: 'GET', path: objectPath(resource, key) });
      } catch (error) {
        if (error instanceof AppError && error.details['status'] === 404) return null;
        throw error;
      }
    },
    create: (resource, key, body, own) =>
      write({
        method: 'POST',
        path: collectionPath(resource, key.namespace),
        query: { fieldManager: own?.fieldManager ?? options.fieldManager, fieldValidation: 'Strict', ...dryRun(own) },
        body,
      }),
    patch: (resource, key, body, patch) =>
      write({
        method: 'PATCH',
        path: `${objectPath(resource, key)}${patch.subresource === undefined ? '' : `/${patch.subresource}`}`,
        query: {
          fieldManager: patch.fieldManager ?? options.fieldManager,
          ...(patch.type === 'apply' ? { force: String(patch.isForced ?? true), fieldValidation: 'Strict' } : {}),
          ...dryRun(patch),
        },
        body,
        contentType: patch.type === 'apply' ? 'application/apply-patch+yaml' : 'application/merge-patch+json',
      }),
    delete: async (resource, key, uid, own) => {
      try {
        await send({
          method: 'DELETE',
          path: objectPath(resource, key),
          query: dryRun(own),
          body: { apiVersion: 'v1', kind: 'DeleteOptions', preconditions: { uid } },
          deadlineMs,
        });
      } catch (error) {
        // Gone, or another object of that name: what was to be deleted does not exist.
        if (error instanceof AppError && (error.details['status'] === 404 || error.details['status'] === 409)) return;
        throw error;
      }
    },
    close: () => transport.close(),
  };
}

const never = new AbortController().signal;

/** Source: Kubernetes API concepts, "Metadata-only fetches". Without a fallback: a server that can't is an error, and sends no values. */
const metadataType = 'application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1';
const metadataListType = 'application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1';

const selection = ({ labelSelector }: Resource): Record<string, string> => (labelSelector === undefined ? {} : { labelSelector });

const dryRun = (options: { readonly isDryRun?: boolean } | undefined): Record<string, string> => (options?.isDryRun === true ? { dryRun: 'All' } : {});

async function* watch(
  transport: Transport,
  resource: Resource,
  from: { readonly resourceVersion: string; readonly timeoutSeconds: number },
  signal: AbortSignal,
): AsyncIterable<WatchEvent> {
  const call: Call = {
    method: 'GET',
    path: collectionPath(resource, ''),
    query: {
      watch: 'true',
      allowWatchBookmarks: 'true',
      resourceVersion: from.resourceVersion,
      timeoutSeconds: String(from.timeoutSeconds),
      ...selection(resource),
    },
    ...(resource.isMetadataOnly === true ? { accept: metadataType } : {}),
    signal,
    deadlineMs: watchHeaderDeadlineMs,
  };
  const response = await transport.open(call);
  if (response.statusCode !== 200) throw refusalOf(call, response, await readJson(response, call));
  let rest = '';
  response.setEncoding('utf8');
  try {
    for await (const chunk of response) {
      const lines = (rest + String(chunk)).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) yield parseWatchEvent(line);
    }
  } catch (error) {
    throw error instanceof AppError ? error : unreachable(call, error);
  } finally {
    response.destroy();
  }
}

interface Transport {
  open(call: Call): Promise<IncomingMessage>;
  close(): void;
}

function createTransport(connection: Connection, time: Time, userAgent: string): Transport {
  const isTls = connection.server.startsWith('https:');
  const agent = isTls ? new HttpsAgent({ keepAlive: true, maxSockets: socketsMax }) : new HttpAgent({ keepAlive: true, maxSockets: socketsMax });
  let known: { readonly options: RequestOptions; readonly atMs: number } | null = null;
  const credentials = async (): Promise<RequestOptions> => {
    if (known === null || time.monotonicMs() - known.atMs > credentialsMs) {
      // The agent of client-node keeps no connections; ours does.
      const { agent: _unused, ...options } = await connection.credentials();
      known = { options, atMs: time.monotonicMs() };
    }
    return known.options;
  };
  return {
    open: async (call) => {
      const own = await credentials();
      const url = new URL(connection.server.replace(/\/$/, '') + call.path);
      for (const [name, value] of Object.entries(call.query ?? {})) url.searchParams.set(name, value);
      const payload = call.body === undefined ? undefined : Buffer.from(JSON.stringify(call.body));
      return new Promise((resolve, reject) => {
        const outgoing = (isTls ? httpsRequest : httpRequest)(url, {
          ...own,
          agent,
          method: call.method,
          ...(call.signal === undefined ? {} : { signal: call.signal }),
          headers: {
            ...own.headers,
            accept: call.accept ?? 'application/json',
            'user-agent': userAgent,
            ...(payload === undefined ? {} : { 'content-type': call.contentType ?? 'application/json', 'content-length': payload.length }),
          },
        });
        const cancel = time.schedule(call.deadlineMs, () =>
          outgoing.destroy(new AppError('DEADLINE_EXCEEDED', `${call.method} ${call.path}: no answer within ${call.deadlineMs} ms`)),
        );
        outgoing.once('response', (response) => {
          // A watch's body has no end; any other has to be complete within the same deadline.
          if (call.query?.['watch'] === undefined) response.once('close', cancel);
          else cancel();
          resolve(response);
        });
        outgoing.once('error', (error) => {
          cancel();
          reject(unreachable(call, error));
        });
        outgoing.end(payload);
      });
    },
    close: () => agent.destroy(),
  };
}

async function readJson(response: IncomingMessage, call: Call): Promise<unknown> {
  let text = '';
  try {
    response.setEncoding('utf8');
    for await (const chunk of response) text += String(chunk);
  } catch (error) {
    throw unreachable(call, error);
  }
  try {
    return JSON.parse(text);
  } catch {
    // A proxy's page or plain text; the status code says enough.
    return text;
  }
}

function collectionPath(resource: Resource, namespace: string): string {
  const root = resource.group === '' ? `/api/${resource.version}` : `/apis/${resource.group}/${resource.version}`;
  return `${root}${namespace === '' ? '' : `/namespaces/${namespace}`}/${resource.plural}`;
}

function objectPath(resource: Resource, key: ObjectKey): string {
  return `${collectionPath(resource, resource.isNamespaced ? key.namespace : '')}/${key.name}`;
}
