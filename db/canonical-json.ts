/** Canonical JSON and hashes over it: keys sorted, no white space, absent and undefined alike. */
import { createHash } from 'node:crypto';

/** Version of the rule by which content hashes are made; stored beside each hash. */
export const contentHashVersion = 1;

/** The same text for values that are equal as JSON, whatever the order of their keys. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, part: unknown) => {
    if (typeof part !== 'object' || part === null || Array.isArray(part)) return part;
    return Object.fromEntries(Object.entries(part).toSorted(([left], [right]) => (left < right ? -1 : 1)));
  });
}

/** SHA-256 over canonical JSON, lower-case hexadecimal. */
export function contentHash(value: unknown): string {
  return createHash('sha256').update(canonicalJson(value)).digest('hex');
}
