/** Hashes over canonical JSON, each with the version of the rule that it was made by. */
import { createHash } from 'node:crypto';
import { canonicalJson } from '#api/model/canonical-json.ts';

/** Version of the rule by which content hashes are made; stored beside each hash. */
export const contentHashVersion = 1;

/** SHA-256 over canonical JSON, lower-case hexadecimal. */
export function contentHash(value: unknown): string {
  return createHash('sha256').update(canonicalJson(value)).digest('hex');
}

const rules: Readonly<Record<number, (value: unknown) => string>> = { [contentHashVersion]: contentHash };

/** The hash of the value under the rule of a stored hash; null when this version does not know that rule. */
export function contentHashUnder(version: number, value: unknown): string | null {
  return rules[version]?.(value) ?? null;
}
