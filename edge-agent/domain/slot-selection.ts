/**
 * Which version of the agent the launcher starts: one line, shared with `packaging/launcher.sh`, which explains the
 * fields and is never updated with the agent. So its format stays as it is; another one needs another first field.
 */

export type Slot = 'base' | 'a' | 'b';
/** Before it counts as ready: `start`: it adopted its microVMs. `session`: and it talked to the control plane. */
export type TrialNeeds = 'start' | 'session';

export interface Trial {
  readonly slot: Slot;
  readonly needs: TrialNeeds;
  /** Of the boot clock, from its first start. */
  readonly deadlineSeconds: number;
}

export interface SlotSelection {
  readonly running: Slot;
  readonly previous: Slot | null;
  readonly trial: Trial | null;
  /** Version of the package when it was looked at last; `-` when there is none. */
  readonly packaged: string;
}

const noSelection: SlotSelection = { running: 'base', previous: null, trial: null, packaged: '-' };
const format = '2';

/** A line that is not right counts as none, as the launcher takes it. */
export function parseSelection(line: string): SlotSelection {
  const fields = line.trim().split(/\s+/);
  const [version, running, previous, trial, needs, deadline = '', , , , , packaged = '-'] = fields;
  const current = slotOf(running);
  if (fields.length !== 11 || version !== format || current === null || !/^\d+$/.test(deadline)) return noSelection;
  const tried = slotOf(trial);
  return {
    running: current,
    previous: slotOf(previous),
    trial: tried === null ? null : { slot: tried, needs: needs === 'session' ? 'session' : 'start', deadlineSeconds: Number(deadline) },
    packaged,
  };
}

/** With counters at their beginning. */
export function encodeSelection({ running, previous, trial, packaged }: SlotSelection): string {
  return [format, running, previous ?? '-', trial?.slot ?? '-', trial?.needs ?? '-', trial?.deadlineSeconds ?? 0, 0, '-', 0, 0, packaged].join(' ');
}

/** Where the next version goes: never over one that runs or is kept to go back to. */
export function freeSlot({ running, previous }: SlotSelection): 'a' | 'b' {
  if (running !== 'a' && previous !== 'a') return 'a';
  return running === 'b' ? 'a' : 'b';
}

function slotOf(text: string | undefined): Slot | null {
  return text === 'base' || text === 'a' || text === 'b' ? text : null;
}
