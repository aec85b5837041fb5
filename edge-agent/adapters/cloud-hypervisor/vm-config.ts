/**
 * Translates the agent's neutral VmSpec into Cloud Hypervisor's VmConfig. Pure. Leaves checking of
 * files and of the host's memory to the caller; the VMM checks the rest at boot only.
 */
import { isAbsolute, join } from 'node:path';
import type { VmDisk, VmSpec } from '../../ports/hypervisor.ts';
import type { components } from './gen/api.ts';

export type VmConfig = components['schemas']['VmConfig'];

export interface VmPlace {
  readonly vmDirectory: string;
  /** Relative to the directory. */
  readonly serialLog: string;
  /** Absent: the VMM is not to confine itself. */
  readonly landlock?: readonly LandlockRule[];
}

export interface LandlockRule {
  /** Absolute, or relative to the VM directory. It exists. */
  readonly path: string;
  readonly access: 'r' | 'rw';
}

/** Paths inside the VM directory become relative to it, since the VMM may not pass through those above. */
export function deriveVmConfig(spec: VmSpec, { vmDirectory, serialLog, landlock }: VmPlace): VmConfig {
  const inside = (path: string): string => relativePath(vmDirectory, path);
  return {
    cpus: { boot_vcpus: spec.cpuCount, max_vcpus: spec.cpuMax },
    memory: { size: spec.memoryBytes },
    payload: derivePayload(spec, inside),
    ...(spec.disks.length === 0 ? {} : { disks: spec.disks.map((disk) => deriveDisk({ ...disk, path: inside(disk.path) })) }),
    ...(spec.networks === undefined || spec.networks.length === 0 ? {} : { net: spec.networks.map(({ name, tap, mac }) => ({ id: `net-${name}`, tap, mac })) }),
    serial: spec.serialLog ? { mode: 'File', file: serialLog } : { mode: 'Null' },
    console: { mode: 'Off' },
    // The guest's panic becomes an event of its own, the only witness that tells it from a power-off.
    pvpanic: true,
    ...(landlock === undefined ? {} : { landlock_enable: true, landlock_rules: landlock.map((rule) => ({ ...rule })) }),
  };
}

/** As the VMM is told of a file: one outside its directory by the whole path. */
export function relativePath(vmDirectory: string, path: string): string {
  return path.startsWith(`${vmDirectory}/`) ? path.slice(vmDirectory.length + 1) : path;
}

/** The way back. */
export function absolutePath(vmDirectory: string, path: string): string {
  return isAbsolute(path) ? path : join(vmDirectory, path);
}

function deriveDisk({ name, path, readOnly, format }: VmDisk): NonNullable<VmConfig['disks']>[number] {
  return { id: diskId(name), path, readonly: readOnly, ...(format === undefined ? {} : { image_type: format === 'raw' ? ('Raw' as const) : ('Qcow2' as const) }) };
}

/** Device id of a disk. The VMM keeps ids that begin with two underscores for itself. */
export function diskId(name: string): string {
  return `disk-${name}`;
}

function derivePayload({ boot }: VmSpec, inside: (path: string) => string): VmConfig['payload'] {
  if (boot.kind === 'firmware') return { firmware: inside(boot.path) };
  return {
    kernel: inside(boot.path),
    cmdline: boot.cmdline,
    ...(boot.initramfsPath === undefined ? {} : { initramfs: inside(boot.initramfsPath) }),
  };
}
