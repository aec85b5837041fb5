/** Pauses the processors of the guest. */
import type { Step } from './step.ts';

export const pauseVm: Step = {
  name: 'pauseVm',
  isNeeded: (view) => view.vmm.kind === 'live' && view.vmm.api === 'running',
  perform: ({ hypervisor, directories, record, signal }) => hypervisor.pause(directories.path(record.microvmId), signal),
  verify: (view) => view.vmm.kind !== 'live' || view.vmm.api !== 'running',
};
