import { expect, it } from 'vitest';
import { AppError } from '#api/model/error-codes.ts';
import type { ControlSession } from '../ports/control-plane.ts';
import type { Identity } from '../ports/identity-store.ts';
import type { Logger } from '../ports/logger.ts';
import { createCertificateRenewal } from './certificate-renewal.ts';

const logger: Logger = { debug() {}, info() {}, warn() {}, error() {}, child: () => logger };

it('a renewal that fails after its session was replaced leaves the timer of the newer session alone', async () => {
  const timers = new Set<() => void>();
  const warned = Promise.withResolvers<void>();
  const answer = Promise.withResolvers<never>();
  const asked = Promise.withResolvers<void>();
  const seen: string[] = [];
  const sessionOf = (name: string): ControlSession =>
    ({
      renewCertificate: () => {
        seen.push(name);
        asked.resolve();
        return answer.promise;
      },
    }) as unknown as ControlSession; // Nothing else of a session is used here.
  const renewal = createCertificateRenewal({
    identity: () => ({ keyPem: '', hostName: 'edge-1' }) as Identity, // A demanded renewal does not read the chain.
    makeRequest: () => Promise.resolve(new Uint8Array()),
    onRenewed: () => {},
    time: { now: () => 0 },
    clock: {
      now: () => ({ wallMs: 0, bootMs: 0, bootId: '' }) as never,
      after: (_ms: number, run: () => void) => {
        timers.add(run);
        return () => void timers.delete(run);
      },
    } as never,
    entropy: { random: () => 0.5 } as never,
    logger: { ...logger, warn: () => warned.resolve() },
  });
  const fire = (): void => {
    const [due] = timers;
    if (due === undefined) throw new Error('no timer is set');
    timers.delete(due);
    due();
  };
  renewal.demand();
  renewal.use(sessionOf('old'));
  fire();
  await asked.promise;
  renewal.use(sessionOf('new'));
  answer.reject(new AppError('UNAVAILABLE'));
  await warned.promise;
  await Promise.resolve();
  expect(timers.size).toBe(1);
  fire();
  await new Promise((resolve) => setImmediate(resolve));
  expect(seen).toEqual(['old', 'new']);
});
