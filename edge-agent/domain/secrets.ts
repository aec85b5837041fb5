/** Which values of Secrets a host keeps for a microVM. Pure; values are only passed on. */
import { isSameSecret, type DesiredMicroVM, type SecretKey, type SecretReference, type SecretValue } from '#api/model/microvm.ts';
import type { MicroVMRecord } from './microvm-record.ts';

type Kept = SecretReference & SecretValue;

export type Keeping =
  /** What to keep before the operation is accepted; null: what is kept already is right. */
  | { readonly kind: 'keep'; readonly secrets: readonly Kept[] | null }
  | { readonly kind: 'missing'; readonly key: SecretKey };

/**
 * What was kept for the intent before stays until the new one is durable. A value that did not come although it is
 * named may be here in an older version: with it the microVM goes on as it was.
 */
export function decideKeeping(desired: DesiredMicroVM | undefined, sent: readonly SecretValue[], kept: readonly Kept[]): Keeping {
  const references = desired?.secrets ?? [];
  const wanted: Kept[] = [];
  for (const reference of references) {
    const value = sent.find((candidate) => isSameSecret(candidate, reference)) ?? kept.find((candidate) => isSameSecret(candidate, reference));
    if (value === undefined) return { kind: 'missing', key: reference };
    wanted.push({ ...reference, reveal: value.reveal });
  }
  const others = kept.filter((candidate) => !references.some((reference) => isSameSecret(candidate, reference)));
  const secrets = [...wanted, ...others];
  return { kind: 'keep', secrets: areEqual(secrets, kept) ? null : secrets };
}

/** What is still needed once the record is durable; null: all of it. */
export function decidePruning({ desired, previous, isDeleting }: MicroVMRecord, kept: readonly Kept[]): readonly Kept[] | null {
  // A teardown that is dropped brings the intent before back; the end of the teardown removes everything.
  if (isDeleting) return null;
  const needed = [...(desired?.secrets ?? []), ...(previous?.desired?.secrets ?? [])];
  const rest = kept.filter((candidate) => needed.some((reference) => isSameSecret(candidate, reference)));
  return rest.length === kept.length ? null : rest;
}

function areEqual(left: readonly Kept[], right: readonly Kept[]): boolean {
  return left.length === right.length && left.every((one) => right.some((other) => isSameSecret(one, other) && one.resourceVersion === other.resourceVersion && isEqualValue(one.reveal(), other.reveal())));
}

function isEqualValue(left: Uint8Array, right: Uint8Array): boolean {
  return left.length === right.length && left.every((byte, index) => byte === right[index]);
}
