/**
 * Keeps the key that signs audit checkpoints in one Kubernetes Secret, never in Postgres: who can write the database
 * must not be able to sign. As with the certificate authority, who creates the Secret first wins, and a Secret that
 * can't be used is an error, never replaced.
 */
import { createPublicKey, generateKeyPairSync } from 'node:crypto';
import type { SecretPort } from '../pki/authority-store.ts';
import { createCheckpointSigner, type CheckpointSigner } from './checkpoint-signer.ts';

/** `trusted.pub` may hold keys that signed before, so that their checkpoints stay valid after a change of key. */
const fields = { key: 'signing.key', publicKey: 'signing.pub', trusted: 'trusted.pub' } as const;
export const signingSecretName = 'nkudo-audit';

export interface SigningKey {
  readonly signer: CheckpointSigner;
  /** All keys that are trusted, in PEM. */
  readonly publicKeysPem: string;
}

function parseSigningKey(values: Readonly<Record<string, string>>): SigningKey {
  const key = values[fields.key] ?? '';
  if (key === '') throw new Error(`secret ${signingSecretName} has no ${fields.key}; restore it from a backup, or delete the secret: a new key is made, and older checkpoints need the old public key in ${fields.trusted}`);
  const own = createPublicKey(key).export({ type: 'spki', format: 'pem' }).toString();
  return { signer: createCheckpointSigner(key), publicKeysPem: own + (values[fields.trusted] ?? '') };
}

/** Null when there is no such Secret. @throws Error with a sentence when the Secret can't be used */
export async function loadSigningKey(secrets: SecretPort): Promise<SigningKey | null> {
  const values = await secrets.read(signingSecretName);
  return values === null ? null : parseSigningKey(values);
}

/** Idempotent over replicas and restarts. @throws Error with a sentence when the Secret exists and can't be used */
export async function loadOrCreateSigningKey(secrets: SecretPort): Promise<SigningKey> {
  const existing = await loadSigningKey(secrets);
  if (existing !== null) return existing;
  const { privateKey, publicKey } = generateKeyPairSync('ed25519');
  const values = {
    [fields.key]: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
    [fields.publicKey]: publicKey.export({ type: 'spki', format: 'pem' }).toString(),
  };
  if ((await secrets.create(signingSecretName, values)) === 'created') return parseSigningKey(values);
  const winner = await loadSigningKey(secrets);
  if (winner === null) throw new Error(`secret ${signingSecretName} was created by another replica and is gone again`);
  return winner;
}
