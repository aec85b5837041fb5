import { describe, expect, test } from 'vitest';
import { microVMId } from '#api/model/ids.ts';
import type { ProbeSpec, ProbeSpecs } from '#api/model/microvm.ts';
import { testDesired, testMicroVMId, testRecord } from '#test/builders/edge-microvm.ts';
import { createManualTime, settle } from '#test/fakes/manual-time.ts';
import { initialRun, type MicroVMRecord, type RunRecord } from '../domain/microvm-record.ts';
import type { SeenApiState, SeenVmm } from '../domain/observed-state.ts';
import type { ProbeOutcome } from '../domain/probes.ts';
import type { Logger } from '../ports/logger.ts';
import type { ProbeTarget } from '../ports/probes.ts';
import { createProbeKeeper, triesMax } from './probe-keeper.ts';

const silent = { trace() {}, debug() {}, info() {}, warn() {}, error() {}, fatal() {} };
const logger = { ...silent, child: () => logger } as unknown as Logger; // Nobody reads it here.

const probe = (replaced: Partial<ProbeSpec> = {}): ProbeSpec => ({ action: { kind: 'tcp', port: 80 }, initialDelayMs: 0, periodMs: 1_000, timeoutMs: 600_000, successThreshold: 1, failureThreshold: 2, ...replaced });

function recordWith(probes: ProbeSpecs, run: Partial<RunRecord> = {}, change: Partial<MicroVMRecord> = {}): MicroVMRecord {
  const networks = [{ name: 'lan', kind: 'nat', mac: '02:00:00:00:00:01', address: '10.87.3.5/24', ports: [] }] as const;
  return testRecord({ desired: testDesired({ probes, networks }), run: { ...initialRun, phase: 'started', incarnation: 1, ...run }, ...change });
}

const live = (api: SeenApiState): SeenVmm => ({ kind: 'live', process: { pid: 1, startTime: '1', bootId: 'b' }, api });

/** A keeper whose tries are answered by the test, in time that only the test lets pass. */
function scene() {
  const time = createManualTime();
  const tries: { readonly target: ProbeTarget; readonly signal: AbortSignal; answer: (outcome: ProbeOutcome) => Promise<void> }[] = [];
  let automatic: ProbeOutcome | undefined;
  let news = 0;
  let count = 0;
  const log = { text: '' };
  const keeper = createProbeKeeper({
    prober: {
      probe: (target, signal) => {
        count += 1;
        if (automatic !== undefined) return Promise.resolve(automatic);
        return new Promise((resolve, reject) => {
          signal.addEventListener('abort', () => reject(signal.reason), { once: true });
          tries.push({ target, signal, answer: async (outcome) => (resolve(outcome), settle()) });
        });
      },
    },
    files: { size: () => Promise.resolve(log.text.length), read: (_path, offset, max) => Promise.resolve(Buffer.from(log.text.slice(offset, offset + max))) },
    pathsOf: () => ({ serialLog: '/vm/serial.log', vsockSocket: '/vm/vsock.sock' }),
    clock: { now: () => ({ wallMs: time.nowMs(), bootMs: time.nowMs(), bootId: 'b' }), after: (ms, callback) => time.schedule(ms, callback) },
    logger,
  });
  return {
    keeper, time, tries, log,
    answerAll: (outcome: ProbeOutcome | undefined) => void (automatic = outcome),
    counts: () => ({ news, tries: count }),
    see: (record: MicroVMRecord, vmm: SeenVmm) => keeper.noticed(record, vmm, () => (news += 1)),
    status: (record: MicroVMRecord) => keeper.viewOf(record)?.readiness?.status,
  };
}

const success: ProbeOutcome = { kind: 'success' };
const failure: ProbeOutcome = { kind: 'failure', message: 'refused' };

