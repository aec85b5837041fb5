/**
 * Keeps requests to an account that does not answer apart, whatever asks for a reconcile: after each failure the gate of
 * the site is shut for longer, with jitter, and opens at once when its fingerprint changes (another spec, another token).
 * Forgotten with the process: one look more does no harm.
 */
import { backoffMs, type Time } from '#controller/runtime/time.ts';

/** Above the sites of a large installation. */
const entriesMax = 50_000;
const initialMs = 1_000;

export interface MeshGate {
  /** Milliseconds until the next try; 0: now. */
  delayMs(key: string, fingerprint: string): number;
  /** Returns the milliseconds that the gate is shut for; at least `atLeastMs`. */
  shut(key: string, fingerprint: string, atLeastMs: number): number;
  open(key: string): void;
}

export function createMeshGate(time: Pick<Time, 'monotonicMs' | 'random'>, maxMs: number): MeshGate {
  const shut = new Map<string, { readonly fingerprint: string; readonly failures: number; readonly untilMs: number }>();
  return {
    delayMs: (key, fingerprint) => {
      const entry = shut.get(key);
      return entry === undefined || entry.fingerprint !== fingerprint ? 0 : Math.max(0, Math.ceil(entry.untilMs - time.monotonicMs()));
    },
    shut: (key, fingerprint, atLeastMs) => {
      const entry = shut.get(key);
      const failures = entry?.fingerprint === fingerprint ? entry.failures + 1 : 1;
      const initial = Math.min(initialMs, maxMs);
      // Half of it is sure: full jitter alone would allow a burst.
      const limits = { initialMs: initial, maxMs };
      const ceilingMs = backoffMs(limits, failures, () => 1);
      const waitMs = Math.max(atLeastMs, Math.ceil(ceilingMs / 2 + backoffMs(limits, failures, time.random) / 2));
      const oldest = shut.size >= entriesMax && entry === undefined ? shut.keys().next().value : undefined;
      if (oldest !== undefined) shut.delete(oldest);
      shut.set(key, { fingerprint, failures, untilMs: time.monotonicMs() + waitMs });
      return waitMs;
    },
    open: (key) => {
      shut.delete(key);
    },
  };
}
