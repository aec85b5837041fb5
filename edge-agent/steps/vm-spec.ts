/** The machine of one boot, derived from the desired state. Pure. */
import { AppError } from '#api/model/error-codes.ts';
import type { MicroVMId } from '#api/model/ids.ts';
import type { BootSource, DiskSpec, NetworkSpec } from '#api/model/microvm.ts';
import type { MicroVMRecord } from '../domain/microvm-record.ts';
import { tapName } from '../domain/tap-name.ts';
import type { VmDisk, VmNetwork, VmSpec } from '../ports/hypervisor.ts';
import type { MadeDisk } from '../ports/images.ts';
import type { GuestSize } from '../ports/isolation.ts';

/** No disk of a spec can have it: those are DNS labels. */
export const seedDiskName = 'cloud-init.seed';

/** @param seedPath where the disk of cloud-init lies, for a microVM that has one */
export function deriveVmSpec({ microvmId, desired }: MicroVMRecord, made: readonly MadeDisk[], seedPath?: string): VmSpec {
  if (desired === null) throw new AppError('INTERNAL', 'a microVM without a desired state is not started');
  const { cpuCount, cpuMax = cpuCount, memoryBytes, memoryMaxBytes, memoryShared, memoryHugepageBytes, boot, disks, networks, serialLog, serialInteractive, vsock, cloudInit } = desired;
  return {
    cpuCount,
    cpuMax,
    memoryBytes,
    // The VMM takes no room of no size.
    ...(memoryMaxBytes === undefined || memoryMaxBytes === memoryBytes ? {} : { memoryMaxBytes }),
    ...(memoryShared === undefined ? {} : { memoryShared }),
    ...(memoryHugepageBytes === undefined ? {} : { hugepageBytes: memoryHugepageBytes }),
    boot,
    disks: [...inBootOrder(disks, boot).map((disk) => deriveVmDisk(disk, made)), ...(cloudInit === undefined || seedPath === undefined ? [] : [placeSeed(seedPath)])],
    ...(networks === undefined ? {} : { networks: networks.map((network) => deriveVmNetwork(microvmId, network)) }),
    serialLog,
    ...(serialInteractive === true ? { serialInteractive } : {}),
    ...(vsock === undefined ? {} : { vsock }),
  };
}

/** What the limits of the VMM are made from. */
export function guestSize({ desired }: MicroVMRecord): GuestSize {
  if (desired === null) throw new AppError('INTERNAL', 'a microVM without a desired state is not started');
  const { memoryBytes, memoryMaxBytes = memoryBytes, cpuCount, cpuMax = cpuCount } = desired;
  return { memoryBytes: memoryMaxBytes, cpuCount: cpuMax };
}

/** After all others, so that it changes no name that a guest gives them. */
function placeSeed(path: string): VmDisk {
  return { name: seedDiskName, path, readOnly: true, format: 'raw' };
}

/** Firmware tries disks in the order in which it finds them. */
function inBootOrder(disks: readonly DiskSpec[], boot: BootSource): readonly DiskSpec[] {
  if (boot.kind !== 'firmware') return disks;
  return [...disks].sort((a, b) => (a.bootIndex ?? Infinity) - (b.bootIndex ?? Infinity) || 0);
}

/** @throws INTERNAL for a managed disk that was not made */
export function deriveVmDisk({ name, path, readOnly, managed, rateLimit }: DiskSpec, made: readonly MadeDisk[]): VmDisk {
  const limited = rateLimit === undefined ? {} : { rateLimit };
  if (managed === undefined) return { name, path, readOnly, ...limited };
  const found = made.find((candidate) => candidate.name === name);
  if (found === undefined) throw new AppError('INTERNAL', `disk ${name} was not made before the VMM was to open it`);
  return { name, path: found.path, readOnly, format: found.format, ...limited };
}

export function deriveVmNetwork(microvmId: MicroVMId, { name, mac }: NetworkSpec): VmNetwork {
  return { name, tap: tapName(microvmId, name), mac };
}
