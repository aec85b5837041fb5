/** Lets the processors of the guest go on. */
import type { Step } from './step.ts';

export const resumeVm: Step = {
  name: 'resumeVm',
  isNeeded: (view) => view.vmm.kind === 'live' && view.vmm.api === 'paused',
  perform: ({ hypervisor, directories, record, signal }) => hypervisor.resume(directories.path(record.microvmId), signal),
  verify: (view) => view.vmm.kind !== 'live' || view.vmm.api !== 'paused',
};
