/**
 * Which control groups this host has and where those of VMMs go: version 2, version 1, or both at once. Pure.
 * Groups are made beside the agent's own or below it, so that a limit on agent and VMMs together goes on holding.
 */

export type Controller = 'memory' | 'cpu' | 'pids';
export const controllers: readonly Controller[] = ['memory', 'cpu', 'pids'];

export type CgroupLayout = 'v2' | 'v1' | 'hybrid' | 'none';

export interface CgroupHost {
  readonly layout: CgroupLayout;
  /** Directory below which groups are made, for each controller of version 1. */
  readonly v1: Readonly<Partial<Record<Controller, string>>>;
  /** The same for version 2, whatever controllers it has. */
  readonly v2?: string;
}

interface Mount {
  readonly root: string;
  readonly point: string;
  readonly type: string;
  readonly options: readonly string[];
}

/** @param mountinfo /proc/self/mountinfo @param own /proc/self/cgroup */
export function parseCgroupHost(mountinfo: string, own: string): CgroupHost {
  const mounts = mountinfo.split('\n').flatMap(parseMount);
  const paths = new Map(own.split('\n').flatMap(parseOwn));
  const v1: Partial<Record<Controller, string>> = {};
  for (const controller of controllers) {
    const mount = mounts.find(({ type, options }) => type === 'cgroup' && options.includes(controller));
    const path = paths.get(controller);
    if (mount !== undefined && path !== undefined) v1[controller] = below(mount, path);
  }
  const unified = mounts.find(({ type }) => type === 'cgroup2');
  const ownPath = paths.get('');
  // A group with processes can't pass controllers on to groups below it, so those of VMMs are its siblings.
  const v2 = unified === undefined || ownPath === undefined ? undefined : below(unified, ownPath.slice(0, ownPath.lastIndexOf('/')) || '/');
  const hasV1 = Object.keys(v1).length > 0;
  const layout = hasV1 ? (v2 === undefined ? 'v1' : 'hybrid') : v2 === undefined ? 'none' : 'v2';
  return { layout, v1, ...(v2 === undefined ? {} : { v2 }) };
}

/** Source: proc_pid_mountinfo(5). Spaces in paths are written as \040. */
function parseMount(line: string): readonly Mount[] {
  const [before, after] = line.split(' - ');
  const fields = before?.split(' ') ?? [];
  const [type, , superOptions] = after?.split(' ') ?? [];
  const [root, point] = [fields[3], fields[4]];
  if (root === undefined || point === undefined || type === undefined) return [];
  return [{ root: unescapePath(root), point: unescapePath(point), type, options: (superOptions ?? '').split(',') }];
}

function unescapePath(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_match, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}

/** `id:controllers:path`; the empty name is that of version 2. */
function parseOwn(line: string): readonly (readonly [string, string])[] {
  const match = /^\d+:([^:]*):(\/.*)$/.exec(line);
  if (match === null) return [];
  return (match[1] ?? '').split(',').map((name) => [name, match[2] ?? '/'] as const);
}

function below({ root, point }: Mount, path: string): string {
  const inside = root === '/' ? path : path === root ? '/' : path.startsWith(`${root}/`) ? path.slice(root.length) : '/';
  return inside === '/' ? point : point + inside;
}

export interface LimitFile {
  readonly file: string;
  readonly text: string;
}

const periodUs = 100_000;
const defaultWeight = 100;
const weightMax = 10_000;
const defaultShares = 1_024;
const sharesMax = 262_144;
/** A VMM has some ten threads and one for each vCPU; disks and cards add a few each. */
const processesBase = 256;
const processesPerCpu = 4;

/** What is written into the files of one group. `memoryBytes` is what guest and VMM may have together. */
export function limitFiles(version: 'v1' | 'v2', controller: Controller, { memoryBytes, cpuCount }: { readonly memoryBytes: number; readonly cpuCount: number }): readonly LimitFile[] {
  // One processor more than the guest has: its disks and cards work beside its vCPUs.
  const quotaUs = (cpuCount + 1) * periodUs;
  switch (controller) {
    case 'memory':
      return [{ file: version === 'v2' ? 'memory.max' : 'memory.limit_in_bytes', text: String(memoryBytes) }];
    case 'cpu':
      return version === 'v2'
        ? [
            { file: 'cpu.weight', text: String(Math.min(weightMax, cpuCount * defaultWeight)) },
            { file: 'cpu.max', text: `${quotaUs} ${periodUs}` },
          ]
        : [
            { file: 'cpu.shares', text: String(Math.min(sharesMax, cpuCount * defaultShares)) },
            { file: 'cpu.cfs_period_us', text: String(periodUs) },
            { file: 'cpu.cfs_quota_us', text: String(quotaUs) },
          ];
    case 'pids':
      return [{ file: 'pids.max', text: String(processesMax(cpuCount)) }];
  }
}

export function processesMax(cpuCount: number): number {
  return processesBase + processesPerCpu * cpuCount;
}

/** The file with the count of processes that the kernel killed for want of memory in the group. */
export function oomFile(version: 'v1' | 'v2'): string {
  return version === 'v2' ? 'memory.events' : 'memory.oom_control';
}
