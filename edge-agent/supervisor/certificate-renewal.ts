/**
 * Renews the certificate of the host at half of its life, or when it is asked to, over a session, and then has the link
 * hand over to a session with the new one. The key stays: an answer that is lost costs nothing.
 */
import { X509Certificate } from 'node:crypto';
import { isAppError } from '#api/model/error-codes.ts';
import type { Clock, Entropy } from '../ports/clock.ts';
import type { ControlSession } from '../ports/control-plane.ts';
import type { Identity } from '../ports/identity-store.ts';
import type { Logger } from '../ports/logger.ts';
import type { TrustedTime } from './trusted-time.ts';

export interface CertificateRenewal {
  /** The next session begins with a renewal. */
  demand(): void;
  use(session: ControlSession | undefined): void;
}

/** Renewal lies between these parts of the certificate's life, at random, so that hosts enrolled together spread. */
const earliestPart = 0.45;
const latestPart = 0.55;
const retryMs = 60_000;
const renewDeadlineMs = 30_000;
/** Certificates with a life shorter than that of a coffee break do not keep a host busy with renewals. */
const spacingMs = 30_000;
/** Timers are cut into pieces of this length, because the wall clock may be set meanwhile. */
const checkMs = 3_600_000;

export function createCertificateRenewal(deps: {
  readonly identity: () => Identity;
  readonly makeRequest: (keyPem: string, hostName: string) => Promise<Uint8Array>;
  /** Makes the renewed certificate durable and reconnects with it. */
  readonly onRenewed: (renewed: { readonly chainPem: string; readonly trustBundlePem: string }) => void;
  readonly time: Pick<TrustedTime, 'now'>;
  readonly clock: Clock;
  readonly entropy: Entropy;
  readonly logger: Logger;
}): CertificateRenewal {
  const { clock, logger } = deps;
  const part = earliestPart + (latestPart - earliestPart) * deps.entropy.random();
  let cancel = (): void => {};
  let current: ControlSession | undefined;
  let isDemanded = false;
  /** By the boot clock; none was made yet. */
  let renewedAtMs = Number.NEGATIVE_INFINITY;

  const dueMs = (): number => {
    const spaceMs = renewedAtMs + spacingMs - clock.now().bootMs;
    return isDemanded ? 0 : Math.max(spaceMs, renewalDueMs(deps.identity().chainPem, part) - deps.time.now());
  };

  function schedule(session: ControlSession, ms: number): void {
    cancel();
    cancel = clock.after(Math.min(checkMs, Math.max(0, ms)), () => {
      const leftMs = dueMs();
      if (leftMs > 0) return schedule(session, leftMs);
      renew(session).catch((error: unknown) => {
        if (!isAppError(error)) throw error;
          logger.warn({ code: error.code, error: error.message }, 'the certificate could not be renewed, it is tried again');
          // A newer session has its own timer by now; an ended one renews nothing.
          if (session === current) schedule(session, retryMs);
      });
    });
  }

  async function renew(session: ControlSession): Promise<void> {
    const { keyPem, hostName } = deps.identity();
    const csrDer = await deps.makeRequest(keyPem, hostName);
    const renewed = await session.renewCertificate(csrDer, AbortSignal.timeout(renewDeadlineMs));
    isDemanded = false;
    renewedAtMs = clock.now().bootMs;
    deps.onRenewed(renewed);
    logger.info({}, 'the certificate was renewed');
  }

  return {
    demand() {
      isDemanded = true;
    },
    use(session) {
      cancel();
      current = session;
      if (session !== undefined) schedule(session, dueMs());
    },
  };
}

/** Wall clock time of the renewal. @param part of the certificate's life, 0 to 1 */
export function renewalDueMs(chainPem: string, part: number): number {
  const { validFromDate, validToDate } = new X509Certificate(chainPem);
  return validFromDate.getTime() + (validToDate.getTime() - validFromDate.getTime()) * part;
}
