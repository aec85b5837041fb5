import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { forgottenCode, type DesiredMicroVM } from '#api/model/microvm.ts';
import { runPolicies } from '#api/model/microvm.ts';
import { operationStatuses } from '#api/model/plan.ts';
import { errorCatalogue } from '#api/model/error-codes.ts';
import { decideDeletion, decideOperation, diffKind, retryDelayMs, withSizesOf, type PublishedState } from './decide-operation.ts';

const base: DesiredMicroVM = {
  name: 'web', namespace: 'shop', runPolicy: 'Always', paused: false, restartNonce: 0,
  restart: { initialBackoffMs: 1000, maxBackoffMs: 60_000, maxRetries: 5, windowMs: 600_000 },
  cpuCount: 1, memoryBytes: 2 ** 26, boot: { kind: 'firmware', path: '/f' }, disks: [], serialLog: true, terminationGracePeriodMs: 1000,
};

const anyDesired = fc.record({
  runPolicy: fc.constantFrom(...runPolicies), paused: fc.boolean(), restartNonce: fc.integer({ min: 0, max: 3 }), cpuCount: fc.integer({ min: 1, max: 4 }),
}).map((changes): DesiredMicroVM => ({ ...base, ...changes }));

const anyPublished = fc.option(
  fc.record({
    generation: fc.integer({ min: 1, max: 5 }),
    desired: fc.option(anyDesired),
    newestOperation: fc.record({
      kind: fc.constantFrom('Create', 'Update', 'Delete' as const),
      status: fc.constantFrom(...operationStatuses),
      generation: fc.integer({ min: 1, max: 5 }),
      tryNumber: fc.integer({ min: 1, max: 5 }),
      revision: fc.integer({ min: 1, max: 5 }),
      error: fc.option(fc.record({ code: fc.constantFrom(...Object.keys(errorCatalogue)) })),
    }),
    observation: fc.option(
      fc.record(
        { state: fc.constantFrom('running', 'unknown' as const), revision: fc.integer({ min: 0, max: 5 }), problem: fc.record({ code: fc.constantFrom(forgottenCode, 'KERNEL_NOT_FOUND') }) },
        { requiredKeys: ['state', 'revision'] },
      ),
    ),
  }),
);

function published(status: NonNullable<PublishedState['newestOperation']>['status'], code?: string): PublishedState {
  return { generation: 1, desired: base, newestOperation: { kind: 'Create', status, generation: 1, revision: 1, tryNumber: 1, error: code === undefined ? null : { code } }, observation: null };
}

