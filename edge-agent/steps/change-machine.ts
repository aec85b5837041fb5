/**
 * Live changes of the machine of a running guest, one effect each. Each brings about the change of its
 * kind that the look asks for next, and returns when the VMM shows it, so that nothing is left to verify;
 * a guest that does not take part makes it fail, and it is tried again later.
 */
import { AppError } from '#api/model/error-codes.ts';
import type { EdgeFaultStep } from '../fault-points.ts';
import { compareMachine, seenMachine, type MachineChange } from '../domain/machine-change.ts';
import type { View } from '../domain/observed-state.ts';
import type { Step, StepContext } from './step.ts';
import { deriveVmDisk, deriveVmNetwork } from './vm-spec.ts';

type Kind = MachineChange['kind'];

/** The hypervisor ends each wait for a guest much earlier; with a deadline of its own the step ends early when the record changes. */
const deadlineMs = 120_000;

function findChange<K extends Kind>(view: View, kind: K): Extract<MachineChange, { readonly kind: K }> | undefined {
  const state = compareMachine(view.record, seenMachine(view.vmm));
  const found = state.kind === 'live' ? state.changes.find((change) => change.kind === kind) : undefined;
  return found as Extract<MachineChange, { readonly kind: K }> | undefined; // Its kind was compared.
}

function changeStep<K extends Kind>(kind: K, faultStep: EdgeFaultStep, effect: (change: Extract<MachineChange, { readonly kind: K }>, context: StepContext, directory: string) => Promise<void>): Step {
  return {
    name: kind,
    faultStep,
    deadlineMs,
    isNeeded: (view) => findChange(view, kind) !== undefined,
    perform: async (context) => {
      const change = findChange(context.view, kind);
      if (change !== undefined) await effect(change, context, context.directories.path(context.record.microvmId));
    },
    verify: () => true,
  };
}

export const resizeCpus = changeStep('resizeCpus', 'vmm.resizeCpus', ({ count }, { hypervisor, signal }, directory) => hypervisor.resizeCpus(directory, count, signal));
export const resizeMemory = changeStep('resizeMemory', 'vmm.resizeMemory', ({ bytes }, { hypervisor, signal }, directory) => hypervisor.resizeMemory(directory, bytes, signal));

export const plugDisk = changeStep('plugDisk', 'vmm.plugDisk', ({ name }, { hypervisor, isolation, record, madeDisks, signal }, directory) => {
  const disk = record.desired?.disks.find((candidate) => candidate.name === name);
  if (disk === undefined) throw new AppError('INTERNAL', `disk ${name} is to be plugged in and not desired`);
  return hypervisor.plugDisk(directory, deriveVmDisk(disk, madeDisks), signal, { user: isolation.userOf(record.microvmId) });
});
export const unplugDisk = changeStep('unplugDisk', 'vmm.unplugDisk', ({ name }, { hypervisor, signal }, directory) => hypervisor.unplug(directory, { kind: 'disk', name }, signal));
export const growDisk = changeStep('growDisk', 'vmm.growDisk', ({ name, bytes }, { hypervisor, signal }, directory) => hypervisor.growDisk(directory, name, bytes, signal));

export const plugNetwork = changeStep('plugNetwork', 'vmm.plugNetwork', ({ name }, { hypervisor, record, signal }, directory) => {
  const network = record.desired?.networks?.find((candidate) => candidate.name === name);
  if (network === undefined) throw new AppError('INTERNAL', `network ${name} is to be plugged in and not desired`);
  return hypervisor.plugNetwork(directory, deriveVmNetwork(record.microvmId, network), signal);
});
export const unplugNetwork = changeStep('unplugNetwork', 'vmm.unplugNetwork', ({ name }, { hypervisor, signal }, directory) => hypervisor.unplug(directory, { kind: 'network', name }, signal));
