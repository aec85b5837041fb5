/**
 * What a reconcile says about the next one. There is no bare "again": every wait names what it waits for.
 * Invariant: an expected result is a value; only faults are thrown, and the queue turns those into `failed`.
 */

export type Outcome =
  /** As it should be; looked at again after the time, or with the next change. */
  | { readonly kind: 'done'; readonly requeueAfterMs?: number }
  /** Something outside has to happen first; `reason` and `message` say what. */
  | { readonly kind: 'waiting'; readonly reason: string; readonly message: string; readonly retryAfterMs?: number }
  /** A person has to change something first. */
  | { readonly kind: 'stalled'; readonly reason: string; readonly message: string }
  /** It did not work; it is tried again with back-off. */
  | { readonly kind: 'failed'; readonly error: unknown };

export const done = (requeueAfterMs?: number): Outcome =>
  requeueAfterMs === undefined ? { kind: 'done' } : { kind: 'done', requeueAfterMs };

export const waiting = (reason: string, message: string, retryAfterMs?: number): Outcome =>
  retryAfterMs === undefined ? { kind: 'waiting', reason, message } : { kind: 'waiting', reason, message, retryAfterMs };

export const stalled = (reason: string, message: string): Outcome => ({ kind: 'stalled', reason, message });

export const failed = (error: unknown): Outcome => ({ kind: 'failed', error });

/** One step of a reconcile: null lets the next step run, an outcome ends the steps. */
export type Step<Scope, Deps> = (scope: Scope, deps: Deps) => Promise<Outcome | null>;

/** Runs the steps in order until one has an outcome; a thrown fault is the outcome `failed`. */
export async function runSteps<Scope, Deps>(steps: readonly Step<Scope, Deps>[], scope: Scope, deps: Deps): Promise<Outcome> {
  for (const step of steps) {
    try {
      const outcome = await step(scope, deps);
      if (outcome !== null) return outcome;
    } catch (error) {
      return failed(error);
    }
  }
  return done();
}
