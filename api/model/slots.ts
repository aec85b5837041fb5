/** Bounds how many of one kind of work run at a time; who comes later waits, first come first served. */
export interface Slots {
  run<Result>(work: () => Promise<Result>): Promise<Result>;
}

export function createSlots(count: number): Slots {
  const waiting: (() => void)[] = [];
  let free = count;
  return {
    run: async (work) => {
      if (free > 0) free -= 1;
      else await new Promise<void>((resolve) => waiting.push(resolve));
      try {
        return await work();
      } finally {
        const next = waiting.shift();
        // A slot is handed on, never given back in between.
        if (next === undefined) free += 1;
        else next();
      }
    },
  };
}
