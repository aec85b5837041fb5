/**
 * The link to the control plane. Pure: the supervisor does what a state asks for and feeds back what
 * happened; all waits are its timers, so nothing survives here that a restart would lose.
 *
 *   waiting --retry.due--> connecting --stream.opened--> greeting --welcome.received--> online
 *      ^                       |                            |                             |
 *      +------ link.ended -----+----------------------------+-----------------------------+
 *      +--> halted   (link.ended with `revoked`; only a new enrollment and start leave it)
 */
import { assign, setup, type SnapshotFrom } from 'xstate';
import type { GoodbyeReason } from '../domain/link-delay.ts';

export type ControlLinkEvent =
  | { readonly type: 'retry.due' }
  | { readonly type: 'stream.opened' }
  | { readonly type: 'welcome.received' }
  | { readonly type: 'link.ended'; readonly reason: GoodbyeReason | 'broken' };

export const controlLinkMachine = setup({
  types: {} as { context: { readonly failures: number }; events: ControlLinkEvent },
  guards: { isRevoked: ({ event }) => event.type === 'link.ended' && event.reason === 'revoked' },
  actions: {
    countFailure: assign({ failures: ({ context }) => context.failures + 1 }),
    forgetFailures: assign({ failures: 0 }),
  },
}).createMachine({
  id: 'controlLink',
  initial: 'waiting',
  context: { failures: 0 },
  states: {
    waiting: { on: { 'retry.due': 'connecting' } },
    connecting: {
      on: { 'stream.opened': 'greeting', 'link.ended': [{ guard: 'isRevoked', target: 'halted' }, { target: 'waiting', actions: 'countFailure' }] },
    },
    greeting: {
      on: {
        'welcome.received': { target: 'online', actions: 'forgetFailures' },
        'link.ended': [{ guard: 'isRevoked', target: 'halted' }, { target: 'waiting', actions: 'countFailure' }],
      },
    },
    online: { on: { 'link.ended': [{ guard: 'isRevoked', target: 'halted' }, { target: 'waiting', actions: 'countFailure' }] } },
    halted: {},
  },
});

export type ControlLinkSnapshot = SnapshotFrom<typeof controlLinkMachine>;
