/**
 * Certificate signing requests. @peculiar/x509 is loaded only here and only when one is made, since it
 * is a good part of an idle agent's memory.
 */
import { createPrivateKey, createPublicKey, webcrypto } from 'node:crypto';

const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;

/** PKCS#10, DER, signed by the key. @param keyPem PKCS#8 of an ECDSA P-256 key */
export async function makeCertificateRequest(keyPem: string, hostName: string): Promise<Uint8Array> {
  await import('reflect-metadata');
  const { Pkcs10CertificateRequestGenerator } = await import('@peculiar/x509');
  const privateKey = createPrivateKey(keyPem);
  const publicKey = createPublicKey(privateKey);
  const keys = {
    privateKey: await webcrypto.subtle.importKey('pkcs8', privateKey.export({ type: 'pkcs8', format: 'der' }), algorithm, true, ['sign']),
    publicKey: await webcrypto.subtle.importKey('spki', publicKey.export({ type: 'spki', format: 'der' }), algorithm, true, ['verify']),
  };
  const request = await Pkcs10CertificateRequestGenerator.create({ name: [{ CN: [hostName] }], keys, signingAlgorithm: algorithm });
  return new Uint8Array(request.rawData);
}
