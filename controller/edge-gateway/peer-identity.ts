/**
 * Who is at the other end of a call: the certificate's serial number leads to the row of the host, and
 * both must name the same host. Nothing in a message ever says who the caller is.
 */
import { AppError } from '#api/model/error-codes.ts';
import { parseHostUri } from '#controller/pki/certificates.ts';
import type { Authenticate } from '#controller/grpc/access.ts';
import type { Clock } from '#controller/ports/clock.ts';
import type { CertificateIdentity, EnrollmentStore } from '#controller/ports/enrollment-store.ts';

export interface HostCaller {
  readonly identity: CertificateIdentity;
  /** End of the certificate's validity, epoch milliseconds. */
  readonly notAfterMs: number;
}

export interface IdentityDeps {
  readonly enrollments: Pick<EnrollmentStore, 'identify'>;
  readonly clock: Clock;
}

/** URIs of a certificate as Node prints its alternative names: `URI:a, DNS:b`. */
function hostUriOf(alternativeNames: string | undefined): ReturnType<typeof parseHostUri> {
  const uris = (alternativeNames ?? '').split(', ').filter((name) => name.startsWith('URI:'));
  const [only] = uris;
  return uris.length === 1 && only !== undefined ? parseHostUri(only.slice('URI:'.length)) : null;
}

/**
 * Accepts certificates that we issued, that are valid now and not revoked.
 * @throws UNAUTHENTICATED, CERTIFICATE_EXPIRED, HOST_REVOKED, DATABASE_UNAVAILABLE
 */
export function createAuthenticator(deps: IdentityDeps): Authenticate<HostCaller> {
  return async ({ certificate }) => {
    if (certificate === undefined) throw new AppError('UNAUTHENTICATED', 'this call needs the client certificate of an enrolled host');
    const named = hostUriOf(certificate.subjectaltname);
    if (named === null) throw new AppError('UNAUTHENTICATED', 'the client certificate names no host');
    const notAfterMs = Date.parse(certificate.valid_to);
    if (!(notAfterMs > deps.clock.nowMs())) throw new AppError('CERTIFICATE_EXPIRED');
    const identity = await deps.enrollments.identify(certificate.serialNumber.toLowerCase());
    if (identity === null || identity.hostId !== named.hostId || identity.siteId !== named.siteId || identity.tenantId !== named.tenantId) {
      throw new AppError('UNAUTHENTICATED', 'the client certificate is not one of ours');
    }
    if (identity.isRevoked) throw new AppError('HOST_REVOKED');
    return { identity, notAfterMs };
  };
}

/**
 * For calls other than the long stream, which tells a host why it must wait. A host that lost its approval goes on
 * reporting on what is bound to it: it is told nothing by that, and the truth about its microVMs is wanted.
 * @throws HOST_QUARANTINED
 */
export function assertMayWork(identity: CertificateIdentity): void {
  if (identity.isQuarantined) throw new AppError('HOST_QUARANTINED');
}
