import { transition } from 'xstate';
import { expect, test } from 'vitest';
import { observedStates, type ObservedState } from '#api/model/microvm.ts';
import { linkDelayMs } from '../domain/link-delay.ts';
import { controlLinkMachine, type ControlLinkEvent } from './control-link.machine.ts';
import { microvmMachine } from './microvm.machine.ts';

function drive(...states: ObservedState[]): { readonly state: string; readonly refused: readonly string[] } {
  let snapshot = microvmMachine.resolveState({ value: 'unknown', context: {} });
  const refused: string[] = [];
  for (const state of states) {
    const event = { type: `seen.${state}` } as const;
    if (!snapshot.can(event)) refused.push(`${String(snapshot.value)} -> ${state}`);
    [snapshot] = transition(microvmMachine, snapshot, event);
  }
  return { state: String(snapshot.value), refused };
}

test('a microVM lives from absent over running to absent', () => {
  expect(drive('absent', 'preparing', 'booting', 'running', 'paused', 'running', 'stopping', 'stopped', 'removing', 'absent')).toEqual({ state: 'absent', refused: [] });
});

test('the first look after a start of the agent may find anything', () => {
  for (const state of observedStates) expect(drive(state).refused).toEqual([]);
});

test('a running microVM is never prepared or booted without an end between', () => {
  expect(drive('running', 'booting').refused).toEqual(['running -> booting']);
  expect(drive('running', 'preparing').refused).toEqual(['running -> preparing']);
});

test('nothing but its end follows a removal', () => {
  for (const state of observedStates) {
    expect(drive('removing', state).refused.length).toBe(['removing', 'absent', 'unknown'].includes(state) ? 0 : 1);
  }
});

function link(...events: ControlLinkEvent[]) {
  let snapshot = controlLinkMachine.resolveState({ value: 'waiting', context: { failures: 0 } });
  for (const event of events) [snapshot] = transition(controlLinkMachine, snapshot, event);
  return { value: snapshot.value, failures: snapshot.context.failures };
}

test('failures in a row are counted until a welcome', () => {
  const failed: ControlLinkEvent[] = [{ type: 'retry.due' }, { type: 'link.ended', reason: 'broken' }];
  expect(link(...failed, ...failed)).toEqual({ value: 'waiting', failures: 2 });
  expect(link(...failed, { type: 'retry.due' }, { type: 'stream.opened' }, { type: 'welcome.received' })).toEqual({ value: 'online', failures: 0 });
});

test('a revoked host does not try again', () => {
  const end: ControlLinkEvent = { type: 'link.ended', reason: 'revoked' };
  expect(link({ type: 'retry.due' }, { type: 'stream.opened' }, end, { type: 'retry.due' }).value).toBe('halted');
});

test.each([
  [{ reason: 'broken', retryAfterMs: 0 }, 1, 1, 1_000],
  [{ reason: 'broken', retryAfterMs: 0 }, 50, 1, 30_000],
  [{ reason: 'broken', retryAfterMs: 0 }, 50, 0, 0],
  [{ reason: 'shuttingDown', retryAfterMs: 0 }, 9, 1, 2_000],
  [{ reason: 'quarantined', retryAfterMs: 0 }, 1, 0, 60_000],
  [{ reason: 'notApproved', retryAfterMs: 15_000 }, 1, 0, 15_000],
] as const)('after %o and %i failures, with randomness %d, the link waits %i ms', (end, failures, random, delay) => {
  expect(linkDelayMs(end, failures, random)).toBe(delay);
});
