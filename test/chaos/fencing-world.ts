/**
 * What the fencing tests need around the whole product: a proxy in front of the controller that cuts one host at a time,
 * a proxy in front of Postgres, and an observer of all VMMs of all hosts, which knows nothing of the product. A cut
 * drops nothing: bytes wait and arrive late, as they do on a real link.
 */
import { createServer, connect, type Server, type Socket } from 'node:net';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileScope } from '#test/harness/file-scope.ts';
import { liveVmms } from '../e2e/vmm-observer.ts';
import type { TestHost } from '../e2e/world.ts';

/** A connection on its way through. */
interface Pair {
  readonly inside: Socket;
  readonly outside: Socket;
  /** Found out when it matters: a host is known to the test only some time after it has connected. */
  readonly owner: () => string;
}

export interface CuttableProxy {
  /** `host:port` on loopback. */
  readonly address: string;
  /** Connections of it that are open now. */
  connections(owner: string): number;
  cut(owner: string): void;
  /** Bytes that waited arrive; with `isReset` the connections break instead. */
  heal(owner: string, isReset: boolean): void;
}

/** `ownerOf` names who made a connection from that port of ours. */
export async function startProxy(upstream: () => string, ownerOf: (port: number) => string): Promise<CuttableProxy> {
  const pairs = new Set<Pair>();
  const isCut = new Set<string>();
  const server: Server = createServer({ pauseOnConnect: true }, (inside) => {
    const from = inside.remotePort ?? 0;
    let known = ownerOf(from);
    const owner = (): string => (known === '' ? (known = ownerOf(from)) : known);
    const [host = '', port = ''] = upstream().split(':');
    const outside = connect(Number(port), host);
    const pair = { inside, outside, owner };
    pairs.add(pair);
    for (const [source, target] of [[inside, outside], [outside, inside]] as const) {
      source.on('data', (chunk) => {
        if (!target.write(chunk)) source.pause();
      });
      target.on('drain', () => {
        if (!isCut.has(owner())) source.resume();
      });
      source.on('error', () => {
        // The other side is told by the close.
      });
      source.on('close', () => {
        // The end of a connection can't cross a cut either.
        if (!isCut.has(owner())) {
          pairs.delete(pair);
          target.destroy();
        }
      });
    }
    if (isCut.has(owner())) outside.pause();
    else inside.resume();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  fileScope().defer(() => {
    for (const { inside, outside } of pairs) {
      inside.destroy();
      outside.destroy();
    }
    return new Promise<void>((resolve) => server.close(() => resolve()));
  });
  const address = server.address();
  const ofOwner = (owner: string): Pair[] => [...pairs].filter((pair) => pair.owner() === owner);
  return {
    address: `127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}`,
    connections: (owner) => ofOwner(owner).filter(({ inside, outside }) => !inside.destroyed && !outside.destroyed).length,
    cut: (owner) => {
      isCut.add(owner);
      for (const { inside, outside } of ofOwner(owner)) {
        inside.pause();
        outside.pause();
      }
    },
    heal: (owner, isReset) => {
      isCut.delete(owner);
      for (const pair of ofOwner(owner)) {
        const { inside, outside } = pair;
        if (isReset || inside.destroyed || outside.destroyed) {
          pairs.delete(pair);
          inside.destroy();
          outside.destroy();
        } else {
          inside.resume();
          outside.resume();
        }
      }
    },
  };
}

/** Which of the agents holds the connection from that port; empty when none does. */
export function ownerAmong(hosts: () => readonly TestHost[]): (port: number) => string {
  return (port) => {
    const hex = port.toString(16).toUpperCase().padStart(4, '0');
    // A connection that ended or leads elsewhere can have the same port of ours.
    const sockets = readFileSync('/proc/net/tcp', 'utf8').split('\n').map((entry) => entry.trim().split(/\s+/)).filter(([, local]) => local === `0100007F:${hex}`);
    const inodes = sockets.flatMap(({ 9: inode }) => (inode === undefined || inode === '0' ? [] : [inode]));
    return hosts().find((host) => inodes.some((inode) => hasSocket(host, inode)))?.name ?? '';
  };
}

function hasSocket(host: TestHost, inode: string): boolean {
  const directory = `/proc/${host.agent().pid}/fd`;
  const targetOf = (fd: string): string => {
    try {
      return readlinkSync(join(directory, fd));
    } catch {
      return ''; // It was closed while we looked; the others count all the same.
    }
  };
  try {
    return readdirSync(directory).some((fd) => targetOf(fd) === `socket:[${inode}]`);
  } catch {
    return false; // The agent was not started, or ended meanwhile.
  }
}

/** One VMM as the observer saw it, on the clock of this process. */
export interface Interval {
  readonly uid: string;
  readonly host: string;
  readonly pid: number;
  readonly startTime: string;
  firstSeenMs: number;
  lastSeenMs: number;
}

export interface FleetObserver {
  intervals(): readonly Interval[];
  /** Pairs of VMMs of one microVM that were seen in one sample. */
  overlaps(): readonly string[];
  samples(): number;
  /** Forgets what was seen. */
  reset(): void;
}

/** Short against the life of any VMM, and cheap enough for two processors. */
const sampleIntervalMs = 20;

export function observeFleet(hosts: () => readonly TestHost[], hypervisor: string): FleetObserver {
  let seen = new Map<string, Interval>();
  let overlaps = new Set<string>();
  let samples = 0;
  const sample = (): void => {
    samples += 1;
    const nowMs = performance.now();
    const byUid = new Map<string, string[]>();
    for (const host of hosts()) {
      for (const { pid, startTime, directory } of liveVmms(host.stateDirectory, hypervisor)) {
        const uid = basename(directory);
        const key = `${host.name} ${pid}/${startTime}`;
        const interval = seen.get(key) ?? { uid, host: host.name, pid, startTime, firstSeenMs: nowMs, lastSeenMs: nowMs };
        interval.lastSeenMs = nowMs;
        seen.set(key, interval);
        byUid.set(uid, [...(byUid.get(uid) ?? []), key]);
      }
    }
    for (const [uid, keys] of byUid) if (keys.length > 1) overlaps.add(`${uid}: ${keys.toSorted().join(' beside ')}`);
  };
  const timer = setInterval(sample, sampleIntervalMs);
  fileScope().defer(() => clearInterval(timer));
  return {
    intervals: () => [...seen.values()],
    overlaps: () => [...overlaps],
    samples: () => samples,
    reset: () => {
      seen = new Map();
      overlaps = new Set();
      samples = 0;
    },
  };
}

/** Pid of the guard of a host; 0 when there is none. */
export function guardPid(host: TestHost): number {
  try {
    const pid = Number(readFileSync(join(host.stateDirectory, 'guard', 'pid'), 'utf8'));
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('nkudo-guard') ? pid : 0;
  } catch {
    return 0; // None was started, or it ended.
  }
}

/** Sends a signal to a process that may have ended. */
export function signal(pid: number, name: NodeJS.Signals): void {
  try {
    if (pid > 1) process.kill(pid, name);
  } catch {
    // It ended meanwhile.
  }
}
