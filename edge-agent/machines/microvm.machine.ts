/**
 * The life of one microVM on its host, as it is reported. Pure: no effects, no timers; the supervisor
 * drives it with `transition()` and what each look found, and journals nothing of it. After a start
 * of the agent it begins at `unknown`, so the first look decides.
 *
 *              +---------------- restart due ------------------+
 *              v                                               |
 *  absent -> preparing -> booting -> running <-> paused        |
 *              |  ^          |          |          |           |
 *              |  +- failed <+          +-> stopping           |
 *              |       ^     |          |      |               |
 *              +-------+     +--------> backoff/stopped -------+
 *
 *  any but absent --removal began--> removing --nothing left--> absent
 *  any --could not be looked at--> unknown --seen again--> any
 *
 * A change that is not drawn here means that somebody else touched the VMM; the supervisor logs it
 * and believes what it sees.
 */
import { createMachine, type EventFrom, type SnapshotFrom } from 'xstate';
import type { ObservedState } from '#api/model/microvm.ts';

/** `seen.running` and so on: what a look found. */
export type MicroVMEvent = { [State in ObservedState]: { readonly type: `seen.${State}` } }[ObservedState];

const to = (...states: ObservedState[]): Record<string, ObservedState> =>
  Object.fromEntries([...states, 'unknown' as const].map((state) => [`seen.${state}`, state]));

export const microvmMachine = createMachine({
  // The type is a phantom of xstate's; there is no value.
  types: {} as { context: Record<string, never>; events: MicroVMEvent },
  id: 'microvm',
  initial: 'unknown',
  context: {},
  states: {
    absent: { on: to('absent', 'preparing', 'stopped', 'removing') },
    preparing: { on: to('preparing', 'booting', 'running', 'paused', 'backoff', 'failed', 'stopped', 'removing') },
    booting: { on: to('booting', 'running', 'paused', 'stopping', 'backoff', 'failed', 'stopped', 'preparing', 'removing') },
    running: { on: to('running', 'paused', 'stopping', 'backoff', 'stopped', 'removing') },
    paused: { on: to('paused', 'running', 'stopping', 'backoff', 'stopped', 'removing') },
    stopping: { on: to('stopping', 'stopped', 'backoff', 'preparing', 'removing') },
    stopped: { on: to('stopped', 'preparing', 'backoff', 'removing') },
    backoff: { on: to('backoff', 'preparing', 'booting', 'stopped', 'failed', 'removing') },
    failed: { on: to('failed', 'preparing', 'booting', 'backoff', 'stopped', 'removing') },
    removing: { on: to('removing', 'absent') },
    unknown: { on: to('absent', 'preparing', 'booting', 'running', 'paused', 'stopping', 'stopped', 'backoff', 'failed', 'removing') },
  },
});

export type MicroVMSnapshot = SnapshotFrom<typeof microvmMachine>;
export type MicroVMMachineEvent = EventFrom<typeof microvmMachine>;
