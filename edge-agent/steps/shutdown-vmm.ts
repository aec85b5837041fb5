/** Ends guest and VMM in order and waits until the process is gone. */
import type { Step } from './step.ts';

export const shutdownVmm: Step = {
  name: 'shutdownVmm',
  faultStep: 'vmm.shutdown',
  isNeeded: (view) => view.vmm.kind === 'live',
  perform: ({ hypervisor, directories, record, signal }) => hypervisor.shutdownVmm(directories.path(record.microvmId), signal),
  verify: (view) => view.vmm.kind !== 'live',
};
