/** Starts the VMM process, or joins a start that is under way; never a second one (the port promises it). */
import type { Step } from './step.ts';

export const spawnVmm: Step = {
  name: 'spawnVmm',
  faultStep: 'vmm.spawn',
  isNeeded: (view) => view.vmm.kind !== 'live',
  perform: async ({ hypervisor, directories, record, signal }) => void (await hypervisor.spawn(directories.path(record.microvmId), signal)),
  verify: (view) => view.vmm.kind === 'live',
};
