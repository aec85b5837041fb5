import { describe, expect, it } from 'vitest';
import { decideEviction, type EvictionFacts } from './decide-eviction.ts';

const nowMs = 1_000;
const base: EvictionFacts = { drain: null, isHostDeleting: false, hasExpellingTaint: false, strategy: 'Stop', hasLocalData: false, isPinned: false, isHeld: false, nowMs };
const drain = (mode: 'Evict' | 'StopAll', deadlineMs: number | null = null): Partial<EvictionFacts> => ({ drain: { mode, deadlineMs } });
const causes = { evict: drain('Evict'), late: drain('Evict', nowMs), stopAll: drain('StopAll'), deleting: { isHostDeleting: true }, taint: { hasExpellingTaint: true } };
const microvms = {
  stop: { strategy: 'Stop' }, move: { strategy: 'Move' }, none: { strategy: 'None' },
  'move with data': { strategy: 'Move', hasLocalData: true }, 'move pinned': { strategy: 'Move', isPinned: true }, 'stop with data': { strategy: 'Stop', hasLocalData: true },
} as const satisfies Record<string, Partial<EvictionFacts>>;

describe('what becomes of a microVM whose host is emptied', () => {
  it('[C8] is the table of docs/scheduling.md', () => {
    const table = Object.entries(microvms).map(([name, microvm]) => `${name}: ${Object.values(causes).map((cause) => decideEviction({ ...base, ...microvm, ...cause }).action).join(' ')}`);
    expect(table).toEqual([
      'stop: stop stop stop move stop',
      'move: move stop stop move move',
      'none: wait stop stop wait wait',
      'move with data: stop stop stop wait stop',
      'move pinned: stop stop stop wait stop',
      'stop with data: stop stop stop wait stop',
    ]);
  });

  it('stays without a cause, and before a deadline the strategy holds', () => {
    expect(decideEviction(base)).toEqual({ action: 'stay' });
    expect(decideEviction({ ...base, strategy: 'None', ...drain('Evict', nowMs + 1) }).action).toBe('wait');
  });

  it('holds what a taint would do, not what a person ordered', () => {
    expect(decideEviction({ ...base, strategy: 'Move', isHeld: true, ...causes.taint })).toMatchObject({ action: 'wait', reason: 'SiteHold' });
    expect(decideEviction({ ...base, strategy: 'Move', isHeld: true, ...causes.evict }).action).toBe('move');
  });
});
