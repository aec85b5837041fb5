/** Runs work once for all who ask while it runs, and once more for those who asked after it had begun. */

/** What is asked for during a run is covered by the next one, never lost; a failure is told to those whom that run was for. */
export function coalesced<Result>(work: () => Promise<Result>): () => Promise<Result> {
  let running: Promise<Result> | null = null;
  let next: Promise<Result> | null = null;
  const start = (): Promise<Result> => {
    const run = work().finally(() => {
      running = null;
    });
    running = run;
    return run;
  };
  return () => {
    // First: between the end of one run and the begin of the next, nobody may begin a third.
    if (next !== null) return next;
    if (running === null) return start();
    const begin = (): Promise<Result> => {
      next = null;
      return start();
    };
    next = running.then(begin, begin);
    return next;
  };
}
