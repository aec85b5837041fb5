/**
 * Named places in the code at which a test can kill a process or one that it depends on.
 * Each program lists its own points as data; a point that is not in its list is a programmer error,
 * so the list is complete by construction. Without `NKUDO_FAULT_SOCKET` in the environment a point
 * is one comparison and does nothing.
 */
import { createConnection, type Socket } from 'node:net';
import { createInterface } from 'node:readline';

export interface FaultPoints<Name extends string> {
  /** Resolves at once in production; under test, when the test says so, or never (the process dies here). */
  reach(point: Name): Promise<void>;
}

/** Expands steps into points: each step is reached before and after its durable write or effect. */
export type PointOf<Step extends string> = `${Step}:before` | `${Step}:after`;

export function pointsOf<Step extends string>(steps: readonly Step[]): readonly PointOf<Step>[] {
  return steps.flatMap((step) => [`${step}:before` as const, `${step}:after` as const]);
}

export function inertFaultPoints<Name extends string>(): FaultPoints<Name> {
  return { reach: () => Promise.resolve() };
}

/**
 * Connects lazily to the test's socket and asks it at each point. Protocol: one JSON line
 * `{"process","pid","point"}` out, one line in; the answers come in the order of the questions.
 */
export function connectFaultPoints<Name extends string>(options: {
  readonly socketPath: string;
  readonly processName: string;
  readonly known: readonly Name[];
}): FaultPoints<Name> {
  const known = new Set<string>(options.known);
  const waiting: (() => void)[] = [];
  let socket: Socket | undefined;
  const release = (): void => {
    for (const resolve of waiting.splice(0)) resolve();
    socket = undefined;
  };
  const open = (): Socket => {
    const opened = createConnection(options.socketPath);
    opened.unref();
    // readline repeats the errors of its input as its own.
    createInterface({ input: opened })
      .on('line', () => {
        waiting.shift()?.();
        // Nobody waits: the connection must not keep a process that wants to end.
        if (waiting.length === 0) opened.unref();
      })
      .on('error', release);
    // A test that went away must not hang the process that it tested.
    opened.on('error', release).on('close', release);
    return opened;
  };
  return {
    reach(point) {
      if (!known.has(point)) throw new Error(`fault point ${point} is not in the list of ${options.processName}`);
      return new Promise((resolve) => {
        waiting.push(resolve);
        socket ??= open();
        socket.ref();
        socket.write(`${JSON.stringify({ process: options.processName, pid: process.pid, point })}\n`);
      });
    },
  };
}

/** Chooses by the environment variable `NKUDO_FAULT_SOCKET`. */
export function createFaultPoints<Name extends string>(options: {
  readonly socketPath: string | undefined;
  readonly processName: string;
  readonly known: readonly Name[];
}): FaultPoints<Name> {
  return options.socketPath === undefined || options.socketPath === ''
    ? inertFaultPoints()
    : connectFaultPoints({ ...options, socketPath: options.socketPath });
}
