/**
 * Speaks HTTP to one VMM's API socket with the types of its own OpenAPI description. Owns reaching
 * the socket however long its path is, deadlines, and turning answers into values or one error
 * class. One connection for each call: the VMM serves ten at most and never closes one.
 */
import { constants } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { request, type IncomingMessage } from 'node:http';
import { AppError } from '#api/model/error-codes.ts';
import { errnoOf } from '../system/errno.ts';
import type { paths } from './gen/api.ts';
import { vmFileName } from './vm-files.ts';

type GetPath = { [P in keyof paths]: paths[P] extends { get: object } ? P : never }[keyof paths];
type PutPath = { [P in keyof paths]: paths[P] extends { put: object } ? P : never }[keyof paths];
type JsonOf<T> = T extends { content: { 'application/json': infer Body } } ? Body : undefined;
type GetAnswer<P extends GetPath> = paths[P] extends { get: { responses: { 200: infer Answer } } } ? JsonOf<Answer> : never;
type PutBody<P extends PutPath> = paths[P] extends { put: { requestBody: infer Body } } ? JsonOf<Body> : undefined;

/** What the VMM said no with: its status and its chain of errors, outermost first. */
export interface Refusal {
  readonly status: number;
  readonly chain: readonly string[];
}

export type Answer<T> = { readonly ok: true; readonly body: T } | { readonly ok: false; readonly refusal: Refusal };

export interface CallOptions {
  readonly vmDirectory: string;
  readonly signal: AbortSignal;
  readonly timeoutMs: number;
}

/** O_PATH: names a file without opening it. Source: open(2); Node has no name for it. */
const pathOnly = 0o10000000;
/** Cap of an answer's body. vm.info of a VM with hundreds of devices stays far below it. */
const answerBytesMax = 4 * 1024 * 1024;

/** The OpenAPI description is incomplete about answers, so only shapes that were checked are relied on. */
export async function apiGet<P extends GetPath>(path: P, options: CallOptions): Promise<Answer<GetAnswer<P>>> {
  const answer = await call('GET', path, undefined, options);
  // The type is the description's; the fields that matter are checked where they are read.
  return answer.ok ? { ok: true, body: answer.body as GetAnswer<P> } : answer;
}

export async function apiPut<P extends PutPath>(path: P, body: PutBody<P>, options: CallOptions): Promise<Answer<unknown>> {
  return call('PUT', path, body, options);
}

async function call(method: 'GET' | 'PUT', path: string, body: unknown, options: CallOptions): Promise<Answer<unknown>> {
  options.signal.throwIfAborted();
  const timeout = AbortSignal.timeout(options.timeoutMs);
  const directory = await openDirectory(options.vmDirectory);
  let socket: FileHandle | undefined;
  try {
    // The path through the open directory stays below the 107 bytes that a socket address can hold.
    const socketPath = `/proc/self/fd/${directory.fd}/${vmFileName(options.vmDirectory, 'apiSocket')}`;
    // The folder of the socket belongs to the VMM. One that a guest has taken over could put a link to another's socket there.
    socket = await open(socketPath, pathOnly | constants.O_NOFOLLOW);
    if (!(await socket.stat()).isSocket()) throw new Error('what is in the place of the socket is none');
    const response = await send({
      method,
      path: `/api/v1${path}`,
      socketPath: `/proc/self/fd/${socket.fd}`,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.any([options.signal, timeout]),
    });
    const text = await readBounded(response);
    const status = response.statusCode ?? 0;
    if (status >= 300) return { ok: false, refusal: { status, chain: parseChain(text) } };
    return { ok: true, body: text === '' ? undefined : (JSON.parse(text) as unknown) };
  } catch (error) {
    options.signal.throwIfAborted();
    const details = { call: path, errno: errnoOf(error) ?? 'none' };
    if (timeout.aborted) throw new AppError('HYPERVISOR_TIMEOUT', `${path} was not answered in ${options.timeoutMs} ms`, { details, cause: error });
    throw new AppError('HYPERVISOR_FAILED', `${path} could not be sent or was not answered`, { details, cause: error });
  } finally {
    await socket?.close();
    await directory.close();
  }
}

interface HttpRequest {
  readonly method: 'GET' | 'PUT';
  readonly path: string;
  readonly socketPath: string;
  readonly body: string | undefined;
  readonly signal: AbortSignal;
}

/** Resolves with the head of the answer. Node's own client, since a second one would cost the agent several megabytes. */
function send({ method, path, socketPath, body, signal }: HttpRequest): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const headers = body === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) };
    const call = request({ method, path, socketPath, agent: false, signal, headers: { host: 'localhost', ...headers } }, resolve);
    call.on('error', reject);
    call.end(body);
  });
}

async function openDirectory(path: string) {
  try {
    return await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  } catch (error) {
    throw new AppError('HYPERVISOR_FAILED', 'the directory of the microVM can not be opened', { details: { errno: errnoOf(error) ?? 'none' }, cause: error });
  }
}

async function readBounded(stream: AsyncIterable<Buffer>): Promise<string> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of stream) {
    length += chunk.length;
    if (length > answerBytesMax) throw new Error('the answer is longer than its limit');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** Error bodies are arrays of strings since v47; anything else is kept as one line. */
export function parseChain(text: string): string[] {
  if (text === '') return [];
  try {
    const value: unknown = JSON.parse(text);
    if (Array.isArray(value)) return value.map(String);
  } catch {
    // Not JSON: kept as it is below.
  }
  return [text];
}
