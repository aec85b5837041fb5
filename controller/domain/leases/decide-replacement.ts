/**
 * Whether a bound microVM is to be started on another host now. Pure; the transaction that does it checks the rows it
 * was decided from once more, behind the leadership fence.
 */
import type { HostWatch } from './lease-watch.ts';
import type { MassDisconnect } from './mass-disconnect.ts';
import { shortestLostAfterMs, type ReplacePolicy } from './replace-policy.ts';

export interface ReplacementInput {
  readonly policy: ReplacePolicy;
  /** Of the host that it is bound to; null while it was not read yet. */
  readonly watch: HostWatch | null;
  /** How long it is known here that the host follows the terms, milliseconds. */
  readonly termsKnownForMs: number;
  /** Whether it counts as heard, by the rule for what people are shown. */
  readonly isHeard: boolean;
  readonly mass: MassDisconnect | null;
  readonly isRecovering: boolean;
}

export type ReplacementDecision =
  /** Not asked for, or its host is heard. */
  | { readonly action: 'none' }
  /** Its host is silent, but not for long enough: look again after that time. */
  | { readonly action: 'wait'; readonly forMs: number }
  | { readonly action: 'held'; readonly reason: 'MassDisconnect' | 'RecoveryUnderWay'; readonly message: string }
  | { readonly action: 'replace' };

export function decideReplacement({ policy, watch, termsKnownForMs, isHeard, mass, isRecovering }: ReplacementInput): ReplacementDecision {
  if (policy.kind !== 'on' || watch === null || isHeard) return { action: 'none' };
  // The last grant may have been under longer terms than those of now, which the host has not heard of.
  const untilLeaseIsOverMs = watch.leaseMs === null ? 0 : shortestLostAfterMs(watch.leaseMs) - watch.leaselessMs;
  const untilTermsAreOverMs = shortestLostAfterMs(policy.stopOnHostAfterMs) - termsKnownForMs;
  const forMs = Math.max(policy.lostAfterMs - watch.silentMs, untilLeaseIsOverMs, untilTermsAreOverMs);
  if (forMs > 0) return { action: 'wait', forMs };
  if (isRecovering) {
    return { action: 'held', reason: 'RecoveryUnderWay', message: 'the database was restored or failed over, and it is not sure yet what the hosts hold' };
  }
  if (mass !== null) {
    const release = new Date(mass.newestBeatAtMs).toISOString();
    return {
      action: 'held', reason: 'MassDisconnect',
      message: `${mass.silent} of ${mass.total} hosts fell silent together; to replace all the same, annotate the Site with nkudo.dev/release-replacements=${release}`,
    };
  }
  return { action: 'replace' };
}
