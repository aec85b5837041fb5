/** Starts the VMM process, or joins a start that is under way; never a second one (the port promises it). */
import type { Step } from './step.ts';

export const spawnVmm: Step = {
  name: 'spawnVmm',
  faultStep: 'vmm.spawn',
  isNeeded: (view) => view.vmm.kind !== 'live',
  perform: async ({ hypervisor, directories, leases, record, signal }) => {
    // The guard knows of it before it exists.
    await leases.prepare(record);
    const guardDirectory = leases.guardDirectoryOf(record);
    await hypervisor.spawn(directories.path(record.microvmId), signal, guardDirectory === undefined ? {} : { guardDirectory });
  },
  verify: (view) => view.vmm.kind === 'live',
};
