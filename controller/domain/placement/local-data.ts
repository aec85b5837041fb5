/** Whether a microVM keeps data on its host that it would lose on another. Pure. */
import type { MicroVMSpec } from '#crds/gen/microvm.ts';

/** A disk that it may write and that stays: Persistent, or a file of the host that is not readOnly. */
export function hasLocalData({ disks = [] }: Pick<MicroVMSpec, 'disks'>): boolean {
  return disks.some(({ persistence, path, readOnly }) => persistence === 'Persistent' || (path !== undefined && readOnly !== true && persistence !== 'Ephemeral'));
}
