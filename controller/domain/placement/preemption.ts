/**
 * Which microVMs of lower priority make room for one that fits nowhere. Victims keep no data on the host, and are
 * moved, not lost: their teardown is confirmed before anything takes their room.
 *
 * Invariants: pure and deterministic; a victim has a strictly lower priority; no victim is taken without need.
 */
import type { HostId } from '#api/model/ids.ts';
import type { BoundMicroVM, PlacementRequest } from './model.ts';
import { needOf, type HostEntry } from './site-index.ts';

export interface Room {
  readonly entry: HostEntry;
  /** Empty while the room of microVMs that leave already is enough. */
  readonly victims: readonly BoundMicroVM[];
}

interface Size {
  readonly cpus: number;
  readonly memoryBytes: number;
}

/** Of all hosts the one where the least is disturbed: nobody, else lower priorities, else fewer, else the first by name. */
export function findRoom(request: PlacementRequest, entries: readonly HostEntry[], keptOn: (hostId: HostId) => Size): Room | null {
  const need = needOf(request);
  let best: Room | null = null;
  for (const entry of entries) {
    const victims = victimsOn(entry, { request, need, kept: keptOn(entry.host.hostId) });
    if (victims !== null && (best === null || isBetter({ entry, victims }, best))) best = { entry, victims };
  }
  return best;
}

/** Null when there is no room even without all that may be moved. */
function victimsOn(entry: HostEntry, { request, need, kept }: { readonly request: PlacementRequest; readonly need: Size; readonly kept: Size }): readonly BoundMicroVM[] | null {
  let [cpus, memoryBytes] = [need.cpus - entry.freeCpus + kept.cpus, need.memoryBytes - entry.freeMemoryBytes + kept.memoryBytes];
  let leaving = 0;
  let [freedCpus, freedMemoryBytes] = [0, 0];
  for (const microvm of entry.bound.values()) {
    if (microvm.isLeaving) {
      leaving += 1;
      cpus -= microvm.cpus;
      memoryBytes -= microvm.memoryBytes;
    } else if (microvm.isMovable && microvm.priority < request.priority) {
      freedCpus += microvm.cpus;
      freedMemoryBytes += microvm.memoryBytes;
    }
  }
  if (cpus <= 0 && memoryBytes <= 0) return leaving > 0 ? [] : null;
  // All of them first; then each is spared that need not go, the most important first.
  cpus -= freedCpus;
  memoryBytes -= freedMemoryBytes;
  if (cpus > 0 || memoryBytes > 0) return null;
  const lower: BoundMicroVM[] = [];
  for (const microvm of entry.bound.values()) if (microvm.isMovable && !microvm.isLeaving && microvm.priority < request.priority) lower.push(microvm);
  const victims: BoundMicroVM[] = [];
  for (const microvm of lower.sort((left, right) => right.priority - left.priority || right.memoryBytes - left.memoryBytes || (left.microvmId < right.microvmId ? -1 : 1))) {
    if (cpus + microvm.cpus <= 0 && memoryBytes + microvm.memoryBytes <= 0) {
      cpus += microvm.cpus;
      memoryBytes += microvm.memoryBytes;
    } else victims.push(microvm);
  }
  return victims;
}

function isBetter(room: Room, than: Room): boolean {
  const highest = ({ victims }: Room): number => victims.reduce((most, { priority }) => Math.max(most, priority), -Infinity);
  const difference = highest(room) - highest(than) || room.victims.length - than.victims.length;
  if (difference !== 0 && !Number.isNaN(difference)) return difference < 0;
  return room.entry.host.name < than.entry.host.name;
}