describe('deciding what to publish', () => {
  it('decides nothing more once what it decided was published', () => {
    fc.assert(
      fc.property(anyDesired, fc.integer({ min: 1, max: 6 }), anyPublished, (desired, generation, before) => {
        const decision = decideOperation(desired, generation, before);
        if (decision.action === 'none') return;
        const after: PublishedState = {
          generation,
          desired,
          newestOperation: { kind: decision.kind, status: 'Pending', generation, revision: (before?.newestOperation?.revision ?? 0) + 1, tryNumber: decision.tryNumber, error: null },
          // No host reports a revision that was not issued yet.
          observation: before?.observation == null ? null : { ...before.observation, revision: Math.min(before.observation.revision, before.newestOperation?.revision ?? 0) },
        };
        expect(decideOperation(desired, generation, after)).toEqual({ action: 'none' });
      }),
    );
  });

  it('never goes back to an older generation', () => {
    fc.assert(
      fc.property(anyDesired, anyPublished, (desired, before) => {
        if (before === null) return;
        expect(decideOperation(desired, before.generation - 1, before)).toEqual({ action: 'none' });
      }),
    );
  });

  it.each([
    ['Failed', 'KERNEL_NOT_FOUND', 'none'],
    ['Failed', 'SPEC_REFUSED', 'none'],
    ['Failed', 'STALE_OPERATION', 'publish'],
    ['Failed', 'JOURNAL_FAILED', 'publish'],
    ['Superseded', undefined, 'publish'],
    ['Expired', undefined, 'publish'],
    ['Cancelled', undefined, 'none'],
    ['Dispatched', undefined, 'none'],
    ['Succeeded', undefined, 'none'],
  ] as const)('makes of an operation of the same generation that is %s (%s): %s', (status, code, action) => {
    expect(decideOperation(base, 1, published(status, code))).toMatchObject(action === 'publish' ? { action, tryNumber: 2 } : { action });
  });

  it('publishes again what a host has forgotten, once', () => {
    const lost: PublishedState = { ...published('Succeeded'), observation: { state: 'unknown', revision: 1, problem: { code: forgottenCode } } };
    expect(decideOperation(base, 1, lost)).toEqual({ action: 'publish', kind: 'Create', tryNumber: 2 });
    const again: PublishedState = { ...lost, newestOperation: { kind: 'Create', status: 'Running', generation: 1, revision: 2, tryNumber: 2, error: null } };
    expect(decideOperation(base, 1, again)).toEqual({ action: 'none' });
    const deleting: PublishedState = { ...lost, newestOperation: { kind: 'Delete', status: 'Running', generation: 1, revision: 1, tryNumber: 1, error: null } };
    expect(decideDeletion(deleting)).toEqual({ action: 'publish', kind: 'Delete', tryNumber: 2 });
  });

  it('repeats a deletion that failed for any reason, and no other operation stands for it', () => {
    expect(decideDeletion(published('Succeeded'))).toEqual({ action: 'publish', kind: 'Delete', tryNumber: 1 });
    const failed: PublishedState = { ...published('Failed', 'SPEC_REFUSED'), newestOperation: { kind: 'Delete', status: 'Failed', generation: 1, revision: 3, tryNumber: 3, error: { code: 'SPEC_REFUSED' } } };
    expect(decideDeletion(failed)).toEqual({ action: 'publish', kind: 'Delete', tryNumber: 4 });
    const cancelled: PublishedState = { ...failed, newestOperation: { kind: 'Delete', status: 'Cancelled', generation: 1, revision: 3, tryNumber: 3, error: null } };
    expect(decideDeletion(cancelled)).toEqual({ action: 'publish', kind: 'Delete', tryNumber: 4 });
  });

  it.each([
    [{ runPolicy: 'Halted' }, 'Stop'],
    [{ runPolicy: 'Halted', restartNonce: 1 }, 'Stop'],
    [{ restartNonce: 1, paused: true }, 'Restart'],
    [{ paused: true }, 'Pause'],
    [{ cpuCount: 2 }, 'Update'],
    [{}, 'Update'],
  ] as const)('calls the change %j a %s', (changes, kind) => {
    expect(diffKind(base, { ...base, ...changes })).toBe(kind);
  });

  it('keeps the sizes of before where there is no room for others, and nothing else', () => {
    const published = { ...base, cpuCount: 2, cpuMax: 4 };
    const wanted = { ...base, cpuCount: 8, cpuMax: 8, memoryBytes: base.memoryBytes * 2, memoryMaxBytes: base.memoryBytes * 4, runPolicy: 'Halted' as const };
    const kept = withSizesOf(published, wanted);
    expect(kept).toEqual({ ...published, runPolicy: 'Halted' });
    expect(diffKind(published, kept)).toBe(diffKind(published, { ...published, runPolicy: 'Halted' }));
  });

  it('calls the way back a start and a resume', () => {
    expect(diffKind({ ...base, runPolicy: 'Halted' }, base)).toBe('Start');
    expect(diffKind({ ...base, paused: true }, base)).toBe('Resume');
  });

  it('waits longer for each further try, at most five minutes', () => {
    expect([1, 2, 3, 4, 30].map(retryDelayMs)).toEqual([0, 1_000, 2_000, 4_000, 300_000]);
  });
});
