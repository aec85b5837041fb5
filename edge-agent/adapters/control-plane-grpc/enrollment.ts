/**
 * Exchanges a token for an identity. The token is sent only to a server whose chain ends at a pinned
 * root. A repeat with the same key gives the same certificate, so that a lost answer costs nothing.
 */
import { credentials, Metadata } from '@grpc/grpc-js';
import { encodeHostFacts } from '#api/codec/edge-codec.ts';
import type { EnrollmentToken } from '#api/codec/enrollment-token.ts';
import { EnrollmentServiceClient, type EnrollRequest, type EnrollResponse } from '#api/gen/nkudo/edge/v1/edge.pb.ts';
import { AppError } from '#api/model/error-codes.ts';
import type { HostFacts } from '#api/model/host.ts';
import { hostId, siteId, tenantId } from '#api/model/ids.ts';
import type { Identity } from '../../ports/identity-store.ts';
import { makeCertificateRequest } from './certificate-request.ts';
import { channelOptions } from './channel.ts';
import { fetchPinnedRoot } from './pinned-root.ts';
import { toAppError } from './status-error.ts';

const enrollDeadlineMs = 30_000;

export interface EnrollmentRequest {
  readonly token: EnrollmentToken;
  /** The whole text of the token. Secret. */
  readonly tokenText: string;
  readonly keyPem: string;
  /** Empty: the name in the token, or else that of the machine. */
  readonly hostName: string;
  readonly facts: HostFacts;
}

/**
 * Tries the endpoints in their order; only an endpoint that can't be reached leads to the next.
 * @throws CA_PIN_MISMATCH, TOKEN_*, CSR_INVALID, HOST_NAME_TAKEN, UNAVAILABLE
 */
export async function enrollHost(request: EnrollmentRequest): Promise<Omit<Identity, 'keyPem'>> {
  const csrDer = await makeCertificateRequest(request.keyPem, request.hostName === '' ? request.facts.hostName : request.hostName);
  let unreachable = new AppError('UNAVAILABLE');
  for (const endpoint of request.token.endpoints) {
    try {
      return await enrollAt(endpoint, request, csrDer);
    } catch (error) {
      const known = toAppError(error);
      if (known.code !== 'UNAVAILABLE') throw known;
      unreachable = known;
    }
  }
  throw unreachable;
}

async function enrollAt(endpoint: string, request: EnrollmentRequest, csrDer: Uint8Array): Promise<Omit<Identity, 'keyPem'>> {
  const rootPem = await fetchPinnedRoot(endpoint, request.token.pins);
  const client = new EnrollmentServiceClient(endpoint, credentials.createSsl(Buffer.from(rootPem)), channelOptions);
  try {
    const response = await call(client, {
      token: request.tokenText,
      csrDer: Buffer.from(csrDer),
      hostName: request.hostName,
      facts: encodeHostFacts(request.facts),
    });
    return decodeIdentity(response);
  } finally {
    client.close();
  }
}

function call(client: EnrollmentServiceClient, request: EnrollRequest): Promise<EnrollResponse> {
  return new Promise((resolve, reject) => {
    client.enroll(request, new Metadata(), { deadline: Date.now() + enrollDeadlineMs }, (error, response) => (error === null ? resolve(response) : reject(toAppError(error))));
  });
}

function decodeIdentity(response: EnrollResponse): Omit<Identity, 'keyPem'> {
  const { certificateChainPem, trustBundlePem, endpoints, hostName, siteName, namespace } = response;
  if (endpoints.length === 0 || certificateChainPem === '' || trustBundlePem === '') throw new AppError('INTERNAL', 'the answer to the enrollment is not complete');
  return {
    tenantId: tenantId(response.tenantId),
    siteId: siteId(response.siteId),
    hostId: hostId(response.hostId),
    hostName,
    siteName,
    namespace,
    endpoints,
    chainPem: certificateChainPem,
    trustBundlePem,
  };
}
