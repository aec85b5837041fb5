import { describe, expect, it } from 'vitest';
import { hostId } from '#api/model/ids.ts';
import { createSilenceObserver } from './silence.ts';

const host = hostId('00000000-0000-4000-8000-000000000001');
const beatMs = 10_000;
/** The clock of the database is a year ahead of ours; that must not matter. */
const skewMs = 31_536_000_000;

function observer() {
  let monotonicMs = 500;
  const made = createSilenceObserver({ heartbeatIntervalMs: beatMs, monotonicMs: () => monotonicMs, wallMs: () => 1_700_000_000_000 + monotonicMs });
  const databaseNowMs = (): number => 1_700_000_000_000 + skewMs + monotonicMs;
  return {
    made,
    databaseNowMs,
    pass: (ms: number) => void (monotonicMs += ms),
    observe: (lastBeatAtMs: number | null) => made.observe([{ hostId: host, lastBeatAtMs, nowMs: databaseNowMs() }]),
  };
}

describe('silence of hosts', () => {
  it('begins after four missed beats and ends with the next', () => {
    const { made, observe, pass, databaseNowMs } = observer();
    pass(100_000);
    const beat = databaseNowMs();
    observe(beat);
    pass(39_999);
    expect([observe(beat), made.of(host).reachability]).toEqual([[], 'online']);
    pass(1);
    expect([observe(beat), made.of(host).reachability]).toEqual([[host], 'silent']);
    expect([observe(databaseNowMs()), made.of(host).reachability]).toEqual([[host], 'online']);
  });

  it('is due when the last beat has become too old, or when the observer has listened long enough', () => {
    const { made, observe, pass, databaseNowMs } = observer();
    expect(made.nextSilenceMs()).toBe(Infinity);
    const beat = databaseNowMs() - 35_000;
    observe(beat);
    expect(made.nextSilenceMs()).toBe(40_000);
    pass(100_000);
    observe(databaseNowMs());
    pass(12_000);
    expect(made.nextSilenceMs()).toBe(28_000);
    pass(28_000);
    observe(beat);
    expect(made.nextSilenceMs()).toBe(Infinity);
  });

  it('is not decided by an observer that has not listened long enough itself', () => {
    const { made, observe, pass, databaseNowMs } = observer();
    const beat = databaseNowMs() - 3_600_000;
    observe(beat);
    expect(made.of(host)).toEqual({ reachability: 'undecided', lastBeatAtMs: beat });
    pass(40_000);
    expect(observe(beat)).toEqual([host]);
    expect(made.of(host).reachability).toBe('silent');
  });

  it('takes a beat that was read between two readings, and never goes back to an older one', () => {
    const { made, observe, pass, databaseNowMs } = observer();
    pass(100_000);
    const old = databaseNowMs() - 60_000;
    observe(old);
    const fresh = databaseNowMs();
    expect(made.note(host, fresh)).toBe(true);
    expect(made.note(host, old)).toBe(false);
    expect(made.of(host)).toEqual({ reachability: 'online', lastBeatAtMs: fresh });
  });

  it('knows nothing of a host that it never read', () => {
    expect(observer().made.of(host)).toEqual({ reachability: 'undecided', lastBeatAtMs: null });
  });
});
