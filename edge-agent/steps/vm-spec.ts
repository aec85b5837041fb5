/** The machine of one boot, derived from the desired state. Pure. */
import { AppError } from '#api/model/error-codes.ts';
import type { DiskSpec } from '#api/model/microvm.ts';
import type { MicroVMRecord } from '../domain/microvm-record.ts';
import { tapName } from '../domain/tap-name.ts';
import type { VmDisk, VmSpec } from '../ports/hypervisor.ts';
import type { MadeDisk } from '../ports/images.ts';
import type { GuestSize } from '../ports/isolation.ts';

/** No disk of a spec can have it: those are DNS labels. */
export const seedDiskName = 'cloud-init.seed';

/** @param seedPath where the disk of cloud-init lies, for a microVM that has one */
export function deriveVmSpec({ microvmId, desired }: MicroVMRecord, made: readonly MadeDisk[], seedPath?: string): VmSpec {
  if (desired === null) throw new AppError('INTERNAL', 'a microVM without a desired state is not started');
  const { cpuCount, memoryBytes, boot, disks, networks, serialLog, cloudInit } = desired;
  return {
    cpuCount,
    cpuMax: cpuCount,
    memoryBytes,
    boot,
    disks: [...disks.map((disk) => placeDisk(disk, made)), ...(cloudInit === undefined || seedPath === undefined ? [] : [placeSeed(seedPath)])],
    ...(networks === undefined ? {} : { networks: networks.map(({ name, mac }) => ({ name, tap: tapName(microvmId, name), mac })) }),
    serialLog,
  };
}

/** What the limits of the VMM are made from. */
export function guestSize({ desired }: MicroVMRecord): GuestSize {
  if (desired === null) throw new AppError('INTERNAL', 'a microVM without a desired state is not started');
  return { memoryBytes: desired.memoryBytes, cpuCount: desired.cpuCount };
}

/** After all others, so that it changes no name that a guest gives them. */
function placeSeed(path: string): VmDisk {
  return { name: seedDiskName, path, readOnly: true, format: 'raw' };
}

function placeDisk({ name, path, readOnly, managed }: DiskSpec, made: readonly MadeDisk[]): VmDisk {
  if (managed === undefined) return { name, path, readOnly };
  const found = made.find((candidate) => candidate.name === name);
  if (found === undefined) throw new AppError('INTERNAL', `disk ${name} was not made before the VMM was to open it`);
  return { name, path: found.path, readOnly, format: found.format };
}
