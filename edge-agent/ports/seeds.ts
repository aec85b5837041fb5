/**
 * The disk from which cloud-init in a guest reads, one for each microVM that has data for it. Made anew with each start
 * from what is kept on the host, so that a guest boots without a connection.
 */
import type { MicroVMId } from '#api/model/ids.ts';
import type { DesiredMicroVM } from '#api/model/microvm.ts';

export interface Seeds {
  /** Where the disk of a microVM lies in its directory, whether there is one or not. */
  path(microvmId: MicroVMId): string;
  /**
   * Makes the disk for this desired state; removes the one that is there when it asks for none. Atomic, and durable on
   * return; a VMM that has the earlier one open keeps that. Idempotent: equal content is not written again. The
   * directory of the microVM must exist.
   * @throws SECRET_UNAVAILABLE, DISK_FULL
   */
  ensure(microvmId: MicroVMId, desired: DesiredMicroVM): Promise<void>;
}
