/** Asks the running agent of a state directory, over its control socket. What it refuses comes back as the error that it named. */
import { request } from 'node:http';
import { AppError, isErrorCode } from '#api/model/error-codes.ts';
import type { MicroVMId } from '#api/model/ids.ts';
import { observedStates } from '#api/model/microvm.ts';
import type { SiteAnswer, SiteOrderRequest, SiteSituation } from '../../ports/site-desk.ts';
import { controlSocketPath, object } from './protocol.ts';

export interface ControlClient {
  /** @throws what the desk throws; AGENT_NOT_RUNNING, PERMISSION_DENIED when the socket may not be opened */
  order(microvmId: MicroVMId, request: SiteOrderRequest): Promise<SiteAnswer>;
  /** @param waitMs the longest wait for it not to be busy */
  situation(microvmId: MicroVMId, waitMs: number): Promise<SiteSituation>;
}

const answerBytesMax = 1_048_576;
/** Beyond the wait that was asked for. */
const answerMs = 30_000;

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
  };
}

function readProblem(value: unknown): { readonly code: string; readonly message: string } {
  const { code, message } = object('problem', value);
  return { code: String(code), message: String(message) };
}

function ask(socketPath: string, method: string, path: string, timeoutMs: number, body?: object): Promise<Readonly<Record<string, unknown>>> {
  return new Promise((resolve, reject) => {
    const text = body === undefined ? undefined : JSON.stringify(body);
    const call = request({ socketPath, method, path, timeout: timeoutMs, headers: text === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) } }, (response) => {
      const chunks: Buffer[] = [];
      let bytes = 0;
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
        if (bytes > answerBytesMax) call.destroy(new AppError('INTERNAL', 'the answer of the agent is too long'));
        chunks.push(chunk);
      });
      response.once('error', (error) => reject(toAppError(error)));
      response.once('end', () => {
        try {
          const answer = object('answer', JSON.parse(Buffer.concat(chunks).toString()));
          if ((response.statusCode ?? 500) >= 400) reject(readRefusal(answer));
          else resolve(answer);
        } catch (error) {
          reject(new AppError('INTERNAL', 'the answer of the agent can not be read', { cause: error, remedy: 'use the nkudo-edge command of the version that runs' }));
        }
      });
    });
    call.once('timeout', () => call.destroy(new AppError('DEADLINE_EXCEEDED', 'the agent did not answer in time', { remedy: 'look at its log: journalctl -u nkudo-edge' })));
    call.once('error', (error) => reject(toAppError(error)));
    call.end(text);
  });
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
