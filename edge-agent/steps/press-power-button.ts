/** Asks the guest to power off. Nobody can see whether it was asked, so it is tried once for each stop. */
import type { Step } from './step.ts';

export const pressPowerButton: Step = {
  name: 'pressPowerButton',
  faultStep: 'vmm.powerButton',
  isNeeded: (view) => view.attempt.mayPressButton && view.vmm.kind === 'live',
  perform: ({ hypervisor, directories, record, signal }) => hypervisor.powerButton(directories.path(record.microvmId), signal),
  verify: () => true,
};
