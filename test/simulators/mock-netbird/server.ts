/**
 * The two listeners of the simulator. The first is the management API: token, description, account, faults, and the
 * private paths under `/mock/` that the simulated `netbird` command speaks. The second is the admin API for tests.
 *
 * Invariant: an answer of the API that is not as the description says is never sent; it becomes a 500, is kept as a
 * violation, and the test that reads the violations fails.
 */
import { randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { Account, Refusal } from './account.ts';
import { groupAnswer, networkAnswer, peerAnswer, policyAnswer, resourceAnswer, routerAnswer, setupKeyAnswer } from './answers.ts';
import { Description, type Operation } from './description.ts';
import { Faults, type FaultRule } from './faults.ts';
import { openOperations, operations, Users, type Call } from './operations.ts';

export interface MockNetbirdOptions {
  /** Personal access tokens of the owner; none: the server waits for `POST /api/setup`. */
  readonly tokens: readonly string[];
  readonly host?: string;
  readonly managementPort?: number;
  readonly adminPort?: number;
}

export interface MockNetbird {
  readonly managementUrl: string;
  readonly adminUrl: string;
  readonly account: Account;
  readonly faults: Faults;
  /** Everything that was asked, oldest first; the newest {@link requestsMax} are kept. */
  requests(): readonly LoggedRequest[];
  violations(): readonly string[];
  close(): Promise<void>;
}

export interface LoggedRequest {
  readonly number: number;
  /** Milliseconds since the start of the simulator. */
  readonly atMs: number;
  readonly method: string;
  readonly path: string;
  /** Path template of the description, or the path itself. */
  readonly template: string;
  /** 0: no answer was sent. */
  status: number;
  readonly fault: string | null;
}

const requestsMax = 100_000;
const bodyBytesMax = 4 * 1024 * 1024;
const idAlphabet = '0123456789abcdefghijklmnopqrstuv';

interface State {
  readonly account: Account;
  readonly users: Users;
  readonly faults: Faults;
  readonly description: Description;
  readonly requests: LoggedRequest[];
  readonly violations: string[];
  readonly keyQueue: string[];
  readonly startedAtMs: number;
  requestCount: number;
  running: number;
  runningMax: number;
}

/** Starts both listeners on loopback (or `host`) and resolves when they accept connections. */
export async function startMockNetbird(options: MockNetbirdOptions): Promise<MockNetbird> {
  const keyQueue: string[] = [];
  const account = new Account({ nowMs: Date.now, nextId: createIds(), nextKey: () => keyQueue.shift() ?? randomUUID().toUpperCase() });
  const state: State = {
    account,
    users: new Users(options.tokens, Date.now),
    faults: new Faults(),
    description: new Description(),
    requests: [],
    violations: [],
    keyQueue,
    startedAtMs: performance.now(),
    requestCount: 0,
    running: 0,
    runningMax: 0,
  };
  const host = options.host ?? '127.0.0.1';
  const management = createServer((request, response) => void serveManagement(state, request, response));
  const admin = createServer((request, response) => void serveAdmin(state, request, response));
  const [managementUrl, adminUrl] = await Promise.all([listen(management, host, options.managementPort ?? 0), listen(admin, host, options.adminPort ?? 0)]);
  return {
    managementUrl,
    adminUrl,
    account,
    faults: state.faults,
    requests: () => state.requests,
    violations: () => state.violations,
    close: async () => {
      await Promise.all([close(management), close(admin)]);
    },
  };
}

async function serveManagement(state: State, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const url = new URL(request.url ?? '/', 'http://mock');
  const method = request.method ?? 'GET';
  if (url.pathname.startsWith('/mock/')) return servePrivate(state, url, request, response);
  const operation = state.description.find(method, url.pathname);
  const template = operation?.template ?? url.pathname;
  const fault = state.faults.take(method, template);
  const logged = log(state, { method, path: url.pathname, template, fault: fault?.do ?? null });
  state.running += 1;
  state.runningMax = Math.max(state.runningMax, state.running);
  response.once('close', () => (state.running -= 1));
  try {
    const text = await readBody(request);
    if (fault?.do === 'hang') return;
    if (fault?.do === 'delay') await delay(fault.ms ?? 0);
    if (fault?.do === 'drop' && fault.isDone !== true) return void request.socket.destroy();
    if (fault?.do === 'status' && fault.isDone !== true) return finish(logged, response, faultAnswer(fault));
    if (fault?.do === 'text') return finish(logged, response, { status: 200, body: fault.body ?? '', headers: {} });
    const { status, body } = answer(state, operation, { url, method, text, authorization: request.headers.authorization ?? '' });
    if (fault?.do === 'drop') return void request.socket.destroy();
    if (fault?.do === 'half') return sendHalf(logged, request, response, { status, body });
    if (fault?.do === 'status') return finish(logged, response, faultAnswer(fault));
    finish(logged, response, checked(state, operation, status, fault?.do === 'wrong' ? [{ surprise: true }] : body));
  } catch (error) {
    if (!response.headersSent && !response.destroyed) finish(logged, response, { status: 500, body: { message: String(error), code: 500 }, headers: {} });
  }
}

function answer(
  state: State,
  operation: Operation | null,
  request: { readonly url: URL; readonly method: string; readonly text: string; readonly authorization: string },
): { status: number; body: unknown } {
  const name = operation === null ? '' : `${operation.method} ${operation.template}`;
  const handler = operations[name];
  if (operation === null || handler === undefined) return { status: 404, body: { message: 'no such operation in the simulator', code: 404 } };
  try {
    const query = new URLSearchParams(request.url.searchParams);
    if (!openOperations.has(name)) query.set('caller', callerOf(state, request.authorization));
    let body: unknown;
    try {
      body = request.text === '' ? undefined : JSON.parse(request.text);
    } catch {
      throw new Refusal(400, "couldn't parse JSON request");
    }
    const complaint = state.description.checkRequest(operation, body);
    if (complaint !== null) {
      state.violations.push(`request ${name}: ${complaint}`);
      throw new Refusal(500, `the request is not as described: ${complaint}`);
    }
    // Checked above: the handler of the operation knows the described type.
    return { status: 200, body: handler(state.account, { parameters: operation.parameters, query, body: body as Call['body'] }, state.users) };
  } catch (error) {
    if (error instanceof Refusal) return { status: error.status, body: { message: error.message, code: error.status } };
    throw error;
  }
}

/** `Token nbp_…` and `Bearer nbp_…` are taken. */
function callerOf(state: State, authorization: string): string {
  const match = /^(?:Token|Bearer) (.+)$/.exec(authorization);
  if (match === null) throw new Refusal(401, 'no valid authentication provided');
  const user = state.users.ofToken(match[1] ?? '');
  if (user === null) throw new Refusal(401, 'token invalid');
  return user.id;
}

interface Answer {
  readonly status: number;
  readonly body: unknown;
  readonly headers: Readonly<Record<string, string>>;
}

function checked(state: State, operation: Operation | null, status: number, body: unknown): Answer {
  const complaint = operation === null ? null : state.description.checkResponse(operation, status, body);
  if (complaint === null || operation === null) return { status, body, headers: {} };
  state.violations.push(`answer ${operation.method} ${operation.template} ${status}: ${complaint}`);
  return { status: 500, body: { message: `the answer is not as described: ${complaint}`, code: 500 }, headers: {} };
}

const messages: Readonly<Record<number, string>> = { 401: 'token invalid', 403: 'permission denied', 429: 'rate limit exceeded, please try again later', 500: 'internal server error' };

function faultAnswer(fault: FaultRule): Answer {
  const status = fault.status ?? 500;
  return { status, body: fault.body ?? { message: messages[status] ?? 'fault', code: status }, headers: fault.headers ?? {} };
}

function finish(logged: LoggedRequest, response: ServerResponse, { status, body, headers }: Answer): void {
  logged.status = status;
  response.writeHead(status, { 'content-type': 'application/json; charset=UTF-8', ...headers });
  response.end(typeof body === 'string' ? body : `${JSON.stringify(body)}\n`);
}

function sendHalf(logged: LoggedRequest, request: IncomingMessage, response: ServerResponse, { status, body }: { status: number; body: unknown }): void {
  const whole = `${JSON.stringify(body)}\n`;
  logged.status = status;
  response.writeHead(status, { 'content-type': 'application/json; charset=UTF-8', 'content-length': Buffer.byteLength(whole) });
  response.write(whole.slice(0, Math.floor(whole.length / 2)), () => request.socket.destroy());
}

function log(state: State, request: Pick<LoggedRequest, 'method' | 'path' | 'template' | 'fault'>): LoggedRequest {
  state.requestCount += 1;
  const logged: LoggedRequest = { ...request, number: state.requestCount, atMs: performance.now() - state.startedAtMs, status: 0 };
  state.requests.push(logged);
  if (state.requests.length > requestsMax) state.requests.shift();
  return logged;
}

/** The paths that only the simulated `netbird` command knows; they stand for the gRPC side of the real server. */
async function servePrivate(state: State, url: URL, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const fault = state.faults.take(request.method ?? '', url.pathname);
  if (fault !== null) {
    if (fault.do === 'delay') await delay(fault.ms ?? 0);
    else if (fault.do === 'hang') return;
    else if (fault.do === 'status') return sendJson(response, fault.status ?? 500, { message: 'fault' });
    else return void request.socket.destroy();
  }
  try {
    const input = JSON.parse(await readBody(request)) as Record<string, string>; // Only the simulated command calls.
    const publicKey = input['public_key'] ?? '';
    if (url.pathname === '/mock/register') {
      const key = input['setup_key'] ?? '';
      if (key === '' && state.account.peerByPublicKey(publicKey) === null) throw new Refusal(401, 'no peer auth method provided');
      const peer = state.account.register({ key: key === '' ? null : key, name: input['name'] ?? '', hostname: input['hostname'] ?? '', publicKey });
      state.users.record('peer.setupkey.add', peer.id);
      return sendJson(response, 200, sessionAnswer(state, peer.id));
    }
    const peer = state.account.peerByPublicKey(publicKey);
    if (peer === null) throw new Refusal(403, 'peer is not registered');
    if (url.pathname === '/mock/deregister') state.account.deletePeer(peer.id);
    else if (url.pathname === '/mock/disconnect') peer.isConnected = false;
    else if (url.pathname !== '/mock/session') throw new Refusal(404, 'no such path');
    sendJson(response, 200, url.pathname === '/mock/session' ? sessionAnswer(state, peer.id) : {});
  } catch (error) {
    const status = error instanceof Refusal ? error.status : 500;
    sendJson(response, status, { message: error instanceof Error ? error.message : String(error) });
  }
}

function sessionAnswer({ account }: State, peerId: string): object {
  const peer = account.peer(peerId);
  const others = [...account.peers.values()].filter((other) => other.id !== peerId);
  return { ip: peer.ip, fqdn: account.fqdn(peer), peers: others.map((other) => ({ fqdn: account.fqdn(other), ip: other.ip, public_key: other.publicKey })) };
}

/** The admin API: see the README for the list. */
async function serveAdmin(state: State, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const name = `${request.method ?? ''} ${new URL(request.url ?? '/', 'http://mock').pathname}`;
  try {
    const text = await readBody(request);
    const body: unknown = text === '' ? null : JSON.parse(text);
    sendJson(response, 200, administer(state, name, body));
  } catch (error) {
    sendJson(response, 400, { message: error instanceof Error ? error.message : String(error) });
  }
}

function administer(state: State, name: string, body: unknown): unknown {
  switch (name) {
    case 'GET /account':
      return wholeAccount(state.account);
    case 'GET /requests':
      return { total: state.requestCount, runningMax: state.runningMax, requests: state.requests };
    case 'DELETE /requests':
      state.requests.length = 0;
      state.requestCount = 0;
      state.runningMax = state.running;
      return {};
    case 'GET /violations':
      return state.violations;
    case 'GET /faults':
      return state.faults.list();
    case 'PUT /faults':
      state.faults.replace(body as FaultRule[]); // A test wrote it against this type.
      return {};
    case 'DELETE /faults':
      state.faults.replace([]);
      return {};
    case 'POST /next-setup-keys':
      state.keyQueue.push(...(body as string[])); // A test wrote it.
      return {};
    case 'POST /peers': {
      const input = body as { name: string; groups?: string[] }; // A test wrote it.
      const peer = state.account.register({ key: null, name: input.name, hostname: input.name, publicKey: randomUUID() });
      for (const id of input.groups ?? []) state.account.group(id).peers.push(peer.id);
      return peerAnswer(state.account, peer);
    }
    default:
      throw new Error(`no admin operation ${name}`);
  }
}

/** Every object, also what was made by hand; keys are masked. */
function wholeAccount(account: Account): object {
  return {
    groups: [...account.groups.values()].map((group) => groupAnswer(account, group)),
    setupKeys: [...account.setupKeys.values()].map((key) => setupKeyAnswer(account, key)),
    policies: [...account.policies.values()].map((policy) => policyAnswer(account, policy)),
    peers: [...account.peers.values()].map((peer) => peerAnswer(account, peer)),
    networks: [...account.networks.values()].map((network) => ({
      ...networkAnswer(account, network),
      resources: [...network.resources.values()].map((resource) => resourceAnswer(account, resource)),
      routers: [...network.routers.values()].map(routerAnswer),
    })),
  };
}

async function readBody(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > bodyBytesMax) throw new Error('the body is longer than its limit');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

function sendJson(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(`${JSON.stringify(body)}\n`);
}

function listen(server: Server, host: string, port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, () => {
      const address = server.address() as AddressInfo; // A TCP listener that is listening.
      resolve(`http://${host}:${address.port}`);
    });
  });
}

function close(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}

/** Ids of the form that the real server's have: 20 characters of base 32. */
function createIds(): () => string {
  let count = 0;
  const suffix = Array.from({ length: 10 }, () => idAlphabet[Math.floor(Math.random() * idAlphabet.length)]).join('');
  return () => {
    count += 1;
    return `ch${count.toString(32).padStart(8, '0')}${suffix}`;
  };
}
