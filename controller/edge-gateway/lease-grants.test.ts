import { pino } from 'pino';
import { describe, expect, test } from 'vitest';
import { hostId, sessionId, tenantId } from '#api/model/ids.ts';
import type { LeaseGrant, LeaseRequest } from '#controller/ports/lease-store.ts';
import { createLeaseGrants } from './lease-grants.ts';

const uuid = (n: number): string => `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`;
const ask = (n: number) => ({ tenantId: tenantId(uuid(1)), hostId: hostId(uuid(n)), sessionId: sessionId(uuid(n)), holdsLease: false });
const grantOf = ({ hostId: host, sessionId: session }: LeaseRequest, leaseMs = 9_000): LeaseGrant => ({ hostId: host, sessionId: session, leaseEpoch: 1, leaseMs });
const log = pino({ level: 'silent' });

function scene(grant: (requests: readonly LeaseRequest[]) => Promise<readonly LeaseGrant[]>) {
  let nowMs = 0;
  const batches: (readonly LeaseRequest[])[] = [];
  const grants = createLeaseGrants({
    leases: {
      grant: (requests) => {
        batches.push(requests);
        return grant(requests);
      },
    },
    clock: { monotonicMs: () => nowMs },
    log,
  });
  return { grants, batches, advance: (ms: number) => void (nowMs += ms) };
}

const settled = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 0));

describe('lease grants', () => {
  test('says a lease only after the commit, with one commit for all hosts that asked together', async () => {
    const commit = Promise.withResolvers<void>();
    const { grants, batches } = scene(async (requests) => {
      await commit.promise;
      return requests.map((request) => grantOf(request));
    });
    const heard: number[] = [];
    for (const n of [2, 3, 4]) grants.ask(ask(n), () => heard.push(n));
    await settled();
    expect(batches.map((batch) => batch.length)).toEqual([3]);
    expect(heard).toEqual([]);
    grants.ask(ask(5), () => heard.push(5));
    commit.resolve();
    await settled();
    await settled();
    expect(heard).toEqual([2, 3, 4, 5]);
    expect(batches.map((batch) => batch.length)).toEqual([3, 1]);
  });

  test('says nothing when the commit fails, and goes on with the next', async () => {
    let isBroken = true;
    const { grants } = scene(async (requests) => {
      if (isBroken) throw new Error('no database');
      return requests.map((request) => grantOf(request));
    });
    const heard: string[] = [];
    grants.ask(ask(2), () => heard.push('first'));
    await settled();
    isBroken = false;
    grants.ask(ask(2), () => heard.push('second'));
    await settled();
    expect(heard).toEqual(['second']);
  });

  test('counts the time of waiting from when the beat came, and hands out nothing of another session', async () => {
    const { grants, batches, advance } = scene(async (requests) => requests.map((request) => ({ ...grantOf(request), sessionId: sessionId(uuid(99)) })));
    const heard: number[] = [];
    grants.ask(ask(2), (leaseMs) => heard.push(leaseMs));
    advance(70);
    await settled();
    expect(batches[0]?.[0]?.ageMs).toBe(70);
    expect(heard).toEqual([]);
  });
});
