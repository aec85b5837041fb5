/** The machine of one boot, derived from the desired state. Pure. */
import { AppError } from '#api/model/error-codes.ts';
import type { MicroVMRecord } from '../domain/microvm-record.ts';
import { tapName } from '../domain/tap-name.ts';
import type { VmSpec } from '../ports/hypervisor.ts';

export function deriveVmSpec({ microvmId, desired }: MicroVMRecord): VmSpec {
  if (desired === null) throw new AppError('INTERNAL', 'a microVM without a desired state is not started');
  const { cpuCount, memoryBytes, boot, disks, networks, serialLog } = desired;
  return {
    cpuCount,
    cpuMax: cpuCount,
    memoryBytes,
    boot,
    disks,
    ...(networks === undefined ? {} : { networks: networks.map(({ name, mac }) => ({ name, tap: tapName(microvmId, name), mac })) }),
    serialLog,
  };
}
