/**
 * The hardware address that a guest's network interface has when its specification names none: always
 * the same for one microVM and network name, so that it survives restarts, other hosts and lost databases.
 */
import type { MicroVMId } from './ids.ts';

/**
 * A locally administered unicast address. 46 bits come from the UID and the name; with 10,000 interfaces
 * in one broadcast domain the chance that two are equal is below one in a million.
 */
export function deriveMac(microvmId: MicroVMId, networkName: string): string {
  const text = `${microvmId}/${networkName}`;
  const high = hash32(text, 0x811c9dc5);
  const low = hash32(text, 0x01000193);
  const bytes = [(high >>> 24), (high >>> 16) & 0xff, (high >>> 8) & 0xff, high & 0xff, (low >>> 8) & 0xff, low & 0xff];
  // The two lowest bits of the first byte: locally administered, and not a group address.
  return bytes.map((byte, index) => (index === 0 ? (byte & 0xfc) | 0x02 : byte).toString(16).padStart(2, '0')).join(':');
}

/** FNV-1a over UTF-16 units, then the finalizer of MurmurHash3, which spreads the last characters over all bits. */
function hash32(text: string, seed: number): number {
  let hash = seed;
  for (let index = 0; index < text.length; index += 1) hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
