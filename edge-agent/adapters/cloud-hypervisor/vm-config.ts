/**
 * Translates the agent's neutral VmSpec into Cloud Hypervisor's VmConfig. Pure. Leaves checking of
 * files and of the host's memory to the caller; the VMM checks the rest at boot only.
 */
import type { VmDisk, VmSpec } from '../../ports/hypervisor.ts';
import type { components } from './gen/api.ts';
import { vmFiles } from './vm-files.ts';

export type VmConfig = components['schemas']['VmConfig'];

/** Paths of guests' disks and kernels are absolute; the serial log is relative to the VM directory. */
export function deriveVmConfig(spec: VmSpec): VmConfig {
  return {
    cpus: { boot_vcpus: spec.cpuCount, max_vcpus: spec.cpuMax },
    memory: { size: spec.memoryBytes },
    payload: derivePayload(spec),
    ...(spec.disks.length === 0 ? {} : { disks: spec.disks.map(deriveDisk) }),
    ...(spec.networks === undefined || spec.networks.length === 0 ? {} : { net: spec.networks.map(({ name, tap, mac }) => ({ id: `net-${name}`, tap, mac })) }),
    serial: spec.serialLog ? { mode: 'File', file: vmFiles.serialLog } : { mode: 'Null' },
    console: { mode: 'Off' },
    // The guest's panic becomes an event of its own, the only witness that tells it from a power-off.
    pvpanic: true,
  };
}

function deriveDisk({ name, path, readOnly, format }: VmDisk): NonNullable<VmConfig['disks']>[number] {
  return { id: diskId(name), path, readonly: readOnly, ...(format === undefined ? {} : { image_type: format === 'raw' ? ('Raw' as const) : ('Qcow2' as const) }) };
}

/** Device id of a disk. The VMM keeps ids that begin with two underscores for itself. */
export function diskId(name: string): string {
  return `disk-${name}`;
}

function derivePayload(spec: VmSpec): VmConfig['payload'] {
  if (spec.boot.kind === 'firmware') return { firmware: spec.boot.path };
  return {
    kernel: spec.boot.path,
    cmdline: spec.boot.cmdline,
    ...(spec.boot.initramfsPath === undefined ? {} : { initramfs: spec.boot.initramfsPath }),
  };
}
