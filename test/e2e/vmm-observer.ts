/**
 * An outside observer of VMM processes: it knows pids and start times from /proc and nothing of the
 * product's own events. It owns the evidence for "one VMM per microVM at every moment".
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

/** Short against the life of any VMM: a second VMM of one directory would live for many samples. */
const sampleIntervalMs = 5;

/** One live VMM process. */
export interface LiveVmm {
  readonly pid: number;
  /** Field 22 of /proc/<pid>/stat. */
  readonly startTime: string;
  /** Its working directory, which is the directory of its microVM. */
  readonly directory: string;
}

/** VMM processes below the directory, now. Their working directory is that of the microVM. */
export function liveVmms(stateDirectory: string, hypervisor: string): readonly LiveVmm[] {
  return readdirSync('/proc').flatMap((name) => {
    const pid = Number(name);
    if (!Number.isInteger(pid)) return [];
    try {
      if (readlinkSync(`/proc/${pid}/exe`) !== hypervisor) return [];
      const directory = readlinkSync(`/proc/${pid}/cwd`);
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      if (fields[0] === 'Z' || !directory.startsWith(stateDirectory)) return [];
      return [{ pid, startTime: fields[19] ?? '', directory }];
    } catch {
      // The process ended while we looked, or it is a kernel thread.
      return [];
    }
  });
}

/** What the observer saw since it was started. */
export interface VmmHistory {
  /** Samples taken; a verdict over none is no verdict. */
  readonly samples: number;
  /** Most VMMs that any one directory had in one sample. */
  readonly mostAtOnce: number;
  /** Every VMM ever seen, by directory, in order of appearance. */
  readonly seen: ReadonlyMap<string, readonly LiveVmm[]>;
}

export interface VmmObserver {
  history(): VmmHistory;
  /** Forgets what was seen. */
  reset(): void;
  stop(): void;
}

/** Samples all the time until stopped. */
export function observeVmms(stateDirectory: string, hypervisor: string): VmmObserver {
  let samples = 0;
  let mostAtOnce = 0;
  let seen = new Map<string, LiveVmm[]>();
  const sample = (): void => {
    samples += 1;
    const counts = new Map<string, number>();
    for (const vmm of liveVmms(stateDirectory, hypervisor)) {
      counts.set(vmm.directory, (counts.get(vmm.directory) ?? 0) + 1);
      const known = seen.get(vmm.directory) ?? [];
      if (!known.some((other) => other.pid === vmm.pid && other.startTime === vmm.startTime)) known.push(vmm);
      seen.set(vmm.directory, known);
    }
    mostAtOnce = Math.max(mostAtOnce, ...counts.values());
  };
  const timer = setInterval(sample, sampleIntervalMs);
  return {
    history: () => ({ samples, mostAtOnce, seen }),
    reset: () => {
      samples = 0;
      mostAtOnce = 0;
      seen = new Map();
    },
    stop: () => clearInterval(timer),
  };
}
