/**
 * Recovery of an expired certificate: a host proves with a nonce that it still has the key. The nonce is for one
 * connection, once, for a minute; what may be tried in a time is bounded for the whole replica and for each certificate.
 * Whether the certificate is good for it is the store's to say.
 */
import { createHash, verify, X509Certificate } from 'node:crypto';
import { decodeHostFacts } from '#api/codec/edge-codec.ts';
import { text } from '#api/codec/validate.ts';
import type { GetRecoveryNonceResponse, RecoverCertificateRequest, RecoverCertificateResponse } from '#api/gen/nkudo/edge/v1/edge.pb.ts';
import { AppError } from '#api/model/error-codes.ts';
import type { CallContext } from '#controller/grpc/calls.ts';
import type { GatewayDeps } from './deps.ts';

const nonceBytes = 32;
const nonceLifeMs = 60_000;
/** Nonces that wait at one time; the oldest is forgotten for a newer one. */
const noncesMax = 4_096;
/** Of one connection: a host needs one. */
const noncesPerPeerMax = 4;
/** Attempts of one certificate in one window. */
const attemptsMax = 6;
const attemptWindowMs = 60_000;
/** Recoveries of this replica in one second: a region that comes back after days is through in minutes. */
const recoveriesPerSecond = 100;
const certificatePemMax = 16_384;
const retryAfterMs = 30_000;

export interface RecoveryDesk {
  issueNonce(context: Pick<CallContext, 'peer'>): GetRecoveryNonceResponse;
  /** @throws RECOVERY_PROOF_INVALID, RECOVERY_LIMITED, and what the store says */
  recover(request: RecoverCertificateRequest, context: Pick<CallContext, 'peer'>): Promise<RecoverCertificateResponse>;
}

export type RecoveryDeps = Pick<GatewayDeps, 'pki' | 'enrollments' | 'clock' | 'settings' | 'log'> & { readonly randomBytes: (count: number) => Uint8Array };

export function createRecoveryDesk(deps: RecoveryDeps): RecoveryDesk {
  const nonces = createNonces(deps);
  const limiter = createLimiter(() => deps.clock.monotonicMs());
  return {
    issueNonce: ({ peer }) => {
      limiter.takeOfAll();
      return { nonce: Buffer.from(nonces.issue(peer)) };
    },
    recover: async (request, { peer }) => {
      if (!nonces.consume(request.nonce, peer)) throw new AppError('RECOVERY_PROOF_INVALID', 'the nonce is unknown, late, used or of another connection');
      const proven = readProof(request);
      limiter.takeOf(proven.serial);
      const csr = await deps.pki.checkRequest(request.csrDer);
      const nowMs = deps.clock.nowMs();
      if (!Buffer.from(csr.publicKeyHash).equals(proven.publicKeyHash)) throw new AppError('RECOVERY_PROOF_INVALID', 'the request has another key than the certificate');
      const certificate = await deps.enrollments.recover({
        serial: proven.serial,
        publicKeyHash: proven.publicKeyHash,
        windowMs: deps.settings.recoveryWindowMs,
        facts: request.facts === undefined ? null : decodeHostFacts('facts', request.facts),
        nowMs,
        actor: { kind: 'host', name: proven.serial, from: peer },
        issue: deps.pki.issuerFor(csr, nowMs),
      });
      deps.log.info({ serial: proven.serial, newSerial: certificate.serial, peer }, 'a host proved the key of its older certificate and got a new one');
      return { certificateChainPem: certificate.chainPem, trustBundlePem: deps.pki.trustBundlePem() };
    },
  };
}

interface Proof {
  /** Lower-case hexadecimal. */
  readonly serial: string;
  readonly publicKeyHash: Buffer;
}

/** What the certificate says counts for nothing until the store has found its serial number with that very key. */
function readProof(request: RecoverCertificateRequest): Proof {
  const pem = text('expired_certificate_pem', request.expiredCertificatePem, { max: certificatePemMax });
  try {
    const certificate = new X509Certificate(pem);
    const key = certificate.publicKey;
    if (!verify('sha256', request.nonce, { key, dsaEncoding: 'der' }, request.signature)) throw new Error('the signature does not hold');
    const der = key.export({ type: 'spki', format: 'der' });
    return { serial: certificate.serialNumber.toLowerCase(), publicKeyHash: createHash('sha256').update(der).digest() };
  } catch (error) {
    throw new AppError('RECOVERY_PROOF_INVALID', undefined, { cause: error });
  }
}

interface Nonces {
  issue(peer: string): Uint8Array;
  /** True once for a nonce that was issued to this connection a short time ago. */
  consume(nonce: Uint8Array, peer: string): boolean;
}

function createNonces(deps: Pick<RecoveryDeps, 'clock' | 'randomBytes'>): Nonces {
  const issued = new Map<string, { readonly peer: string; readonly untilMs: number }>();
  const forget = (matches: (nonce: { readonly peer: string; readonly untilMs: number }) => boolean, keep: number): void => {
    const found = [...issued].filter(([, nonce]) => matches(nonce));
    for (const [key] of found.slice(0, Math.max(0, found.length - keep))) issued.delete(key);
  };
  return {
    issue: (peer) => {
      const nowMs = deps.clock.monotonicMs();
      if (issued.size >= noncesMax) forget(({ untilMs }) => untilMs <= nowMs, 0);
      forget((nonce) => nonce.peer === peer, noncesPerPeerMax - 1);
      const oldest = issued.size >= noncesMax ? issued.keys().next().value : undefined;
      if (oldest !== undefined) issued.delete(oldest);
      const nonce = deps.randomBytes(nonceBytes);
      issued.set(Buffer.from(nonce).toString('hex'), { peer, untilMs: nowMs + nonceLifeMs });
      return nonce;
    },
    consume: (nonce, peer) => {
      const key = Buffer.from(nonce).toString('hex');
      const found = issued.get(key);
      if (found === undefined || found.peer !== peer) return false;
      issued.delete(key);
      return deps.clock.monotonicMs() < found.untilMs;
    },
  };
}

interface Limiter {
  takeOfAll(): void;
  takeOf(serial: string): void;
}

function createLimiter(nowMs: () => number): Limiter {
  let tokens = recoveriesPerSecond;
  let filledAtMs = nowMs();
  const attempts = new Map<string, { count: number; readonly untilMs: number }>();
  const limited = (): AppError => new AppError('RECOVERY_LIMITED', undefined, { retryAfterMs });
  return {
    takeOfAll: () => {
      const now = nowMs();
      tokens = Math.min(recoveriesPerSecond, tokens + ((now - filledAtMs) / 1000) * recoveriesPerSecond);
      filledAtMs = now;
      if (tokens < 1) throw limited();
      tokens -= 1;
    },
    takeOf: (serial) => {
      const now = nowMs();
      const found = attempts.get(serial);
      if (found !== undefined && found.untilMs > now) {
        if (found.count >= attemptsMax) throw limited();
        found.count += 1;
        return;
      }
      attempts.delete(serial);
      attempts.set(serial, { count: 1, untilMs: now + attemptWindowMs });
      const oldest = attempts.size > noncesMax ? attempts.keys().next().value : undefined;
      if (oldest !== undefined) attempts.delete(oldest);
    },
  };
}
