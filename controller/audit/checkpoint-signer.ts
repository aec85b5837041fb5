/**
 * Signs heads of audit chains and checks such signatures. Owns what exactly is signed; where the key is kept is
 * `signing-key.ts`. Ed25519: deterministic, and every verifier knows it.
 */
import { createHash, createPrivateKey, createPublicKey, sign, verify, type KeyObject } from 'node:crypto';
import type { ChainHead, Checkpoint, SignatureCheck } from '../ports/audit-chain.ts';

/** Version of what is signed; the first item of it. */
const checkpointVersion = 'nkudo-audit-checkpoint/1';

export interface CheckpointSigner {
  readonly keyId: string;
  sign(head: ChainHead, madeAtMs: number): Checkpoint;
}

/** SHA-256 of the SubjectPublicKeyInfo, lower-case hexadecimal. */
export function keyIdOf(publicKey: KeyObject): string {
  return createHash('sha256').update(publicKey.export({ type: 'spki', format: 'der' })).digest('hex');
}

function signedBytes(checkpoint: Omit<Checkpoint, 'signature' | 'keyId'>): Buffer {
  return Buffer.from(JSON.stringify([checkpointVersion, checkpoint.tenantId, checkpoint.position, checkpoint.root, checkpoint.previousPosition, checkpoint.madeAtMs]));
}

/** @throws Error when the text is no Ed25519 private key */
export function createCheckpointSigner(privateKeyPem: string): CheckpointSigner {
  const key = createPrivateKey(privateKeyPem);
  if (key.asymmetricKeyType !== 'ed25519') throw new Error('the signing key of audit checkpoints must be an Ed25519 key');
  const keyId = keyIdOf(createPublicKey(key));
  return {
    keyId,
    sign: (head, madeAtMs) => {
      const { tenantId, position, root, previousPosition } = head;
      const unsigned = { tenantId, position, root, previousPosition, madeAtMs };
      return { ...unsigned, keyId, signature: sign(null, signedBytes(unsigned), key).toString('base64') };
    },
  };
}

/** Trusts the keys in the text: one or more public keys in PEM. @throws Error when it holds none */
export function createSignatureCheck(publicKeysPem: string): SignatureCheck {
  const blocks = publicKeysPem.match(/-----BEGIN PUBLIC KEY-----[^-]+-----END PUBLIC KEY-----/g) ?? [];
  if (blocks.length === 0) throw new Error('there is no public key in PEM');
  const keys = new Map(blocks.map((block) => createPublicKey(block)).map((key) => [keyIdOf(key), key]));
  return (checkpoint) => {
    const key = keys.get(checkpoint.keyId);
    return key !== undefined && verify(null, signedBytes(checkpoint), key, Buffer.from(checkpoint.signature, 'base64'));
  };
}
