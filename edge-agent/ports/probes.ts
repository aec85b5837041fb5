/**
 * What the agent needs to try a probe: a connection, a request, or a look at what the guest printed.
 * Owns the contract; sockets are the adapter's. A guest may answer with anything, for ever: a try takes
 * no more from it than the first line or the head of an answer, and ends with its signal.
 */
import type { ProbeAction } from '#api/model/microvm.ts';
import type { ProbeOutcome } from '../domain/probes.ts';

export interface ProbeTarget {
  readonly action: Exclude<ProbeAction, { readonly kind: 'console' }>;
  /** Address of the guest, without a prefix length; absent: none is known. */
  readonly address?: string;
  /** Host side of the guest's vsock device. */
  readonly vsockSocket: string;
}

export interface Prober {
  /**
   * One try. Never rejects but with the reason of the signal; the message of a failure is the same for the
   * same cause, and holds nothing that the guest sent but a status code.
   */
  probe(target: ProbeTarget, signal: AbortSignal): Promise<ProbeOutcome>;
}
