/** Kills a VMM that did not end in order. */
import type { Step } from './step.ts';

export const killVmm: Step = {
  name: 'killVmm',
  isNeeded: (view) => view.vmm.kind === 'live',
  perform: ({ hypervisor, directories, record, signal }) => hypervisor.kill(directories.path(record.microvmId), signal),
  verify: (view) => view.vmm.kind !== 'live',
};
