/**
 * What a machine has that an agent could leave behind: processes, sockets, files, devices, addresses, rules, cgroups. A
 * look is a set of lines, so that two of them can be compared whatever was made in between. It knows what the kernel
 * shows, and nothing of the agent's own bookkeeping.
 */
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { MicroVMId } from '#api/model/ids.ts';
import { findProcessesOf } from '#hack/stack/run-directory.ts';
import type { EdgeMachine } from './machine.ts';

export const belongings = ['process', 'socket', 'file', 'network', 'cgroup'] as const;
export type Belonging = (typeof belongings)[number];
export type Look = Readonly<Record<Belonging, ReadonlySet<string>>>;

/** @param ids every microVM that the machine ever had: groups of processes are found by their names */
export async function lookForLeaks(machine: EdgeMachine, ids: Iterable<MicroVMId>): Promise<Look> {
  const base = dirname(machine.runtimeDirectory);
  return {
    process: new Set(processesOf(machine, base)),
    socket: new Set(readUnixSockets(machine, base)),
    file: new Set([machine.stateDirectory, machine.runtimeDirectory].flatMap(namesBelow)),
    network: new Set(await networkOf(machine)),
    cgroup: new Set(cgroupsOf([...ids])),
  };
}

/** Lines that are in `after` and were not in `before`. */
export function leaked(before: Look, after: Look): readonly string[] {
  return belongings.flatMap((kind) => [...after[kind]].filter((line) => !before[kind].has(line)).map((line) => `${kind}: ${line}`));
}

/** Kinds in which the two differ: what the checker can see at all. */
export function differing(before: Look, after: Look): readonly Belonging[] {
  return belongings.filter((kind) => [...after[kind]].some((line) => !before[kind].has(line)));
}

/** All but the agent: its pid is another one after each start. */
function* processesOf(machine: EdgeMachine, base: string): Generator<string> {
  for (const pid of findProcessesOf(base)) {
    if (pid === machine.agent().pid) continue;
    try {
      const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').join(' ').replace(/\s+/g, ' ').slice(0, 300);
      // Helpers of the agent come and go with each look, and end by themselves.
      if (isPassing(pid, machine.agent().pid)) continue;
      yield `${words} in ${readlinkSync(`/proc/${pid}/cwd`)}`;
    } catch {
      // It ended while we looked.
    }
  }
}

/** A child of the living agent that is in its session: a command that it waits for. */
function isPassing(pid: number, agentPid: number): boolean {
  const fieldsOf = (of: number): string[] => {
    const stat = readFileSync(`/proc/${of}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  };
  const [, parent, , session] = fieldsOf(pid);
  return parent === String(agentPid) && session === fieldsOf(agentPid)[3];
}

function readUnixSockets(machine: EdgeMachine, base: string): readonly string[] {
  const text = readFileSync(`/proc/${machine.agent().pid}/net/unix`, 'utf8');
  const paths = text.split('\n').map((line) => line.trim().split(/\s+/).slice(7).join(' '));
  // A VMM binds its socket by a name in its own directory: several are told apart by their number only. In a namespace of
  // its own such a name is the machine's.
  const ours = paths.filter((path) => path.startsWith(base) || path.startsWith(machine.stateDirectory) || (machine.lab !== null && path !== '' && !path.startsWith('/') && !path.startsWith('@')));
  return ours.map((path, index) => `${path} #${ours.slice(0, index).filter((other) => other === path).length + 1}`);
}

/** Names and kinds; contents may differ. */
function namesBelow(directory: string): readonly string[] {
  return readdirSync(directory, { recursive: true, encoding: 'utf8' }).flatMap((name) => {
    try {
      const path = join(directory, name);
      return [`${path} ${lstatSync(path).isDirectory() ? 'directory' : 'file'}`];
    } catch {
      return []; // Removed while we looked.
    }
  });
}

async function networkOf(machine: EdgeMachine): Promise<readonly string[]> {
  if (machine.lab === null) return [];
  // The fifth part is the number of processes, which are looked at one by one above.
  const parts = (await machine.lab.snapshot()).split('\n---\n').toSpliced(4, 1);
  return parts.flatMap((part, index) => part.split('\n').map((line) => `${index} ${line}`));
}

function cgroupsOf(ids: readonly string[]): readonly string[] {
  return readdirSync('/sys/fs/cgroup', { recursive: true, encoding: 'utf8' }).filter((path) => ids.some((id) => path.includes(id)));
}
