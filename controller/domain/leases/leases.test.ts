import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { hostId, microVMId, siteId } from '#api/model/ids.ts';
import type { MicroVMSpec } from '#crds/gen/microvm.ts';
import { decideReplacement } from './decide-replacement.ts';
import { createLeaseWatch, type WatchedHost } from './lease-watch.ts';
import { decideMassDisconnect, massWindowMs, type SilentHost } from './mass-disconnect.ts';
import { deriveReplacePolicy, shortestLostAfterMs } from './replace-policy.ts';
import { createTermsMemory } from './terms-memory.ts';

const uuid = (n: number): string => `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`;
const site = siteId(uuid(1));
const host = hostId(uuid(2));
const spec = (disconnect: MicroVMSpec['disconnect'], rest: Partial<MicroVMSpec> = {}): MicroVMSpec => ({ siteRef: { name: 's' }, boot: { firmware: { path: '/f' } }, terminationGracePeriod: '1s', ...(disconnect === undefined ? {} : { disconnect }), ...rest });

describe('the policy of a microVM', () => {
  test('merges the pair of Site and MicroVM field by field, and refuses one that is too close', () => {
    expect(deriveReplacePolicy(spec({ replace: true }), undefined)).toEqual({ kind: 'on', lostAfterMs: 600_000, stopOnHostAfterMs: 540_000 });
    expect(deriveReplacePolicy(spec({ stopOnHostAfter: '20s' }), { replace: true, lostAfter: '60s' })).toEqual({ kind: 'on', lostAfterMs: 60_000, stopOnHostAfterMs: 20_000 });
    expect(deriveReplacePolicy(spec({ replace: false }), { replace: true })).toEqual({ kind: 'off' });
    expect(deriveReplacePolicy(spec(undefined), undefined)).toEqual({ kind: 'off' });
    expect(deriveReplacePolicy(spec({ replace: true, lostAfter: '10s' }), { stopOnHostAfter: '9s' })).toMatchObject({ kind: 'disabled', reason: 'DeadlinesTooClose' });
    expect(deriveReplacePolicy(spec({ replace: true }, { terminationGracePeriod: '10m' }), undefined)).toMatchObject({ kind: 'disabled', reason: 'DeadlinesTooClose' });
  });

  test('never leaves less room than the drift of two clocks and the kill need', () => {
    const seconds = fc.integer({ min: 5, max: 100_000 });
    fc.assert(
      fc.property(seconds, seconds, (lost, stop) => {
        const policy = deriveReplacePolicy(spec({ replace: true, lostAfter: `${lost}s`, stopOnHostAfter: `${stop}s` }), undefined);
        expect(policy.kind === 'on').toBe(lost >= stop * 1.02 + 5);
      }),
    );
  });

  test('does not lose a writable disk unless that is accepted', () => {
    const disks = [{ name: 'data', path: '/d' }];
    expect(deriveReplacePolicy(spec({ replace: true }, { disks }), undefined)).toMatchObject({ kind: 'disabled', reason: 'PersistentDisk' });
    expect(deriveReplacePolicy(spec({ replace: true }, { disks }), { data: 'Discard' }).kind).toBe('on');
    expect(deriveReplacePolicy(spec({ replace: true }, { disks: [{ name: 'data', path: '/d', readOnly: true }] }), undefined).kind).toBe('on');
  });
});

const reading = (changes: Partial<WatchedHost> = {}): WatchedHost => ({ siteId: site, hostId: host, lastBeatAtMs: 1, leaseEpoch: 1, leaseMs: 9_000, ...changes });

describe('the watch of the leader', () => {
  test('counts each beat and each grant from when it saw them, and everything anew with another database', () => {
    let nowMs = 1_000_000;
    const watch = createLeaseWatch(() => nowMs);
    watch.observe([reading()], 'a');
    nowMs += 100;
    expect(watch.of(host)).toMatchObject({ silentMs: 100, leaselessMs: 100 });
    watch.observe([reading({ lastBeatAtMs: 2 })], 'a');
    nowMs += 50;
    expect(watch.of(host)).toMatchObject({ silentMs: 50, leaselessMs: 150 });
    watch.observe([reading({ lastBeatAtMs: 2 })], 'b');
    expect(watch.of(host)).toMatchObject({ silentMs: 0, leaselessMs: 0 });
    // Also a clock of the database that went back is only a mark that changed.
    nowMs += 10;
    watch.observe([reading({ lastBeatAtMs: -5 })], 'b');
    expect(watch.of(host)).toMatchObject({ silentMs: 0, leaselessMs: 10 });
  });
});

