/** Boots the guest. Not idempotent: after a refusal the start is abandoned and begun anew. */
import type { Step } from './step.ts';

export const bootVm: Step = {
  name: 'bootVm',
  faultStep: 'vmm.boot',
  isNeeded: (view) => view.vmm.kind === 'live' && view.vmm.api === 'created',
  perform: ({ hypervisor, directories, record, signal }) => hypervisor.boot(directories.path(record.microvmId), signal),
  verify: (view) => view.vmm.kind === 'live' && (view.vmm.api === 'running' || view.vmm.api === 'paused'),
};
