/** The devices that a VMM opens by itself, /dev/kvm and /dev/net/tun, and how a user without rights may. */
import { chmodSync, chownSync, statSync } from 'node:fs';

export const vmmDevices = ['/dev/kvm', '/dev/net/tun'] as const;

const othersMayUse = 0o006;
const groupMayUse = 0o060;

/**
 * Makes sure that VMMs may open the device, and says which group they need for it: none where everybody may, the
 * group of the device where it has one, else `group`, to which the device is given. Only root:root devices are changed.
 * @returns null also for a device that does not exist, since there is nothing to open
 */
export function openDevice(path: string, group: number): number | null {
  const stats = statSync(path, { throwIfNoEntry: false });
  if (stats === undefined || !stats.isCharacterDevice() || (stats.mode & othersMayUse) === othersMayUse) return null;
  if (stats.gid !== 0 && (stats.mode & groupMayUse) === groupMayUse) return stats.gid;
  if (stats.gid === 0) chownSync(path, stats.uid, group);
  chmodSync(path, (stats.mode & 0o777) | groupMayUse);
  return stats.gid === 0 ? group : stats.gid;
}
