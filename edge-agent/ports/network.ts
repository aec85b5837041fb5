/**
 * What the agent needs from the host's network for its guests: taps, the bridges they are ports of,
 * who may send what, and ports of the host that lead to guests.
 *
 * Owns the contract; programs and kernel interfaces are the adapter's. It protects three invariants:
 * a guest sends only with the hardware and network address that it was given; nothing that was made
 * for a microVM outlives {@link GuestNetworks.remove}; and what the host had before is not changed.
 *
 * Calls keep no state between them: each looks at the host first, so an agent that was killed in the
 * middle of one repeats it. Calls of one process wait for each other. Beside the codes that a call
 * names, all reject with NETWORK_FAILED (the host refused a change) and with the signal's reason.
 */
import type { MicroVMId } from '#api/model/ids.ts';
import type { NetworkSpec } from '#api/model/microvm.ts';

/** Something a guest has to do without, although its networks work. */
export interface NetworkWarning {
  readonly code: 'DHCP_UNAVAILABLE';
  /** For people: what is missing and how to get it. */
  readonly message: string;
}

export interface GuestNetworks {
  /**
   * Makes sure that the microVM has exactly these networks, each with a tap of the name `tapName` that
   * is up and that the VMM may open. Others of the same microVM are removed. Idempotent; a guest that
   * runs keeps the interfaces that stay. Refuses before it changes anything.
   * @throws NETWORK_UNAVAILABLE, NETWORK_UNSUPPORTED, INVALID_REQUEST, PORT_IN_USE, ADDRESS_IN_USE
   */
  ensure(microvmId: MicroVMId, networks: readonly NetworkSpec[], signal: AbortSignal): Promise<readonly NetworkWarning[]>;

  /** Removes everything that was made for the microVM, and with the last one what all shared. The VMM must be gone. Idempotent. */
  remove(microvmId: MicroVMId, signal: AbortSignal): Promise<void>;

  /**
   * Removes what belongs to microVMs of this agent that are not in `kept`, whatever crash left it.
   * @returns the names of the taps that were removed.
   */
  sweep(kept: ReadonlySet<MicroVMId>, signal: AbortSignal): Promise<readonly string[]>;
}
