/** The facts that a MicroVM's status is derived from, and what conditions and fields both need of them. Pure. */
import type { MicroVMObservation } from '#api/model/microvm.ts';
import type { MicroVM } from '#crds/gen/microvm.ts';
import type { HostSilence } from '#controller/domain/silence.ts';
import type { MicroVMRecord } from '#controller/ports/microvm-store.ts';
import type { ReplacementFinding } from '../replacement/finding.ts';
import type { EvictionFinding, UpdateFinding } from './findings.ts';
import type { Obstacle } from './scope.ts';

export interface MicroVMFacts {
  readonly record: MicroVMRecord | null;
  readonly obstacle: Obstacle | null;
  /** Absent: replacement is not asked for. */
  readonly replacement?: ReplacementFinding | null;
  /** Absent: its host is not being emptied. */
  readonly eviction?: EvictionFinding | null;
  /** Why its deletion is held; absent: it is not. */
  readonly hold?: string | null;
  /** What is wrong with Secrets of which the host has the values already; absent: nothing. */
  readonly secretNote?: string | null;
  /** Absent: no update waits. */
  readonly update?: UpdateFinding | null;
  /** Of the host that it is bound to; null while there is none. */
  readonly silence: HostSilence | null;
  readonly nowMs: number;
}

/** What the conditions are derived from. */
export interface MicroVMView {
  readonly object: MicroVM;
  readonly record: MicroVMRecord | null;
  readonly obstacle: Obstacle | null;
  readonly replacement: ReplacementFinding | null;
  readonly eviction: EvictionFinding | null;
  readonly hold: string | null;
  readonly secretNote: string | null;
  readonly update: UpdateFinding | null;
  /** Of the present binding; one under another epoch says nothing about this one. */
  readonly observation: MicroVMObservation | null;
  readonly isHeard: boolean;
  readonly lastBeatAtMs: number | null;
}

export function createView(object: MicroVM, { record, obstacle, replacement, eviction, hold, secretNote, update, silence }: MicroVMFacts): MicroVMView {
  const observation = record?.observation ?? null;
  const isOfBinding = observation !== null && observation.epoch === record?.binding?.epoch;
  return {
    object,
    record,
    obstacle,
    replacement: replacement ?? null,
    eviction: eviction ?? null,
    hold: hold ?? null,
    secretNote: secretNote ?? null,
    update: update ?? null,
    observation: isOfBinding ? observation : null,
    isHeard: isHostHeard(object, silence),
    lastBeatAtMs: silence?.lastBeatAtMs ?? null,
  };
}

/** While it is not decided yet, what was shown last stays: a new leader flips nothing. */
function isHostHeard(object: MicroVM, silence: HostSilence | null): boolean {
  if (silence === null) return false;
  if (silence.reachability !== 'undecided') return silence.reachability === 'online';
  const shown = object.status?.conditions?.find(({ type }) => type === 'Reachable');
  return shown?.reason !== 'HostSilent';
}

/** True while the host makes it for the first time: the next lasting state is moments away. */
export function isUnderWay(observation: MicroVMObservation | null): boolean {
  if (observation === null) return true;
  if (observation.problem !== undefined) return false;
  // A later boot is a restart of something that stands already.
  const isFirstBoot = observation.state === 'booting' && observation.restarts === 0 && observation.lastExit === undefined;
  return isFirstBoot || observation.state === 'absent' || observation.state === 'preparing';
}
