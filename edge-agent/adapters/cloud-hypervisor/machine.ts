/**
 * The machine of a running guest over the VMM's API: what it has, and changes of it that a guest takes
 * part in. Each change reads first and reads back, so that it can be repeated after any crash; what only
 * the guest can do is waited for as long as the deadline says, and no longer.
 */
import { readdir, readFile, stat } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { AppError } from '#api/model/error-codes.ts';
import type { Hypervisor, VmDevice, VmMachine } from '../../ports/hypervisor.ts';
import { apiGet, apiPut, type Answer, type CallOptions, type Refusal } from './api-client.ts';
import { isErrno } from '../system/errno.ts';
import type { components } from './gen/api.ts';
import { findDiskProblem, refusalError } from './refusal.ts';
import { handOverFile } from './hand-over.ts';
import { absolutePath, deriveDisk, deriveNet, deviceOf, diskId, networkId, relativePath } from './vm-config.ts';

type Info = components['schemas']['VmInfo'];

/** How often the VMM is asked while a guest is waited for, milliseconds. */
const pollMs = 25;
/** Removal of processors is under way: the VMM wants the guest to end it first. Since v46. */
const pendingStatus = 429;
/** Disks are whole sectors. */
const sectorBytes = 512;

export interface MachineOptions {
  readonly callOptions: (vmDirectory: string, signal: AbortSignal) => CallOptions;
  /** Longest wait for a guest, milliseconds. */
  readonly guestMs: number;
  readonly memoryBytesMax: number;
  /** @throws HYPERVISOR_FAILED without a live VMM */
  readonly pidOf: (vmDirectory: string, signal: AbortSignal) => Promise<number>;
}

export type MachineCalls = Pick<Hypervisor, 'resizeCpus' | 'resizeMemory' | 'plugDisk' | 'plugNetwork' | 'unplug' | 'growDisk'>;

export function createMachineCalls({ callOptions, guestMs, memoryBytesMax, pidOf }: MachineOptions): MachineCalls {
  async function look(vmDirectory: string, signal: AbortSignal): Promise<{ readonly info: Info; readonly machine: VmMachine }> {
    const answer = await apiGet('/vm.info', callOptions(vmDirectory, signal));
    if (!answer.ok) throw refusalError('vm.info', answer.refusal);
    return { info: answer.body, machine: await readMachine(answer.body, { pid: await pidOf(vmDirectory, signal), vmDirectory }) };
  }

  /** @throws GUEST_IGNORES_CHANGE with what `lacking` says at the end; null: it has come */
  async function awaitGuest(vmDirectory: string, signal: AbortSignal, lacking: (machine: VmMachine) => string | null): Promise<void> {
    const deadline = AbortSignal.timeout(guestMs);
    for (;;) {
      const words = lacking((await look(vmDirectory, signal)).machine);
      if (words === null) return;
      if (deadline.aborted) throw new AppError('GUEST_IGNORES_CHANGE', words);
      await delay(pollMs, undefined, { signal });
    }
  }

  async function resizeCpus(vmDirectory: string, count: number, signal: AbortSignal): Promise<void> {
    const answer = await apiPut('/vm.resize', { desired_vcpus: count }, callOptions(vmDirectory, signal));
    // An earlier removal that the guest has not ended stands in the way of another number; it may still end it.
    if (!answer.ok && answer.refusal.status !== pendingStatus) throw refusalError('vm.resize', answer.refusal);
    await awaitGuest(vmDirectory, signal, ({ cpusPresent }) =>
      answer.ok && cpusPresent === count ? null : `the guest has ${cpusPresent} processors and is to have ${count}: it has not let go of those that it was asked for`,
    );
  }

  async function resizeMemory(vmDirectory: string, bytes: number, signal: AbortSignal): Promise<void> {
    if (bytes > memoryBytesMax) throw new AppError('NOT_ENOUGH_MEMORY', `the microVM asks for ${bytes} bytes of memory, the host allows ${memoryBytesMax}`);
    const { machine } = await look(vmDirectory, signal);
    // The same size again is refused.
    if (machine.memoryBytes !== bytes) mustSucceed('vm.resize', await apiPut('/vm.resize', { desired_ram: bytes }, callOptions(vmDirectory, signal)));
    await awaitGuest(vmDirectory, signal, ({ memoryBytes, memoryPresentBytes }) =>
      memoryBytes === bytes && memoryPresentBytes === bytes ? null : `the guest has taken ${memoryPresentBytes / 2 ** 20} MiB of memory and is to have ${bytes / 2 ** 20} MiB`,
    );
  }

  async function plug(kind: 'disk' | 'network', name: string, vmDirectory: string, signal: AbortSignal, call: () => Promise<Answer<unknown>>): Promise<void> {
    const before = findDevice((await look(vmDirectory, signal)).machine, kind, name);
    if (before?.isLeaving === false) return;
    if (before !== undefined) throw new AppError('GUEST_IGNORES_CHANGE', `the guest has not let go of the earlier ${kind} ${name}`);
    const answer = await call();
    if (answer.ok) return;
    const after = findDevice((await look(vmDirectory, signal)).machine, kind, name);
    if (after?.isLeaving !== false) throw refusalError(kind === 'disk' ? 'vm.add-disk' : 'vm.add-net', answer.refusal);
  }

  return {
    resizeCpus,
    resizeMemory,

    async plugDisk(vmDirectory, disk, signal, { user = null } = {}) {
      const problem = await findDiskProblem(disk);
      if (problem !== null) throw problem;
      if (user !== null) handOverFile(vmDirectory, disk.path, disk.readOnly, user.userId);
      const config = deriveDisk({ ...disk, path: relativePath(vmDirectory, disk.path) });
      await plug('disk', disk.name, vmDirectory, signal, () => apiPut('/vm.add-disk', config, callOptions(vmDirectory, signal)));
    },

    plugNetwork: (vmDirectory, network, signal) => plug('network', network.name, vmDirectory, signal, () => apiPut('/vm.add-net', deriveNet(network), callOptions(vmDirectory, signal))),

    async unplug(vmDirectory, { kind, name }, signal) {
      if (findDevice((await look(vmDirectory, signal)).machine, kind, name) === undefined) return;
      const id = kind === 'disk' ? diskId(name) : networkId(name);
      // Asked for again when it was before: a guest that was not ready then may be now.
      const answer = await apiPut('/vm.remove-device', { id }, callOptions(vmDirectory, signal));
      const refusal: Refusal | null = answer.ok ? null : answer.refusal;
      if (refusal !== null && findDevice((await look(vmDirectory, signal)).machine, kind, name) !== undefined) throw refusalError('vm.remove-device', refusal);
      await awaitGuest(vmDirectory, signal, (machine) => (findDevice(machine, kind, name) === undefined ? null : `the guest has not let go of ${kind} ${name}`));
    },

    async growDisk(vmDirectory, name, bytes, signal) {
      const { info, machine } = await look(vmDirectory, signal);
      const size = Math.ceil(bytes / sectorBytes) * sectorBytes;
      const disk = findDevice(machine, 'disk', name);
      if (disk === undefined) throw new AppError('HYPERVISOR_FAILED', `the guest has no disk ${name} to grow`);
      if ((disk.fileBytes ?? 0) >= size) return;
      const config = (info.config.disks ?? []).find(({ id }) => id === diskId(name));
      if (config?.image_type !== 'Raw') throw new AppError('IMAGE_REFUSED', `disk ${name} is no raw disk and can not be grown`);
      mustSucceed('vm.resize-disk', await apiPut('/vm.resize-disk', { id: diskId(name), desired_size: size }, callOptions(vmDirectory, signal)));
    },
  };
}

