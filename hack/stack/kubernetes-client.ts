/**
 * A small JSON client for the API server, for the demo and the tests: requests, and waiting on the watch API.
 *
 * Owns connections and stream parsing. It is no part of the product and caches nothing: what a test sees is what the
 * API server answered. Objects are plain JSON; the caller knows what it asked for.
 */
import { readFileSync } from 'node:fs';
import { Agent as HttpAgent, request as httpRequest, type ClientRequest, type IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import { setTimeout as delay } from 'node:timers/promises';

const requestTimeoutMs = 30_000;

/** The part of a Kubernetes object that this module relies on. */
export interface KubernetesObject {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly uid?: string;
    readonly resourceVersion?: string;
    readonly generation?: number;
    readonly creationTimestamp?: string;
    readonly deletionTimestamp?: string;
    readonly finalizers?: readonly string[];
    readonly labels?: Readonly<Record<string, string>>;
    readonly annotations?: Readonly<Record<string, string>>;
  };
  readonly [field: string]: unknown;
}

/** One event of a watch. */
export interface WatchEvent {
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED';
  readonly object: KubernetesObject;
  /** `performance.now()` when the event's last byte was read. */
  readonly receivedAtMs: number;
}

/** An answer of any status; `body` is parsed JSON, or text when it is none. */
export interface KubernetesResponse {
  readonly status: number;
  readonly body: unknown;
}

/** A running watch. */
export interface Watch {
  /** All events so far, oldest first. */
  events(): readonly WatchEvent[];
  /**
   * Resolves with the first event, past ones included, for which `matches` is true.
   * Rejects after `timeoutMs` (default 60,000) with the last object seen, or when the stream breaks.
   */
  waitFor(matches: (event: WatchEvent) => boolean, options?: { what?: string; timeoutMs?: number }): Promise<WatchEvent>;
  /** Calls back for every event from now on. */
  onEvent(listener: (event: WatchEvent) => void): void;
  stop(): void;
}

/** See the module's header. */
export interface KubernetesClient {
  request(method: string, path: string, body?: unknown, contentType?: string): Promise<KubernetesResponse>;
  /** GET that expects an object. @throws on any status but 200. */
  get(path: string): Promise<KubernetesObject>;
  /** GET that gives null on 404. */
  find(path: string): Promise<KubernetesObject | null>;
  /** GET of a list. */
  list(path: string): Promise<readonly KubernetesObject[]>;
  /** Server-side apply with the field manager `nkudo-test`. @throws on refusal, with the server's sentence. */
  apply(path: string, object: unknown): Promise<KubernetesObject>;
  /**
   * Watches a collection (`/apis/…/microvms`) or one object (`/apis/…/microvms/NAME`). What exists already arrives
   * first, as ADDED. A bookmark or a clean end by the server is handled inside.
   */
  watch(path: string): Watch;
  close(): void;
}

/** Where the API server is and who asks: directly with a token, or through a proxy that knows who asks. */
export type ClientAccess =
  | { readonly server: string; readonly caFile: string; readonly adminToken: string }
  | { readonly proxySocket: string };

/** Makes a client with the admin's token. */
export function createKubernetesClient(access: ClientAccess): KubernetesClient {
  const transport = createTransport(access);
  const watches = new Set<Watch>();
  const open = (options: OpenOptions): Promise<IncomingMessage> => openRequest(transport, options);
  const request: KubernetesClient['request'] = async (method, path, body, contentType = 'application/json') => {
    const response = await open({ method, path, timeoutMs: requestTimeoutMs, ...(body === undefined ? {} : { body, contentType }) });
    return { status: response.statusCode ?? 0, body: parseBody(await readText(response)) };
  };
  const expect = async (method: string, path: string, body?: unknown, contentType?: string): Promise<unknown> => {
    const response = await request(method, path, body, contentType);
    if (response.status < 200 || response.status > 299) {
      throw new KubernetesRefusal(`${method} ${path}`, response);
    }
    return response.body;
  };
  const find: KubernetesClient['find'] = async (path) => {
    const response = await request('GET', path);
    if (response.status === 404) {
      return null;
    }
    if (response.status !== 200) {
      throw new KubernetesRefusal(`GET ${path}`, response);
    }
    return asObject(response.body);
  };
  return {
    request,
    find,
    get: async (path) => asObject(await expect('GET', path)),
    list: async (path) => asItems(await expect('GET', path)),
    apply: async (path, object) =>
      asObject(await expect('PATCH', `${path}?fieldManager=nkudo-test&force=true`, object, 'application/apply-patch+yaml')),
    watch: (path) => {
      const watch = startWatch({ path, open, onStop: () => watches.delete(watch) });
      watches.add(watch);
      return watch;
    },
    close: () => {
      for (const watch of [...watches]) {
        watch.stop();
      }
      transport.close();
    },
  };
}

