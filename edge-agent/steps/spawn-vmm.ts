/** Starts the VMM process, confined, or joins a start that is under way; never a second one (the port promises it). */
import { guestSize } from './vm-spec.ts';
import type { Step } from './step.ts';

export const spawnVmm: Step = {
  name: 'spawnVmm',
  faultStep: 'vmm.spawn',
  isNeeded: (view) => view.vmm.kind !== 'live',
  perform: async ({ hypervisor, directories, leases, isolation, within, record, signal }) => {
    // The guard knows of it before it exists.
    await leases.prepare(record);
    const guardDirectory = leases.guardDirectoryOf(record);
    const confinement = await within('vmm.confine', () => isolation.prepare(record.microvmId, guestSize(record)));
    await hypervisor.spawn(directories.path(record.microvmId), signal, { confinement, ...(guardDirectory === undefined ? {} : { guardDirectory }) });
  },
  verify: (view) => view.vmm.kind === 'live',
};
