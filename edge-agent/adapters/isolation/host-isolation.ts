/**
 * The VmmIsolation port: a user for each VMM (vmm-users.ts), limits by a unit of systemd (units.ts) or by control
 * groups of our own (cgroups.ts), and no way back to rights for the program. What the host can't do is in `facts()`.
 */
import { accessSync, constants, existsSync, readFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import type { IsolationFacts } from '#api/model/host.ts';
import type { MicroVMId } from '#api/model/ids.ts';
import type { Confinement, VmmIsolation, VmmUser } from '../../ports/isolation.ts';
import { parseCgroupHost } from './cgroup-host.ts';
import { createCgroups } from './cgroups.ts';
import { openDevice, vmmDevices } from './devices.ts';
import { hasSystemd, unitOf, unitOomFiles } from './units.ts';
import { isMapped, type UserRange } from '../../domain/user-range.ts';
import { createVmmUsers, ensureOwnFolder } from './vmm-users.ts';

/** The folder in the directory of a microVM that its VMM writes to. */
export const ownFolder = 'run';

export interface HostIsolationOptions {
  readonly stateDirectory: string;
  /** Tells agents on one host apart: letters and digits. */
  readonly owner: string;
  /** Null: the operator wants VMMs to run as the agent. */
  readonly userRange: UserRange | null;
  /** Groups that the operator gives to all VMMs, for files of theirs. */
  readonly groupIds: readonly number[];
  /** Where programs are looked for. */
  readonly path: string | undefined;
}

export function createHostIsolation(options: HostIsolationOptions): VmmIsolation {
  const vmsDirectory = join(options.stateDirectory, 'vms');
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8');
  const host = parseCgroupHost(mounts, readFileSync('/proc/self/cgroup', 'utf8'));
  const isRoot = process.geteuid?.() === 0;
  const canSetPrivileges = isOnPath('setpriv', options.path);
  const usesUnits = isRoot && hasSystemd() && isOnPath('systemd-run', options.path);
  const usersProblem = whyNoUsers(options);
  const range = usersProblem === '' ? options.userRange : null;
  const users = range === null ? null : createVmmUsers(vmsDirectory, range);
  // The first user of the range is nobody's: its group opens devices.
  const deviceGroups = range === null ? [] : [...new Set(vmmDevices.map((device) => openDevice(device, range.first)).filter((group) => group !== null))];
  const groupIds = [...new Set([...options.groupIds, ...deviceGroups])];
  const cgroups = isRoot && !usesUnits ? createCgroups(host, options.owner) : null;

  function userOf(microvmId: MicroVMId): VmmUser | null {
    return users === null ? null : { userId: users.ensure(microvmId), groupIds };
  }

  function prefixFor(user: VmmUser | null): readonly string[] {
    if (!canSetPrivileges) return [];
    if (user === null) return ['setpriv', '--no-new-privs'];
    const groups = user.groupIds.length === 0 ? ['--clear-groups'] : ['--groups', user.groupIds.join()];
    return ['setpriv', '--reuid', String(user.userId), '--regid', String(user.userId), ...groups, '--inh-caps=-all', '--ambient-caps=-all', '--bounding-set=-all', '--no-new-privs'];
  }

  return {
    facts(): IsolationFacts {
      return {
        users: usersProblem === '',
        limits: usesUnits ? ['memory', 'cpu', 'pids'] : (cgroups?.usable ?? []),
        cgroups: host.layout,
        systemd: usesUnits,
        landlock: kernelLandlock(),
        problems: [
          ...(usersProblem === '' ? [] : [`microVMs share the user of the agent: ${usersProblem}`]),
          ...(usesUnits ? [] : cgroups === null ? ['no limits: the agent does not run as root'] : cgroups.problem === '' ? [] : [cgroups.problem]),
          ...(canSetPrivileges ? [] : ['VMMs may gain privileges: there is no setpriv on PATH']),
        ],
      };
    },
    groupIds: () => groupIds,
    userOf,
    async prepare(microvmId, size): Promise<Confinement> {
      const vmDirectory = join(vmsDirectory, microvmId);
      const user = userOf(microvmId);
      ensureOwnFolder(join(vmDirectory, ownFolder), user?.userId ?? null);
      const base = { user, prefix: prefixFor(user) };
      if (usesUnits) return { ...base, cgroups: [], oomFiles: unitOomFiles(parseCgroupHost(mounts, readFileSync('/proc/1/cgroup', 'utf8')), microvmId), unit: unitOf(microvmId, size) };
      const made = cgroups?.make(microvmId, vmDirectory, size) ?? { directories: [], oomFiles: [] };
      return { ...base, cgroups: made.directories, oomFiles: made.oomFiles };
    },
    async release(microvmId) {
      cgroups?.remove(microvmId, join(vmsDirectory, microvmId));
    },
    async sweep(kept) {
      return cgroups?.sweep(kept) ?? [];
    },
  };
}

/** Empty where each VMM gets a user of its own. Only looks. */
export function whyNoUsers({ userRange, path }: Pick<HostIsolationOptions, 'userRange' | 'path'>): string {
  if (userRange === null) return 'the setting vmmUsers says so';
  if (process.geteuid?.() !== 0) return 'the agent does not run as root';
  if (!isOnPath('setpriv', path)) return 'there is no setpriv on PATH (util-linux)';
  const isInNamespace = ['/proc/self/uid_map', '/proc/self/gid_map'].every((file) => isMapped(userRange, readFileSync(file, 'utf8')));
  return isInNamespace ? '' : `the user namespace of the agent does not have ${userRange.first}-${userRange.last}; set vmmUsers`;
}

/** From the list of the kernel. Only looks. */
export function kernelLandlock(): IsolationFacts['landlock'] {
  return landlockOf(readOrEmpty('/sys/kernel/security/lsm'));
}

/** `unknown` where the kernel does not show its list; the first VMM tells. */
export function landlockOf(lsm: string): IsolationFacts['landlock'] {
  if (lsm.trim() === '') return 'unknown';
  return lsm.trim().split(',').includes('landlock') ? 'yes' : 'no';
}

function readOrEmpty(path: string): string {
  return existsSync(path) ? readFileSync(path, 'utf8') : '';
}

function isOnPath(program: string, path: string | undefined): boolean {
  return (path ?? '').split(delimiter).some((directory) => {
    try {
      accessSync(join(directory, program), constants.X_OK);
      return directory !== '';
    } catch {
      return false; // Not in this directory.
    }
  });
}
