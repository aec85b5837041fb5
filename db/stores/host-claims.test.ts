import { describe, expect, it } from 'vitest';
import { isContestedBy, type LastSession } from './host-claims.ts';

const last: LastSession = { machineId: 'm', bootId: 'b', agentInstance: 'first', replacedBootId: '', replacedAgentInstance: '', isAlive: true, counterUsed: 1 };
const claimant = { machineId: 'm', bootId: 'b', agentInstance: 'second', address: '', counter: 1 };

describe('a host that another agent of the same boot is connected as', () => {
  it('is contested, so that a copy of its state is ordered nothing yet', () => {
    expect(isContestedBy(last, claimant)).toBe(true);
  });

  it.each([
    ['the agent before has closed its session', { ...last, isAlive: false }, claimant],
    ['it is the same run of the agent', last, { ...claimant, agentInstance: 'first' }],
    ['the machine was started anew', last, { ...claimant, bootId: 'c' }],
    ['no agent was there before', { ...last, agentInstance: null }, claimant],
    ['it is an agent that does not say which run it is', last, { ...claimant, agentInstance: '' }],
  ] as const)('is not, when %s', (_, before, now) => {
    expect(isContestedBy(before, now)).toBe(false);
  });
});
