/**
 * Decides which hypervisor the demo's host drives: the real one where there is one that can work, otherwise the
 * simulator. Says which and why; never calls one the other.
 */
import { closeSync, constants, existsSync, openSync, realpathSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { delimiter, join } from 'node:path';
import { errorCode } from '../build-cache.ts';
import { buildSimulator } from '../build-simulator.ts';

/** The hypervisor to use. */
export interface Hypervisor {
  readonly kind: 'real' | 'simulated';
  readonly path: string;
  /** For the screen. */
  readonly description: string;
}

export async function chooseHypervisor(options: {
  readonly isSimulatorForced: boolean;
  readonly report: (line: string) => void;
}): Promise<Hypervisor> {
  const obstacle = options.isSimulatorForced ? 'asked for with --simulator' : realObstacle();
  if (obstacle !== null) {
    options.report('building the hypervisor simulator (up to a minute the first time)');
    return { kind: 'simulated', path: await buildSimulator(), description: `SIMULATED Cloud Hypervisor (${obstacle})` };
  }
  const path = findOnPath('cloud-hypervisor') ?? '';
  const version = spawnSync(path, ['--version'], { encoding: 'utf8' }).stdout.split('\n')[0] ?? '';
  return { kind: 'real', path: realpathSync(path), description: `real ${version} (${path}, /dev/kvm opens)` };
}

/** Why a real one can't be used, or null. `program`: a name on PATH, or a path. */
export function realObstacle(program = 'cloud-hypervisor'): string | null {
  const isPath = program.includes('/');
  if (isPath ? !existsSync(program) : findOnPath(program) === null) {
    return isPath ? `no ${program}` : `no ${program} on PATH`;
  }
  try {
    closeSync(openSync('/dev/kvm', constants.O_RDWR));
    return null;
  } catch (error) {
    return `/dev/kvm does not open: ${errorCode(error) ?? 'unknown error'}`;
  }
}

/** Absolute path of a program on PATH, or null. */
export function findOnPath(program: string): string | null {
  const folders = (process.env['PATH'] ?? '').split(delimiter).filter((folder) => folder !== '');
  return folders.map((folder) => join(folder, program)).find((path) => existsSync(path)) ?? null;
}
