/** Test values of the edge agent: a desired state, a record and a clock with every field filled in. */
import { makeEpoch } from '#api/model/epoch.ts';
import { microVMId, operationId, planId } from '#api/model/ids.ts';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import type { Operation } from '#api/model/plan.ts';
import { initialRun, type MicroVMRecord, type Now } from '#edge-agent/domain/microvm-record.ts';

export const testMicroVMId = microVMId('aaaaaaaa-0000-4000-8000-000000000001');
export const testNow: Now = { wallMs: 1_800_000_000_000, bootMs: 1_000_000, bootId: 'boot-1' };

export function testDesired(change: Partial<DesiredMicroVM> = {}): DesiredMicroVM {
  return {
    name: 'guest',
    namespace: 'shop',
    runPolicy: 'Always',
    paused: false,
    restartNonce: 0,
    restart: { initialBackoffMs: 1_000, maxBackoffMs: 30_000, maxRetries: 3, windowMs: 600_000 },
    cpuCount: 1,
    memoryBytes: 64 * 2 ** 20,
    boot: { kind: 'kernel', path: '/boot/guest', cmdline: 'idle' },
    disks: [],
    serialLog: true,
    terminationGracePeriodMs: 5_000,
    ...change,
  };
}

export function testOperation(change: Partial<Operation> = {}): Operation {
  return {
    id: operationId('bbbbbbbb-0000-4000-8000-000000000001'),
    planId: planId('cccccccc-0000-4000-8000-000000000001'),
    microvmId: testMicroVMId,
    hostId: 'dddddddd-0000-4000-8000-000000000001' as Operation['hostId'], // The fence never looks at it.
    kind: 'Update',
    epoch: makeEpoch(1, 1),
    revision: 1,
    generation: 1,
    desired: testDesired(),
    ...change,
  };
}

export function testRecord(change: Partial<MicroVMRecord> = {}): MicroVMRecord {
  return {
    microvmId: testMicroVMId,
    epoch: makeEpoch(1, 1),
    revision: 1,
    generation: 1,
    desired: testDesired(),
    isDeleting: false,
    isTombstone: false,
    operation: { id: testOperation().id, planId: testOperation().planId, kind: 'Create', state: 'accepted', attempt: 0 },
    run: initialRun,
    ...change,
  };
}
