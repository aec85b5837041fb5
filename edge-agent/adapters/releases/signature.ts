/**
 * Signatures of releases: ECDSA P-256 with SHA-256 over the bytes of a file, in a Sigstore bundle (`FILE.sigstore.json`)
 * as `cosign sign-blob --key --bundle` writes it, or as plain base64 of the DER form (`FILE.sig`). Checked offline against
 * public keys that the host has; there is no certificate and no transparency log to ask.
 */
import { createPublicKey, verify, type KeyObject } from 'node:crypto';
import { AppError } from '#api/model/error-codes.ts';

/** Media types that are understood; later ones may say something else by the same fields. */
const bundleTypes = /^application\/vnd\.dev\.sigstore\.bundle(\.v0\.[1-3]\+json|\+json;version=0\.[1-3])$/;
export const signatureBytesMax = 65_536;

/** @param text PEM, any number of public keys. @throws RELEASE_INVALID for one that is no P-256 key */
export function readPublicKeys(text: string, where: string): readonly KeyObject[] {
  const blocks = text.match(/-----BEGIN PUBLIC KEY-----[\s\S]*?-----END PUBLIC KEY-----/g) ?? [];
  return blocks.map((pem) => {
    try {
      const key = createPublicKey(pem);
      if (key.asymmetricKeyType === 'ec' && key.asymmetricKeyDetails?.namedCurve === 'prime256v1') return key;
    } catch {
      // Told below.
    }
    throw new AppError('RELEASE_INVALID', `${where} holds a key that is no ECDSA P-256 public key`, { remedy: 'use the file cosign.pub of cosign generate-key-pair' });
  });
}

/** @param signature text of a bundle or of a plain signature. @throws RELEASE_UNSIGNED, RELEASE_INVALID */
export function checkSignature(content: Uint8Array, signature: string, keys: readonly KeyObject[], what: string): void {
  if (keys.length === 0) throw new AppError('RELEASE_UNSIGNED', 'this host trusts no key for releases', { remedy: 'put the public key of the releases into the directory that releaseKeysDir names' });
  const der = parseSignature(signature, what);
  if (!keys.some((key) => verify('sha256', content, key, der))) throw new AppError('RELEASE_UNSIGNED', `${what} is not what a key that this host trusts has signed`);
}

function parseSignature(text: string, what: string): Buffer {
  const trimmed = text.trim();
  const base64 = trimmed.startsWith('{') ? signatureOfBundle(trimmed) : trimmed;
  if (base64 === null || trimmed.length > signatureBytesMax || !/^[A-Za-z0-9+/]{16,512}={0,2}$/.test(base64)) throw new AppError('RELEASE_INVALID', `the signature of ${what} can not be read`);
  return Buffer.from(base64, 'base64');
}

function signatureOfBundle(text: string): string | null {
  try {
    const { mediaType, messageSignature } = JSON.parse(text) as { mediaType?: unknown; messageSignature?: { signature?: unknown } }; // Each field is checked below.
    const signature = messageSignature?.signature;
    return typeof mediaType === 'string' && bundleTypes.test(mediaType) && typeof signature === 'string' ? signature : null;
  } catch {
    return null;
  }
}
