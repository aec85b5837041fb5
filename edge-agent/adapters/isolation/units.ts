/**
 * A VMM as a transient service of systemd: what its unit is called and may have. The unit runs the same reaper as
 * without systemd (it records pid, start time and end in files, which an agent that was away still finds), so a unit
 * gives limits, a place in `systemctl status`, and a life that no restart or removal of the agent's own unit ends.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { MicroVMId } from '#api/model/ids.ts';
import type { GuestSize, VmmUnit } from '../../ports/isolation.ts';
import { oomFile, processesMax, type CgroupHost } from './cgroup-host.ts';
import { memoryLimitBytes } from './cgroups.ts';

export const unitSlice = 'nkudo.slice';
const defaultWeight = 100;
const weightMax = 10_000;
/** The reaper is a shell, and a guarded VMM has a watcher. */
const reaperBytes = 8 * 2 ** 20;

/** Source: sd_booted(3). */
export function hasSystemd(): boolean {
  return existsSync('/run/systemd/system');
}

export function unitName(microvmId: MicroVMId): string {
  return `nkudo-vmm-${microvmId}.service`;
}

/** Users and privileges are left to the VMM's own command: the reaper beside it writes what the VMM must not. */
export function unitOf(microvmId: MicroVMId, size: GuestSize): VmmUnit {
  return {
    name: unitName(microvmId),
    properties: [
      'Type=exec',
      `Slice=${unitSlice}`,
      `Description=n-kudo microVM ${microvmId}`,
      // Also one that failed is forgotten: how it ended is in its record, and its name is free again.
      'CollectMode=inactive-or-failed',
      // Whoever stops the unit asks the VMM too, which ends in order at SIGTERM; the reaper outlives it to record that.
      'KillMode=control-group',
      'TimeoutStopSec=10s',
      'OOMPolicy=continue',
      `MemoryMax=${memoryLimitBytes(size) + reaperBytes}`,
      `CPUWeight=${Math.min(weightMax, size.cpuCount * defaultWeight)}`,
      `CPUQuota=${(size.cpuCount + 1) * 100}%`,
      `TasksMax=${processesMax(size.cpuCount)}`,
    ],
  };
}

/**
 * Where the kernel counts kills in the unit's group.
 * The groups are those of process 1, whose own is `init.scope`, beside which the slices lie
 */
export function unitOomFiles({ v1, v2 }: CgroupHost, microvmId: MicroVMId): readonly string[] {
  const inside = join(unitSlice, unitName(microvmId));
  if (v1.memory !== undefined) return [join(v1.memory.replace(/\/init\.scope$/, ''), inside, oomFile('v1'))];
  return v2 === undefined ? [] : [join(v2, inside, oomFile('v2'))];
}
