/**
 * The values of Secrets that microVMs of this host need, kept so that they boot without a connection. Apart from the
 * directories of the microVMs: what a VMM may read holds no value that only the host needs. Readable by the agent alone.
 */
import type { MicroVMId } from '#api/model/ids.ts';
import type { SecretReference, SecretValue } from '#api/model/microvm.ts';

/** A value with the version of the Secret that it was sent for. */
export type KeptSecret = SecretReference & SecretValue;

export interface KeptSecrets {
  /** Empty when there are none, also for a file that somebody damaged: they are sent again. */
  load(microvmId: MicroVMId): readonly KeptSecret[];
  /**
   * Replaces all of one microVM; atomic, and durable on return. None removes what is there. Idempotent.
   * @throws SECRET_UNAVAILABLE when the file can't be written, such as on a full disk
   */
  save(microvmId: MicroVMId, secrets: readonly KeptSecret[]): void;
  /** MicroVMs with values here. */
  list(): readonly MicroVMId[];
}
