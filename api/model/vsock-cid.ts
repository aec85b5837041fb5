/**
 * The vsock context id that a guest has when its specification names none: always the same for one
 * microVM. Two guests of one host may have the same one, since each VMM has a socket of its own and a
 * guest sees no other guest (measured on cloud-hypervisor v54).
 */
import type { MicroVMId } from './ids.ts';
import { stableHash } from './stable-hash.ts';

/** 0 to 2 are the hypervisor's, the loopback's and the host's; 2^32 - 1 means any. */
const first = 3;
const count = 0xffff_ffff - first;

/** From 3 to 4294967294. */
export function deriveVsockCid(microvmId: MicroVMId): number {
  return first + (stableHash(`${microvmId}/vsock`, 0x811c9dc5) % count);
}
