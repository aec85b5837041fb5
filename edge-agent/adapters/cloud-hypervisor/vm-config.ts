/**
 * Translates the agent's neutral VmSpec into Cloud Hypervisor's VmConfig. Pure. Leaves checking of
 * files and of the host's memory to the caller; the VMM checks the rest at boot only.
 */
import { isAbsolute, join } from 'node:path';
import type { RateLimit } from '#api/model/microvm.ts';
import type { VmDisk, VmNetwork, VmSpec } from '../../ports/hypervisor.ts';
import type { components } from './gen/api.ts';

export type VmConfig = components['schemas']['VmConfig'];

export interface VmPlace {
  readonly vmDirectory: string;
  /** These are relative to the directory. */
  readonly serialLog: string;
  readonly serialSocket: string;
  readonly vsockSocket: string;
  /** Absent: the VMM is not to confine itself. */
  readonly landlock?: readonly LandlockRule[];
}

export interface LandlockRule {
  /** Absolute, or relative to the VM directory. It exists. */
  readonly path: string;
  readonly access: 'r' | 'rw';
}

/** Paths inside the VM directory become relative to it, since the VMM may not pass through those above. */
export function deriveVmConfig(spec: VmSpec, place: VmPlace): VmConfig {
  const { vmDirectory, landlock } = place;
  const inside = (path: string): string => relativePath(vmDirectory, path);
  return {
    cpus: { boot_vcpus: spec.cpuCount, max_vcpus: spec.cpuMax },
    memory: deriveMemory(spec),
    payload: derivePayload(spec, inside),
    ...(spec.disks.length === 0 ? {} : { disks: spec.disks.map((disk) => deriveDisk({ ...disk, path: inside(disk.path) })) }),
    ...(spec.networks === undefined || spec.networks.length === 0 ? {} : { net: spec.networks.map(deriveNet) }),
    serial: deriveSerial(spec, place),
    ...(spec.vsock === undefined ? {} : { vsock: { id: 'vsock', cid: spec.vsock.cid, socket: place.vsockSocket } }),
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

/** virtio-mem: memory comes and goes, and the VMM says how much of it the guest has taken. With ACPI it only comes, unseen. */
function deriveMemory({ memoryBytes, memoryMaxBytes, memoryShared, hugepageBytes }: VmSpec): components['schemas']['MemoryConfig'] {
  return {
    size: memoryBytes,
    ...(memoryMaxBytes === undefined ? {} : { hotplug_method: 'VirtioMem', hotplug_size: memoryMaxBytes - memoryBytes }),
    ...(memoryShared === true ? { shared: true } : {}),
    ...(hugepageBytes === undefined ? {} : { hugepages: true, hugepage_size: hugepageBytes }),
  };
}

export function deriveDisk({ name, path, readOnly, format, rateLimit }: VmDisk): components['schemas']['DiskConfig'] {
  return {
    id: diskId(name),
    path,
    readonly: readOnly,
    ...(format === undefined ? {} : { image_type: format === 'raw' ? ('Raw' as const) : ('Qcow2' as const) }),
    ...(rateLimit === undefined ? {} : { rate_limiter_config: deriveRateLimit(rateLimit) }),
  };
}

/** A bucket holds what flows in one second, so that is the longest burst. */
function deriveRateLimit({ bytesPerSecond, opsPerSecond }: RateLimit): components['schemas']['RateLimiterConfig'] {
  const bucket = (size: number) => ({ size, refill_time: 1_000 });
  return { ...(bytesPerSecond === undefined ? {} : { bandwidth: bucket(bytesPerSecond) }), ...(opsPerSecond === undefined ? {} : { ops: bucket(opsPerSecond) }) };
}

export function deriveNet({ name, tap, mac }: VmNetwork): components['schemas']['NetConfig'] {
  return { id: networkId(name), tap, mac };
}

const diskPrefix = 'disk-';
const networkPrefix = 'net-';

/** Device id of a disk. The VMM keeps ids that begin with two underscores for itself. */
export function diskId(name: string): string {
  return `${diskPrefix}${name}`;
}

export function networkId(name: string): string {
  return `${networkPrefix}${name}`;
}

/** The disk or card of a device id; null for a device that no spec named. */
export function deviceOf(id: string): { readonly kind: 'disk' | 'network'; readonly name: string } | null {
  if (id.startsWith(diskPrefix)) return { kind: 'disk', name: id.slice(diskPrefix.length) };
  return id.startsWith(networkPrefix) ? { kind: 'network', name: id.slice(networkPrefix.length) } : null;
}

function deriveSerial({ serialLog, serialInteractive }: VmSpec, place: VmPlace): NonNullable<VmConfig['serial']> {
  if (serialInteractive === true) return { mode: 'Socket', socket: place.serialSocket };
  return serialLog ? { mode: 'File', file: place.serialLog } : { mode: 'Null' };
}

function derivePayload({ boot }: VmSpec, inside: (path: string) => string): VmConfig['payload'] {
  if (boot.kind === 'firmware') return { firmware: inside(boot.path) };
  return {
    kernel: inside(boot.path),
    cmdline: boot.cmdline,
    ...(boot.initramfsPath === undefined ? {} : { initramfs: inside(boot.initramfsPath) }),
  };
}
