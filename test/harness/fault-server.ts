/**
 * The test's side of the products' fault points: every program asks here before it goes past a point, and the test
 * decides, for example by killing it there.
 *
 * Protocol (see `api/fault-points`): one JSON line `{"process","pid","point"}` in, one line `go` out, answers in the order of the
 * questions on each connection. A point without a handler is answered at once and recorded like all others.
 */
import { createServer, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { signalIfAlive } from '#hack/stack/run-directory.ts';
import { fileScope } from './file-scope.ts';

/** A program arrived at a point. */
export interface FaultHit {
  readonly process: string;
  readonly pid: number;
  readonly point: string;
  /** 1 for the first time that this process name reached this point on this server. */
  readonly count: number;
}

/** Runs while the program waits at the point; the program goes on when it returns. */
export type FaultHandler = (hit: FaultHit) => Promise<void> | void;

/** See the module's header. */
export interface FaultServer {
  /** Value for `NKUDO_FAULT_SOCKET`. */
  readonly socketPath: string;
  /** Everything reached so far, in order of arrival. */
  hits(): readonly FaultHit[];
  /** Forgets hits, counts and handlers. */
  reset(): void;
  /**
   * Calls `handler` at the `count`th time (default the next) that `process` reaches `point`, once.
   * The promise resolves when the handler has returned; await it to know that the fault happened.
   */
  at(where: { readonly process: string; readonly point: string; readonly count?: number }, handler: FaultHandler): Promise<FaultHit>;
  /** Shorthand of `at`: SIGKILL to the program at the point. It never goes past it. */
  killAt(where: { readonly process: string; readonly point: string; readonly count?: number }): Promise<FaultHit>;
}

interface Waiting {
  readonly process: string;
  readonly point: string;
  readonly count: number;
  readonly handler: FaultHandler;
  readonly settle: { resolve(hit: FaultHit): void; reject(error: unknown): void };
}

/** Starts a server that lives as long as the test file. */
export async function useFaultServer(): Promise<FaultServer> {
  const scope = fileScope();
  const socketPath = join(scope.makeDirectory('x'), 's');
  const hits: FaultHit[] = [];
  let waiting: Waiting[] = [];
  const countOf = (process: string, point: string): number =>
    hits.filter((hit) => hit.process === process && hit.point === point).length;
  const arrive = async (question: Omit<FaultHit, 'count'>): Promise<void> => {
    const hit = { ...question, count: countOf(question.process, question.point) + 1 };
    hits.push(hit);
    const match = waiting.find((entry) => entry.process === hit.process && entry.point === hit.point && entry.count === hit.count);
    if (match === undefined) {
      return;
    }
    waiting = waiting.filter((entry) => entry !== match);
    try {
      await match.handler(hit);
      match.settle.resolve(hit);
    } catch (error) {
      match.settle.reject(error);
    }
  };
  const server = createServer((socket) => serveConnection(socket, arrive));
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(socketPath, resolve);
  });
  scope.defer(() => void server.close());
  const at: FaultServer['at'] = ({ process, point, count }, handler) =>
    new Promise((resolve, reject) => {
      waiting.push({ process, point, count: count ?? countOf(process, point) + 1, handler, settle: { resolve, reject } });
    });
  return {
    socketPath,
    hits: () => hits,
    reset: () => {
      hits.length = 0;
      waiting = [];
    },
    at,
    killAt: (where) =>
      at(where, (hit) => {
        signalIfAlive(hit.pid, 'SIGKILL');
      }),
  };
}

/** One question at a time on each connection, so that the answers keep the order. */
function serveConnection(socket: Socket, arrive: (question: Omit<FaultHit, 'count'>) => Promise<void>): void {
  let last: Promise<void> = Promise.resolve();
  const lines = createInterface({ input: socket });
  // The program was killed at a point; that is the purpose. readline repeats its input's errors as its own.
  lines.on('error', () => socket.destroy());
  socket.on('error', () => socket.destroy());
  lines.on('line', (line) => {
    const question = parseQuestion(line);
    last = last.then(() => arrive(question)).then(() => void (socket.writable && socket.write('go\n')));
  });
}

function parseQuestion(line: string): Omit<FaultHit, 'count'> {
  const value: unknown = JSON.parse(line);
  if (
    typeof value === 'object' && value !== null &&
    'process' in value && typeof value.process === 'string' &&
    'pid' in value && typeof value.pid === 'number' &&
    'point' in value && typeof value.point === 'string'
  ) {
    return { process: value.process, pid: value.pid, point: value.point };
  }
  throw new Error(`a program asked the fault server: ${line}`);
}
