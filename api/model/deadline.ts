/**
 * A deadline for one piece of work, beside the signal of its caller.
 *
 * `AbortSignal.any([signal, AbortSignal.timeout(ms)])` must not be used for that: the combined signal holds its sources
 * weakly, and a timeout that nobody else holds can be collected before it fires (measured on Node 24.21), so that the
 * work waits for ever. Here the timer holds the signal, and both go when the work has ended.
 */

/** Runs the work with a signal that aborts with `parent`, or with a TimeoutError after `ms` milliseconds. */
export async function withDeadline<Result>(parent: AbortSignal, ms: number, work: (signal: AbortSignal) => Promise<Result>): Promise<Result> {
  const controller = new AbortController();
  const follow = (): void => controller.abort(parent.reason);
  const timer = setTimeout(() => controller.abort(new DOMException(`not done in ${ms} ms`, 'TimeoutError')), ms);
  if (parent.aborted) follow();
  else parent.addEventListener('abort', follow, { once: true });
  try {
    return await work(controller.signal);
  } finally {
    clearTimeout(timer);
    parent.removeEventListener('abort', follow);
  }
}
