/**
 * What the agent needs for disks that it makes itself: images fetched once for each host and known by
 * their digest, and one file for each disk of a microVM.
 *
 * Owns the contract; files and the network are the adapter's. It protects two invariants: content that
 * does not have its digest is never given to a guest, and the data of a Persistent disk is never
 * made anew. Calls keep no state that a restarted agent needs.
 */
import type { MicroVMId } from '#api/model/ids.ts';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import type { ImageFormat } from '../domain/images.ts';

/** Where a managed disk lies now. */
export interface MadeDisk {
  readonly name: string;
  readonly path: string;
  readonly format: ImageFormat;
}

export type EnsuredDisks =
  | { readonly kind: 'made'; readonly disks: readonly MadeDisk[] }
  /** An image is on its way. `progress` is coarse and for people. */
  | { readonly kind: 'pending'; readonly progress: string };

export interface GuestDisks {
  /**
   * Makes sure of all managed disks of one start, or begins to fetch an image that is missing and
   * answers `pending` at once; `onNews` is called once when it is worth asking again. Idempotent.
   * An image is hashed whole each time that a disk is made from it, and what can't be used is fetched anew.
   * The directory of the microVM must exist; no VMM may use the disks. `only`: the names of those that are made, while a
   * guest uses the others, which are left as they are.
   * @throws IMAGE_NOT_FOUND, IMAGE_UNAVAILABLE, IMAGE_DIGEST_MISMATCH, IMAGE_REFUSED, REGISTRY_NOT_ALLOWED, DISK_FULL
   */
  ensure(vm: { readonly microvmId: MicroVMId; readonly desired: DesiredMicroVM; readonly incarnation: number; readonly only?: ReadonlySet<string> }, onNews: () => void, signal: AbortSignal): Promise<EnsuredDisks>;

  /** The microVM waits for no image any more: a transfer that nobody waits for ends, and can go on later. Idempotent. */
  forgo(microvmId: MicroVMId): void;

  /**
   * Moves the disks that are to be retained out of the directory of the microVM, before it is removed.
   * Without a desired state the policy of the last start counts. Idempotent, durable on return.
   */
  release(microvmId: MicroVMId, desired: DesiredMicroVM | null): Promise<void>;

  /** Ends all transfers; what has arrived stays. */
  stop(): Promise<void>;
}
