/**
 * Secrets whose values may go to guests: those of the microVM's own namespace that carry the label {@link guestLabel}.
 * A value is read to look whether it can be sent, and again when it is sent; in between only its name, key and version
 * exist, in rows and everywhere else.
 */
import type { SecretKey, SecretReference, SecretValue } from '#api/model/microvm.ts';

/** Whoever may create microVMs reads, through a guest, each Secret that carries it with the value "true". */
export const guestLabel = 'nkudo.dev/guest';

export const secretRefusals = ['SecretNotFound', 'SecretNotForGuests', 'SecretKeyNotFound', 'SecretTooLarge'] as const;
export type SecretRefusal = (typeof secretRefusals)[number];

export type SecretReading =
  | { readonly kind: 'found'; readonly reference: SecretReference; readonly value: SecretValue }
  /** `message` is for a person, names the Secret and says what to do; never a value. */
  | { readonly kind: 'refused'; readonly key: SecretKey; readonly reason: SecretRefusal; readonly message: string };

export interface GuestSecrets {
  /** One reading for each key, in their order; each Secret is read once. @throws UNAVAILABLE and what else the API server answers */
  read(namespace: string, keys: readonly SecretKey[]): Promise<readonly SecretReading[]>;
}
