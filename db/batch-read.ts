/** Reads by key that are asked for in one turn of the event loop become one statement. Each answer is read after it was asked for. */

/** `load` gives what it found; keys that it leaves out have nothing. At most `keysMax` keys in one call, duplicates once. */
export function createBatchRead<Value>(keysMax: number, load: (keys: readonly string[]) => Promise<ReadonlyMap<string, Value>>): (key: string) => Promise<Value | null> {
  interface Asked {
    readonly key: string;
    readonly resolve: (value: Value | null) => void;
    readonly reject: (error: unknown) => void;
  }
  let waiting: Asked[] = [];
  const flush = (): void => {
    const asked = waiting;
    waiting = [];
    for (let start = 0; start < asked.length; start += keysMax) {
      const part = asked.slice(start, start + keysMax);
      load([...new Set(part.map(({ key }) => key))]).then(
        (found) => part.forEach(({ key, resolve }) => resolve(found.get(key) ?? null)),
        (error: unknown) => part.forEach(({ reject }) => reject(error)),
      );
    }
  };
  return (key) =>
    new Promise((resolve, reject) => {
      if (waiting.push({ key, resolve, reject }) === 1) setImmediate(flush);
    });
}
