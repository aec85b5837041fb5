/**
 * Whether a microVM is replaced when its host is lost, and with which pair of times: those of the Site merged with
 * those of the MicroVM. What no rule of the API server can see, since each of the two objects holds half of the pair,
 * is refused here; the microVM then runs as one that is never replaced.
 *
 * Invariant: pure. With `on`, `lostAfterMs ≥ 1.02 × stopOnHostAfterMs + 5 s`, so that no copy can start before the other
 * one has ended, also with clocks that drift by one percent each and a host that runs its guard 3 s late.
 */
import type { MicroVMSpec } from '#crds/gen/microvm.ts';
import type { SiteSpec } from '#crds/gen/site.ts';
import { parseDurationMs } from '#crds/scalar-values.ts';

/** Room for the drift of two clocks. */
const driftFactor = 1.02;
/** Room for the kill, for rounding, and for a guard that is run late. */
const killMarginMs = 5_000;

/** What holds when neither object says anything. */
const defaults = { lostAfter: '10m', stopOnHostAfter: '9m', terminationGracePeriod: '30s' } as const;
/** The orderly stop begins so long before the end of the lease; it must leave a microVM time to run. */
const gracePartMax = 0.5;

export type ReplacePolicy =
  | { readonly kind: 'off' }
  | { readonly kind: 'disabled'; readonly reason: 'DeadlinesTooClose' | 'PersistentDisk'; readonly message: string }
  | { readonly kind: 'on'; readonly lostAfterMs: number; readonly stopOnHostAfterMs: number };

type Disconnect = NonNullable<MicroVMSpec['disconnect']>;

/** Shortest `lostAfter` that is safe with a lease of that length. */
export function shortestLostAfterMs(leaseMs: number): number {
  return Math.ceil(leaseMs * driftFactor) + killMarginMs;
}

export function deriveReplacePolicy(spec: MicroVMSpec, site: SiteSpec['disconnect']): ReplacePolicy {
  const merged: Disconnect = { ...site, ...spec.disconnect };
  if (merged.replace !== true) return { kind: 'off' };
  const lostAfterMs = duration(merged.lostAfter ?? defaults.lostAfter);
  const stopOnHostAfterMs = duration(merged.stopOnHostAfter ?? defaults.stopOnHostAfter);
  const graceMs = duration(spec.terminationGracePeriod ?? defaults.terminationGracePeriod);
  if (losesDisk(spec) && merged.data !== 'Discard') {
    return { kind: 'disabled', reason: 'PersistentDisk', message: 'a replacement would lose a writable disk of the host: write disconnect.data: Discard to accept that, or disconnect.replace: false' };
  }
  if (!(lostAfterMs >= shortestLostAfterMs(stopOnHostAfterMs))) {
    return {
      kind: 'disabled', reason: 'DeadlinesTooClose',
      message: `lostAfter is ${lostAfterMs} ms and has to be at least ${shortestLostAfterMs(stopOnHostAfterMs)} ms with this stopOnHostAfter, as Site and MicroVM have them together`,
    };
  }
  if (graceMs > stopOnHostAfterMs * gracePartMax) {
    return {
      kind: 'disabled', reason: 'DeadlinesTooClose',
      message: `terminationGracePeriod is ${graceMs} ms and may be at most half of stopOnHostAfter, ${stopOnHostAfterMs * gracePartMax} ms: the stop begins that much earlier`,
    };
  }
  return { kind: 'on', lostAfterMs, stopOnHostAfterMs };
}

/** A text that is no duration never got past the API server; NaN fails every comparison above. */
function duration(text: string): number {
  return parseDurationMs(text) ?? Number.NaN;
}

function losesDisk({ disks = [] }: MicroVMSpec): boolean {
  return disks.some((disk) => disk.persistence === 'Persistent' || (disk.path !== undefined && disk.readOnly !== true && disk.persistence !== 'Ephemeral'));
}
