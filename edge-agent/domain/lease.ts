/**
 * The lease of this host, as its microVMs that may be replaced elsewhere see it. Each has a moment at which no VMM of it
 * may live here: counted from when the host *sent* the beat whose lease was extended, on the boot clock, which goes on
 * during suspend and knows nothing of the wall clock.
 *
 * Invariant: pure. Whatever arrives, in whichever order and however late, no end lies later than the newest confirmed
 * beat plus the shorter of the microVM's own terms and what the control plane granted.
 */
import type { DesiredMicroVM, LeaseTerms } from '#api/model/microvm.ts';
import type { BootMoment, MicroVMRecord, Now } from './microvm-record.ts';

/** The newest extension that was confirmed to this process. */
export interface HostLease {
  /** When the beat that it answers was sent. */
  readonly sent: BootMoment;
  /** Milliseconds from then, as the control plane committed it. */
  readonly leaseMs: number;
}

/** What a microVM may do now. */
export interface LeaseView {
  /** A lease was confirmed since this agent started, and its orderly stop is not due. */
  readonly mayStart: boolean;
  /** Its orderly stop is due, or overdue. */
  readonly mustStop: boolean;
  /** When the orderly stop begins, boot clock; null: at once. */
  readonly stopsAtBootMs: number | null;
  /** When the guard ends it, boot clock; null: at once. */
  readonly endsAtBootMs: number | null;
}

/** The orderly stop takes no more than this part of the terms, whatever the spec asks for. */
const gracePartMax = 0.5;
/** A host asks so often within the shortest terms: three answers may be lost. */
const asksPerTerm = 4;
const askMinMs = 50;

/** What the terms oblige this host to; undefined: nothing. Somebody at the site may have accepted a second copy, until there is a lease. */
export function leaseTermsOf(record: MicroVMRecord): LeaseTerms | undefined {
  return record.site?.override?.acceptsTwoCopies === true ? undefined : wantedTermsOf(record);
}

/** Under what terms a lease is asked for; undefined: none is needed. */
function wantedTermsOf(record: MicroVMRecord): LeaseTerms | undefined {
  return record.isTombstone || record.isDeleting ? undefined : record.desired?.lease;
}

/** Until when a microVM of these terms may live under the newest lease. */
export function endUnder(terms: LeaseTerms, lease: HostLease): BootMoment {
  return { bootId: lease.sent.bootId, ms: lease.sent.ms + Math.min(terms.stopOnHostAfterMs, lease.leaseMs) };
}

/** The newer one: answers can arrive in another order than their beats were sent. */
export function newerLease(known: HostLease | undefined, confirmed: HostLease): HostLease {
  return known !== undefined && known.sent.bootId === confirmed.sent.bootId && known.sent.ms >= confirmed.sent.ms ? known : confirmed;
}

/** Whether the newest lease has not run out. */
export function isHeld(lease: HostLease | undefined, now: Now): boolean {
  return lease !== undefined && lease.sent.bootId === now.bootId && now.bootMs < lease.sent.ms + lease.leaseMs;
}

export function graceMs(desired: DesiredMicroVM): number {
  const stop = desired.lease?.stopOnHostAfterMs ?? Infinity;
  return Math.min(desired.terminationGracePeriodMs, stop * gracePartMax);
}

/** Undefined for a microVM that needs no lease. `end` is what the guard goes by; `isConfirmed`: this process had a grant. */
export function deriveLeaseView(record: MicroVMRecord, end: BootMoment | undefined, isConfirmed: boolean, now: Now): LeaseView | undefined {
  const terms = leaseTermsOf(record);
  if (terms === undefined || record.desired === null) return undefined;
  if (end === undefined || end.bootId !== now.bootId) return { mayStart: false, mustStop: true, stopsAtBootMs: null, endsAtBootMs: null };
  const stopsAtBootMs = end.ms - graceMs(record.desired);
  const mustStop = now.bootMs >= stopsAtBootMs;
  return { mayStart: isConfirmed && !mustStop, mustStop, stopsAtBootMs, endsAtBootMs: end.ms };
}

/** Milliseconds between two requests; undefined while no microVM needs a lease. */
export function askEveryMs(records: Iterable<MicroVMRecord>): number | undefined {
  let shortest = Infinity;
  for (const record of records) shortest = Math.min(shortest, wantedTermsOf(record)?.stopOnHostAfterMs ?? Infinity);
  return shortest === Infinity ? undefined : Math.max(askMinMs, Math.floor(shortest / asksPerTerm));
}
