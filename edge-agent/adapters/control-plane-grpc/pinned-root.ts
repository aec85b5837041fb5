/**
 * Finds the root certificate that a token pins, by looking at the chain that an endpoint shows.
 * Nothing secret is sent on this connection, and nothing it says is believed: only a certificate
 * whose key has a pinned fingerprint comes out, and the real channel verifies against that alone.
 * The server must show its root at the end of its chain, since a fingerprint alone verifies nothing.
 */
import { createHash, X509Certificate } from 'node:crypto';
import { connect, type DetailedPeerCertificate } from 'node:tls';
import { AppError } from '#api/model/error-codes.ts';
import { serverName } from './channel.ts';

const handshakeDeadlineMs = 10_000;
/** Longest chain that is walked. */
const chainMax = 8;

/** PEM of the pinned root. @throws CA_PIN_MISMATCH, UNAVAILABLE */
export async function fetchPinnedRoot(endpoint: string, pins: readonly string[]): Promise<string> {
  const chain = await fetchChain(endpoint);
  for (const certificate of chain) {
    if (certificate.ca && pins.includes(pinOf(certificate))) return certificate.toString();
  }
  throw new AppError('CA_PIN_MISMATCH', `none of the ${chain.length} certificates that ${endpoint} shows is the pinned authority`);
}

/** SHA-256 of the SubjectPublicKeyInfo, lower-case hexadecimal. */
export function pinOf(certificate: X509Certificate): string {
  return createHash('sha256').update(certificate.publicKey.export({ type: 'spki', format: 'der' })).digest('hex');
}

function fetchChain(endpoint: string): Promise<X509Certificate[]> {
  const { host, port } = splitEndpoint(endpoint);
  return new Promise((resolve, reject) => {
    // The chain is judged by its pin, so the usual verification, which knows no root yet, is off here.
    const socket = connect({ host, port, servername: serverName, rejectUnauthorized: false, ALPNProtocols: ['h2'] });
    const fail = (error?: Error): void => {
      socket.destroy();
      reject(new AppError('UNAVAILABLE', `${endpoint} can not be reached`, { cause: error }));
    };
    socket.setTimeout(handshakeDeadlineMs, () => fail());
    socket.once('error', fail);
    socket.once('close', () => fail());
    socket.once('secureConnect', () => {
      const chain = readChain(socket.getPeerCertificate(true));
      socket.off('close', fail);
      socket.destroy();
      resolve(chain);
    });
  });
}

/** As the server showed it, its own certificate first; not verified. */
export function readChain(leaf: DetailedPeerCertificate): X509Certificate[] {
  const chain: X509Certificate[] = [];
  for (let next: DetailedPeerCertificate | undefined = leaf; next?.raw !== undefined && chain.length < chainMax; next = next.issuerCertificate) {
    chain.push(new X509Certificate(next.raw));
    if (next.issuerCertificate === next) break;
  }
  return chain;
}

/** @throws TOKEN_MALFORMED */
export function splitEndpoint(endpoint: string): { host: string; port: number } {
  const match = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(endpoint);
  const host = match?.[1] ?? match?.[2];
  if (host === undefined) throw new AppError('TOKEN_MALFORMED', 'an endpoint is not of the form host:port');
  return { host, port: Number(match?.[3]) };
}
