/**
 * Gets a new certificate by a proof of the key: a nonce of the control plane, signed. Both calls go over one connection,
 * since a nonce is good on its own connection only. No certificate is shown, as an expired one ends the handshake's trust.
 */
import { sign } from 'node:crypto';
import { encodeHostFacts } from '#api/codec/edge-codec.ts';
import { EnrollmentServiceClient, type GetRecoveryNonceResponse, type RecoverCertificateResponse } from '#api/gen/nkudo/edge/v1/edge.pb.ts';
import type { HostFacts } from '#api/model/host.ts';
import type { RenewedCertificate } from '../../ports/control-plane.ts';
import type { Identity } from '../../ports/identity-store.ts';
import { makeCertificateRequest } from './certificate-request.ts';
import { channelOptions } from './channel.ts';
import { createTolerantCredentials } from './tolerant-credentials.ts';
import { unary } from './unary.ts';

/** @throws RECOVERY_PROOF_INVALID, RECOVERY_WINDOW_PASSED, RECOVERY_LIMITED, HOST_REVOKED, HOST_QUARANTINED, UNAVAILABLE */
export async function recoverCertificate(
  endpoint: string,
  input: { readonly identity: Pick<Identity, 'keyPem' | 'chainPem' | 'trustBundlePem' | 'hostName'>; readonly facts: HostFacts; readonly newestTimeMs: () => number },
  signal: AbortSignal,
): Promise<RenewedCertificate> {
  const { keyPem, chainPem, trustBundlePem, hostName } = input.identity;
  const client = new EnrollmentServiceClient(endpoint, createTolerantCredentials({ trustBundlePem }, input.newestTimeMs), channelOptions);
  try {
    const { nonce } = await unary<GetRecoveryNonceResponse>(signal, (metadata, done) => client.getRecoveryNonce({}, metadata, done));
    const request = {
      expiredCertificatePem: leafOf(chainPem),
      csrDer: Buffer.from(await makeCertificateRequest(keyPem, hostName)),
      nonce,
      signature: sign('sha256', nonce, { key: keyPem, dsaEncoding: 'der' }),
      facts: encodeHostFacts(input.facts),
    };
    const response = await unary<RecoverCertificateResponse>(signal, (metadata, done) => client.recoverCertificate(request, metadata, done));
    return { chainPem: response.certificateChainPem, trustBundlePem: response.trustBundlePem };
  } finally {
    client.close();
  }
}

/** The first certificate of a chain. */
function leafOf(chainPem: string): string {
  const end = '-----END CERTIFICATE-----';
  return `${chainPem.slice(0, chainPem.indexOf(end) + end.length)}\n`;
}
