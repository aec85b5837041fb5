/**
 * The identity of the host on its disk: a private key that never leaves it, and the certificate with
 * what belongs to it. Replaced as a whole, so that key and certificate always match.
 */
export interface Identity {
  readonly tenantId: string;
  readonly siteId: string;
  readonly hostId: string;
  readonly hostName: string;
  readonly siteName: string;
  readonly namespace: string;
  /** Addresses `host:port`, in the order of preference. */
  readonly endpoints: readonly string[];
  /** PEM: the certificate of the host, then the intermediates. */
  readonly chainPem: string;
  /** PEM: the roots to trust. */
  readonly trustBundlePem: string;
  /** PEM, PKCS#8. Secret. */
  readonly keyPem: string;
}

export interface IdentityStore {
  /** Null when the host is not enrolled. */
  load(): Identity | null;
  /** The key for this host, made and stored (0600, fsynced) when there is none. PEM, PKCS#8. */
  ensureKey(): string;
  /** Durable and atomic. The key is the one of ensureKey. */
  save(identity: Omit<Identity, 'keyPem'>): void;
  /** Forgets certificate and key, before an enrollment as another host. */
  clear(): void;
}
