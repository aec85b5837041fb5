/** Asks the running agent of a state directory, over its control socket. What it refuses comes back as the error that it named. */
import { request, type ClientRequest, type RequestOptions } from 'node:http';
import { AppError, isErrorCode } from '#api/model/error-codes.ts';
import type { MicroVMId } from '#api/model/ids.ts';
import { observedStates } from '#api/model/microvm.ts';
import type { SiteAnswer, SiteConsoleRequest, SiteOrderRequest, SiteSituation } from '../../ports/site-desk.ts';
import { createFrameReader, encodeFrames } from './frames.ts';
import { consoleUpgrade, controlSocketPath, object, parseConsoleEnd, type ConsoleEndMessage } from './protocol.ts';

export interface ControlClient {
  /** @throws what the desk throws; AGENT_NOT_RUNNING, PERMISSION_DENIED when the socket may not be opened */
  order(microvmId: MicroVMId, request: SiteOrderRequest): Promise<SiteAnswer>;
  /** @param waitMs the longest wait for it not to be busy */
  situation(microvmId: MicroVMId, waitMs: number): Promise<SiteSituation>;
  /** Resolves once the agent let one in. @throws what the desk throws; AGENT_NOT_RUNNING, PERMISSION_DENIED */
  console(microvmId: MicroVMId, request: SiteConsoleRequest, screen: ConsoleScreen): Promise<ConsoleConnection>;
}

export interface ConsoleScreen {
  /** What was printed before, first of all; not called without. */
  history(bytes: Uint8Array): void;
  output(bytes: Uint8Array): void;
}

export interface ConsoleConnection {
  /** Passes input on. @returns false when the guest does not take it: then nothing was passed. */
  type(bytes: Uint8Array): boolean;
  /** Leaves. Idempotent. */
  leave(): void;
  /** lost: the connection broke without a word. Never rejects. */
  readonly ended: Promise<ConsoleEndMessage | { readonly reason: 'lost' }>;
}

const answerBytesMax = 1_048_576;
/** Beyond the wait that was asked for. */
const answerMs = 30_000;
/** What was typed and not taken, bytes. */
const inputBytesMax = 64 * 1024;

export function createControlClient(stateDirectory: string): ControlClient {
  const socketPath = controlSocketPath(stateDirectory);
  return {
    async order(microvmId, order) {
      const { result, message } = await ask(socketPath, 'POST', `/v1/microvms/${microvmId}/orders`, answerMs, order);
      return { result: result === 'already' ? 'already' : 'taken', message: String(message) };
    },
    async situation(microvmId, waitMs) {
      const { progress, state, waitsFor, problem } = await ask(socketPath, 'GET', `/v1/microvms/${microvmId}/situation?waitMs=${waitMs}`, waitMs + answerMs);
      return {
        progress: progress === 'settled' || progress === 'waits' ? progress : 'busy',
        state: observedStates.find((known) => known === state) ?? 'unknown',
        ...(typeof waitsFor === 'string' ? { waitsFor } : {}),
        ...(problem === undefined ? {} : { problem: readProblem(problem) }),
      };
    },
    console: (microvmId, request, screen) => openConsole(socketPath, microvmId, request, screen),
  };
}

