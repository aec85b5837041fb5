/**
 * Names of the network devices of a microVM: derived, never stored, so that a lost journal or database
 * can't lose a device. Pure. A name is no proof of ownership: the device's alias is.
 */
import type { MicroVMId } from '#api/model/ids.ts';
import { stableHash } from '#api/model/stable-hash.ts';

/** All devices that begin with it are taps of guests. */
export const tapPrefix = 'nkt';
const alphabet = 'abcdefghijklmnopqrstuvwxyz234567';

/** 15 characters, the most that Linux allows: {@link tapPrefixOf} the microVM, then 25 bits of the network. */
export function tapName(microvmId: MicroVMId, networkName: string): string {
  return `${tapPrefixOf(microvmId)}${letters(`${microvmId}/${networkName}`, 5)}`;
}

/** The device on an interface of the host that belongs to a tap; 15 characters as well. */
export function macvlanName(tap: string): string {
  return `nkm${tap.slice(tapPrefix.length)}`;
}

/** What the names of all taps of one microVM begin with: 35 bits of its UID. */
export function tapPrefixOf(microvmId: MicroVMId): string {
  return `${tapPrefix}${letters(microvmId, 7)}`;
}

function letters(text: string, count: number): string {
  const low = stableHash(text, 0x811c9dc5);
  const high = stableHash(text, 0x9e3779b9);
  return Array.from({ length: count }, (_, index) => alphabet.charAt(index < 4 ? (low >>> (index * 5)) & 31 : (high >>> ((index - 4) * 5)) & 31)).join('');
}