function mustSucceed(call: string, answer: Answer<unknown>): void {
  if (!answer.ok) throw refusalError(call, answer.refusal);
}

function findDevice(machine: VmMachine, kind: 'disk' | 'network', name: string): VmDevice | undefined {
  return (kind === 'disk' ? machine.disks : machine.networks).find((device) => device.name === name);
}

/** What vm.info of a running or paused guest says, with what the process and the files say beside it. */
export async function readMachine({ config, memory_actual_size, device_tree = {} }: Info, { pid, vmDirectory }: { readonly pid: number; readonly vmDirectory: string }): Promise<VmMachine> {
  const cpuCount = config.cpus?.boot_vcpus ?? 1;
  const memoryBootBytes = config.memory?.size ?? 0;
  const plugged = [...(config.disks ?? []), ...(config.net ?? [])].flatMap(({ id }) => (id === undefined ? [] : [id]));
  const leaving = Object.keys(device_tree).filter((id) => !plugged.includes(id));
  const ofKind = (kind: 'disk' | 'network'): readonly (VmDevice & { readonly id: string })[] =>
    [...plugged.map((id) => ({ id, isLeaving: false })), ...leaving.map((id) => ({ id, isLeaving: true }))].flatMap(({ id, isLeaving }) => {
      const device = deviceOf(id);
      return device?.kind === kind ? [{ id, name: device.name, isLeaving }] : [];
    });
  const disks = ofKind('disk').map(async ({ id, name, isLeaving }): Promise<VmDevice> => {
    const path = (config.disks ?? []).find((disk) => disk.id === id)?.path;
    const fileBytes = path === undefined ? null : await sizeOf(absolutePath(vmDirectory, path));
    return { name, isLeaving, ...(fileBytes === null ? {} : { fileBytes }) };
  });
  return {
    cpuCount,
    cpusPresent: (config.cpus?.max_vcpus ?? 1) > 1 ? await countProcessors(pid, cpuCount) : cpuCount,
    memoryBytes: memoryBootBytes + (config.memory?.hotplugged_size ?? 0),
    memoryPresentBytes: memory_actual_size ?? memoryBootBytes,
    memoryBootBytes,
    disks: await Promise.all(disks),
    networks: ofKind('network').map(({ name, isLeaving }) => ({ name, isLeaving })),
    isShutIn: config.landlock_enable === true,
  };
}

/**
 * Each processor that the guest has is a thread of the VMM named vcpu<n>; it ends when the guest lets go of it, while
 * vm.info shows the number that was asked for at once. Source: cloud-hypervisor vmm/src/cpu.rs, v53 and v54.
 * @param otherwise for a process that ended meanwhile, or hides its threads
 */
async function countProcessors(pid: number, otherwise: number): Promise<number> {
  try {
    const threads = await readdir(`/proc/${pid}/task`);
    const names = await Promise.all(threads.map((thread) => readFile(`/proc/${pid}/task/${thread}/comm`, 'utf8').catch(() => '')));
    const count = names.filter((name) => /^vcpu\d+\s*$/.test(name)).length;
    return count === 0 ? otherwise : count;
  } catch (error) {
    if (isErrno(error, 'ENOENT') || isErrno(error, 'EACCES')) return otherwise;
    throw error;
  }
}

async function sizeOf(path: string): Promise<number | null> {
  try {
    const found = await stat(path);
    return found.isFile() ? found.size : null;
  } catch {
    return null; // Removed under the guest, or none of ours to look at.
  }
}
