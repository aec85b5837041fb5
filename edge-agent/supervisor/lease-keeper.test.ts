import { describe, expect, test } from 'vitest';
import { AppError } from '#api/model/error-codes.ts';
import type { MicroVMId } from '#api/model/ids.ts';
import { testDesired, testNow, testRecord } from '#test/builders/edge-microvm.ts';
import type { MicroVMRecord, Now } from '../domain/microvm-record.ts';
import type { GuardEntry } from '../ports/guard.ts';
import type { Logger } from '../ports/logger.ts';
import type { VmDirectories } from '../ports/vm-directories.ts';
import { createLeaseKeeper } from './lease-keeper.ts';

const silent = { trace() {}, debug() {}, info() {}, warn() {}, error() {}, fatal() {} };
const logger = { ...silent, child: () => logger } as unknown as Logger; // Nobody reads it here.
const directories = { path: (id: MicroVMId) => `/vms/${id}` } as VmDirectories; // The keeper uses paths only.

function scene(record: MicroVMRecord = testRecord({ desired: testDesired({ terminationGracePeriodMs: 2_000, lease: { stopOnHostAfterMs: 9_000 } }) })) {
  let now: Now = testNow;
  let table: readonly GuardEntry[] = [];
  let confirmations = 0;
  let wishes = 0;
  let isFull = false;
  const guard = { directory: '/guard', load: () => table, save: (entries: readonly GuardEntry[]) => {
    if (isFull) throw new AppError('GUARD_FAILED');
    table = entries;
  }, ensure: () => Promise.resolve(), watch() {}, onLost() {}, close() {} };
  const keeper = createLeaseKeeper({ guard, directories, records: () => [record], clock: { now: () => now, after: () => () => {} }, logger });
  keeper.onConfirmed(() => (confirmations += 1));
  keeper.onWanted(() => (wishes += 1));
  return {
    keeper, record,
    table: () => table.map(({ end }) => end.ms - testNow.bootMs),
    counts: () => ({ confirmations, wishes }),
    fill: (to: boolean) => void (isFull = to),
    advance: (ms: number) => void (now = { ...now, bootMs: now.bootMs + ms }),
    view: () => keeper.viewOf(record, now),
    grant: (agoMs = 0, leaseMs = 9_000) => keeper.granted({ bootId: now.bootId, ms: now.bootMs - agoMs }, leaseMs),
  };
}

describe('the lease keeper', () => {
  test('asks for a lease once for a microVM that waits, and wakes it with the first grant', () => {
    const { view, counts, grant, keeper } = scene();
    expect(view()?.mayStart).toBe(false);
    view();
    expect(counts()).toEqual({ confirmations: 0, wishes: 1 });
    expect(keeper.ask()).toEqual({ holdsLease: false });
    grant();
    expect(view()?.mayStart).toBe(true);
    expect(keeper.ask()).toEqual({ holdsLease: true });
    grant();
    expect(counts().confirmations).toBe(1);
  });

  test('lets go of a microVM that somebody started without a lease, asks on, and wakes it with a grant', () => {
    const forced = { kind: 'ForcedStart', number: 1, by: { user: 'alice', uid: 1001 }, atMs: 1, acceptsTwoCopies: true } as const;
    const { view, counts, grant, keeper, record, table } = scene({
      ...testRecord({ desired: testDesired({ lease: { stopOnHostAfterMs: 9_000 } }) }),
      site: { override: forced, starts: 1, newest: 1, untold: [], lost: 0 },
    });
    keeper.noticed(record, { kind: 'live', process: { pid: 1, startTime: '1', bootId: testNow.bootId }, api: 'running' });
    expect([view(), table(), keeper.guardDirectoryOf(record)]).toEqual([undefined, [], undefined]);
    expect([keeper.askEveryMs(), keeper.isHeld(testNow)]).toEqual([2_250, false]);
    grant();
    expect([keeper.isHeld(testNow), counts().confirmations]).toEqual([true, 1]);
  });

  test('writes the table before a start, and moves it with each grant from when the beat was sent', async () => {
    const { keeper, record, table, grant, advance } = scene();
    grant();
    await keeper.prepare(record);
    expect(table()).toEqual([9_000]);
    advance(3_000);
    grant(500);
    expect(table()).toEqual([11_500]);
    // An answer that comes late, to an older beat, moves nothing.
    grant(2_000);
    expect(table()).toEqual([11_500]);
    // Terms of the control plane that are shorter hold at once.
    grant(0, 4_000);
    expect(table()).toEqual([7_000]);
  });

  test('takes nothing for known that the guard could not be told', async () => {
    const { keeper, record, table, grant, fill } = scene();
    const live = { kind: 'live', api: 'running', process: { pid: 1, startTime: '1', bootId: testNow.bootId } } as const;
    grant();
    fill(true);
    await expect(keeper.prepare(record)).rejects.toMatchObject({ code: 'GUARD_FAILED' });
    await expect(keeper.prepare(record), 'tried once more, it is no start without a guard').rejects.toMatchObject({ code: 'GUARD_FAILED' });
    expect(() => keeper.noticed(record, live)).toThrow();
    fill(false);
    keeper.noticed(record, live);
    expect(table()).toHaveLength(1);
    fill(true);
    expect(() => keeper.noticed({ ...record, desired: testDesired() }, live)).toThrow();
    fill(false);
    keeper.noticed({ ...record, desired: testDesired() }, live);
    expect(table()).toHaveLength(0);
  });

  test('wakes what was stopped in time although its end had not come', async () => {
    const { keeper, record, view, grant, advance, counts } = scene();
    grant();
    await keeper.prepare(record);
    advance(7_500);
    expect(view()).toMatchObject({ mustStop: true, mayStart: false });
    const before = counts().confirmations;
    grant();
    expect(counts().confirmations).toBe(before + 1);
    expect(view()?.mayStart).toBe(true);
  });

  test('lets a microVM that needs no lease any more go, and keeps one that is being deleted under guard until its VMM is gone', async () => {
    const { keeper, record, table, grant } = scene();
    grant();
    await keeper.prepare(record);
    const live = { kind: 'live', api: 'running', process: { pid: 1, startTime: '1', bootId: testNow.bootId } } as const;
    keeper.noticed({ ...record, isDeleting: true }, live);
    expect(table()).toHaveLength(1);
    keeper.noticed({ ...record, isDeleting: true }, { kind: 'absent' });
    expect(table()).toHaveLength(0);
    await keeper.prepare(record);
    keeper.noticed({ ...record, desired: testDesired() }, live);
    expect(table()).toHaveLength(0);
  });
});
