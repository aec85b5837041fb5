/**
 * Lets watchers of the status come back: what each was sent is kept for a while after its connection ended, on this replica
 * and in memory. A watcher that comes back in time is told what it missed and no more; any other one begins anew and is
 * told so.
 */
import { createStatusMemory, type StatusMemory } from '#controller/fleet-api/status-watch.ts';
import type { Clock } from '#controller/ports/clock.ts';

/** Each holds some hundred bytes for each object of its tenant. */
const parkedMax = 64;
const keptForMs = 120_000;

export interface WatchSession {
  readonly id: string;
  readonly memory: StatusMemory;
  /** Whether it goes on where an earlier connection ended. */
  readonly isResumed: boolean;
  /** Call once nothing is noted in the memory any more: keeps it for the next connection. */
  park(): void;
}

export interface Resumption {
  /**
   * `owner` is who watches what: nobody else can come back in its place. `cut` ends the connection when its watcher comes
   * back on another one before the end of this one was noticed.
   */
  open(watch: { readonly owner: string; readonly lastEventId: string | undefined; readonly cut: () => void }): Promise<WatchSession>;
}

export const eventIdOf = (session: WatchSession): string => `${session.id}.${session.memory.sequence()}`;

interface Kept {
  readonly owner: string;
  readonly memory: StatusMemory;
  readonly untilMs: number;
}

interface Active {
  readonly owner: string;
  readonly cut: () => void;
  readonly parked: Promise<void>;
}

export function createResumption(deps: { readonly clock: Pick<Clock, 'monotonicMs'>; readonly uuid: () => string }): Resumption {
  const kept = new Map<string, Kept>();
  const open = new Map<string, Active>();
  const takeBack = async (owner: string, lastEventId: string): Promise<{ readonly id: string; readonly memory: StatusMemory } | null> => {
    const [id = '', sequence = ''] = lastEventId.split('.');
    const active = open.get(id);
    if (active?.owner === owner) {
      active.cut();
      await active.parked;
    }
    const found = kept.get(id);
    if (found === undefined || found.owner !== owner) return null;
    kept.delete(id);
    if (found.untilMs < deps.clock.monotonicMs() || !/^\d{1,15}$/.test(sequence)) return null;
    return found.memory.goBackTo(Number(sequence)) ? { id, memory: found.memory } : null;
  };
  return {
    open: async ({ owner, lastEventId, cut }) => {
      const back = lastEventId === undefined ? null : await takeBack(owner, lastEventId);
      const { id, memory } = back ?? { id: deps.uuid(), memory: createStatusMemory() };
      const { promise: parked, resolve } = Promise.withResolvers<void>();
      open.set(id, { owner, cut, parked });
      return {
        id,
        memory,
        isResumed: back !== null,
        park: () => {
          open.delete(id);
          kept.set(id, { owner, memory, untilMs: deps.clock.monotonicMs() + keptForMs });
          const oldest = kept.size > parkedMax ? kept.keys().next().value : undefined;
          if (oldest !== undefined) kept.delete(oldest);
          resolve();
        },
      };
    },
  };
}
