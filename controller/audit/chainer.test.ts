import { describe, expect, it } from 'vitest';
import { AppError } from '#api/model/error-codes.ts';
import { createManualTime } from '#test/fakes/manual-time.ts';
import type { AuditChainStore, ChainHead, Checkpoint } from '../ports/audit-chain.ts';
import { createChainer, unlinkedAlarmMs } from './chainer.ts';

const head: ChainHead = { tenantId: 't', position: 3, root: 'aa', previousPosition: 0 };

/** A chain in memory: `waiting` rows to link, one tenant. */
function setUp() {
  const time = createManualTime();
  const state = { waiting: 0, looks: 0, links: 0, failing: false, ageMs: null as number | null, isSigned: true, signed: [] as Checkpoint[], signerFails: false };
  const chain: Pick<AuditChainStore, 'link' | 'unsignedHeads' | 'addCheckpoints'> = {
    link: (limit) => {
      state.looks += 1;
      if (state.failing) return Promise.reject(new AppError('DATABASE_UNAVAILABLE'));
      const linked = Math.min(limit, state.waiting);
      state.waiting -= linked;
      if (linked > 0) {
        state.links += 1;
        state.isSigned = false;
      }
      return Promise.resolve({ linked, isMore: state.waiting > 0, unlinkedAgeMs: state.ageMs });
    },
    unsignedHeads: () => Promise.resolve(state.isSigned ? [] : [head]),
    addCheckpoints: (checkpoints) => {
      state.signed.push(...checkpoints);
      if (checkpoints.length > 0) state.isSigned = true;
      return Promise.resolve();
    },
  };
  const hints: (() => void)[] = [];
  const remote: (() => void)[] = [];
  const logged: string[] = [];
  const metrics = { chaining: [] as boolean[], ageMs: 0, links: 0, checkpoints: 0 };
  const chainer = createChainer({
    chain: { ...chain, tenants: () => Promise.resolve([]), checkpoints: async function* none() {}, rows: async function* none() {}, verify: () => Promise.reject(new Error('unused')), close: () => Promise.resolve() },
    loadSigner: () => (state.signerFails ? Promise.reject(new Error('no API server')) : Promise.resolve({ keyId: 'k', sign: (signed, madeAtMs) => ({ ...signed, madeAtMs, keyId: 'k', signature: 's' }) })),
    hints: { onHint: (listener) => (hints.push(() => listener({ kind: 'operations', hostId: 'h' as never })), () => {}), onRemoteChange: (listener) => (remote.push(listener), () => {}) },
    time,
    log: { info: () => {}, warn: (_fields, message) => void logged.push(message), error: (_fields, message) => void logged.push(message) },
    metrics: {
      setChaining: (is) => void metrics.chaining.push(is),
      setUnlinkedAgeMs: (ageMs) => (metrics.ageMs = ageMs),
      countLinks: (count) => (metrics.links += count),
      countCheckpoints: (count) => (metrics.checkpoints += count),
    },
    checkpointIntervalMs: 60_000,
  });
  return { time, state, chainer, hint: () => hints.forEach((wake) => wake()), remoteChange: () => remote.forEach((wake) => wake()), logged, metrics };
}

describe('the chainer', () => {
  it('links within a second of the commit without any hint, and soon after a hint', async () => {
    const { time, state, chainer, hint, remoteChange } = setUp();
    const running = chainer.start();
    await time.advance(10_000);
    state.waiting = 2;
    await time.advance(700);
    expect(state.links).toBe(1);
    for (const wake of [hint, remoteChange]) {
      await time.advance(300);
      const before = state.links;
      state.waiting = 1;
      wake();
      await time.advance(200);
      expect(state.links).toBe(before + 1);
    }
    const stopped = running.stop();
    await time.advance(1_000);
    await stopped;
    const looks = state.looks;
    hint();
    await time.advance(10_000);
    expect(state.looks).toBe(looks);
  });

  it('makes one pass of a burst of hints, and goes on at once while there is more', async () => {
    const { time, state, chainer, hint } = setUp();
    chainer.start();
    await time.advance(10_000);
    const before = state.looks;
    for (let count = 0; count < 50; count += 1) hint();
    await time.advance(200);
    expect(state.looks - before).toBeLessThanOrEqual(2);
    state.waiting = 2_500;
    hint();
    await time.advance(200);
    expect(state.waiting).toBe(0);
  });

  it('signs when the chain was quiet, once, and nothing at rest', async () => {
    const { time, state, chainer } = setUp();
    chainer.start();
    await time.advance(5_000);
    expect(state.signed).toEqual([]);
    state.waiting = 3;
    await time.advance(1_500);
    expect(state.signed).toEqual([]);
    await time.advance(2_000);
    expect(state.signed).toMatchObject([head]);
    await time.advance(3_600_000);
    expect(state.signed).toHaveLength(1);
  });

  it('signs once in the checkpoint interval while rows keep coming', async () => {
    const { time, state, chainer } = setUp();
    chainer.start();
    for (let second = 0; second < 300; second += 1) {
      state.waiting = 1;
      await time.advance(1_000);
    }
    expect(state.signed.length).toBeGreaterThanOrEqual(4);
    expect(state.signed.length).toBeLessThanOrEqual(5);
  });

  it('signs what the leader before left unsigned', async () => {
    const { time, state, chainer } = setUp();
    state.isSigned = false;
    chainer.start();
    await time.advance(1_000);
    expect(state.signed).toMatchObject([head]);
  });

  it('says that it does not chain while the database is away, then goes on', async () => {
    const { time, state, chainer, metrics, logged } = setUp();
    state.failing = true;
    state.waiting = 1;
    chainer.start();
    await time.advance(60_000);
    expect(new Set(metrics.chaining)).toEqual(new Set([false]));
    expect(logged).toHaveLength(1);
    expect(state.looks).toBeLessThan(10);
    state.failing = false;
    await time.advance(31_000);
    expect(metrics.chaining.at(-1)).toBe(true);
    expect(metrics.links).toBe(1);
  });

  it('links on without a key, and signs when it has one', async () => {
    const { time, state, chainer, metrics } = setUp();
    state.signerFails = true;
    state.waiting = 1;
    chainer.start();
    await time.advance(10_000);
    expect(metrics).toMatchObject({ links: 1, checkpoints: 0 });
    state.signerFails = false;
    await time.advance(31_000);
    expect(metrics.checkpoints).toBe(1);
  });

  it('raises the alarm once when a row waits too long', async () => {
    const { time, state, chainer, metrics, logged } = setUp();
    chainer.start();
    state.ageMs = unlinkedAlarmMs;
    await time.advance(5_000);
    expect(logged).toEqual([]);
    state.ageMs = unlinkedAlarmMs + 1;
    await time.advance(5_000);
    expect(metrics.ageMs).toBe(unlinkedAlarmMs + 1);
    expect(logged).toHaveLength(1);
  });
});
