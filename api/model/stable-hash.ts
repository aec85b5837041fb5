/**
 * A hash of short texts whose values never change, for names and addresses that must come out the same
 * on every host and in every version. Not for secrets, and not against people who look for collisions.
 */

/** 32 bits: FNV-1a over UTF-16 units, then the finalizer of MurmurHash3, which spreads the last characters over all bits. */
export function stableHash(text: string, seed: number): number {
  let hash = seed;
  for (let index = 0; index < text.length; index += 1) hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
