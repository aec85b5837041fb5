/**
 * The certificate authority as the rest of the controller sees it: pins and bundles for agents, host
 * certificates for requests, and a server identity that renews itself. Keys stay inside.
 *
 * Invariant: listeners always hold a valid pair; a failed renewal keeps the last good one.
 */
import { experimental } from '@grpc/grpc-js';
import type { IssueCertificate } from '#controller/ports/enrollment-store.ts';
import { checkRequest, issueHostCertificate, issueServerCertificate, pinOf, type CertificateAuthority, type CheckedRequest } from './certificates.ts';

const dayMs = 86_400_000;
const serverValidityMs = 14 * dayMs;
/** A server certificate is replaced when less than this is left of it. */
const serverRenewalMs = 7 * dayMs;

export interface Pki {
  /** SHA-256 of the SubjectPublicKeyInfo of each root that is in force, hexadecimal. */
  pins(): readonly string[];
  /** PEM of the roots that agents are to trust. */
  trustBundlePem(): string;
  /** @throws CSR_INVALID */
  checkRequest(der: Uint8Array): Promise<CheckedRequest>;
  /** Signs for a checked request; pass the result to a store, which calls it inside its transaction. */
  issuerFor(request: CheckedRequest, nowMs: number): IssueCertificate;
  /** Identity of the listeners and the authorities that they ask of clients. */
  readonly serverCertificates: experimental.CertificateProvider;
  /**
   * Goes on with a rotated intermediate of the same root: new certificates are signed by it, those of before hold.
   * @throws Error with a sentence for another root: every agent pins the one in use
   */
  useAuthority(authority: CertificateAuthority, nowMs: number): Promise<void>;
  /** Renews the server certificate when it is due. Call it now and then. */
  renewServerCertificate(nowMs: number): Promise<void>;
}

interface ServerPair {
  readonly certificate: Buffer;
  readonly privateKey: Buffer;
  readonly notAfterMs: number;
}

/** What a listener is told when it asks and whenever it changes. */
class ServerCertificates implements experimental.CertificateProvider {
  #authorities: experimental.CaCertificateUpdate;
  readonly #authorityListeners = new Set<experimental.CaCertificateUpdateListener>();
  readonly #identityListeners = new Set<experimental.IdentityCertificateUpdateListener>();
  #pair: ServerPair;

  constructor(authorities: Buffer, pair: ServerPair) {
    this.#authorities = { caCertificate: authorities };
    this.#pair = pair;
  }

  get notAfterMs(): number {
    return this.#pair.notAfterMs;
  }

  replace(pair: ServerPair): void {
    this.#pair = pair;
    for (const listener of this.#identityListeners) listener(pair);
  }

  replaceAuthorities(authorities: Buffer): void {
    this.#authorities = { caCertificate: authorities };
    for (const listener of this.#authorityListeners) listener(this.#authorities);
  }

  addCaCertificateListener(listener: experimental.CaCertificateUpdateListener): void {
    this.#authorityListeners.add(listener);
    // Later, as grpc-js adds its own watcher only after this call returns.
    process.nextTick(listener, this.#authorities);
  }

  removeCaCertificateListener(listener: experimental.CaCertificateUpdateListener): void {
    this.#authorityListeners.delete(listener);
  }

  addIdentityCertificateListener(listener: experimental.IdentityCertificateUpdateListener): void {
    this.#identityListeners.add(listener);
    process.nextTick(listener, this.#pair);
  }

  removeIdentityCertificateListener(listener: experimental.IdentityCertificateUpdateListener): void {
    this.#identityListeners.delete(listener);
  }
}

/** `hosts` are further names and addresses for the server certificate; `hostValidityMs` is that of host certificates. */
export async function createPki(input: {
  readonly authority: CertificateAuthority;
  readonly hosts: readonly string[];
  readonly hostValidityMs: number;
  readonly nowMs: number;
}): Promise<Pki> {
  const { hosts, hostValidityMs } = input;
  let { authority } = input;
  const rootPem = `${authority.root.certificate.toString('pem')}\n`;
  const makePair = async (nowMs: number): Promise<ServerPair> => {
    const made = await issueServerCertificate(authority, { hosts, nowMs, validityMs: serverValidityMs });
    // The root travels along: a machine that enrolls knows only its fingerprint and has to see it.
    return { certificate: Buffer.from(`${made.chainPem}${rootPem}`), privateKey: Buffer.from(made.keyPem), notAfterMs: made.notAfterMs };
  };
  const authorities = (): Buffer => Buffer.from(`${rootPem}${authority.intermediate.certificate.toString('pem')}\n`);
  const serverCertificates = new ServerCertificates(authorities(), await makePair(input.nowMs));
  return {
    pins: () => [pinOf(authority.root.certificate)],
    trustBundlePem: () => rootPem,
    checkRequest,
    issuerFor: (request, nowMs) => (subject) => issueHostCertificate(authority, { subject, publicKey: request.publicKey, nowMs, validityMs: hostValidityMs }),
    serverCertificates,
    useAuthority: async (next, nowMs) => {
      if (pinOf(next.root.certificate) !== pinOf(authority.root.certificate)) {
        throw new Error('the Secret holds another root than the one in use: restart the controller and enroll every host again, or put the old root back');
      }
      if (next.intermediate.certificate.equal(authority.intermediate.certificate)) return;
      authority = next;
      serverCertificates.replaceAuthorities(authorities());
      serverCertificates.replace(await makePair(nowMs));
    },
    renewServerCertificate: async (nowMs) => {
      if (serverCertificates.notAfterMs - nowMs < serverRenewalMs) serverCertificates.replace(await makePair(nowMs));
    },
  };
}
