/**
 * Waits of long calls: until something was committed that may concern them, or a time has passed.
 * A wake-up says only "read again", so a lost or a spurious one costs a read.
 */
export interface WakeUps {
  /** Wakes who waits for the topic. */
  wake(topic: string): void;
  wakeAll(): void;
  /** Resolves at the next wake-up of the topic, after `maxMs`, or when the signal is aborted. */
  wait(topic: string, maxMs: number, signal: AbortSignal): Promise<void>;
}

export function createWakeUps(): WakeUps {
  const waiting = new Map<string, Set<() => void>>();
  const wake = (topic: string): void => {
    for (const resolve of [...(waiting.get(topic) ?? [])]) resolve();
  };
  return {
    wake,
    wakeAll: () => [...waiting.keys()].forEach(wake),
    wait: (topic, maxMs, signal) =>
      new Promise((resolve) => {
        const mine = waiting.get(topic) ?? new Set();
        const finish = (): void => {
          clearTimeout(timer);
          signal.removeEventListener('abort', finish);
          mine.delete(finish);
          if (mine.size === 0 && waiting.get(topic) === mine) waiting.delete(topic);
          resolve();
        };
        const timer = setTimeout(finish, maxMs);
        mine.add(finish);
        waiting.set(topic, mine);
        signal.addEventListener('abort', finish, { once: true });
        if (signal.aborted) finish();
      }),
  };
}
