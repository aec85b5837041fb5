/**
 * The hardware address that a guest's network interface has when its specification names none: always
 * the same for one microVM and network name, so that it survives restarts, other hosts and lost databases.
 */
import type { MicroVMId } from './ids.ts';
import { stableHash } from './stable-hash.ts';

/**
 * A locally administered unicast address. 46 bits come from the UID and the name; with 10,000 interfaces
 * in one broadcast domain the chance that two are equal is below one in a million.
 */
export function deriveMac(microvmId: MicroVMId, networkName: string): string {
  const text = `${microvmId}/${networkName}`;
  const high = stableHash(text, 0x811c9dc5);
  const low = stableHash(text, 0x01000193);
  const bytes = [high >>> 24, (high >>> 16) & 0xff, (high >>> 8) & 0xff, high & 0xff, (low >>> 8) & 0xff, low & 0xff];
  // The two lowest bits of the first byte: locally administered, and not a group address.
  return bytes.map((byte, index) => (index === 0 ? (byte & 0xfc) | 0x02 : byte).toString(16).padStart(2, '0')).join(':');
}
