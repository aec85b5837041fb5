/**
 * The last resort for waiting: asks again until the answer is yes. Use it only for what sends no event, such as the end
 * of a process that is not ours; everything else has a watch, a log line or a fault point to wait for.
 */
import { setTimeout as delay } from 'node:timers/promises';

const pollMs = 50;

/** Resolves when `isTrue` gives true. @throws after `timeoutMs`, saying `what` was awaited and why the last try failed. */
export async function until(
  isTrue: () => boolean | Promise<boolean>,
  what: string,
  { timeoutMs = 60_000 }: { readonly timeoutMs?: number } = {},
): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  let lastFailure = '';
  for (;;) {
    try {
      if (await isTrue()) {
        return;
      }
      lastFailure = '';
    } catch (error) {
      lastFailure = `; the last try failed: ${error instanceof Error ? error.message : String(error)}`;
    }
    if (performance.now() > deadline) {
      throw new Error(`waited ${timeoutMs} ms for ${what}${lastFailure}`);
    }
    await delay(pollMs);
  }
}
