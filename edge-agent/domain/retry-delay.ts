/** How long a step that failed waits before it is tried again. Pure; randomness is passed in. */

/** First delay after a failed step, milliseconds. */
export const retryInitialMs = 1_000;
/** A microVM that can't be made right is looked at this often at least; no timer is slower. */
export const retryMaxMs = 300_000;

/** @param random from 0 to 1; the delay lies between a half and the whole of its step */
export function retryDelayMs(failures: number, random: number): number {
  const whole = Math.min(retryMaxMs, retryInitialMs * 2 ** Math.min(30, Math.max(0, failures - 1)));
  return Math.round(whole / 2 + (whole / 2) * random);
}

/** Full jitter between 0 and min(cap, base * 2^failures), for reconnecting. */
export function fullJitterMs(failures: number, random: number, limits: { readonly baseMs: number; readonly capMs: number }): number {
  return Math.round(random * Math.min(limits.capMs, limits.baseMs * 2 ** Math.min(30, failures)));
}
