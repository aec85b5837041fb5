/** Removes the control groups of microVMs whose VMMs a test has killed, as an agent would that is not there any more. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

/** A process that was killed is in its group for a moment longer. */
const tries = 200;
const pauseMs = 10;

export async function removeControlGroups(stateDirectory: string): Promise<void> {
  const vms = join(stateDirectory, 'vms');
  if (!existsSync(vms)) return;
  for (const name of readdirSync(vms)) {
    const list = join(vms, name, 'vmm.cgroups');
    if (!existsSync(list)) continue;
    for (const group of readFileSync(list, 'utf8').split('\n').filter((line) => line !== '')) await removeGroup(group);
  }
}

/** One that stays is of no harm to a test, and left to whoever looks at the machine. */
async function removeGroup(group: string): Promise<void> {
  for (let count = 0; count < tries && existsSync(group); count += 1) {
    try {
      return await rmdir(group);
    } catch {
      await delay(pauseMs);
    }
  }
}

/** Directories of control groups of a microVM, wherever on this machine they are; they carry its id. */
export function controlGroupsOf(microvmId: string, below = '/sys/fs/cgroup'): readonly string[] {
  if (!existsSync(below)) return [];
  return readdirSync(below, { withFileTypes: true }).flatMap((entry) => {
    if (!entry.isDirectory()) return [];
    const path = join(below, entry.name);
    return entry.name.includes(microvmId) ? [path] : controlGroupsOf(microvmId, path);
  });
}
