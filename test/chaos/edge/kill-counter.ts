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

  const isSettled = (): boolean => {
    if (killedAt !== null) return true;
    const open = new Map<string, number>();
    for (const point of reached) {
      const step = point.slice(0, point.lastIndexOf(':'));
      open.set(step, (open.get(step) ?? 0) + (point.endsWith(before) ? 1 : point.endsWith(after) ? -1 : 0));
    }
    return [...open.values()].every((count) => count <= 0);
  };
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
      new Promise((resolve) => {
        const look = (): void => {
          if (!isSettled()) return;
          watchers.delete(look);
          resolve();
        };
        watchers.add(look);
        look();
      }),
  };
}
