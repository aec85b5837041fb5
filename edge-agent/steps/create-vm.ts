/** Gives the VMM the configuration of this incarnation, in place of any other that it holds. */
import { creationKey } from '../domain/diff.ts';
import { deriveVmSpec } from './vm-spec.ts';
import type { Step } from './step.ts';

export const createVm: Step = {
  name: 'createVm',
  faultStep: 'vmm.create',
  isNeeded: (view) => view.vmm.kind === 'live' && (view.vmm.api === 'none' || view.attempt.createdFor !== creationKey(view.record)),
  perform: ({ hypervisor, directories, isolation, seeds, record, madeDisks, signal }) =>
    hypervisor.create(directories.path(record.microvmId), deriveVmSpec(record, madeDisks, seeds.path(record.microvmId)), signal, { user: isolation.userOf(record.microvmId) }),
  verify: (view) => view.vmm.kind === 'live' && view.vmm.api !== 'none',
};
