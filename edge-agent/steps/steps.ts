/** All steps by name. A name without a step does not compile. */
import type { StepName } from '../domain/diff.ts';
import { bootVm } from './boot-vm.ts';
import { growDisk, plugDisk, plugNetwork, resizeCpus, resizeMemory, unplugDisk, unplugNetwork } from './change-machine.ts';
import { checkFiles } from './check-files.ts';
import { createVm } from './create-vm.ts';
import { ensureDisks } from './ensure-disks.ts';
import { ensureSeed } from './ensure-seed.ts';
import { ensureNetworks } from './ensure-networks.ts';
import { killVmm } from './kill-vmm.ts';
import { pauseVm } from './pause-vm.ts';
import { prepareDirectory } from './prepare-directory.ts';
import { pressPowerButton } from './press-power-button.ts';
import { removeDirectory } from './remove-directory.ts';
import { removeNetworks } from './remove-networks.ts';
import { resumeVm } from './resume-vm.ts';
import { shutdownVmm } from './shutdown-vmm.ts';
import { spawnVmm } from './spawn-vmm.ts';
import type { Step } from './step.ts';
import { writeIdentity } from './write-identity.ts';

export const steps: Readonly<Record<StepName, Step>> = {
  prepareDirectory,
  writeIdentity,
  checkFiles,
  ensureDisks,
  ensureSeed,
  ensureNetworks,
  spawnVmm,
  createVm,
  bootVm,
  pauseVm,
  resumeVm,
  resizeCpus,
  resizeMemory,
  plugDisk,
  unplugDisk,
  growDisk,
  plugNetwork,
  unplugNetwork,
  pressPowerButton,
  shutdownVmm,
  killVmm,
  removeNetworks,
  removeDirectory,
};