describe('the keeper of probes', () => {
  test('tries only while the guest runs, and asks its address', async () => {
    const { see, tries, status, time, keeper } = scene();
    const record = recordWith({ readiness: probe() });
    see(recordWith({ readiness: probe() }, { phase: 'starting' }), live('created'));
    see(recordWith({ readiness: probe() }, { phase: 'starting' }), live('running'));
    await time.advance(10_000);
    expect(tries).toEqual([]);
    see(record, live('running'));
    await settle();
    expect(tries[0]?.target).toEqual({ action: { kind: 'tcp', port: 80 }, address: '10.87.3.5', vsockSocket: '/vm/vsock.sock' });
    expect(status(record)).toBe('pending');
    await tries[0]?.answer(success);
    expect(status(record)).toBe('succeeded');
    see(record, { kind: 'exited', exit: { reason: 'GuestShutdown' } });
    expect(keeper.viewOf(record)).toBe(undefined);
    await time.advance(60_000);
    expect(tries.length).toBe(1);
    expect(time.pending()).toBe(0);
  });

  test('wakes the worker when something changed, and at rest never', async () => {
    const { see, answerAll, counts, time, status } = scene();
    const record = recordWith({ readiness: probe(), liveness: probe() });
    answerAll(success);
    see(record, { kind: 'absent' });
    see(record, live('running'));
    await time.advance(1_000);
    expect(counts().news).toBe(1);
    await time.advance(3_600_000);
    expect(counts()).toEqual({ news: 1, tries: expect.any(Number) as number });
    expect(counts().tries).toBeGreaterThan(7_000);
    answerAll(failure);
    // The liveness probe failed as often: one change for both, and no try after it.
    await time.advance(2_000);
    const { tries } = counts();
    expect(status(record)).toBe('failed');
    await time.advance(60_000);
    expect(counts().tries).toBe(tries);
  });

  test('cuts a try off when the guest is paused or stopped, and counts it for nothing', async () => {
    const { see, tries, time, keeper, status } = scene();
    const record = recordWith({ liveness: probe({ failureThreshold: 1 }), readiness: probe() });
    see(record, live('running'));
    await settle();
    see(record, live('paused'));
    expect(tries.map(({ signal }) => signal.aborted)).toEqual([true, true]);
    await time.advance(60_000);
    expect(tries.length).toBe(2);
    see(record, live('running'));
    await settle();
    expect(tries.length).toBe(4);
    expect(status(record)).toBe('pending');
    see(recordWith(record.desired?.probes ?? {}, { stop: { cause: 'halted', usesButton: true, deadline: { bootId: 'b', ms: 0 } } }), live('running'));
    expect(tries.slice(2).map(({ signal }) => signal.aborted)).toEqual([true, true]);
    await keeper.stop();
    expect(time.pending()).toBe(0);
  });

  test('begins anew with each boot, with what the spec says then', async () => {
    const { see, tries, status } = scene();
    const first = recordWith({ readiness: probe() });
    see(first, { kind: 'absent' });
    see(first, live('running'));
    await settle();
    await tries[0]?.answer(success);
    const second = recordWith({ readiness: probe() }, { incarnation: 2 });
    see(second, live('running'));
    expect(status(second)).toBe('pending');
    expect(status(first)).toBe(undefined);
    const changed = recordWith({ readiness: probe({ action: { kind: 'tcp', port: 81 } }) }, { incarnation: 2 });
    see(changed, live('running'));
    await settle();
    expect(tries.map(({ target }) => target.action)).toEqual([80, 80, 81].map((port) => ({ kind: 'tcp', port })));
  });

  test('says of a guest that ran before the agent that nothing is known, and asks for no restart', async () => {
    const { see, tries, status, keeper, time } = scene();
    const record = recordWith({ startup: probe(), readiness: probe(), liveness: probe() }, { startedUpIn: 1 });
    see(record, live('running'));
    await settle();
    expect(status(record)).toBe('notProbed');
    // Startup was seen to succeed by an earlier agent.
    expect(tries.length).toBe(2);
    for (const { answer } of tries) await answer(failure);
    expect(keeper.viewOf(record)?.failed).toBe(undefined);
    await time.advance(1_000);
    for (const { answer } of tries.slice(2)) await answer(failure);
    expect(keeper.viewOf(record)?.failed?.role).toBe('liveness');
  });

  test('looks for a text in what the console printed in pieces', async () => {
    const { see, log, time, status } = scene();
    const record = recordWith({ readiness: probe({ action: { kind: 'console', contains: 'login:' }, failureThreshold: 1 }) });
    log.text = `${'x'.repeat(65_533)}lo`;
    see(record, { kind: 'absent' });
    see(record, live('running'));
    await time.advance(100);
    expect(status(record)).toBe('failed');
    log.text += 'gin: ';
    await time.advance(1_000);
    expect(status(record)).toBe('succeeded');
  });

  test('has no more than so many tries at once on the host, and none of a guest that left the queue', async () => {
    const { keeper, tries } = scene();
    const records = Array.from({ length: triesMax + 10 }, (_, index) => ({ ...recordWith({ readiness: probe() }), microvmId: microVMId(`aaaaaaaa-0000-4000-8000-${String(index).padStart(12, '0')}`) }));
    for (const record of records) keeper.noticed(record, live('running'), () => {});
    await settle();
    expect(tries.length).toBe(triesMax);
    for (const record of records.slice(triesMax, triesMax + 9)) keeper.forget(record.microvmId);
    await tries[0]?.answer(success);
    await settle();
    expect(tries.length).toBe(triesMax + 1);
    expect(keeper.viewOf(records[0] ?? testRecord({ microvmId: testMicroVMId }))?.readiness?.status).toBe('succeeded');
    await keeper.stop();
  });
});
