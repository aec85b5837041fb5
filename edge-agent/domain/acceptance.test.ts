import fc from 'fast-check';
import { expect, test } from 'vitest';
import { makeEpoch } from '#api/model/epoch.ts';
import { operationId } from '#api/model/ids.ts';
import type { Operation } from '#api/model/plan.ts';
import { testDesired, testMicroVMId, testNow, testOperation, testRecord } from '#test/builders/edge-microvm.ts';
import { decideAcceptance, decideCancellation, isExpired, withdraw } from './acceptance.ts';
import { compareFence, initialRun, type MicroVMRecord } from './microvm-record.ts';
import { omit } from './omit.ts';

const otherId = operationId('bbbbbbbb-0000-4000-8000-000000000002');

test('the first operation of a microVM is accepted', () => {
  const decision = decideAcceptance(testOperation(), undefined, null, testNow);
  expect(decision).toMatchObject({ kind: 'accept', record: { epoch: makeEpoch(1, 1), revision: 1, operation: { state: 'accepted' }, run: initialRun } });
});

test('the same operation again has no effect', () => {
  const record = testRecord();
  expect(decideAcceptance(testOperation(), record, null, testNow)).toEqual({ kind: 'repeat', record });
});

test('another operation with the same epoch and revision is refused', () => {
  expect(decideAcceptance(testOperation({ id: otherId }), testRecord(), null, testNow)).toMatchObject({ kind: 'refuse', code: 'STALE_OPERATION' });
});

test('a directory with a higher fence refuses what a new journal would accept', () => {
  const directory = { microvmId: testMicroVMId, epoch: makeEpoch(1, 2), revision: 4, incarnation: 9 };
  expect(decideAcceptance(testOperation({ revision: 9 }), undefined, directory, testNow)).toMatchObject({ kind: 'refuse' });
  const accepted = decideAcceptance(testOperation({ epoch: makeEpoch(1, 2), revision: 5 }), undefined, directory, testNow);
  expect(accepted).toMatchObject({ kind: 'accept', record: { run: { incarnation: 9 } } });
});

test('whatever the order and the repetitions, the last accepted operation is the highest and none is accepted twice', () => {
  const operations = fc.array(fc.record({ counter: fc.integer({ min: 1, max: 3 }), revision: fc.integer({ min: 1, max: 5 }) }), { minLength: 1, maxLength: 30 });
  fc.assert(
    fc.property(operations, (sent) => {
      let record: MicroVMRecord | undefined;
      const accepted = new Map<string, number>();
      for (const { counter, revision } of sent) {
        const id = operationId(`bbbbbbbb-0000-4000-8000-0000000${counter}000${revision}`);
        const decision = decideAcceptance(testOperation({ id, epoch: makeEpoch(1, counter), revision }), record, null, testNow);
        if (decision.kind !== 'accept') continue;
        if (record !== undefined) expect(compareFence(decision.record, record)).toBeGreaterThan(0);
        record = decision.record;
        accepted.set(id, (accepted.get(id) ?? 0) + 1);
      }
      const highest = sent.reduce((a, b) => (b.counter > a.counter || (b.counter === a.counter && b.revision > a.revision) ? b : a));
      expect(record).toMatchObject({ epoch: makeEpoch(1, highest.counter), revision: highest.revision });
      expect(Math.max(...accepted.values())).toBe(1);
    }),
  );
});

test('an unfinished operation that is overtaken is named', () => {
  const decision = decideAcceptance(testOperation({ id: otherId, revision: 2 }), testRecord(), null, testNow);
  expect(decision).toMatchObject({ kind: 'accept', superseded: { id: testOperation().id } });
});

test('a deletion keeps the specification, for its grace period', () => {
  const remove: Operation = { ...omit(testOperation(), 'desired'), id: otherId, kind: 'Delete', revision: 2 };
  expect(decideAcceptance(remove, testRecord(), null, testNow)).toMatchObject({ kind: 'accept', record: { isDeleting: true, desired: testDesired() } });
});

test('a cancel before the start brings the earlier intent back and keeps the fence', () => {
  const next = decideAcceptance(testOperation({ id: otherId, revision: 2, desired: testDesired({ runPolicy: 'Halted' }) }), testRecord(), null, testNow);
  if (next.kind !== 'accept') throw new Error('not accepted');
  expect(decideCancellation(next.record, otherId)).toMatchObject({ kind: 'dropped', record: { desired: testDesired(), revision: 2 } });
  const started: MicroVMRecord = { ...next.record, operation: { ...testRecord().operation, id: otherId, state: 'running' } as MicroVMRecord['operation'] & object };
  expect(decideCancellation(started, otherId)).toEqual({ kind: 'tooLate' });
});

test('an operation that may not start any more is known by the boot clock, and after a reboot of the host', () => {
  const decision = decideAcceptance(testOperation({ startWithinMs: 1_000 }), undefined, null, testNow);
  if (decision.kind !== 'accept' || decision.record.operation === undefined) throw new Error('not accepted');
  const { operation } = decision.record;
  expect(isExpired(operation, { ...testNow, bootMs: testNow.bootMs + 1_000 })).toBe(false);
  expect(isExpired(operation, { ...testNow, bootMs: testNow.bootMs + 1_001 })).toBe(true);
  expect(isExpired(operation, { ...testNow, bootId: 'boot-2', bootMs: 1 })).toBe(true);
  expect(withdraw(decision.record)).toMatchObject({ isDeleting: true });
});
