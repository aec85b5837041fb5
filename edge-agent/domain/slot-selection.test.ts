import { describe, expect, it } from 'vitest';
import { encodeSelection, freeSlot, parseSelection, type SlotSelection } from './slot-selection.ts';

const selection: SlotSelection = { running: 'a', previous: 'base', trial: { slot: 'b', needs: 'session', deadlineSeconds: 90 }, packaged: '0.1.0' };

describe('the line that the launcher reads', () => {
  it('keeps what was chosen', () => {
    expect(parseSelection(encodeSelection(selection))).toEqual(selection);
    expect(encodeSelection(selection)).toBe('2 a base b session 90 0 - 0 0 0.1.0');
  });

  it('counts as none when it is torn, of another format or empty', () => {
    for (const line of ['', '2 a base b', '3 a base b session 90 0 - 0 0 0.1.0', '2 c base b session 90 0 - 0 0 0.1.0', '2 a base b session x 0 - 0 0 0.1.0']) {
      expect(parseSelection(line), line).toEqual({ running: 'base', previous: null, trial: null, packaged: '-' });
    }
  });

  it('never gives away the slot that runs, nor the one to go back to while another is free', () => {
    const cases = [['base', null, 'a'], ['a', 'base', 'b'], ['b', 'a', 'a'], ['a', 'b', 'b'], ['base', 'a', 'b'], ['base', 'b', 'a']] as const;
    for (const [running, previous, free] of cases) expect(freeSlot({ running, previous, trial: null, packaged: '-' }), `${running} ${String(previous)}`).toBe(free);
  });
});
