/**
 * The control groups of VMMs: one for each microVM and hierarchy, named by the agent and the microVM, made anew for
 * each start. The list of them is in the directory of the microVM before they are made, so that they are found again
 * by an agent that was started elsewhere; what neither list nor name leads to does not exist.
 */
import { mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { AppError } from '#api/model/error-codes.ts';
import { vmmOverheadBytes } from '#api/model/capacity.ts';
import { isUuid, microVMId, type MicroVMId } from '#api/model/ids.ts';
import type { GuestSize } from '../../ports/isolation.ts';
import { controllers, limitFiles, oomFile, type CgroupHost, type Controller } from './cgroup-host.ts';

/** Beside the other files of the VMM. Not synced: control groups don't outlive the boot either. */
const listFile = 'vmm.cgroups';
/** Shadow page tables and the page cache of disks count too; the cache gives way. Percent of the guest's memory. */
const pageTablePercent = 2;

interface Group {
  readonly directory: string;
  readonly version: 'v1' | 'v2';
  readonly controllers: readonly Controller[];
}

export interface Cgroups {
  /** Controllers that limit VMMs here, found out by trying. */
  readonly usable: readonly Controller[];
  /** Why the others don't; empty when all do. */
  readonly problem: string;
  make(microvmId: MicroVMId, vmDirectory: string, size: GuestSize): { readonly directories: readonly string[]; readonly oomFiles: readonly string[] };
  remove(microvmId: MicroVMId, vmDirectory: string): void;
  sweep(kept: ReadonlySet<MicroVMId>): readonly string[];
}

/** Guest, VMM and what the kernel keeps for both, bytes. */
export function memoryLimitBytes({ memoryBytes }: GuestSize): number {
  return memoryBytes + vmmOverheadBytes + Math.ceil((memoryBytes * pageTablePercent) / 100);
}

/** @param owner tells agents on one host apart: letters and digits */
export function createCgroups(host: CgroupHost, owner: string): Cgroups {
  const prefix = `nkudo-${owner}-`;
  const problems: string[] = [];
  const parents = findParents();

  function findParents(): readonly Group[] {
    const found: Group[] = [];
    for (const controller of controllers) {
      const directory = host.v1[controller];
      if (directory === undefined) continue;
      const index = found.findIndex((group) => group.directory === directory);
      const known = found[index];
      if (known === undefined) found.push({ directory, version: 'v1', controllers: [controller] });
      else found[index] = { ...known, controllers: [...known.controllers, controller] };
    }
    const unified = host.v2 === undefined ? [] : passedOn(host.v2, controllers.filter((controller) => host.v1[controller] === undefined));
    if (host.v2 !== undefined && unified.length > 0) found.push({ directory: host.v2, version: 'v2', controllers: unified });
    return found.filter(isUsable);
  }

  /** The controllers that groups below the directory have, after an attempt to give them what lacks. */
  function passedOn(directory: string, wanted: readonly Controller[]): readonly Controller[] {
    try {
      const here = words(join(directory, 'cgroup.controllers'));
      const control = join(directory, 'cgroup.subtree_control');
      for (const controller of wanted.filter((each) => here.includes(each) && !words(control).includes(each))) writeFileSync(control, `+${controller}`);
      const passed = words(control);
      return wanted.filter((controller) => passed.includes(controller));
    } catch (error) {
      problems.push(messageOf(error));
      return [];
    }
  }

  function isUsable(parent: Group): boolean {
    const probe = join(parent.directory, `${prefix}probe`);
    try {
      makeGroup({ ...parent, directory: probe }, { memoryBytes: 2 ** 26, cpuCount: 1 });
      return true;
    } catch (error) {
      problems.push(messageOf(error));
      return false;
    } finally {
      removeGroup(probe);
    }
  }

  const groupsOf = (microvmId: MicroVMId): readonly Group[] => parents.map((parent) => ({ ...parent, directory: join(parent.directory, prefix + microvmId) }));
  const usable = controllers.filter((controller) => parents.some((parent) => parent.controllers.includes(controller)));
  const lacking = controllers.filter((controller) => !usable.includes(controller));

  return {
    usable,
    problem: lacking.length === 0 ? '' : `no limit of ${lacking.join(', ')}: ${problems.join('; ') || 'the host has no such control group'}`,
    make(microvmId, vmDirectory, size) {
      const groups = groupsOf(microvmId);
      // Counters begin at zero with each start.
      for (const { directory } of groups) removeGroup(directory);
      writeFileSync(join(vmDirectory, listFile), groups.map(({ directory }) => `${directory}\n`).join(''), { mode: 0o600 });
      try {
        for (const group of groups) makeGroup(group, size);
      } catch (cause) {
        throw new AppError('HYPERVISOR_FAILED', `the VMM could not be limited: ${messageOf(cause)}`, { cause });
      }
      return {
        directories: groups.map(({ directory }) => directory),
        oomFiles: groups.filter((group) => group.controllers.includes('memory')).map(({ directory, version }) => join(directory, oomFile(version))),
      };
    },
    remove(microvmId, vmDirectory) {
      for (const directory of new Set([...listed(vmDirectory), ...groupsOf(microvmId).map((group) => group.directory)])) removeGroup(directory);
    },
    sweep(kept) {
      const removed: string[] = [];
      for (const { directory } of parents) {
        for (const name of readdirSync(directory)) {
          const id = name.slice(prefix.length);
          if (!name.startsWith(prefix) || !isUuid(id) || kept.has(microVMId(id))) continue;
          if (removeGroup(join(directory, name))) removed.push(name);
        }
      }
      return removed;
    },
  };
}

function makeGroup(group: Group, size: GuestSize): void {
  mkdirSync(group.directory, { recursive: true });
  limit(group, size);
}

function limit(group: Group, size: GuestSize): void {
  const limits = { memoryBytes: memoryLimitBytes(size), cpuCount: size.cpuCount };
  for (const controller of group.controllers) {
    for (const { file, text } of limitFiles(group.version, controller, limits)) writeFileSync(join(group.directory, file), text);
  }
}

/** @returns whether it was there and is gone. One that still has a process stays for the next sweep. */
function removeGroup(directory: string): boolean {
  try {
    rmdirSync(directory);
    return true;
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'EBUSY', 'ENOTEMPTY', 'ENOTDIR', 'EROFS', 'EACCES', 'EPERM')) return false;
    throw error;
  }
}

function listed(vmDirectory: string): readonly string[] {
  try {
    return readFileSync(join(vmDirectory, listFile), 'utf8')
      .split('\n')
      .filter((line) => line.startsWith('/') && line.includes('/nkudo-'));
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return [];
    throw error;
  }
}

function words(path: string): readonly string[] {
  return readFileSync(path, 'utf8').trim().split(/\s+/);
}

function isErrno(error: unknown, ...codes: readonly string[]): boolean {
  return error instanceof Error && 'code' in error && codes.includes(String(error.code));
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
