/**
 * Tries probes with sockets of this host. Takes nothing on trust: a guest that accepts and says nothing,
 * drips a byte at a time, never ends its answer, or points elsewhere costs one socket until the try's
 * deadline and no memory. Redirects are answers, never followed; certificates are not looked at, since a
 * guest's is mostly its own, and nothing secret is sent.
 */
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { connect, isIPv6, type Socket } from 'node:net';
import type { ProbeAction } from '#api/model/microvm.ts';
import type { ProbeOutcome } from '../../domain/probes.ts';
import type { Prober } from '../../ports/probes.ts';
import { withSocketFile } from '../system/socket-file.ts';

/** A head that is longer than this is no answer. Node's own bound for heads is set to the same. */
const headBytesMax = 8 * 1024;
/** `OK <port>` and a newline. Source: cloud-hypervisor docs/vsock.md. */
const vsockAnswerBytesMax = 32;
const success: ProbeOutcome = { kind: 'success' };
const noAddress: ProbeOutcome = { kind: 'impossible', message: 'no address of the guest is known: give it a network with nat or mesh, or write the address of one with bridge' };

export function createProber(): Prober {
  return {
    async probe({ action, address, vsockSocket }, signal) {
      signal.throwIfAborted();
      switch (action.kind) {
        case 'tcp':
          return address === undefined ? noAddress : tryTcp(address, action.port, signal);
        case 'http':
          return address === undefined ? noAddress : tryHttp(address, action, signal);
        case 'vsock':
          return tryVsock(vsockSocket, action.port, signal);
      }
    },
  };
}

function failure(message: string): ProbeOutcome {
  return { kind: 'failure', message };
}

/** Names the cause without anything that the other side could have written. */
function causeOf(error: unknown): string {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : 'no answer that can be read';
}

/** Ends the socket with the try, whatever state it is in. */
function withSocket(socket: Socket, signal: AbortSignal, begin: (end: (outcome: ProbeOutcome) => void) => void): Promise<ProbeOutcome> {
  return new Promise((resolve, reject) => {
    const cleanUp = (): void => {
      signal.removeEventListener('abort', onAbort);
      socket.destroy();
    };
    const onAbort = (): void => {
      cleanUp();
      reject(signal.reason);
    };
    const end = (outcome: ProbeOutcome): void => {
      cleanUp();
      resolve(outcome);
    };
    signal.addEventListener('abort', onAbort, { once: true });
    // Kept after the end as well: a destroyed socket may still tell of its error.
    socket.on('error', (error) => end(failure(causeOf(error))));
    begin(end);
  });
}

function tryTcp(host: string, port: number, signal: AbortSignal): Promise<ProbeOutcome> {
  const socket = connect({ host, port });
  return withSocket(socket, signal, (end) => {
    socket.once('connect', () => end(success));
  }).then((outcome) => (outcome.kind === 'failure' ? failure(`no connection to ${host} port ${port}: ${outcome.message}`) : outcome));
}

function tryHttp(address: string, { port, path, isTls }: ProbeAction & { kind: 'http' }, signal: AbortSignal): Promise<ProbeOutcome> {
  const where = `${isTls ? 'https' : 'http'}://${isIPv6(address) ? `[${address}]` : address}:${port}${path}`;
  return new Promise((resolve, reject) => {
    const options = { host: address, port, path, method: 'GET', agent: false, maxHeaderSize: headBytesMax, headers: { 'user-agent': 'nkudo-probe', accept: '*/*', connection: 'close' } } as const;
    const call = isTls ? httpsRequest({ ...options, rejectUnauthorized: false }) : httpRequest(options);
    const cleanUp = (): void => {
      signal.removeEventListener('abort', onAbort);
      call.destroy();
    };
    const onAbort = (): void => {
      cleanUp();
      reject(signal.reason);
    };
    signal.addEventListener('abort', onAbort, { once: true });
    call.on('error', (error) => {
      cleanUp();
      resolve(failure(`no answer from ${where}: ${causeOf(error)}`));
    });
    // The head is all that is wanted; the rest is cut off unread.
    call.once('response', ({ statusCode = 0 }: IncomingMessage) => {
      cleanUp();
      resolve(statusCode >= 200 && statusCode < 400 ? success : failure(`${where} answered ${statusCode}`));
    });
    call.once('upgrade', (_response, socket) => {
      socket.destroy();
      cleanUp();
      resolve(failure(`${where} answered 101`));
    });
    call.end();
  });
}

async function tryVsock(path: string, port: number, signal: AbortSignal): Promise<ProbeOutcome> {
  const outcome = await withSocketFile(path, (reachable) => {
    const socket = connect({ path: reachable });
    return withSocket(socket, signal, (end) => {
      let answer = '';
      socket.once('connect', () => socket.write(`CONNECT ${port}\n`));
      socket.on('data', (bytes: Buffer) => {
        answer += bytes.subarray(0, vsockAnswerBytesMax).toString('latin1');
        if (/^OK \d+\n/.test(answer)) end(success);
        else if (answer.length >= vsockAnswerBytesMax || answer.includes('\n')) end(failure('no answer that can be read'));
      });
      socket.once('end', () => end(failure('refused by the guest')));
    });
  });
  const where = `no connection to vsock port ${port}`;
  if (outcome === null) return failure(`${where}: the VMM has no socket for it`);
  return outcome.kind === 'failure' ? failure(`${where}: ${outcome.message}`) : outcome;
}
