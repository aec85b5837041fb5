/**
 * Waits of long calls: until something was committed that may concern them, or a time has passed.
 * A wake-up says only "read again", so a spurious one costs a read; one that comes while its
 * subscriber reads is kept for the next wait.
 */
export interface Subscription {
  /** Resolves at once after a kept wake-up, else at the next one, after `maxMs`, or at the end of the subscription. */
  next(maxMs: number): Promise<void>;
}

export interface WakeUps {
  /** Wakes who waits for the topic. */
  wake(topic: string): void;
  wakeAll(): void;
  /** Ends with the signal. */
  subscribe(topic: string, signal: AbortSignal): Subscription;
}

export function createWakeUps(): WakeUps {
  const subscribers = new Map<string, Set<() => void>>();
  const wake = (topic: string): void => subscribers.get(topic)?.forEach((wakeOne) => wakeOne());
  return {
    wake,
    wakeAll: () => [...subscribers.keys()].forEach(wake),
    subscribe: (topic, signal) => {
      let isDue = false;
      let resolveWait: (() => void) | undefined;
      const wakeOne = (): void => {
        isDue = true;
        resolveWait?.();
      };
      const mine = subscribers.get(topic) ?? new Set();
      subscribers.set(topic, mine.add(wakeOne));
      const end = (): void => {
        mine.delete(wakeOne);
        if (mine.size === 0 && subscribers.get(topic) === mine) subscribers.delete(topic);
        wakeOne();
      };
      if (signal.aborted) end();
      else signal.addEventListener('abort', end, { once: true });
      return {
        next: async (maxMs) => {
          if (!isDue) {
            let timer: NodeJS.Timeout | undefined;
            await new Promise<void>((resolve) => {
              resolveWait = resolve;
              timer = setTimeout(resolve, maxMs);
            });
            clearTimeout(timer);
          }
          isDue = signal.aborted;
        },
      };
    },
  };
}
