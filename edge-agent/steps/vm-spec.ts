/** The machine of one boot, derived from the desired state. Pure. */
import { AppError } from '#api/model/error-codes.ts';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import type { VmSpec } from '../ports/hypervisor.ts';

export function deriveVmSpec(desired: DesiredMicroVM | null): VmSpec {
  if (desired === null) throw new AppError('INTERNAL', 'a microVM without a desired state is not started');
  const { cpuCount, memoryBytes, boot, disks, serialLog } = desired;
  return { cpuCount, cpuMax: cpuCount, memoryBytes, boot, disks, serialLog };
}