/** The API server said no; `message` holds its own sentence. */
export class KubernetesRefusal extends Error {
  readonly status: number;
  readonly reason: string;
  constructor(what: string, response: KubernetesResponse) {
    const body = response.body;
    const field = (name: 'message' | 'reason'): string => {
      const value = isRecord(body) ? body[name] : undefined;
      return typeof value === 'string' ? value : '';
    };
    super(`${what}: ${response.status} ${field('message') === '' ? JSON.stringify(body) : field('message')}`);
    this.name = 'KubernetesRefusal';
    this.status = response.status;
    this.reason = field('reason');
  }
}

interface OpenOptions {
  readonly method: string;
  readonly path: string;
  readonly body?: unknown;
  readonly contentType?: string;
  /** No limit when absent. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

interface Transport {
  start(options: OpenOptions, headers: Readonly<Record<string, string | number>>): ClientRequest;
  /** Called when a request got an answer. */
  worked(): void;
  close(): void;
}

function createTransport(access: ClientAccess): Transport {
  if ('proxySocket' in access) {
    const agent = new HttpAgent({ keepAlive: true });
    return {
      start: ({ method, path, signal }, headers) =>
        httpRequest({ socketPath: access.proxySocket, method, path, agent, headers, ...(signal === undefined ? {} : { signal }) }),
      worked: () => {},
      close: () => agent.destroy(),
    };
  }
  const agent = new HttpsAgent({ keepAlive: true, maxSockets: 64 });
  let lastCa = '';
  let knownCa: string | null = null;
  return {
    start: ({ method, path, signal }, headers) => {
      lastCa = knownCa ?? readFileSync(access.caFile, 'utf8');
      return httpsRequest(new URL(path, access.server), {
        method,
        agent,
        ca: lastCa,
        headers: { ...headers, authorization: `Bearer ${access.adminToken}` },
        ...(signal === undefined ? {} : { signal }),
      });
    },
    // Only once it worked: a starting server may not have written the whole file yet.
    worked: () => {
      knownCa = lastCa;
    },
    close: () => agent.destroy(),
  };
}

function openRequest(transport: Transport, options: OpenOptions): Promise<IncomingMessage> {
  const payload = options.body === undefined ? undefined : encodeBody(options.body);
  return new Promise((resolve, reject) => {
    const outgoing = transport.start(options, {
      accept: 'application/json',
      'user-agent': 'nkudo-test',
      ...(payload === undefined ? {} : { 'content-type': options.contentType ?? 'application/json', 'content-length': payload.length }),
    });
    outgoing.on('response', (response) => {
      transport.worked();
      resolve(response);
    });
    outgoing.on('error', reject);
    if (options.timeoutMs !== undefined) {
      outgoing.setTimeout(options.timeoutMs, () => outgoing.destroy(new Error(`no answer to ${options.method} ${options.path}`)));
    }
    outgoing.end(payload);
  });
}

function encodeBody(body: unknown): Buffer {
  return Buffer.from(typeof body === 'string' ? body : JSON.stringify(body));
}

async function readText(response: IncomingMessage): Promise<string> {
  response.setEncoding('utf8');
  let text = '';
  for await (const chunk of response) {
    text += String(chunk);
  }
  return text;
}

function parseBody(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text; // `/readyz` and the like answer in plain text.
  }
}

interface WatchContext {
  readonly path: string;
  readonly open: (options: OpenOptions) => Promise<IncomingMessage>;
  readonly onStop: () => void;
}

function startWatch(context: WatchContext): Watch {
  const events: WatchEvent[] = [];
  const listeners = new Set<(failure: Error | null) => void>();
  const eventListeners: ((event: WatchEvent) => void)[] = [];
  const abort = new AbortController();
  let failure: Error | null = null;
  const notify = (): void => {
    for (const listener of [...listeners]) {
      listener(failure);
    }
  };
  const run = async (): Promise<void> => {
    let resourceVersion: string | null = null;
    while (!abort.signal.aborted) {
      resourceVersion = await streamOnce(context, { resourceVersion, signal: abort.signal }, (event) => {
        events.push(event);
        notify();
        eventListeners.forEach((listener) => listener(event));
      });
    }
  };
  run().catch((error: unknown) => {
    if (!abort.signal.aborted) {
      failure = error instanceof Error ? error : new Error(String(error));
      notify();
    }
  });
  return {
    events: () => events,
    waitFor: (matches, { what = 'the awaited event', timeoutMs = 60_000 } = {}) =>
      new Promise((resolve, reject) => {
        let next = 0;
        const settle = (act: () => void): void => {
          clearTimeout(timer);
          listeners.delete(look);
          act();
        };
        const explain = (reason: string): Error =>
          new Error(`watching ${context.path}: ${reason} ${what}; last object: ${describeObject(events.at(-1)?.object)}`);
        const look = (broken: Error | null): void => {
          for (; next < events.length; next += 1) {
            const event = events[next];
            if (event !== undefined && matches(event)) {
              settle(() => resolve(event));
              return;
            }
          }
          if (broken !== null) {
            settle(() => reject(explain(`the stream broke (${broken.message}) before`)));
          }
        };
        const timer = setTimeout(() => settle(() => reject(explain(`in ${timeoutMs} ms not seen:`))), timeoutMs);
        listeners.add(look);
        look(failure);
      }),
    onEvent: (listener) => {
      eventListeners.push(listener);
    },
    stop: () => {
      abort.abort();
      context.onStop();
    },
  };
}

