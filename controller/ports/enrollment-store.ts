/**
 * Tokens, hosts' identities and certificates. Owner of the rule that a token gives one certificate:
 * it is consumed in the transaction that records the certificate.
 */
import type { EnrollmentTokenId, HostId, SiteId, TenantId } from '#api/model/ids.ts';
import type { HostFacts } from '#api/model/host.ts';
import type { Actor } from './audit.ts';

export interface TokenRegistration {
  readonly tenantId: TenantId;
  readonly tokenId: EnrollmentTokenId;
  readonly siteId: SiteId;
  /** SHA-256 of the secret part, 32 bytes. The secret itself never reaches the database. */
  readonly secretHash: Uint8Array;
  readonly hostName: string | null;
  readonly expiresAtMs: number;
}

export interface TokenState {
  readonly usedAtMs: number | null;
  readonly usedByHostId: HostId | null;
  readonly usedByHostName: string | null;
  readonly expiresAtMs: number;
}

/** What the signer is asked to put into the certificate. */
export interface IssueRequest {
  readonly tenantId: TenantId;
  readonly siteId: SiteId;
  readonly hostId: HostId;
  readonly hostName: string;
  /** Rises by one with each certificate of a host, from 1; a lower one than the highest used is a clone. */
  readonly counter: number;
}

export interface IssuedCertificate {
  /** Serial number, lower-case hexadecimal. */
  readonly serial: string;
  readonly chainPem: string;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
}

/** Signs without I/O; it runs inside the transaction. */
export type IssueCertificate = (request: IssueRequest) => Promise<IssuedCertificate>;

export interface EnrollInput {
  readonly secretHash: Uint8Array;
  /** SHA-256 of the SubjectPublicKeyInfo of the request, 32 bytes. */
  readonly publicKeyHash: Uint8Array;
  /** Name asked for; null: the one in the token, or else the one in the facts. */
  readonly hostName: string | null;
  readonly facts: HostFacts;
  readonly nowMs: number;
  readonly newHostId: HostId;
  readonly actor: Actor;
  readonly issue: IssueCertificate;
}

export interface EnrolledHost {
  readonly tenantId: TenantId;
  readonly siteId: SiteId;
  readonly siteName: string;
  readonly namespace: string;
  readonly hostId: HostId;
  readonly hostName: string;
  readonly certificate: IssuedCertificate;
}

/** The identity behind a client certificate. */
export interface CertificateIdentity {
  readonly tenantId: TenantId;
  readonly siteId: SiteId;
  readonly hostId: HostId;
  readonly hostName: string;
  readonly serial: string;
  readonly counter: number;
  readonly isRevoked: boolean;
  readonly isQuarantined: boolean;
  /** The site asks for approval and the Host was not approved yet. */
  readonly awaitsApproval: boolean;
  /** The session that the host opened last, on whatever replica; null when it has none. Left out: not known. */
  readonly currentSessionId?: string | null;
}

/** A certificate after a proof of the same key. */
export interface RecoverInput {
  /** Serial number of the certificate whose key was proven. */
  readonly serial: string;
  /** Of that certificate and of the request, which must agree. */
  readonly publicKeyHash: Uint8Array;
  /** So long after its expiry a certificate is still good for a recovery. */
  readonly windowMs: number;
  /** What the machine says of itself; null from an agent that does not say. */
  readonly facts: HostFacts | null;
  readonly nowMs: number;
  readonly actor: Actor;
  readonly issue: IssueCertificate;
}

export interface EnrollmentStore {
  /** Records a token. Idempotent by id; a change of hash of an unused token replaces it. */
  registerToken(input: TokenRegistration, epoch: number, actor: Actor): Promise<void>;
  loadToken(tenantId: TenantId, tokenId: EnrollmentTokenId): Promise<TokenState | null>;
  /** Invalidates a token whose object is being deleted. Idempotent. */
  revokeToken(tenantId: TenantId, tokenId: EnrollmentTokenId, epoch: number, actor: Actor): Promise<void>;
  /**
   * Consumes the token and records host, agent key and certificate, all or nothing. The same hash with the
   * same key, before the token expires, returns what was issued the first time.
   * @throws TOKEN_UNKNOWN, TOKEN_EXPIRED, TOKEN_USED, TOKEN_HOST_MISMATCH, HOST_NAME_TAKEN
   */
  enroll(input: EnrollInput): Promise<EnrolledHost>;
  /** Null when no such certificate was issued. Read at every connect and every 2 s for open streams. */
  identify(serial: string): Promise<CertificateIdentity | null>;
  /** Records the next certificate of a host. @throws HOST_REVOKED */
  renew(input: {
    readonly identity: CertificateIdentity;
    readonly publicKeyHash: Uint8Array;
    readonly nowMs: number;
    readonly actor: Actor;
    readonly issue: IssueCertificate;
  }): Promise<IssuedCertificate>;
  /**
   * Records the next certificate of a host whose last one expired. A certificate older than one that was used is a clone,
   * and quarantines the host.
   * @throws RECOVERY_PROOF_INVALID when no such certificate was issued to that key, RECOVERY_WINDOW_PASSED, HOST_REVOKED, HOST_QUARANTINED
   */
  recover(input: RecoverInput): Promise<IssuedCertificate>;
}
