import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { makeEpoch } from '#api/model/epoch.ts';
import { microVMId } from '#api/model/ids.ts';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import { decideNext } from './diff.ts';
import { askEveryMs, deriveLeaseView, endUnder, isHeld, newerLease, type HostLease, type LeaseView } from './lease.ts';
import { initialRun, machineKey, type MicroVMRecord, type Now, type RunRecord } from './microvm-record.ts';
import { applyNote } from './notes.ts';
import { noAttempt, type SeenVmm, type View } from './observed-state.ts';

const now: Now = { wallMs: 5, bootMs: 100_000, bootId: 'b' };
const desired: DesiredMicroVM = {
  name: 'web', namespace: 'shop', runPolicy: 'Always', paused: false, restartNonce: 0, restart: { initialBackoffMs: 100, maxBackoffMs: 1_000, maxRetries: 5, windowMs: 60_000 },
  cpuCount: 1, memoryBytes: 2 ** 26, boot: { kind: 'firmware', path: '/f' }, disks: [], serialLog: true, terminationGracePeriodMs: 2_000, lease: { stopOnHostAfterMs: 9_000 },
};
const record = (run: Partial<RunRecord> = {}, changes: Partial<DesiredMicroVM> = {}): MicroVMRecord => ({
  microvmId: microVMId('00000000-0000-4000-8000-000000000001'), epoch: makeEpoch(1, 1), revision: 1, generation: 1, desired: { ...desired, ...changes }, isDeleting: false, isTombstone: false,
  run: { ...initialRun, ...run },
});
const process = { pid: 7, startTime: '1', bootId: 'b' };
const running: SeenVmm = { kind: 'live', process, api: 'running' };
const started = { phase: 'started', incarnation: 1, startedWith: machineKey(desired) } as const;
const allowed: LeaseView = { mayStart: true, mustStop: false, stopsAtBootMs: 107_000, endsAtBootMs: 109_000 };
const over: LeaseView = { mayStart: false, mustStop: true, stopsAtBootMs: 99_000, endsAtBootMs: 101_000 };

function view(of: MicroVMRecord, vmm: SeenVmm, lease?: LeaseView): View {
  const { microvmId, epoch, revision, run } = of;
  return { record: of, vmm, directory: { exists: true, identity: { microvmId, epoch, revision, incarnation: run.incarnation } }, attempt: { ...noAttempt, networksFor: `${run.incarnation} []` }, ...(lease === undefined ? {} : { lease }), now };
}

describe('the lease of a host', () => {
  const sent = fc.integer({ min: 0, max: 1e6 });
  test('never lets a microVM live longer than the newest beat and the shorter of the two terms give', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(sent, fc.integer({ min: 1, max: 1e6 })), { minLength: 1 }), fc.integer({ min: 1, max: 1e6 }), (answers, stopOnHostAfterMs) => {
        // In whichever order they arrive.
        const lease = answers.map(([ms, leaseMs]): HostLease => ({ sent: { bootId: 'b', ms }, leaseMs })).reduce((known: HostLease | undefined, next) => newerLease(known, next), undefined);
        const newest = Math.max(...answers.map(([ms]) => ms));
        expect(lease?.sent.ms).toBe(newest);
        if (lease !== undefined) expect(endUnder({ stopOnHostAfterMs }, lease).ms).toBeLessThanOrEqual(newest + stopOnHostAfterMs);
      }),
    );
  });

  test('begins the orderly stop the grace period earlier, and allows a start only after this agent had a grant', () => {
    const end = { bootId: 'b', ms: now.bootMs + 5_000 };
    expect(deriveLeaseView(record(), end, true, now)).toEqual({ mayStart: true, mustStop: false, stopsAtBootMs: 103_000, endsAtBootMs: 105_000 });
    expect(deriveLeaseView(record(), end, false, now)).toMatchObject({ mayStart: false, mustStop: false });
    expect(deriveLeaseView(record(), { bootId: 'b', ms: now.bootMs + 1_999 }, true, now)).toMatchObject({ mayStart: false, mustStop: true });
    // Of another boot of the host nothing is left.
    expect(deriveLeaseView(record(), { bootId: 'earlier', ms: 1e9 }, true, now)).toMatchObject({ mayStart: false, mustStop: true });
    expect(deriveLeaseView({ ...record(), desired: { ...desired, terminationGracePeriodMs: 3_600_000 } }, end, true, now)?.stopsAtBootMs).toBe(end.ms - 4_500);
    const { lease: _lease, ...free } = desired;
    expect(deriveLeaseView({ ...record(), desired: free }, end, true, now)).toBeUndefined();
  });

  test('is asked for four times within the shortest terms, and held until it has run out', () => {
    expect(askEveryMs([record(), record({}, { lease: { stopOnHostAfterMs: 5_000 } })])).toBe(1_250);
    expect(askEveryMs([{ ...record(), isDeleting: true }])).toBeUndefined();
    const lease = { sent: { bootId: 'b', ms: now.bootMs - 8_999 }, leaseMs: 9_000 };
    expect(isHeld(lease, now)).toBe(true);
    expect(isHeld(lease, { ...now, bootMs: now.bootMs + 1 })).toBe(false);
    expect(isHeld(undefined, now)).toBe(false);
  });
});

describe('a microVM that may be replaced', () => {
  test('is started under a lease only', () => {
    expect(decideNext(view(record(), { kind: 'absent' }, over))).toMatchObject({ kind: 'wait', for: 'lease' });
    expect(decideNext(view(record({ phase: 'starting', incarnation: 1 }), { kind: 'absent' }, over))).toMatchObject({ kind: 'wait', for: 'lease' });
    expect(decideNext(view(record(), { kind: 'absent' }, allowed))).toMatchObject({ kind: 'note', note: { kind: 'runBegun' } });
    expect(decideNext(view(record(), { kind: 'absent' }))).toMatchObject({ kind: 'note', note: { kind: 'runBegun' } });
  });

  test('is stopped in time, and looked at again when that would begin', () => {
    expect(decideNext(view(record(started), running, allowed))).toEqual({ kind: 'done', recheckAtBootMs: 107_000 });
    const decision = decideNext(view(record(started), running, over));
    expect(decision).toEqual({ kind: 'note', note: { kind: 'stopBegun', cause: 'lease', notAfterBootMs: 101_000 } });
    if (decision.kind !== 'note') return;
    // The guest is waited for until the guard would end it, not for its whole grace period.
    expect(applyNote(record(started), decision.note, now).run.stop?.deadline).toEqual({ bootId: 'b', ms: 101_000 });
  });

  test('that the guard has ended did not fail, and runs again under the next lease', () => {
    const exited: SeenVmm = { kind: 'exited', exit: { reason: 'VMMCrash', signal: 'SIGKILL', process } };
    const decision = decideNext(view(record(started), exited, over));
    expect(decision).toMatchObject({ kind: 'note', note: { kind: 'runEnded', isFenced: true } });
    if (decision.kind !== 'note') return;
    const after = applyNote(record(started), decision.note, now);
    expect(after.run).toMatchObject({ phase: 'idle', failures: [] });
    expect(decideNext(view(after, exited, allowed))).toMatchObject({ kind: 'note', note: { kind: 'runBegun' } });
    expect(decideNext(view(record(started), exited, allowed))).toEqual({ kind: 'note', note: { kind: 'runEnded', exit: exited.exit } });
  });
});