describe('the decision', () => {
  const policy = { kind: 'on', lostAfterMs: 20_000, stopOnHostAfterMs: 10_000 } as const;
  const watch = { ...reading({ leaseMs: 10_000 }), lineage: 'a', silentMs: 20_000, leaselessMs: 20_000 };
  const lost = { policy, watch, termsKnownForMs: 1e9, isHeard: false, mass: null, isRecovering: false };

  test('replaces a host that is silent for long enough and under no lease any more', () => {
    expect(decideReplacement(lost)).toEqual({ action: 'replace' });
    expect(decideReplacement({ ...lost, policy: { kind: 'off' } })).toEqual({ action: 'none' });
    expect(decideReplacement({ ...lost, watch: null })).toEqual({ action: 'none' });
    expect(decideReplacement({ ...lost, isHeard: true })).toEqual({ action: 'none' });
    expect(decideReplacement({ ...lost, watch: { ...watch, silentMs: 5_000 } })).toEqual({ action: 'wait', forMs: 15_000 });
  });

  test('waits for the end of the last grant, which may have been under longer terms than those of now', () => {
    expect(decideReplacement({ ...lost, watch: { ...watch, leaseMs: 60_000 } })).toEqual({ action: 'wait', forMs: shortestLostAfterMs(60_000) - 20_000 });
  });

  test('waits as long from when the host was first known to follow the terms', () => {
    expect(decideReplacement({ ...lost, termsKnownForMs: 1_000 })).toEqual({ action: 'wait', forMs: shortestLostAfterMs(10_000) - 1_000 });
  });

  test('is held by a recovery and by the brake', () => {
    expect(decideReplacement({ ...lost, isRecovering: true })).toMatchObject({ action: 'held', reason: 'RecoveryUnderWay' });
    expect(decideReplacement({ ...lost, mass: { silent: 2, total: 3, newestBeatAtMs: 0 } })).toMatchObject({ action: 'held', reason: 'MassDisconnect' });
  });
});

describe('the brake', () => {
  const other = siteId(uuid(9));
  const fleet = (silent: readonly number[], total: number, at = site): SilentHost[] =>
    Array.from({ length: total }, (_, index) => ({ siteId: at, isSilent: silent[index] !== undefined, lastBeatAtMs: silent[index] ?? 1e9 }));
  const never = (): number => -Infinity;

  test('holds a site while more than a third of its hosts, at least two, fell silent together', () => {
    expect(decideMassDisconnect(fleet([5], 1), never).size).toBe(0);
    expect(decideMassDisconnect(fleet([5], 3), never).size).toBe(0);
    expect(decideMassDisconnect(fleet([5, 6], 3), never).get(site)).toEqual({ silent: 2, total: 3, newestBeatAtMs: 6 });
    expect(decideMassDisconnect(fleet([5, 6], 6), never).size).toBe(0);
    expect(decideMassDisconnect(fleet([5, 6, 7], 6), never).get(site)?.silent).toBe(3);
    expect(decideMassDisconnect(fleet([0, massWindowMs + 1], 3), never).size).toBe(0);
  });

  test('holds every site when more than a third of all hosts fell silent together', () => {
    const hosts = [...fleet([5], 1), ...fleet([6], 1, other), ...fleet([], 1, siteId(uuid(8)))];
    expect([...decideMassDisconnect(hosts, never).keys()].length).toBe(3);
  });

  test('is released for the silences that an operator has seen, and not for later ones', () => {
    expect(decideMassDisconnect(fleet([5, 6], 3), () => 6).size).toBe(0);
    expect(decideMassDisconnect(fleet([5, 6, 7], 3), () => 5).get(site)?.silent).toBe(2);
  });
});

describe('the memory of terms', () => {
  test('begins anew with other terms and with the first confirmation, and not with a newer intent of the same', () => {
    let nowMs = 0;
    const memory = createTermsMemory(() => nowMs);
    const id = microVMId(uuid(3));
    const terms = { epoch: 1, stopOnHostAfterMs: 10 };
    expect(memory.knownForMs(id, { ...terms, isConfirmed: false })).toBe(0);
    nowMs = 5;
    expect(memory.knownForMs(id, { ...terms, isConfirmed: false })).toBe(5);
    expect(memory.knownForMs(id, { ...terms, isConfirmed: true })).toBe(0);
    nowMs = 9;
    expect(memory.knownForMs(id, { ...terms, isConfirmed: false })).toBe(4);
    expect(memory.knownForMs(id, { ...terms, stopOnHostAfterMs: 11, isConfirmed: true })).toBe(0);
  });
});
