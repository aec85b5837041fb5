/**
 * Kills the agent at the n-th fault point that it reaches, whichever that is: a loop over n until nobody was killed
 * goes through all of them, also those that no list of a test names.
 */
import { createServer, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { signalIfAlive } from '#hack/stack/run-directory.ts';
import { fileScope } from '#test/harness/file-scope.ts';

export interface KillCounter {
  /** Value for `NKUDO_FAULT_SOCKET`. */
  readonly socketPath: string;
  /** Counts from now on and kills at the n-th point; null: counts only. */
  arm(nth: number | null): void;
  /** The point at which the agent was killed since it was armed. */
  killedAt(): string | null;
  /** Points reached since it was armed, in order. */
  reached(): readonly string[];
  /** Resolves when nobody is between the two points of a step, or the kill happened. */
  settled(): Promise<void>;
}

const before = ':before';
const after = ':after';
/** Longest that a step may take; far beyond what a busy machine needs. */
const patienceMs = 60_000;
/** What goes on beside the one microVM that a test works with. */
const besideTheWork = new Set(['receipt.send', 'report.send']);

/** A step that failed, or that a newer order made void, has no second point: it is over when the next one begins. */
export function openSteps(reached: readonly string[]): readonly string[] {
  const open = new Map<string, string>();
  for (const point of reached) {
    const step = point.slice(0, point.lastIndexOf(':'));
    const lane = besideTheWork.has(step) ? step : 'work';
    if (point.endsWith(before)) open.set(lane, step);
    else if (point.endsWith(after) && open.get(lane) === step) open.delete(lane);
  }
  return [...open.values()];
}

export async function startKillCounter(): Promise<KillCounter> {
  const scope = fileScope();
  const socketPath = join(scope.makeDirectory('k'), 's');
  let target: number | null = null;
  let reached: string[] = [];
  let killedAt: string | null = null;
  const watchers = new Set<() => void>();

  const arrive = (line: string, socket: Socket): void => {
    const { pid, point } = JSON.parse(line) as { pid: number; point: string }; // The protocol of api/fault-points.
    reached.push(point);
    if (killedAt === null && target !== null && reached.length >= target) {
      killedAt = point;
      signalIfAlive(pid, 'SIGKILL');
    } else if (socket.writable) socket.write('go\n');
    for (const look of watchers) look();
  };
  const server = createServer((socket) => {
    socket.on('error', () => socket.destroy());
    createInterface({ input: socket })
      .on('line', (line) => arrive(line, socket))
      // The agent was killed at a point; readline repeats its input's errors as its own.
      .on('error', () => socket.destroy());
  });
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  scope.defer(() => void server.close());

  const isSettled = (): boolean => killedAt !== null || openSteps(reached).length === 0;
  return {
    socketPath,
    arm(nth) {
      target = nth;
      reached = [];
      killedAt = null;
    },
    killedAt: () => killedAt,
    reached: () => reached,
    settled: () =>
      new Promise((resolve, reject) => {
        const look = (): void => {
          if (!isSettled()) return;
          clearTimeout(timer);
          watchers.delete(look);
          resolve();
        };
        const timer = setTimeout(() => {
          watchers.delete(look);
          reject(new Error(`${openSteps(reached).join(', ')} did not end in ${patienceMs} ms; reached: ${reached.slice(-20).join(', ')}`));
        }, patienceMs);
        watchers.add(look);
        look();
      }),
  };
}