function openConsole(socketPath: string, microvmId: MicroVMId, wanted: SiteConsoleRequest, screen: ConsoleScreen): Promise<ConsoleConnection> {
  return new Promise((resolve, reject) => {
    const path = `/v1/microvms/${microvmId}/console?${new URLSearchParams({ request: JSON.stringify(wanted) }).toString()}`;
    const call = begin(
      { socketPath, method: 'GET', path, timeout: answerMs, headers: { connection: 'upgrade', upgrade: consoleUpgrade } },
      (status, answer) => reject(status >= 400 ? readRefusal(answer) : new AppError('INTERNAL', 'the agent let nobody in and did not say why')),
      reject,
    );
    call.once('upgrade', (_response, socket, first) => {
      const ended = Promise.withResolvers<Awaited<ConsoleConnection['ended']>>();
      const read = createFrameReader((kind, bytes) => {
        if (kind === 'history' || kind === 'output') screen[kind](bytes);
        if (kind === 'end') ended.resolve(parseConsoleEnd(bytes));
      });
      const take = (bytes: Uint8Array): void => void (read(bytes) || socket.destroy());
      socket.setTimeout(0);
      socket.on('error', () => socket.destroy());
      socket.once('end', () => socket.end());
      socket.once('close', () => ended.resolve({ reason: 'lost' }));
      socket.on('data', take);
      if (first.length > 0) take(first);
      resolve({
        ended: ended.promise,
        type(bytes) {
          if (!socket.writable || socket.writableLength + bytes.length > inputBytesMax) return false;
          socket.write(encodeFrames('input', bytes));
          return true;
        },
        leave() {
          ended.resolve({ reason: 'closed' });
          socket.end();
          socket.destroySoon();
        },
      });
    });
    call.end();
  });
}

function readProblem(value: unknown): { readonly code: string; readonly message: string } {
  const { code, message } = object('problem', value);
  return { code: String(code), message: String(message) };
}

function ask(socketPath: string, method: string, path: string, timeoutMs: number, body?: object): Promise<Readonly<Record<string, unknown>>> {
  return new Promise((resolve, reject) => {
    const text = body === undefined ? undefined : JSON.stringify(body);
    const headers = text === undefined ? {} : { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(text)) };
    const call = begin({ socketPath, method, path, timeout: timeoutMs, headers }, (status, answer) => (status >= 400 ? reject(readRefusal(answer)) : resolve(answer)), reject);
    call.end(text);
  });
}

/** @param onAnswer gets every answer that is a JSON object */
function begin(options: RequestOptions, onAnswer: (status: number, answer: Readonly<Record<string, unknown>>) => void, onFailure: (error: AppError) => void): ClientRequest {
  const call = request(options, (response) => {
    const chunks: Buffer[] = [];
    let bytes = 0;
    response.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes > answerBytesMax) call.destroy(new AppError('INTERNAL', 'the answer of the agent is too long'));
      chunks.push(chunk);
    });
    response.once('error', (error) => onFailure(toAppError(error)));
    response.once('end', () => {
      try {
        onAnswer(response.statusCode ?? 500, object('answer', JSON.parse(Buffer.concat(chunks).toString())));
      } catch (error) {
        onFailure(new AppError('INTERNAL', 'the answer of the agent can not be read', { cause: error, remedy: 'use the nkudo-edge command of the version that runs' }));
      }
    });
  });
  call.once('timeout', () => call.destroy(new AppError('DEADLINE_EXCEEDED', 'the agent did not answer in time', { remedy: 'look at its log: journalctl -u nkudo-edge' })));
  call.once('error', (error) => onFailure(toAppError(error)));
  return call;
}

/** An agent of a later version may name codes that this one does not know. */
function readRefusal(answer: Readonly<Record<string, unknown>>): AppError {
  const { code, message, remedy } = object('error', answer['error']);
  const named = String(code);
  return new AppError(isErrorCode(named) ? named : 'INTERNAL', isErrorCode(named) ? String(message) : `${named}: ${String(message)}`, typeof remedy === 'string' ? { remedy } : {});
}

function toAppError(error: Error): AppError {
  if (error instanceof AppError) return error;
  const code = 'code' in error ? error.code : undefined;
  if (code === 'ENOENT' || code === 'ECONNREFUSED') return new AppError('AGENT_NOT_RUNNING', undefined, { cause: error });
  if (code === 'EACCES') return new AppError('PERMISSION_DENIED', 'only root and the user of the agent may give orders', { cause: error, remedy: 'use sudo' });
  if (code === 'ENOENT' || ('syscall' in error && error.syscall === 'connect')) return new AppError('AGENT_NOT_RUNNING', undefined, { cause: error });
  return new AppError('UNAVAILABLE', 'the agent ended while it was asked', { cause: error, remedy: 'look how it is: nkudo-edge vm ls; an order that was taken is not lost' });
}
