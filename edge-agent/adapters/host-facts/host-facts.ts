/** Facts about the machine from /proc, /etc and the hypervisor's own answer. */
import { readFile, statfs } from 'node:fs/promises';
import { arch, cpus, hostname, release, totalmem } from 'node:os';
import { isAppError } from '#api/model/error-codes.ts';
import type { HardwareFacts, HypervisorFacts, IsolationFacts } from '#api/model/host.ts';
import type { HostFactsSource } from '../../ports/host-facts.ts';
import type { Hypervisor } from '../../ports/hypervisor.ts';
import { readMachine, tellFree, tellSkew } from './hardware.ts';
import { systemTree } from './system-tree.ts';

const architectures: Readonly<Record<string, string>> = { x64: 'x86_64', arm64: 'aarch64' };

export interface HostFactsOptions {
  readonly hypervisor: Hypervisor;
  readonly agentVersion: string;
  readonly isolation?: IsolationFacts;
  /** Its file system is told of; absent: the hardware is left out. */
  readonly stateDirectory?: string;
  /** Wall clock minus that of the control plane; undefined before it is known. */
  readonly clockSkewMs?: () => number | undefined;
  /** Why no VMM can be started although there is one, empty: nothing stands against it. */
  readonly problem?: () => string;
}

export function createHostFacts(options: HostFactsOptions): HostFactsSource {
  let toldFreeBytes: number | undefined;

  async function readHardware(stateDirectory: string): Promise<HardwareFacts> {
    const { bavail, blocks, bsize } = await statfs(stateDirectory).catch(() => ({ bavail: 0, blocks: 0, bsize: 0 }));
    toldFreeBytes = tellFree(blocks * bsize, bavail * bsize, toldFreeBytes);
    return { ...readMachine(systemTree), stateTotalBytes: blocks * bsize, stateFreeBytes: toldFreeBytes };
  }

  return {
    async read(signal) {
      const processors = cpus();
      const { facts, hasKvm, landlock } = await readHypervisor(options.hypervisor, signal);
      return {
        hostName: hostname(),
        machineId: await readText('/etc/machine-id'),
        bootId: await readText('/proc/sys/kernel/random/boot_id'),
        kernel: release(),
        architecture: architectures[arch()] ?? arch(),
        cpuModel: processors[0]?.model.trim() ?? '',
        cpuCount: Math.max(1, processors.length),
        memoryBytes: totalmem(),
        hasKvm,
        agentVersion: options.agentVersion,
        hypervisor: { ...facts, problem: facts.problem === '' ? (options.problem?.() ?? '') : facts.problem },
        ...(options.stateDirectory === undefined ? {} : { hardware: await readHardware(options.stateDirectory) }),
        ...skewOf(options.clockSkewMs?.()),
        // A VMM that was tried knows better than the list of the kernel.
        ...(options.isolation === undefined ? {} : { isolation: { ...options.isolation, landlock: landlock === 'unknown' ? options.isolation.landlock : landlock } }),
      };
    },
  };
}

function skewOf(skewMs: number | undefined): { clockSkewMs?: number } {
  const told = tellSkew(skewMs);
  return told === undefined ? {} : { clockSkewMs: told };
}

async function readHypervisor(hypervisor: Hypervisor, signal: AbortSignal): Promise<{ facts: HypervisorFacts; hasKvm: boolean; landlock: IsolationFacts['landlock'] }> {
  try {
    const { version, isKvmUsable, landlock } = await hypervisor.probe(signal);
    const kind = /simulat/i.test(version) ? 'simulated' : 'cloud-hypervisor';
    return { facts: { kind, version, problem: '' }, hasKvm: isKvmUsable, landlock };
  } catch (error) {
    // A host whose disk or hypervisor is stuck is a host with a problem, not a reason to end the agent.
    if (signal.aborted) return { facts: { kind: 'none', version: '', problem: 'the hypervisor did not tell its version in time' }, hasKvm: false, landlock: 'unknown' };
    if (!isAppError(error)) throw error;
    return { facts: { kind: 'none', version: '', problem: error.message.slice(0, 1024) }, hasKvm: false, landlock: 'unknown' };
  }
}

async function readText(path: string): Promise<string> {
  // A machine without such a file is described without it.
  return readFile(path, 'utf8').then(
    (text) => text.trim(),
    () => '',
  );
}
