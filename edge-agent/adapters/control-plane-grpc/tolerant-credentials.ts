/**
 * Channel credentials for a host whose clock may be wrong. A control plane that the wall clock of the host finds valid is
 * taken as usual. When only the times do not fit, the whole chain is verified again at the newest time that the host
 * has heard from its control plane; everything else (authority, name, purpose) must hold as ever.
 */
import { ChannelCredentials, type CallCredentials, type ChannelOptions, type experimental } from '@grpc/grpc-js';
import { X509Certificate } from 'node:crypto';
import { TLSSocket } from 'node:tls';
import { serverName } from './channel.ts';
import { readChain } from './pinned-root.ts';

const serverPurpose = '1.3.6.1.5.5.7.3.1';
/** What Node calls a certificate whose times alone are wrong. */
const timeErrors: ReadonlySet<string> = new Set(['CERT_NOT_YET_VALID', 'CERT_HAS_EXPIRED']);

type SecureConnector = experimental.SecureConnector;
type Target = Parameters<ChannelCredentials['_createSecureConnector']>[0];

export interface TolerantIdentity {
  readonly trustBundlePem: string;
  /** Left out: the host shows no certificate. */
  readonly client?: { readonly keyPem: string; readonly chainPem: string };
}

/** @param newestTimeMs newest time heard from the control plane, epoch milliseconds; 0 when none was */
export function createTolerantCredentials(identity: TolerantIdentity, newestTimeMs: () => number): ChannelCredentials {
  const key = identity.client === undefined ? null : Buffer.from(identity.client.keyPem);
  const chain = identity.client === undefined ? null : Buffer.from(identity.client.chainPem);
  // What is not rejected here is judged below, before a byte of ours is sent.
  const inner = ChannelCredentials.createSsl(Buffer.from(identity.trustBundlePem), key, chain, { rejectUnauthorized: false });
  return new TolerantCredentials(inner, (socket) => judgeServer(socket, identity.trustBundlePem, newestTimeMs()));
}

class TolerantCredentials extends ChannelCredentials {
  readonly #inner: ChannelCredentials;
  readonly #judge: (socket: TLSSocket) => string | null;

  constructor(inner: ChannelCredentials, judge: (socket: TLSSocket) => string | null) {
    super();
    this.#inner = inner;
    this.#judge = judge;
  }

  override _isSecure(): boolean {
    return true;
  }

  override _equals(other: ChannelCredentials): boolean {
    return this === other;
  }

  override _createSecureConnector(target: Target, options: ChannelOptions, callCredentials?: CallCredentials): SecureConnector {
    // oxlint-disable-next-line no-underscore-dangle -- the name that grpc-js gave to what credentials must implement
    const connector = this.#inner._createSecureConnector(target, options, callCredentials);
    return {
      connect: async (socket) => {
        const connected = await connector.connect(socket);
        const problem = connected.socket instanceof TLSSocket ? this.#judge(connected.socket) : 'the connection is not encrypted';
        if (problem === null) return connected;
        connected.socket.destroy();
        throw new Error(problem);
      },
      waitForReady: () => connector.waitForReady(),
      getCallCredentials: () => connector.getCallCredentials(),
      destroy: () => connector.destroy(),
    };
  }
}

/** Null when the server is the control plane; else why not. */
function judgeServer(socket: TLSSocket, trustBundlePem: string, newestTimeMs: number): string | null {
  if (socket.authorized) return null;
  // Node's type says Error; what is there is its code.
  const error = String(socket.authorizationError);
  if (!timeErrors.has(error)) return `the control plane could not prove its identity: ${error}`;
  const problem = judgeChain(readChain(socket.getPeerCertificate(true)), trustBundlePem, newestTimeMs);
  return problem === null ? null : `by the clock of this host the certificate of the control plane is not valid now, and it can not be verified otherwise (${problem}): set the clock`;
}

/** Null when the chain ends at a trusted root and is valid at that time. */
export function judgeChain(chain: readonly X509Certificate[], trustBundlePem: string, atMs: number): string | null {
  const [leaf] = chain;
  if (leaf === undefined) return 'it shows no certificate';
  if (leaf.checkHost(serverName, { subject: 'never' }) === undefined) return 'it names another server';
  if (!leaf.keyUsage.includes(serverPurpose)) return 'it is not that of a server';
  const roots = splitPem(trustBundlePem).map((pem) => new X509Certificate(pem));
  for (const [depth, current] of chain.entries()) {
    if (atMs < current.validFromDate.getTime() || atMs > current.validToDate.getTime()) return 'it was not valid at the newest time that is known here either';
    const root = roots.find((candidate) => current.checkIssued(candidate) && current.verify(candidate.publicKey));
    if (root !== undefined) return root.ca ? null : 'the root is no authority';
    const issuer = chain[depth + 1];
    if (issuer === undefined) break;
    if (!issuer.ca || !current.checkIssued(issuer) || !current.verify(issuer.publicKey)) return 'its chain does not hold';
  }
  return 'its chain does not end at a trusted root';
}

function splitPem(text: string): readonly string[] {
  return text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
}
