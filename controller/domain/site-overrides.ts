/**
 * When an order of somebody at the site ends from above. A stop and a forced start end with a new runPolicy or
 * restartNonce in a generation of the object that the control plane saw after it had heard of the order: what was changed
 * during a cut starts nothing under the hands of whoever stands there. A hold ends by force only, which names its number.
 *
 * Invariant: pure; an order is ended at most once, and a later order is not touched by what ended an earlier one.
 */
import type { RunPolicy } from '#api/model/microvm.ts';
import type { SiteOverride } from '#api/model/site-orders.ts';

/** The part of a spec that ends an order when it changes. */
export interface AskedRun {
  readonly generation: number;
  readonly runPolicy: RunPolicy;
  readonly restartNonce: number;
}

/** What was seen of the object when the order was first heard of. */
export interface NotedOrder extends AskedRun {
  readonly number: number;
}

export type OverrideDecision =
  /** To be made durable: from here on the spec is compared with this. */
  | { readonly action: 'note'; readonly note: NotedOrder }
  | { readonly action: 'keep' }
  | { readonly action: 'end'; readonly by: 'Spec' | 'Force' };

/** @param forced number of the order that the object's annotation overrules; null: none */
export function decideOverride(override: SiteOverride, noted: NotedOrder | null, asked: AskedRun, forced: number | null): OverrideDecision {
  if (forced === override.number) return { action: 'end', by: 'Force' };
  if (noted?.number !== override.number) return { action: 'note', note: { number: override.number, ...asked } };
  if (override.kind === 'Held' || asked.generation <= noted.generation) return { action: 'keep' };
  const isAskedAnew = asked.runPolicy !== noted.runPolicy || asked.restartNonce !== noted.restartNonce;
  return isAskedAnew ? { action: 'end', by: 'Spec' } : { action: 'keep' };
}