/** Without the API server's own bookkeeping, which hides the rest. */
function describeObject(object: KubernetesObject | undefined): string {
  const noise = new Set(['managedFields', 'kubectl.kubernetes.io/last-applied-configuration']);
  return JSON.stringify(object ?? null, (key, value: unknown) => (noise.has(key) ? undefined : value));
}

/** One watch request until the server ends it; returns the version to go on from. */
async function streamOnce(
  { path, open }: WatchContext,
  state: { readonly resourceVersion: string | null; readonly signal: AbortSignal },
  onEvent: (event: WatchEvent) => void,
): Promise<string | null> {
  const { collection, query } = watchTarget(path);
  if (state.resourceVersion !== null) {
    query.set('resourceVersion', state.resourceVersion);
  }
  const response = await open({ method: 'GET', path: `${collection}?${query.toString()}`, signal: state.signal });
  if (response.statusCode === 429) {
    // A resource that was just defined has no watch cache yet ("storage is (re)initializing"); the server says when to come back.
    await readText(response);
    await delay(Number(response.headers['retry-after'] ?? '1') * 1000, undefined, { signal: state.signal });
    return state.resourceVersion;
  }
  if (response.statusCode !== 200) {
    throw new KubernetesRefusal(`watch ${path}`, { status: response.statusCode ?? 0, body: parseBody(await readText(response)) });
  }
  let resourceVersion = state.resourceVersion;
  let rest = '';
  response.setEncoding('utf8');
  for await (const chunk of response) {
    const lines = (rest + String(chunk)).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) {
      const event = parseWatchLine(line);
      resourceVersion = event.object.metadata.resourceVersion ?? resourceVersion;
      if (event.type !== 'BOOKMARK') {
        onEvent({ type: event.type, object: event.object, receivedAtMs: performance.now() });
      }
    }
  }
  return resourceVersion;
}

/** An object's own path is watched through its collection with a field selector. */
function watchTarget(path: string): { collection: string; query: URLSearchParams } {
  const query = new URLSearchParams({ watch: 'true', allowWatchBookmarks: 'true' });
  const segments = path.split('/');
  // /api/v1/namespaces/NS/KIND[/NAME] has 6 or 7 segments, /apis/GROUP/VERSION/namespaces/NS/KIND[/NAME] one more.
  const group = segments[1] === 'api' ? 0 : 1;
  const isNamespaced = segments.includes('namespaces') && segments.length >= group + 6;
  const base = group + (isNamespaced ? 6 : 4);
  if (segments.length > base) {
    query.set('fieldSelector', `metadata.name=${segments[base] ?? ''}`);
  }
  return { collection: segments.slice(0, base).join('/'), query };
}

function parseWatchLine(line: string): { type: WatchEvent['type'] | 'BOOKMARK'; object: KubernetesObject } {
  const parsed: unknown = JSON.parse(line);
  const type = isRecord(parsed) ? parsed['type'] : undefined;
  const object = isRecord(parsed) ? parsed['object'] : undefined;
  if (type === 'ADDED' || type === 'MODIFIED' || type === 'DELETED') {
    return { type, object: asObject(object) };
  }
  if (type === 'BOOKMARK' && isRecord(object)) {
    // A bookmark's object has a version and nothing else, not even a name.
    return { type, object: { ...object, metadata: { name: '', ...(isRecord(object['metadata']) ? object['metadata'] : {}) } } };
  }
  throw new Error(`the watch answered ${line}`);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function asObject(value: unknown): KubernetesObject {
  if (isRecord(value) && isRecord(value['metadata']) && typeof value['metadata']['name'] === 'string') {
    // Parsing boundary: the API server vouches for the rest of the metadata.
    return value as unknown as KubernetesObject;
  }
  throw new Error(`not a Kubernetes object: ${JSON.stringify(value)}`);
}

function asItems(value: unknown): readonly KubernetesObject[] {
  if (isRecord(value) && Array.isArray(value['items'])) {
    return value['items'].map(asObject);
  }
  throw new Error(`not a Kubernetes list: ${JSON.stringify(value)}`);
}
