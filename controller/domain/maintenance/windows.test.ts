import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { SiteMaintenanceWindow } from '#crds/gen/site.ts';
import { decideWindow } from './windows.ts';

const night: SiteMaintenanceWindow = { name: 'night', start: '02:30', duration: '2h' };
const state = (at: string, windows: readonly SiteMaintenanceWindow[] = [night], zone = 'Europe/Berlin'): string => {
  const decided = decideWindow(windows, zone, Date.parse(at));
  const iso = (ms: number): string => new Date(ms).toISOString().replace('.000Z', 'Z');
  return decided.kind === 'open' ? `open ${decided.name} until ${iso(decided.closesAtMs)}` : `closed, next ${decided.next === null ? 'never' : `${decided.next.name} at ${iso(decided.next.opensAtMs)}`}`;
};

describe('maintenance windows', () => {
  it('are in the time zone of the site', () => {
    expect(state('2026-01-14T01:29:59Z')).toBe('closed, next night at 2026-01-14T01:30:00Z');
    expect(state('2026-01-14T01:30:00Z')).toBe('open night until 2026-01-14T03:30:00Z');
    expect(state('2026-01-14T03:30:00Z')).toBe('closed, next night at 2026-01-15T01:30:00Z');
    expect(state('2026-07-14T00:30:00Z')).toBe('open night until 2026-07-14T02:30:00Z');
    expect(state('2026-01-14T07:30:00Z', [night], 'America/New_York')).toBe('open night until 2026-01-14T09:30:00Z');
  });

  it('are on their days, over midnight too', () => {
    const late: SiteMaintenanceWindow = { name: 'late', days: ['Fri'], start: '23:00', duration: '4h' };
    expect(state('2026-01-14T12:00:00Z', [late])).toBe('closed, next late at 2026-01-16T22:00:00Z');
    expect(state('2026-01-17T01:59:00Z', [late])).toBe('open late until 2026-01-17T02:00:00Z');
    expect(state('2026-01-17T02:00:00Z', [late])).toBe('closed, next late at 2026-01-23T22:00:00Z');
  });

  it('begin later on the night on which their hour does not exist', () => {
    // 02:00 to 03:00 is left out: 02:30 is 03:30 summer time, and the window is as long as always.
    expect(state('2026-03-28T12:00:00Z')).toBe('closed, next night at 2026-03-29T01:30:00Z');
    expect(state('2026-03-29T03:29:00Z')).toBe('open night until 2026-03-29T03:30:00Z');
  });

  it('begin once, the first time, on the night on which their hour comes twice', () => {
    expect(state('2026-10-24T12:00:00Z')).toBe('closed, next night at 2026-10-25T00:30:00Z');
    expect(state('2026-10-25T00:30:00Z')).toBe('open night until 2026-10-25T02:30:00Z');
    // 02:30 again, winter time: still the same window, and no second one.
    expect(state('2026-10-25T01:30:00Z')).toBe('open night until 2026-10-25T02:30:00Z');
    expect(state('2026-10-25T02:30:00Z')).toBe('closed, next night at 2026-10-26T01:30:00Z');
  });

  it('take the longest of several that are open', () => {
    expect(state('2026-01-14T01:45:00Z', [night, { name: 'short', start: '02:00', duration: '1h' }])).toBe('open night until 2026-01-14T03:30:00Z');
  });

  it('are never open without a window, or in a time zone that nobody knows', () => {
    expect(state('2026-01-14T01:30:00Z', [])).toBe('closed, next never');
    expect(state('2026-01-14T01:30:00Z', [night], 'Europe/Atlantis')).toBe('closed, next never');
  });

  it('are open exactly for their duration, from each moment that was announced', () => {
    const zones = ['UTC', 'Europe/Berlin', 'America/New_York', 'Australia/Lord_Howe', 'Asia/Kathmandu', 'America/Sao_Paulo'];
    const anyWindow = fc.record({ hour: fc.integer({ min: 0, max: 23 }), minute: fc.integer({ min: 0, max: 59 }), hours: fc.integer({ min: 1, max: 23 }) });
    fc.assert(
      fc.property(anyWindow, fc.constantFrom(...zones), fc.integer({ min: Date.parse('2026-01-01'), max: Date.parse('2027-01-01') }), ({ hour, minute, hours }, zone, nowMs) => {
        const window = { name: 'w', start: `${String(hour).padStart(2, '0')}:${String(minute).padStart(2, '0')}`, duration: `${hours}h` };
        const closed = decideWindow([window], zone, nowMs);
        if (closed.kind === 'open') return;
        const opensAtMs = closed.next?.opensAtMs ?? Number.NaN;
        expect(decideWindow([window], zone, opensAtMs - 1).kind).toBe('closed');
        expect(decideWindow([window], zone, opensAtMs)).toEqual({ kind: 'open', name: 'w', closesAtMs: opensAtMs + hours * 3_600_000 });
        // At most a day and the hour that a change of the clock may add.
        expect(opensAtMs - nowMs).toBeLessThanOrEqual(25 * 3_600_000);
      }),
    );
  });
});
